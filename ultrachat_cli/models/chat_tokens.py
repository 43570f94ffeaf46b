"""Conversations as token ids, with a mark on those that are learned: the one way into every model.

A conversation is cut where learning begins and ends, and the pieces are tokenized one by one: so a prompt has the same
ids when the model learns as when it is asked to go on. Words that spell a special token stay words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.models import formats
from ultrachat_cli.models.formats import FORMATS, TOKENIZER, Part

Messages = Sequence[Mapping[str, str]]


class Encoded(NamedTuple):
    """ids int32[n] and learn bool[n] of one conversation."""

    ids: np.ndarray
    learn: np.ndarray


class _Piece(NamedTuple):
    text: str
    learn: bool
    literal: bool
    """Whether special tokens in the text are mere text."""


@dataclass(frozen=True)
class ChatTokenizer:
    """The tokenizer in `folder` (tokenizer.json, tokenizer_config.json) under a chat format of formats.py.

    Format `tokenizer` is the Jinja template shipped with the weights. Raises `UltraError` for a folder without
    tokenizer, `MissingExtra`, `ConfigError` for an unknown format or one whose tokens the tokenizer does not have.
    """

    folder: Path
    format: str

    def __post_init__(self) -> None:
        if self.format != TOKENIZER and self.format not in FORMATS:
            raise ConfigError(f"format: unknown chat format '{self.format}' (use {', '.join(FORMATS)}, {TOKENIZER})")
        if self.format == TOKENIZER:
            if not self._template_there:
                raise ConfigError(
                    f"format: {self.folder} has no chat template",
                    f"name one: --format {', '.join(FORMATS)}",
                )
            return
        end = FORMATS[self.format].assistant[1].strip()
        if len(self.tokens(end)) != 1:
            raise ConfigError(
                f"format: {self.format} ends an answer with {end}, which is not one token of {self.folder}",
                "use the format the model was made for, or `tokenizer` for the template shipped with it",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "format": self.format}

    @cached_property
    def _template_there(self) -> bool:
        return (self.folder / "chat_template.jinja").is_file() or bool(self.settings.get("chat_template"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json says."""
        path = self.folder / "tokenizer_config.json"
        return dict(orjson.loads(path.read_bytes())) if path.is_file() else {}

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtra("tokenizing", "tokenizers", "train") from error
        path = self.folder / "tokenizer.json"
        if path.is_file():
            loaded = Tokenizer.from_file(str(path))
        else:  # LLaMA of 2023 ships a SentencePiece model only
            loaded = _converted(self.folder)
        loaded.no_truncation()
        loaded.no_padding()
        return loaded

    @cached_property
    def _literal(self) -> Any:
        """The same tokenizer, for which special tokens are text like any other."""
        from tokenizers import Tokenizer

        twin = Tokenizer.from_str(self.backend.to_str())
        twin.encode_special_tokens = True
        return twin

    @cached_property
    def _special(self) -> re.Pattern[str]:
        known = [token.content for token in self.backend.get_added_tokens_decoder().values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) or r"(?!)")

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before every text, as SentencePiece does."""
        return bool(self.backend.encode("a", add_special_tokens=False).tokens[0].startswith("\u2581"))

    @cached_property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return int(max(self.backend.get_vocab().values())) + 1

    @cached_property
    def bos(self) -> int | None:
        """Id of the token that begins a text."""
        return self._named("bos_token")

    @cached_property
    def eos(self) -> int | None:
        """Id of the token that ends a text."""
        return self._named("eos_token")

    @cached_property
    def end(self) -> int | None:
        """Id of the token that ends an answer: where generation stops."""
        if self.format == TOKENIZER:
            return self.eos
        return int(self.tokens(FORMATS[self.format].assistant[1].strip())[0])

    def _named(self, name: str) -> int | None:
        token = self.settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        found = self.backend.token_to_id(token) if token else None
        return None if found is None else int(found)

    def tokens(self, text: str) -> list[int]:
        """Ids of a text, special tokens recognised, nothing added but what the tokenizer puts before any text."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a conversation up to where the assistant's next turn begins."""
        return [int(n) for n in self.encode([[*messages, {"role": "assistant", "content": ""}]], open_end=True)[0].ids]

    def encode(self, conversations: Sequence[Messages], *, open_end: bool = False) -> list[Encoded]:
        """Ids and learn mask of each. `ValueError` for messages that the format cannot hold.

        `open_end`: the last message only opens its turn.
        """
        pieces = [self._pieces(messages, open_end) for messages in conversations]
        texts = [piece for parts in pieces for piece in parts]
        ids = self._ids(texts)
        found: list[Encoded] = []
        at = 0
        for parts in pieces:
            own = ids[at : at + len(parts)]
            at += len(parts)
            start = [self.bos] if self._begins_with_bos else []
            learn = np.repeat([False, *(p.learn for p in parts)], [len(start), *map(len, own)])
            flat = [*start, *(token for part in own for token in part)]
            found.append(Encoded(np.array(flat, np.int32), learn))
        return found

    @cached_property
    def _begins_with_bos(self) -> bool:
        return self.format != TOKENIZER and FORMATS[self.format].bos and self.bos is not None

    def _ids(self, pieces: list[_Piece]) -> list[list[int]]:
        ids = [
            found.ids for found in self.backend.encode_batch_fast([p.text for p in pieces], add_special_tokens=False)
        ]
        for n, piece in enumerate(pieces):
            if piece.literal:
                ids[n] = self._literal.encode(piece.text, add_special_tokens=False).ids
        return ids

    def _pieces(self, messages: Messages, open_end: bool) -> list[_Piece]:
        if self.format == TOKENIZER:
            parts, piecewise = self._template_parts(messages, open_end), False
        else:
            parts, piecewise = formats.parts(self.format, messages), FORMATS[self.format].piecewise
            if open_end:
                parts[-1] = Part(parts[-1].before, "", "", "", "", False)
        pieces: list[_Piece] = []
        for part in parts:
            own = [_Piece(part.before, False, False)]
            if self._special.search(part.content):
                own += [_Piece(part.lead, part.learn, False), _Piece(part.content, part.learn, True)]
                own.append(_Piece(part.after, part.learn, False))
            else:
                own.append(_Piece(part.lead + part.content + part.after, part.learn, False))
            own.append(_Piece(part.tail, False, False))
            first = len(pieces)
            for piece in own:
                last = pieces[-1] if len(pieces) > (first if piecewise else 0) else None
                if last and (last.learn, last.literal, piece.literal) == (piece.learn, False, False):
                    pieces[-1] = _Piece(last.text + piece.text, piece.learn, False)
                elif piece.text:
                    pieces.append(piece)
        if self._adds_space and not piecewise:  # the tokenizer puts the space there itself
            pieces = [p._replace(text=p.text.removeprefix(" ")) if n else p for n, p in enumerate(pieces)]
        return pieces

    @cached_property
    def _template(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingExtra("the chat template shipped with the weights", "transformers", "train") from error
        return AutoTokenizer.from_pretrained(self.folder)

    def _template_parts(self, messages: Messages, open_end: bool) -> list[Part]:
        """The template's text, cut at what anybody says. `ValueError` where the template rewrites what is said."""
        spoken = messages[:-1] if open_end else messages
        whole = self._rendered(spoken, open_end)
        eos = str(self._template.eos_token or "")
        found: list[Part] = []
        at = 0
        for n, message in enumerate(spoken):
            learn = message["role"] == "assistant"
            if learn and not whole.startswith(self._rendered(spoken[:n], True)):
                raise ValueError("the chat template rewrites earlier turns; name a format instead")
            start = len(self._rendered(spoken[:n], True)) if learn else at
            content = message["content"] if whole.find(message["content"], start) >= 0 else message["content"].strip()
            place = whole.find(content, start)
            if place < 0:
                raise ValueError("the chat template alters what is said; name a format instead")
            end = place + len(content)
            if not learn:
                found.append(Part(whole[at:place], "", content, "", "", False))
                at = end
                continue
            ending = whole.find(eos, end) if eos else -1
            stop = ending + len(eos) if ending >= 0 and not whole[end:ending].strip() else end
            found.append(Part(whole[at:start], whole[start:place], content, whole[end:stop], "", True))
            at = stop
        if whole[at:]:
            found.append(Part(whole[at:], "", "", "", "", False))
        return found

    def _rendered(self, messages: Messages, open_role: bool) -> str:
        if not messages:
            return ""
        from jinja2 import TemplateError

        try:
            return str(
                self._template.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=open_role)
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses it: {error}") from error


def _converted(folder: Path) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(f"the tokenizer of {folder}", "transformers", "train") from error
    try:
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise UltraError(f"{folder}: no tokenizer: {error}", "tokenizer.json or tokenizer.model is expected") from error


def stretches(encoded: Encoded) -> list[tuple[int, int]]:
    """(start, end) of every run of learned tokens."""
    edges = np.flatnonzero(np.diff(encoded.learn.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))

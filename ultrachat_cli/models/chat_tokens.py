"""Conversations as token ids, with a mark on those that are learned: the one way into every model.

A conversation is cut where learning begins and ends, and the pieces are tokenized one by one: so a prompt has the same
ids when the model learns as when it is asked to go on. Words that spell a special token stay words: such tokens come
from the format alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import chat_templates, formats, text_tokens
from ultrachat_cli.models.chat_templates import ChatTemplate
from ultrachat_cli.models.formats import FORMATS, TOKENIZER, Part
from ultrachat_cli.models.text_tokens import Run, TextTokenizer
from ultrachat_cli.models.words import packed

Messages = Sequence[Mapping[str, str]]


class Encoded(NamedTuple):
    """ids int32[n] and learn bool[n] of one conversation."""

    ids: np.ndarray
    learn: np.ndarray


@dataclass(frozen=True)
class ChatTokenizer:
    """The tokenizer in `folder` (tokenizer.json, tokenizer_config.json) under a chat format of formats.py.

    Format `tokenizer` is the Jinja template shipped with the weights. Raises `UltraError` for a folder without
    tokenizer, `MissingExtra`, `ConfigError` for an unknown format or one whose tokens the tokenizer does not have.
    """

    folder: Path
    format: str

    def __post_init__(self) -> None:
        if self.format == TOKENIZER:
            self._check_template()
            return
        if self.format not in FORMATS:
            raise ConfigError(f"format: unknown chat format '{self.format}' (use {', '.join(FORMATS)}, {TOKENIZER})")
        end = FORMATS[self.format].assistant[1].strip()
        if len(self.tokens(end)) != 1:
            raise ConfigError(
                f"format: {self.format} ends an answer with {end}, which is not one token of {self.folder}",
                "use the format the model was made for, or `tokenizer` for the template shipped with it",
            )
        if FORMATS[self.format].bos and self.bos is None:
            raise ConfigError(
                f"format: {self.format} begins with a BOS token, and {self.folder}/tokenizer_config.json names none",
                "name it there as bos_token, or use another format",
            )

    def _check_template(self) -> None:
        if not self.settings.get("chat_template"):
            raise ConfigError(f"format: {self.folder} has no chat template", f"name one: --format {', '.join(FORMATS)}")
        try:
            self._template  # noqa: B018
        except ValueError as error:
            raise ConfigError(f"format: {self.folder}: {error}", f"--format {', '.join(FORMATS)}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "format": self.format}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json says, and the chat template."""
        return chat_templates.settings(self.folder)

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        return text_tokens.load(self.folder)

    @cached_property
    def _texts(self) -> TextTokenizer:
        return TextTokenizer(self.backend, "" if self.format == TOKENIZER else formats.skeleton(self.format))

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.settings, self._texts.special)

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
        if self.format != TOKENIZER:
            return int(self.tokens(FORMATS[self.format].assistant[1].strip())[0])
        return int(self.backend.token_to_id(self._template.end)) if self._template.end else self.eos

    def _named(self, name: str) -> int | None:
        token = self.settings.get(name)
        found = self.backend.token_to_id(token) if token else None
        return None if found is None else int(found)

    def tokens(self, text: str) -> list[int]:
        """Ids of a text, special tokens recognised, nothing added but what the tokenizer puts before any text."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a conversation up to where the assistant's next turn begins."""
        opened = [*messages, {"role": "assistant", "content": ""}]
        found: list[int] = self.encode([opened], open_end=True)[0].ids.tolist()
        return found

    def encode(self, conversations: Sequence[Messages], *, open_end: bool = False) -> list[Encoded]:
        """Ids and learn mask of each. `ValueError` for messages that the format cannot hold.

        `open_end`: the last message only opens its turn.
        """
        runs = [self._runs(messages, open_end) for messages in conversations]
        ids = self._texts.ids([run for own in runs for run in own])
        begins = self.bos is not None and self.format != TOKENIZER and FORMATS[self.format].bos
        bos = packed([self.bos] if self.bos is not None and begins else [])
        found: list[Encoded] = []
        at = 0
        for own in runs:
            mine = [bos, *ids[at : at + len(own)]]
            at += len(own)
            learn = np.repeat([False, *(run.learn for run in own)], [len(part) // 4 for part in mine])
            found.append(Encoded(np.frombuffer(bytearray().join(mine), np.int32), learn))
        return found

    def _runs(self, messages: Messages, open_end: bool) -> list[Run]:
        """A conversation cut at special tokens and where learning begins and ends; piecewise, at messages too."""
        if self.format == TOKENIZER:
            parts, piecewise = self._template.parts(messages, open_end), False
        else:
            parts, piecewise = formats.parts(self.format, messages), FORMATS[self.format].piecewise
            if open_end:
                parts[-1] = Part(parts[-1].before, "", "", "", "", False)
        texts = self._texts
        runs: list[Run] = []
        text, learned, fixed = "", False, True

        def cut() -> None:
            nonlocal text, fixed
            if text:
                fresh = not runs or (runs[-1].token is not None and texts.adds_space_after_tokens)
                runs.append(Run(text, learned, not texts.adds_space or piecewise or fresh, fixed))
            text, fixed = "", True

        for part in parts:
            if piecewise:
                cut()
            for said, learn, words in (
                (part.before, False, False), (part.lead, part.learn, False), (part.content, part.learn, True),
                (part.after, part.learn, False), (part.tail, False, False),
            ):  # fmt: skip
                if not said:
                    continue
                if learn != learned:
                    cut()
                    learned = learn
                if words:
                    text, fixed = text + said, False
                    continue
                for piece, token in texts.split(said):
                    if token is None:
                        text += piece
                    else:
                        cut()
                        runs.append(Run(piece, learn, False, True, token))
        cut()
        return runs


def stretches(encoded: Encoded) -> list[tuple[int, int]]:
    """(start, end) of every run of learned tokens."""
    edges = np.flatnonzero(np.diff(encoded.learn.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))

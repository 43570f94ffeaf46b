"""A model's tokenizer for texts that are cut at special tokens and elsewhere, and put together again as ids."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.models import words
from ultrachat_cli.models.words import Words, packed

_SPACES = ("\u2581", "\u0120")
"""How a token begins that stands for a space: SentencePiece's, byte-level BPE's."""
_OTHERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_MANY = 1 << 20
"""Characters from which on words are looked up: to prepare it takes as long as to tokenize so many."""


class Run(NamedTuple):
    """A special token, or text that is tokenized on its own."""

    text: str
    learn: bool
    opens: bool
    """Whether the tokenizer puts a space of its own before the text, where it does that at all."""
    fixed: bool
    """Whether the same text comes again and again."""
    token: int | None = None


class TextTokenizer:
    """`backend` (a `tokenizers.Tokenizer`) under which special tokens in a text are text.

    `skeleton`: a text whose added tokens count as special, whether or not the tokenizer calls them so.
    """

    def __init__(self, backend: Any, skeleton: str) -> None:
        self._backend = backend
        added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        self._marks = {
            text: token for text, token in added.items() if token.special or (text.strip() and text in skeleton)
        }
        ways = [  # some take the white space beside them in
            r"\s*" * self._marks[text].lstrip + re.escape(text) + r"\s*" * self._marks[text].rstrip
            for text in sorted(self._marks, key=len, reverse=True)
        ]
        self.special = re.compile("|".join(ways) or r"(?!)")
        self._splits: dict[str, list[tuple[str, int | None]]] = {}
        self._known: dict[tuple[str, bool], bytes] = {}
        self._asked = 0

    @cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer puts a space before a text, as SentencePiece does."""
        return bool(self._backend.encode("a", add_special_tokens=False).tokens[0].startswith(_SPACES))

    @cached_property
    def adds_space_after_tokens(self) -> bool:
        """Whether it does so after each special token too (SentencePiece of 2023), not at the beginning only."""
        mark = next(iter(self._marks), "")
        found = self._backend.encode(f"{mark}a", add_special_tokens=False).tokens
        return self.adds_space and bool(found[1 if mark else 0].startswith(_SPACES))

    def split(self, text: str) -> list[tuple[str, int | None]]:
        """Special tokens (with their id), and what stands between them."""
        if text not in self._splits:
            found: list[tuple[str, int | None]] = []
            at = 0
            for match in self.special.finditer(text):
                found.append((text[at : match.start()], None))
                name = match.group() if match.group() in self._marks else match.group().strip()
                found.append((name, int(self._backend.token_to_id(name))))
                at = match.end()
            found.append((text[at:], None))
            self._splits[text] = [(piece, token) for piece, token in found if piece]
        return self._splits[text]

    def ids(self, runs: list[Run]) -> list[bytes]:
        """The ids of each, int32[n]; fixed texts are tokenized once, all others together."""
        found = [b"" if run.token is None else packed([run.token]) for run in runs]
        waiting: dict[bool, list[int]] = {True: [], False: []}
        for n, run in enumerate(runs):
            if run.token is not None:
                continue
            if run.fixed and (kept := self._known.get((run.text, run.opens))) is not None:
                found[n] = kept
            else:
                waiting[run.opens].append(n)
        for opens, places in waiting.items():
            for n, ids in zip(places, self._encoded([runs[n].text for n in places], opens), strict=True):
                found[n] = ids
                if runs[n].fixed:
                    self._known[runs[n].text, opens] = ids
        return found

    def _encoded(self, texts: list[str], opens: bool) -> list[bytes]:
        def ask(some: list[str]) -> list[bytes]:
            tokenizer = self._opening if opens else self._inner
            return [packed(found.ids) for found in tokenizer.encode_batch_fast(some, add_special_tokens=False)]

        self._asked += sum(map(len, texts))
        if self._asked < _MANY or self._words is None or (opens and self.adds_space and not self._opens_with_space):
            return ask(texts)
        return self._words.ids(texts, ask, space=opens and self.adds_space)

    @cached_property
    def _words(self) -> Words | None:
        return words.of(self._told(bare=True))

    @cached_property
    def _opens_with_space(self) -> bool:
        """Whether what the tokenizer puts before a text is one space, and nothing elsewhere."""
        opening, inner = (
            twin.encode(text, add_special_tokens=False)
            for twin, text in ((self._opening, "a1 b"), (self._inner, " a1 b"))
        )
        return bool(opening.ids == inner.ids)

    @cached_property
    def _opening(self) -> Any:
        """The tokenizer to which special tokens are text like any other."""
        return self._twin(bare=False)

    @cached_property
    def _inner(self) -> Any:
        """The same for text that goes on from other text: it puts no space before it."""
        return self._twin(bare=True)

    def _twin(self, *, bare: bool) -> Any:
        from tokenizers import Tokenizer

        twin = Tokenizer.from_str(orjson.dumps(self._told(bare=bare)).decode())
        twin.encode_special_tokens = True
        return twin

    def _told(self, *, bare: bool) -> dict[str, Any]:
        """As a tokenizer.json."""
        told: dict[str, Any] = orjson.loads(self._backend.to_str())
        for token in told["added_tokens"]:
            token["special"] = token["content"] in self._marks
        if bare:
            told["normalizer"], told["pre_tokenizer"] = _bare(told["normalizer"]), _bare(told["pre_tokenizer"])
        return told


def _bare(step: Any) -> Any:
    """A normalizer or pre-tokenizer of a tokenizer.json, such that it puts no space before a text."""
    if step is None or step["type"] == "Prepend":
        return None
    for inner in ("normalizers", "pretokenizers"):
        if inner in step:
            return step | {inner: [kept for one in step[inner] if (kept := _bare(one)) is not None]}
    changed = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
    return step | changed.get(step["type"], {})


def load(folder: Path) -> Any:
    """The `tokenizers.Tokenizer` of a model folder. Raises `UltraError` where there is none, `MissingExtra`."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("tokenizing", "tokenizers", "train") from error
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            loaded = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise UltraError(f"{path}: not a tokenizer: {error}") from error
    else:
        loaded = _converted(folder)
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _converted(folder: Path) -> Any:
    """From another kind of file: LLaMA of 2023 ships a SentencePiece model only."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(f"the tokenizer of {folder}", "transformers", "train") from error
    try:
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        there = [path.name for path in folder.glob("*") if path.name in _OTHERS]
        reason = f"{there[0]} cannot be read: {str(error).strip().splitlines()[-1]}" if there else "no tokenizer"
        raise UltraError(f"{folder}: {reason}", "tokenizer.json or tokenizer.model is expected") from error

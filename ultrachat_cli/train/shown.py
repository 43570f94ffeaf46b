"""What training makes of dialogues, for people to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import DataError
from ultrachat_cli.models.chat_tokens import ChatTokenizer, Encoded
from ultrachat_cli.records import files, jsonl
from ultrachat_cli.train import examples
from ultrachat_cli.train.examples import Rules


@dataclass(frozen=True)
class Piece:
    """A special token, or text up to the next one or to where learning begins or ends."""

    text: str
    learned: bool
    special: bool


@dataclass(frozen=True)
class Shown:
    """A dialogue and its examples."""

    file: Path
    line: int
    id: str
    examples: list[Encoded]
    left_out: Counter[str]
    tokenizer: ChatTokenizer

    @property
    def tokens(self) -> int:
        """In all examples."""
        return sum(len(example.ids) for example in self.examples)

    @property
    def learned(self) -> int:
        """Tokens that are predicted."""
        return sum(int(example.learn[1:].sum()) for example in self.examples)

    def pieces(self, example: Encoded) -> list[Piece]:
        """The example as text."""
        backend = self.tokenizer.backend
        special = {n for n, token in backend.get_added_tokens_decoder().items() if token.special}
        marked = zip(example.ids.tolist(), example.learn.tolist(), strict=True)
        found: list[Piece] = []
        for (learned, apart), run in groupby(marked, lambda one: (one[1], one[0] in special)):
            ids = [number for number, _ in run]
            if apart:
                found += [Piece(backend.id_to_token(number), learned, True) for number in ids]
                continue
            text = backend.decode(ids, skip_special_tokens=False)
            spaced = backend.id_to_token(ids[0]).startswith("\u2581") and not text.startswith(" ")
            found.append(Piece(" " * spaced + text, learned, False))  # SentencePiece's decoder drops a first space
        return found

    def summary(self) -> str:
        """Where it is, and its counts."""
        parts = [f"{self.tokens:,} tokens", f"{self.learned:,} learned"]
        if len(self.examples) != 1:
            parts.append(f"{len(self.examples)} examples")
        parts += [f"{count} {name}" for name, count in self.left_out.items() if count]
        return f"{self.file}:{self.line}: {', '.join(parts)}"

    def record(self) -> dict[str, Any]:
        """For machines."""
        name = self.tokenizer.backend.id_to_token
        return {
            "file": str(self.file), "line": self.line, "id": self.id, "tokens": self.tokens, "learned": self.learned,
            "left_out": {what: count for what, count in self.left_out.items() if count},
            "examples": [
                {"ids": one.ids.tolist(), "learn": one.learn.tolist(), "tokens": list(map(name, one.ids.tolist()))}
                for one in self.examples
            ],
        }  # fmt: skip


def dialogues(paths: Sequence[Path], tokenizer: ChatTokenizer, rules: Rules, on_bad: jsonl.OnBad) -> Iterator[Shown]:
    """Every dialogue of the files; what is none, or does not fit the format, goes to `on_bad`."""
    for path in paths:
        for number, dialogue in files.dialogues(path, on_bad):
            counts: Counter[str] = Counter()
            try:
                if not dialogue.data:
                    raise ValueError("no turns")
                (found,) = examples.encode([dialogue], tokenizer, rules, counts)
            except ValueError as error:
                on_bad(DataError(path, number, str(error)))
                continue
            yield Shown(path, number, dialogue.id, found, counts, tokenizer)

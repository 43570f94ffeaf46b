"""The first pass: a block of lines becomes arrays. Runs in any process, needs nothing but the block."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from ultrachat_cli.dedupe import kernel, words
from ultrachat_cli.dedupe.decontaminate import Benchmark
from ultrachat_cli.dedupe.settings import DedupeConfig, Scope
from ultrachat_cli.records.blocks import Block
from ultrachat_cli.records.dialogue import Dialogue, parse

_BATCH = 256  # dialogues a call of the kernel


@dataclass(frozen=True)
class Scanned:
    """What is known of n dialogues with m compared texts ("items") in all.

    place int64[n, 3]: start and length in the source's plain file, line number (from 1, within the block);
    length int64[n]: characters; score float64[n] (-inf where there is none); item_dialogue int64[m];
    sketches uint8[m, 256]; digests uint64[m, 2]; sizes int32[m]: words; overlaps float64[k, 4]: dialogue, benchmark
    item, share of the item's words covered, Jaccard similarity of the nearest turn.
    """

    place: np.ndarray
    length: np.ndarray
    score: np.ndarray
    item_dialogue: np.ndarray
    sketches: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    overlaps: np.ndarray
    lines: int
    rejected: list[tuple[int, str, str]]
    """(line within the block, reason, text)."""

    def save(self, path: Path) -> None:
        """Appears under its name when it is complete."""
        partial = path.with_suffix(".partial.npz")
        with partial.open("wb") as file:
            self.dump(file)
        partial.replace(path)

    def dump(self, file: IO[bytes]) -> None:
        """All of it as one file."""
        data = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rejected"}
        rejected = np.frombuffer(orjson.dumps(self.rejected), np.uint8)
        np.savez(file, **data, rejected=rejected)

    @classmethod
    def load(cls, file: Path | IO[bytes]) -> Scanned:
        """What `save` or `dump` wrote."""
        with np.load(file) as data:
            found: dict[str, Any] = {field.name: data[field.name] for field in fields(cls)}
        found["rejected"] = [tuple(row) for row in orjson.loads(found["rejected"].tobytes())]
        found["lines"] = int(found["lines"])
        return cls(**found)


def scan(block: Block, config: DedupeConfig, benchmark: Benchmark | None) -> Scanned:
    """Read, parse, sketch and search a block."""
    scanner = _Scanner(config, benchmark)
    data = block.read()
    start, number = 0, 0
    while start < len(data):
        number += 1
        end = data.find(b"\n", start) + 1 or len(data)
        scanner.line(data[start:end], block.start + start, number)
        start = end
    return scanner.end(number)


def texts(dialogue: Dialogue, scope: Scope) -> list[str]:
    """What is compared of a dialogue."""
    if scope == "dialogue":
        return ["\n".join(dialogue.data)]
    return dialogue.data[:1] if scope == "opening" else dialogue.data


def _ranges(scope: Scope, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first turn, last turn + 1, dialogue) of each compared text; dialogues have turns starts[i]:ends[i]."""
    dialogue = np.arange(len(starts))
    if scope == "dialogue":
        return starts, ends, dialogue
    if scope == "opening":
        return starts, starts + 1, dialogue
    turn = np.arange(ends[-1])
    return turn, turn + 1, np.repeat(dialogue, ends - starts)


def score_of(record: Any, keys: Sequence[str]) -> float:
    """The number at the first dotted key that holds one; -inf where none does."""
    for key in keys:
        found = record
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, int | float):
            return float(found)
    return -np.inf


class _Scanner:
    def __init__(self, config: DedupeConfig, benchmark: Benchmark | None) -> None:
        self._config, self._benchmark = config, benchmark
        self._kinds, self._codes = words.tables()
        self._scored = config.keep == "best"
        self._place: list[tuple[int, int, int]] = []
        self._length: list[int] = []
        self._score: list[float] = []
        self._turns: list[bytes] = []
        self._counts: list[int] = []  # turns of each waiting dialogue
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._overlaps: list[np.ndarray] = []
        self._rejected: list[tuple[int, str, str]] = []

    def line(self, line: bytes, start: int, number: int) -> None:
        if line.isspace():
            return
        try:
            record = orjson.loads(line)
            dialogue = parse(record)
            if not dialogue.data:
                raise ValueError("no turns")
        except orjson.JSONDecodeError as error:
            self._reject(number, f"not JSON ({error.msg})", line)
            return
        except ValueError as error:
            self._reject(number, str(error), line)
            return
        self._place.append((start, len(line), number))
        self._length.append(sum(map(len, dialogue.data)))
        if self._scored:
            self._score.append(score_of(record, self._config.score))
        self._turns += [turn.encode() for turn in dialogue.data]
        self._counts.append(len(dialogue.data))
        if len(self._counts) == _BATCH:
            self._flush()

    def _reject(self, number: int, reason: str, line: bytes) -> None:
        self._rejected.append((number, reason, line.decode("utf-8", "replace").rstrip("\n")))

    def _flush(self) -> None:
        """Every turn is hashed once; what is compared and what is searched for are ranges of its words."""
        if not self._counts:
            return
        first = len(self._place) - len(self._counts)
        text = np.frombuffer(b"".join(self._turns) or b" ", np.uint8)
        word, word_ends = kernel.hashed(text, np.cumsum([*map(len, self._turns)]), self._kinds, self._codes)
        turn_ends = np.cumsum(self._counts)
        turn_starts = turn_ends - self._counts
        starts, ends, owner = _ranges(self._config.scope, turn_starts, turn_ends)
        word_starts = np.append(0, word_ends[:-1])
        sketches = np.empty((len(starts), kernel.BINS), np.uint8)
        digests, sizes = np.empty((len(starts), 2), np.uint64), np.empty(len(starts), np.int32)
        kernel.describe(word, word_starts[starts], word_ends[ends - 1], self._config.ngram, sketches, digests, sizes)
        for i in np.flatnonzero(sizes == 0):  # no words: equal only when the very characters are
            raw = hashlib.blake2b(b"\n".join(self._turns[starts[i] : ends[i]]), digest_size=16).digest()
            digests[i] = np.frombuffer(raw, np.uint64)
        self._parts.append((sketches, digests, sizes, owner + first))
        if self._benchmark is not None:
            speaker = np.arange(len(self._turns)) - np.repeat(turn_starts, self._counts)
            self._overlaps.append(
                self._benchmark.search(
                    word, word_ends, speaker % 2, np.repeat(np.arange(len(self._counts)), self._counts) + first
                )
            )
        self._turns, self._counts = [], []

    def end(self, lines: int) -> Scanned:
        self._flush()
        none = (
            np.empty((0, kernel.BINS), np.uint8), np.empty((0, 2), np.uint64), np.empty(0, np.int32),
            np.empty(0, np.int64),
        )  # fmt: skip
        sketches, digests, sizes, owner = (np.concatenate(column) for column in zip(none, *self._parts, strict=True))
        dialogues = len(self._place)
        return Scanned(
            place=np.array(self._place, np.int64).reshape(dialogues, 3),
            length=np.array(self._length, np.int64),
            score=np.array(self._score if self._scored else [-np.inf] * dialogues, np.float64),
            item_dialogue=owner,
            sketches=sketches, digests=digests, sizes=sizes,
            overlaps=np.concatenate([np.empty((0, 4)), *self._overlaps]),
            lines=lines,
            rejected=self._rejected,
        )  # fmt: skip

"""The first pass: a block of lines becomes arrays. Runs in any process, needs nothing but the block."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli.dedupe import kernel, words
from ultrachat_cli.dedupe.blocks import Block
from ultrachat_cli.dedupe.decontaminate import Benchmark
from ultrachat_cli.dedupe.settings import DedupeConfig, Scope
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
        data = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rejected"}
        rejected = np.frombuffer(orjson.dumps(self.rejected), np.uint8)
        np.savez(partial, **data, rejected=rejected, allow_pickle=False)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Scanned:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
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


def score_of(record: Any, key: str) -> float:
    """The number at a dotted key; -inf where there is none."""
    for part in key.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return float(record) if isinstance(record, int | float) else -np.inf


class _Scanner:
    def __init__(self, config: DedupeConfig, benchmark: Benchmark | None) -> None:
        self._config, self._benchmark = config, benchmark
        self._kinds, self._folds = words.tables()
        self._scored = config.keep == "best"
        self._place: list[tuple[int, int, int]] = []
        self._length: list[int] = []
        self._score: list[float] = []
        self._owner: list[int] = []
        self._waiting: list[bytes] = []
        self._turns: list[list[str]] = []
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
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
        compared = texts(dialogue, self._config.scope)
        self._owner += [len(self._place) - 1] * len(compared)
        self._waiting += [text.encode() for text in compared]
        if self._benchmark is not None:
            self._turns.append(dialogue.data)
        if len(self._place) % _BATCH == 0:
            self._flush()

    def _reject(self, number: int, reason: str, line: bytes) -> None:
        self._rejected.append((number, reason, line.decode("utf-8", "replace").rstrip("\n")))

    def _flush(self) -> None:
        if not self._waiting:
            return
        count = len(self._waiting)
        sketches = np.empty((count, kernel.BINS), np.uint8)
        digests, sizes = np.empty((count, 2), np.uint64), np.empty(count, np.int32)
        text = np.frombuffer(b"".join(self._waiting) or b" ", np.uint8)
        ends = np.cumsum([len(part) for part in self._waiting])
        kernel.describe(text, ends, self._config.ngram, self._kinds, self._folds, sketches, digests, sizes)
        for i in np.flatnonzero(sizes == 0):  # no words: equal only when the very characters are
            digests[i] = np.frombuffer(hashlib.blake2b(self._waiting[i], digest_size=16).digest(), np.uint64)
        self._parts.append((sketches, digests, sizes))
        if self._benchmark is not None:
            self._overlaps.append(self._benchmark.search(self._turns, len(self._place) - len(self._turns)))
            self._turns = []
        self._waiting = []

    def end(self, lines: int) -> Scanned:
        self._flush()
        none = (np.empty((0, kernel.BINS), np.uint8), np.empty((0, 2), np.uint64), np.empty(0, np.int32))
        sketches, digests, sizes = (np.concatenate(column) for column in zip(none, *self._parts, strict=True))
        dialogues = len(self._place)
        return Scanned(
            place=np.array(self._place, np.int64).reshape(dialogues, 3),
            length=np.array(self._length, np.int64),
            score=np.array(self._score if self._scored else [-np.inf] * dialogues, np.float64),
            item_dialogue=np.array(self._owner, np.int64),
            sketches=sketches, digests=digests, sizes=sizes,
            overlaps=np.concatenate([np.empty((0, 4)), *self._overlaps]),
            lines=lines,
            rejected=self._rejected,
        )  # fmt: skip

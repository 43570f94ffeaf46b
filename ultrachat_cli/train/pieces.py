"""Parts of a dialogue file tokenized by any process, and put together as arrays that are mapped into memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from ultrachat_cli.models.chat_tokens import ChatTokenizer, Encoded
from ultrachat_cli.records import ids
from ultrachat_cli.records.blocks import Block
from ultrachat_cli.records.dialogue import Dialogue, parse
from ultrachat_cli.train import examples
from ultrachat_cli.train.examples import Rules

_BATCH = 64  # dialogues a call of the tokenizer


@dataclass(frozen=True)
class Job:
    """What all parts share. `wide`: ids need 32 bits."""

    tokenizer: ChatTokenizer
    rules: Rules
    wide: bool

    @property
    def kind(self) -> type[np.unsignedinteger[Any]]:
        """Of ids."""
        return np.uint32 if self.wide else np.uint16


class _Row(NamedTuple):
    """A good line: its number from 1 in its block, its text, what it says."""

    number: int
    line: bytes
    dialogue: Dialogue


def make(task: tuple[Block, Path], job: Job) -> int:
    """Tokenize a block of lines; the piece appears when it is complete."""
    block, target = task
    counts: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    waiting: list[_Row] = []
    id_parts: list[np.ndarray] = [np.empty(0, np.int32)]
    learn_parts: list[np.ndarray] = [np.empty(0, np.bool_)]
    sizes: list[int] = []
    learned: list[int] = []
    keys: list[int] = []

    def reject(number: int, line: bytes, reason: str) -> None:
        rejected.append({"line": number, "reason": reason, "text": line.decode("utf-8", "replace")})

    def flush() -> None:
        for row, found in zip(waiting, _encoded(waiting, job, counts, reject), strict=True):
            dialogue = row.dialogue
            key = ids.digest(dialogue.id) if dialogue.id else ids.digest(*dialogue.data)
            for example in found:
                id_parts.append(example.ids)
                learn_parts.append(example.learn)
                sizes.append(len(example.ids))
                learned.append(int(np.count_nonzero(example.learn[1:])))
                keys.append(key)
        waiting.clear()

    lines = block.read().split(b"\n")
    if not lines[-1]:  # what ends with a newline has no line after it
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            dialogue = parse(orjson.loads(line))
            if not dialogue.data:
                raise ValueError("no turns")
        except ValueError as error:
            told = f"not JSON ({error.msg})" if isinstance(error, orjson.JSONDecodeError) else str(error)
            reject(number, line, told)
            continue
        waiting.append(_Row(number, line, dialogue))
        if len(waiting) == _BATCH:
            flush()
    flush()
    rejected.sort(key=itemgetter("line"))
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(
            file, ids=np.concatenate(id_parts).astype(job.kind), learn=np.concatenate(learn_parts),
            sizes=np.array(sizes, np.int64), learned=np.array(learned, np.int32), keys=np.array(keys, np.uint64),
            told=np.frombuffer(orjson.dumps([len(lines), counts, rejected]), np.uint8),
        )  # fmt: skip
    partial.replace(target)
    return block.end - block.start


def _encoded(
    rows: Sequence[_Row], job: Job, counts: Counter[str], reject: Callable[[int, bytes, str], None]
) -> list[list[Encoded]]:
    """The examples of each; where the format refuses one, it is found by trying them alone."""
    own = Counter({"dialogues": len(rows)})
    try:
        found = examples.encode([row.dialogue for row in rows], job.tokenizer, job.rules, own)
    except ValueError as error:
        if len(rows) > 1:
            return [_encoded([row], job, counts, reject)[0] for row in rows]
        reject(rows[0].number, rows[0].line, str(error))
        return [[]]
    counts.update(own)
    return found


def join(pieces: Sequence[Path], folder: Path, job: Job) -> dict[str, Any]:
    """All pieces as one array a kind; ids and marks go through memory a piece at a time. Returns what is to be told."""
    counts: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    columns: dict[str, list[np.ndarray]] = {"sizes": [], "learned": [], "keys": []}
    lines = 0
    for piece in pieces:
        with np.load(piece) as data:
            for name, column in columns.items():
                column.append(data[name])
            count, told, bad = orjson.loads(data["told"].tobytes())
        rejected += [{**row, "line": row["line"] + lines} for row in bad]
        counts.update(told)
        lines += count
    sizes, learned, keys = (np.concatenate(column) for column in columns.values())
    total = int(sizes.sum())
    shape = max(1, total)  # nothing cannot be mapped
    all_ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", job.kind, (shape,))
    bits = np.lib.format.open_memmap(folder / "learn.npy", "w+", np.uint8, ((shape + 7) // 8,))
    at, rest = 0, np.empty(0, np.bool_)
    for piece in pieces:
        with np.load(piece) as data:
            marks = np.concatenate([rest, data["learn"]])
            first = (at - len(rest)) // 8
            end = at + len(data["learn"])
            all_ids[at:end] = data["ids"]
        whole = len(marks) // 8 * 8 if end < total else len(marks)
        packed = np.packbits(marks[:whole], bitorder="little")
        bits[first : first + len(packed)] = packed
        at, rest = end, marks[whole:]
    all_ids.flush()
    bits.flush()
    np.save(folder / "ends.npy", np.cumsum(sizes))
    np.save(folder / "learned.npy", learned)
    np.save(folder / "keys.npy", keys)
    return {"tokens": total, "examples": len(sizes), "counts": counts, "rejected": rejected}

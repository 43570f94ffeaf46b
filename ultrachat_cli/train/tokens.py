"""Dialogue files tokenized once: memory-mapped ids and learn marks, kept by content, tokenizer and rules."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli import workers
from ultrachat_cli.errors import UltraError
from ultrachat_cli.machine import cores
from ultrachat_cli.models import weights
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.progress import Progress, say_bad_line
from ultrachat_cli.records import blocks, files, ids, jsonl
from ultrachat_cli.records.blocks import Block, Source
from ultrachat_cli.records.dialogue import Dialogue, parse
from ultrachat_cli.records.lock import FolderLock
from ultrachat_cli.train import examples
from ultrachat_cli.train.examples import Rules

_VERSION = 1  # of what lies in the cache
_BLOCK = 8 << 20  # bytes a process takes at a time
_BATCH = 64  # dialogues a call of the tokenizer
_FACTS = "facts.json"  # written last: a folder without it is not finished


@dataclass(frozen=True)
class Tokens:
    """n examples of one file.

    ids uint16 or uint32[total], learn uint8[total/8] (bits, little-endian), ends int64[n]: where each example ends,
    learned int32[n]: tokens that are predicted, keys uint64[n]: which dialogue an example comes from.
    """

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Counts and what was left out."""
        return dict(orjson.loads((self.folder / _FACTS).read_bytes()))

    @cached_property
    def ids(self) -> np.ndarray:
        """All ids, memory-mapped."""
        return np.asanyarray(np.load(self.folder / "ids.npy", mmap_mode="r"))

    @cached_property
    def learn(self) -> np.ndarray:
        """All learn bits, memory-mapped."""
        return np.asanyarray(np.load(self.folder / "learn.npy", mmap_mode="r"))

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each example ends."""
        return np.asarray(np.load(self.folder / "ends.npy"))

    @cached_property
    def learned(self) -> np.ndarray:
        """Predicted tokens of each example."""
        return np.asarray(np.load(self.folder / "learned.npy"))

    @cached_property
    def keys(self) -> np.ndarray:
        """A digest of the dialogue's id, or of its turns."""
        return np.asarray(np.load(self.folder / "keys.npy"))

    def __len__(self) -> int:
        return len(self.ends)

    def example(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int64, learn bool) of one."""
        start, end = int(self.ends[n - 1]) if n else 0, int(self.ends[n])
        bits = np.unpackbits(self.learn[start // 8 : (end + 7) // 8], bitorder="little")
        return self.ids[start:end].astype(np.int64), bits[start % 8 : start % 8 + end - start].astype(np.bool_)


@dataclass(frozen=True)
class _Job:
    tokenizer: ChatTokenizer
    rules: Rules
    wide: bool


def tokenize(
    paths: Sequence[Path], tokenizer: ChatTokenizer, rules: Rules, progress: Progress, rejected: Path | None = None
) -> list[Tokens]:
    """The examples of each file, from the cache or made now by all cores.

    Bad lines are said, and written to `rejected`. `DataError` for a file that cannot be read, `UltraError` (disk).
    """
    found: list[Tokens] = []
    bad: list[dict[str, Any]] = []
    for path in paths:
        tokens = _cached(path, tokenizer, rules, progress)
        found.append(tokens)
        bad += [{"file": str(path), **row} for row in tokens.facts["rejected"]]
    for count, row in enumerate(bad, start=1):
        say_bad_line(progress, f"{row['file']}:{row['line']}: {row['reason']}", count)
    if rejected and bad:
        with jsonl.replacing(rejected) as out:
            out.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in bad)
    return found


def _cached(path: Path, tokenizer: ChatTokenizer, rules: Rules, progress: Progress) -> Tokens:
    folder = weights.cache() / "tokens" / _key(path, tokenizer, rules)
    if (folder / _FACTS).is_file():
        return Tokens(folder)
    lock = FolderLock(folder)
    try:
        _make(path, folder, tokenizer, rules, progress)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error
    finally:
        lock.release()
    return Tokens(folder)


def _key(path: Path, tokenizer: ChatTokenizer, rules: Rules) -> str:
    """Content of the file, tokenizer and rules."""
    spread = hashlib.blake2b(digest_size=16)
    spread.update(orjson.dumps([_VERSION, tokenizer.format, asdict(rules), path.suffix, _content(path)]))
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer.folder / name).is_file():
            spread.update((tokenizer.folder / name).read_bytes())
    return spread.hexdigest()


def _content(path: Path) -> str:
    """SHA-256 of a file; known ones (by place, size and time) are not read again."""
    if path == files.STDIN:
        raise UltraError("--data: training reads its data again and again, stdin can be read once", "name a file")
    state = path.stat()
    mark = weights.cache() / "tokens" / "known" / f"{ids.digest(str(path.resolve())):016x}.json"
    told = [str(path.resolve()), state.st_size, state.st_mtime_ns]
    if mark.is_file() and (known := orjson.loads(mark.read_bytes()))[:3] == told:
        return str(known[3])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    mark.parent.mkdir(parents=True, exist_ok=True)
    with jsonl.replacing(mark) as out:
        out.write(orjson.dumps([*told, digest]))
    return digest


def _make(path: Path, folder: Path, tokenizer: ChatTokenizer, rules: Rules, progress: Progress) -> None:
    plain = path
    if not files.is_plain(path):
        plain = folder / "plain.jsonl"
        if not plain.exists():
            blocks.unpack(path, plain)
    cut = blocks.cut([Source(path, plain)], _BLOCK)
    pieces = [folder / f"piece-{block.number:06}.npz" for block in cut]
    missing = [(block, piece) for block, piece in zip(cut, pieces, strict=True) if not piece.exists()]
    progress.stage("tokenize", sum(block.end - block.start for block, _ in missing) >> 10, "KB")
    job = _Job(tokenizer, rules, tokenizer.vocabulary > 1 << 16)
    processes = min(cores(), len(missing)) if sum(b.end - b.start for b, _ in missing) > 4 << 20 else 1
    with workers.pool(processes, job, "ultrachat_cli.train.tokens") as spread:
        for size in spread(_piece, missing):
            progress.advance(size >> 10)
    _join(pieces, folder, job)
    for piece in pieces:
        piece.unlink()
    if plain != path:
        plain.unlink()


def _piece(task: tuple[Block, Path], job: _Job) -> int:
    """Tokenize a block of lines; the piece appears when it is complete."""
    block, target = task
    counts: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    waiting: list[tuple[int, bytes, Dialogue]] = []
    id_parts: list[np.ndarray] = [np.empty(0, np.int32)]
    learn_parts: list[np.ndarray] = [np.empty(0, np.bool_)]
    sizes: list[int] = []
    learned: list[int] = []
    keys: list[int] = []

    def reject(number: int, reason: str, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\n")
        rejected.append({"line": number, "reason": reason, "text": text})

    def flush() -> None:
        for (number, line, dialogue), found in zip(waiting, _encoded(waiting, job, counts, reject), strict=True):
            del number, line
            key = ids.digest(dialogue.id) if dialogue.id else ids.digest(*dialogue.data)
            for example in found:
                id_parts.append(example.ids)
                learn_parts.append(example.learn)
                sizes.append(len(example.ids))
                learned.append(int(example.learn[1:].sum()))
                keys.append(key)
        waiting.clear()

    lines = block.read().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            dialogue = parse(orjson.loads(line))
            if not dialogue.data:
                raise ValueError("no turns")
        except ValueError as error:
            reject(number, f"not JSON ({error.msg})" if isinstance(error, orjson.JSONDecodeError) else str(error), line)
            continue
        counts["dialogues"] += 1
        waiting.append((number, line, dialogue))
        if len(waiting) == _BATCH:
            flush()
    flush()
    partial = target.with_suffix(".partial.npz")
    np.savez(
        partial, ids=np.concatenate(id_parts).astype(np.uint32 if job.wide else np.uint16),
        learn=np.concatenate(learn_parts), sizes=np.array(sizes, np.int64), learned=np.array(learned, np.int32),
        keys=np.array(keys, np.uint64), told=np.frombuffer(orjson.dumps([len(lines), counts, rejected]), np.uint8),
    )  # fmt: skip
    partial.replace(target)
    return block.end - block.start


def _encoded(waiting: list[tuple[int, bytes, Dialogue]], job: _Job, counts: Counter[str], reject: Any) -> list[Any]:
    """The examples of each; where the format refuses one, it is found by trying them alone."""
    try:
        own: Counter[str] = Counter()
        found = examples.encode([dialogue for _, _, dialogue in waiting], job.tokenizer, job.rules, own)
    except ValueError as error:
        if len(waiting) == 1:
            reject(waiting[0][0], str(error), waiting[0][1])
            counts["dialogues"] -= 1
            return [[]]
        return [_encoded([one], job, counts, reject)[0] for one in waiting]
    counts.update(own)
    return found


def _join(pieces: list[Path], folder: Path, job: _Job) -> None:
    """All pieces as one array a kind; ids and bits go through memory a piece at a time."""
    counts: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    columns: dict[str, list[np.ndarray]] = {"sizes": [], "learned": [], "keys": []}
    lines = total = 0
    for piece in pieces:
        with np.load(piece) as data:
            for name, column in columns.items():
                column.append(data[name])
            count, told, bad = orjson.loads(data["told"].tobytes())
            total += len(data["ids"])
        rejected += [{**row, "line": row["line"] + lines} for row in bad]
        counts.update(told)
        lines += count
    merged = {name: np.concatenate(column) for name, column in columns.items()}
    all_ids = np.lib.format.open_memmap(
        folder / "ids.npy", "w+", np.uint32 if job.wide else np.uint16, (max(1, total),)
    )
    bits = np.lib.format.open_memmap(folder / "learn.npy", "w+", np.uint8, ((max(1, total) + 7) // 8,))
    at, rest = 0, np.empty(0, np.bool_)
    for piece in pieces:
        with np.load(piece) as data:
            all_ids[at : at + len(data["ids"])] = data["ids"]
            learn = np.concatenate([rest, data["learn"]])
            first = (at - len(rest)) // 8
            at += len(data["ids"])
        whole = len(learn) // 8 * 8 if at < total else len(learn)
        packed = np.packbits(learn[:whole], bitorder="little")
        bits[first : first + len(packed)] = packed
        rest = learn[whole:]
    all_ids.flush()
    bits.flush()
    np.save(folder / "ends.npy", np.cumsum(merged["sizes"]))
    np.save(folder / "learned.npy", merged["learned"])
    np.save(folder / "keys.npy", merged["keys"])
    facts = {"tokens": total, "examples": len(merged["sizes"]), "counts": counts, "rejected": rejected}
    with jsonl.replacing(folder / _FACTS) as out:
        out.write(orjson.dumps(facts))

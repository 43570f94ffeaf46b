"""Dialogue files tokenized once: memory-mapped ids and learn marks, kept by content, tokenizer and rules."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli import workers
from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.machine import cores
from ultrachat_cli.models import weights
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.models.formats import FORMATS
from ultrachat_cli.progress import Progress, say_bad_line
from ultrachat_cli.records import blocks, files, ids, jsonl
from ultrachat_cli.records.blocks import Source
from ultrachat_cli.records.lock import in_turn
from ultrachat_cli.train import pieces
from ultrachat_cli.train.examples import Rules
from ultrachat_cli.train.pieces import Job

_VERSION = 1  # of what lies in the cache
_BLOCK = 2 << 20  # bytes a process takes at a time
_ALONE = 4 << 20  # bytes for which no processes are started
_FACTS = "facts.json"  # written last: a folder without it is not finished
_TOKENIZER = (  # files that decide about ids
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip


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


def tokenize(
    paths: Sequence[Path], tokenizer: ChatTokenizer, rules: Rules, progress: Progress, rejected: Path | None = None
) -> list[Tokens]:
    """The examples of each file, from the cache or made now by all cores; one process makes them, others wait for it.

    Bad lines are said, and written to `rejected` where its folder is there. Raises `DataError` for a file that cannot
    be read or changes meanwhile, `UltraError` (disk).
    """
    found: list[Tokens] = []
    bad: list[dict[str, Any]] = []
    for path in paths:
        tokens = _cached(path, tokenizer, rules, progress)
        found.append(tokens)
        bad += [{"file": str(path), **row} for row in tokens.facts["rejected"]]
    for count, row in enumerate(bad, start=1):
        say_bad_line(progress, f"{row['file']}:{row['line']}: {row['reason']}", count)
    if rejected and bad and rejected.parent.is_dir():
        _put(rejected, b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in bad))
    return found


def _cached(path: Path, tokenizer: ChatTokenizer, rules: Rules, progress: Progress) -> Tokens:
    content = _content(path)
    folder = weights.cache() / "tokens" / _key(path, content, tokenizer, rules)
    if (folder / _FACTS).is_file():
        return Tokens(folder)
    with in_turn(folder, progress.say, f"{path} is tokenized by another process"):
        if not (folder / _FACTS).is_file():
            try:
                _make(path, content, folder, tokenizer, rules, progress)
            except OSError as error:
                raise jsonl.unwritable(folder, error) from error
    return Tokens(folder)


def _key(path: Path, content: str, tokenizer: ChatTokenizer, rules: Rules) -> str:
    """Content of the file and how it is read, tokenizer, format and rules."""
    spread = hashlib.blake2b(digest_size=16)
    chat_format = repr(FORMATS.get(tokenizer.format, tokenizer.format))
    read_as = [path.suffix, files.is_array(path)]
    spread.update(orjson.dumps([_VERSION, chat_format, asdict(rules), read_as, content]))
    for name in _TOKENIZER:
        if (tokenizer.folder / name).is_file():
            spread.update(hashlib.sha256((tokenizer.folder / name).read_bytes()).digest() + name.encode())
    return spread.hexdigest()


def _content(path: Path) -> str:
    """SHA-256 of a file; known ones (by place, size and times) are not read again."""
    if path == files.STDIN:
        raise UltraError("--data: training reads its data again and again, stdin can be read once", "name a file")
    try:
        place, state = str(path.resolve()), path.stat()
        mark = weights.cache() / "tokens" / "known" / f"{ids.digest(place):016x}.json"
        told = [place, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        if mark.is_file() and (known := orjson.loads(mark.read_bytes()))[:-1] == told:
            return str(known[-1])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, 0, f"cannot be read: {error.strerror or error}") from error
    _put(mark, orjson.dumps([*told, digest]))
    return digest


def _put(path: Path, data: bytes) -> None:
    """A small file, whole or not at all; all processes of a run may write it at the same time."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise jsonl.unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _make(path: Path, content: str, folder: Path, tokenizer: ChatTokenizer, rules: Rules, progress: Progress) -> None:
    """The arrays of a file. What an interrupted run has left is used: its pieces are named by their place."""
    plain = path
    if not files.is_plain(path):
        plain = folder / "plain.jsonl"
        if not plain.exists():
            blocks.unpack(path, plain)
    cut = blocks.cut([Source(path, plain)], _BLOCK)
    places = [folder / f"{block.start}-{block.end}.npz" for block in cut]
    missing = [(block, piece) for block, piece in zip(cut, places, strict=True) if not piece.exists()]
    size = sum(block.end - block.start for block, _ in missing)
    progress.stage("tokenize", size >> 10, "KB")
    job = Job(tokenizer, rules, tokenizer.vocabulary > 1 << 16)
    with workers.pool(min(cores(), len(missing)) if size > _ALONE else 1, job, "ultrachat_cli.train.pieces") as spread:
        for done in spread(pieces.make, missing):
            progress.advance(done >> 10)
    changed = _content(path) != content
    if not changed:
        facts = pieces.join(places, folder, job)
        _put(folder / _FACTS, orjson.dumps(facts))
    for left in (*folder.glob("*.npz"), *folder.glob("*.partial"), *([plain] if plain != path else [])):
        left.unlink()
    if changed:
        raise DataError(path, 0, "has changed while it was read", "run the same command again")

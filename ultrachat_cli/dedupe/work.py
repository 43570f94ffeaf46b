"""The work folder beside the output: finished pieces of every stage, so that a killed run goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import blocks, files, jsonl
from ultrachat_cli.records.blocks import Source
from ultrachat_cli.records.lock import FolderLock

_KEY = "key.json"


class Work:
    """`<output>.work/`: one process at a time; thrown away when the inputs or settings are others, or at the end."""

    def __init__(self, config: DedupeConfig, inputs: Sequence[Path], more: Sequence[Path]) -> None:
        """`inputs`: the files; `more`: other files the result depends on. Raises `RunLocked`, `UltraError` (disk)."""
        self.folder = config.target.with_name(config.target.name + ".work")
        self._lock = FolderLock(self.folder)
        key = orjson.dumps([config.identity(), [_state(path) for path in (*inputs, *more)]])
        try:
            if not self._same(key):
                self._clear()
                (self.folder / _KEY).write_bytes(key)
        except OSError as error:
            self._lock.release()
            raise jsonl.unwritable(self.folder, error) from error

    def _same(self, key: bytes) -> bool:
        path = self.folder / _KEY
        return path.is_file() and path.read_bytes() == key and orjson.dumps([str(files.STDIN), 0, 0]) not in key

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def path(self, name: str) -> Path:
        """A piece's place."""
        return self.folder / name

    def unpacked(self, inputs: Sequence[Path], progress: Progress) -> list[Source]:
        """The inputs with uncompressed JSONL for each; what is not that already is unpacked here, once."""
        packed = [path for path in inputs if not files.is_plain(path)]
        progress.stage("unpack", len(packed), "files")
        sources = []
        for number, path in enumerate(inputs):
            plain = path
            if path in packed:
                plain = self.path(f"input-{number:05}.jsonl")
                if not plain.exists():
                    blocks.unpack(path, plain)
                progress.advance()
            sources.append(Source(path, plain))
        return sources

    def load(self, name: str) -> np.ndarray | None:
        """A stage's array, if it was saved."""
        path = self.path(name + ".npy")
        if not path.exists():
            return None
        found: np.ndarray = np.load(path)
        return found

    def save(self, name: str, rows: np.ndarray) -> None:
        """Keep a stage's array; it appears when it is complete."""
        partial = self.path(name + ".partial.npy")
        np.save(partial, rows)
        partial.replace(self.path(name + ".npy"))

    def close(self, *, done: bool) -> None:
        """Let go; a finished job leaves nothing behind."""
        self._lock.release()
        if done:
            shutil.rmtree(self.folder, ignore_errors=True)


def _state(path: Path) -> list[str | int]:
    if path == files.STDIN:
        return [str(path), 0, 0]
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]

"""Rewards beside the output until it is whole: a killed run goes on after its last finished batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ultrachat_cli.records import jsonl
from ultrachat_cli.records.lock import FolderLock

_KEY, _REWARDS = "key", "rewards"


class Scored(NamedTuple):
    """One answer: the dialogue's number, the answer's index in it, its reward (or why there is none), whether cut."""

    dialogue: int
    place: int
    reward: float | str
    cut: bool


class Work:
    """`<output>.work/`: one process at a time. Lines are finished batches, [window, [answers]], windows in order."""

    def __init__(self, folder: Path) -> None:
        """Raises `RunLocked`."""
        self.folder = folder
        self._lock = FolderLock(folder)
        self._lines: jsonl.Appender | None = None

    def begin(self, identity: Any) -> bool:
        """Ready for rewards; False when those of other inputs or settings lay there, which are thrown away."""
        key = orjson.dumps(identity)
        path = self.folder / _KEY
        try:
            before = path.read_bytes() if path.is_file() else None
            if before != key:
                (self.folder / _REWARDS).unlink(missing_ok=True)
                path.write_bytes(key)
        except OSError as error:
            raise jsonl.unwritable(self.folder, error) from error
        self._lines = jsonl.Appender(self.folder / _REWARDS)
        return before in (None, key)

    def append(self, window: int, batch: list[Scored]) -> None:
        """Keep a finished batch."""
        assert self._lines is not None
        self._lines.append(orjson.dumps([window, list(map(list, batch))], option=orjson.OPT_APPEND_NEWLINE))

    def windows(self) -> Iterator[tuple[int, list[Scored]]]:
        """(window, what is known of it), of every window begun."""
        assert self._lines is not None
        rows = map(orjson.loads, self._lines.since(0))
        for window, batches in groupby(rows, itemgetter(0)):
            yield window, [Scored(*row) for _, batch in batches for row in batch]

    def close(self, *, done: bool) -> None:
        """Let go; a job that is finished, or scored nothing, leaves nothing behind."""
        nothing = self._lines is None or self._lines.size == 0
        if self._lines is not None:
            self._lines.close()
        self._lock.release()
        if done or (nothing and not (self.folder / _REWARDS).exists()):
            shutil.rmtree(self.folder, ignore_errors=True)

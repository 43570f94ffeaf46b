"""One process per run folder, and an earlier run moved out of its way."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ultrachat_cli.errors import RunLocked
from ultrachat_cli.records import jsonl

_POLL = 0.2  # seconds between two looks whether another process is done


class FolderLock:
    """Holds `<folder>/lock` for this process; the kernel lets go of it however the process ends."""

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise jsonl.unwritable(folder, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise RunLocked(
                f"{folder} is in use by another process ({holder})", "wait for it, stop it, or use another --output"
            ) from None
        os.ftruncate(self._fd, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(self._fd, f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)

    def release(self) -> None:
        """Let the next process in."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


@contextmanager
def in_turn(folder: Path, say: Callable[[str], None], busy: str) -> Iterator[None]:
    """One process at a time works under the lock in `folder`; the others wait for it, which `busy` tells once."""
    told = False
    while True:
        try:
            lock = FolderLock(folder)
            break
        except RunLocked:
            if not told:
                say(f"{busy}; waiting")
                told = True
            time.sleep(_POLL)
    try:
        yield
    finally:
        lock.release()


def set_aside(folder: Path, names: Iterable[str]) -> Path | None:
    """Move an earlier run's files into `before-<time>/` (--restart): what was paid for is not deleted."""
    present = [folder / name for name in names if (folder / name).exists()]
    if not present:
        return None
    lock = FolderLock(folder)
    try:
        aside = folder / f"before-{time.strftime('%Y%m%d-%H%M%S')}"
        aside.mkdir()
        for path in present:
            path.rename(aside / path.name)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error
    finally:
        lock.release()
    return aside

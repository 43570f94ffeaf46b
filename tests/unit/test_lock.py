from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ultrachat_cli.errors import RunLocked, UltraError
from ultrachat_cli.records.lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from ultrachat_cli.records.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `folder`; a line to it makes it let go."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(RunLocked, match=rf"{re.escape(str(tmp_path))} is in use.*pid {process.pid} on ") as caught:
            FolderLock(tmp_path)
        assert "--output" in caught.value.hint
        assert caught.value.exit_code == 1


def test_being_refused_leaves_the_holder_its_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for _ in range(3):
            with pytest.raises(RunLocked, match=f"pid {process.pid} "):
                FolderLock(tmp_path)


def test_the_kernel_lets_go_when_the_holder_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        FolderLock(tmp_path).release()


def test_a_released_folder_is_free_while_its_holder_lives(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        assert process.poll() is None
        FolderLock(tmp_path).release()


def test_one_process_does_not_lock_a_folder_twice(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    try:
        with pytest.raises(RunLocked, match=f"pid {os.getpid()} "):
            FolderLock(tmp_path)
    finally:
        lock.release()


def test_another_folder_is_another_lock(tmp_path: Path) -> None:
    with holder(tmp_path / "a"):
        FolderLock(tmp_path / "b").release()


def test_the_folder_is_made(tmp_path: Path) -> None:
    FolderLock(tmp_path / "runs" / "world").release()
    assert (tmp_path / "runs" / "world").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UltraError, match="cannot be written") as caught:
        FolderLock(tmp_path / "runs" / "world")
    assert not isinstance(caught.value, RunLocked)

"""OUTPUT.partial becomes OUTPUT: shards written by a worker each, finished ones kept over interruptions.

A finished shard has its final name and, beside it, what became of its tensors. `plan.json` tells which inputs and
settings all of it belongs to; another plan begins anew. Nothing is called OUTPUT before everything is in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli import __version__
from ultrachat_cli.errors import UltraError
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.lock import FolderLock
from ultrachat_cli.recover.arithmetic import Files, Outcome, Stopped, Worker, Write
from ultrachat_cli.recover.plan import Piece, Plan, Shard

_PLAN, _LOCK, _DONE = "plan.json", "lock", ".done.json"
_BESIDE = 64 << 20  # bytes for the tokenizer and other small files
_TICK = 0.1  # seconds
Do = Callable[[Worker, Piece, Write], Outcome]


def partial(output: Path) -> Path:
    """Where OUTPUT grows."""
    return output.with_name(f"{output.name}.partial")


@contextmanager
def alone(output: Path) -> Iterator[Path]:
    """Hold OUTPUT.partial, or `RunLocked`. It is gone afterwards if there is nothing in it."""
    folder = partial(output)
    lock = FolderLock(folder)
    try:
        yield folder
    finally:
        if {path.name for path in folder.glob("*")} <= {_LOCK, _PLAN} and folder.is_dir():
            shutil.rmtree(folder)
        lock.release()


def resumed(folder: Path, plan: Plan, settings: dict[str, Any]) -> dict[str, list[Outcome]]:
    """The shards that are finished already and belong to this very plan; all else in the folder is removed."""
    path, wanted = folder / _PLAN, _fingerprint(plan, settings)
    same = path.is_file() and path.read_bytes() == wanted
    found: dict[str, list[Outcome]] = {}
    for shard in plan.shards if same else ():
        done = folder / (shard.file + _DONE)
        if done.is_file() and (folder / shard.file).is_file():
            found[shard.file] = [Outcome(**told) for told in orjson.loads(done.read_bytes())]
    kept = {_LOCK, *found, *(name + _DONE for name in found)}
    try:
        for old in folder.iterdir():
            if old.name not in kept:
                old.unlink() if not old.is_dir() else shutil.rmtree(old)
        path.write_bytes(wanted)
    except OSError as error:
        raise unwritable(folder, error) from error
    return found


def _fingerprint(plan: Plan, settings: dict[str, Any]) -> bytes:
    files = sorted({tensor.file for piece in plan.pieces for tensor in (piece.base, piece.other) if tensor})
    seen = [[str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]
    try:  # shards are not forced to the disk: after the machine itself went down they may hold anything
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    layout = [[shard.file, hashlib.sha256(shard.header).hexdigest()] for shard in plan.shards]
    return orjson.dumps({"version": __version__, "boot": boot, "inputs": seen, "shards": layout} | settings)


def check_space(folder: Path, needed: int) -> None:
    """`UltraError` when the disk has no room for so many more bytes."""
    here = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, wanted = shutil.disk_usage(here).free, needed + _BESIDE
    if free < wanted:
        raise UltraError(
            f"{folder}: {wanted / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free",
            "free some space, or choose another --output",
        )


def shards(folder: Path, plan: Plan, done: dict[str, list[Outcome]], do: Do, workers: int, progress: Progress) -> None:
    """Write the shards that are not in `done`, and put what became of their tensors there.

    An error of one worker ends all of them and is raised; so does Ctrl-C. Finished shards stay.
    """
    import torch

    left = sorted((shard for shard in plan.shards if shard.file not in done), key=lambda shard: -shard.size)
    columns = [piece.other.numel // piece.other.shape[0] for piece in plan.pieces if piece.grown]
    files, stop, written = Files(), threading.Event(), _Counter()

    def step(size: int) -> None:
        if stop.is_set():
            raise Stopped
        written.add(size)

    def work(shard: Shard) -> list[Outcome]:
        torch.set_num_threads(1)
        return _shard(folder, shard, do, Worker(files, step, max(columns, default=0)))

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(max(1, min(workers, len(left))))
    torch.set_num_threads(1)  # the cores are taken by the workers
    shown = 0
    try:
        waiting = {pool.submit(work, shard): shard for shard in left}
        while waiting:
            ready, _ = wait(waiting, _TICK, FIRST_COMPLETED)
            if now := written.bytes // 10**6 - shown:
                progress.advance(now)
                shown += now
            for future in ready:
                done[waiting.pop(future).file] = future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        files.close()
        torch.set_num_threads(threads)


class _Counter:
    """Bytes written by all workers."""

    def __init__(self) -> None:
        self.bytes, self._lock = 0, threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.bytes += size


def _shard(folder: Path, shard: Shard, do: Do, worker: Worker) -> list[Outcome]:
    growing = folder / f"{shard.file}.partial"
    try:
        descriptor = os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:

            def write(data: memoryview | bytes) -> None:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]

            os.ftruncate(descriptor, len(shard.header) + shard.size)  # a file that grows as it is written costs more
            write(shard.header)
            outcomes = [do(worker, piece, write) for piece in shard.pieces]
        finally:
            os.close(descriptor)
        beside = folder / (shard.file + _DONE)
        beside.write_bytes(orjson.dumps([asdict(outcome) for outcome in outcomes]))
        growing.replace(folder / shard.file)
    except OSError as error:
        raise unwritable(growing, error) from error
    return outcomes


def index(folder: Path, plan: Plan) -> None:
    """model.safetensors.index.json, where there is more than one shard."""
    if len(plan.shards) > 1:
        files = {piece.name: shard.file for shard in plan.shards for piece in shard.pieces}
        told = {"metadata": {"total_size": plan.size}, "weight_map": dict(sorted(files.items()))}
        (folder / "model.safetensors.index.json").write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))


def reveal(folder: Path, output: Path) -> None:
    """Take away what only the making needed; then the folder gets its name."""
    try:
        for path in (folder / _PLAN, *folder.glob(f"*{_DONE}")):
            path.unlink(missing_ok=True)
        folder.replace(output)
        (output / _LOCK).unlink()  # after the name: nobody else may take the folder in between
    except OSError as error:
        raise unwritable(output, error) from error


def unwritable(path: Path, error: OSError) -> UltraError:
    """The error for a full disk, a read-only folder and their like."""
    return UltraError(
        f"{path}: cannot be written: {error.strerror or error}",
        f"{jsonl.remedy(error)}; the same command goes on from the shards that are finished",
    )

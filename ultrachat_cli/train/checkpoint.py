"""Checkpoints: written beside, renamed when every process is done, the newest few kept, never none."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from ultrachat_cli.errors import UltraError
from ultrachat_cli.records import jsonl
from ultrachat_cli.train.engines.base import Engine

FOLDER = "checkpoints"
_STATE = "state.json"


@dataclass(frozen=True)
class State:
    """Where a run is: steps done, updates of the weights among them, what the data and settings were."""

    step: int
    updates: int
    world: int
    engine: str
    data: str
    """Digest of examples and settings that decide the order."""


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint of a run."""
    found = sorted(path for path in (folder / FOLDER).glob("step-*") if (path / _STATE).is_file())
    return found[-1] if found else None


def state(path: Path) -> State:
    """What a checkpoint tells of itself."""
    try:
        return State(**orjson.loads((path / _STATE).read_bytes()))
    except (OSError, TypeError, orjson.JSONDecodeError) as error:
        raise UltraError(f"{path}: not a checkpoint: {error}", "remove it to go on from the one before") from error


def save(folder: Path, engine: Engine, now: State, keep: int) -> Path:
    """Write one; older ones than the newest `keep` go afterwards. `UltraError` (disk), with the older ones intact."""
    target = folder / FOLDER / f"step-{now.step:08}"
    partial = target.with_name(target.name + ".partial")
    try:
        if engine.place.first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        engine.place.wait()
        engine.save(partial)
        engine.place.wait()
        if engine.place.first:
            with jsonl.replacing(partial / _STATE) as out:
                out.write(orjson.dumps(asdict(now)))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _tidy(folder / FOLDER, keep)
    except Exception as error:  # torch wraps a full disk in errors of its own
        if (cause := _disk(error)) is None:
            raise
        raise jsonl.unwritable(target, cause) from error
    engine.place.wait()
    return target


def _disk(error: BaseException | None) -> OSError | None:
    """The fault of the disk behind an error, if it is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError):
            return error
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):  # torch's word for a short write
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error = error.__cause__ or error.__context__
    return None


def _tidy(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob("step-*[0-9]"))[:-keep]:
        gone = old.with_name(old.name + ".old")  # it must not look whole while it goes
        old.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    for path in [*folder.glob("*.partial"), *folder.glob("*.old")]:
        shutil.rmtree(path, ignore_errors=True)

"""Metrics of a run: metrics.jsonl always, TensorBoard, W&B and trackio where asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.errors import MissingExtra
from ultrachat_cli.records import jsonl
from ultrachat_cli.train.settings import Log

NAME = "metrics.jsonl"
Row = dict[str, Any]


class Metrics:
    """Takes a row a step. Rows of steps that are done again after a resume replace the old ones."""

    def __init__(self, folder: Path, step: int, log: Log, settings: dict[str, Any]) -> None:
        """`step`: the first one still to come. Raises `MissingExtra` for a tracker that is not installed."""
        path = folder / NAME
        kept = [line for line in _lines(path) if orjson.loads(line)["step"] <= step]
        with jsonl.replacing(path) as out:
            out.writelines(kept)
        self._file = path.open("ab")
        trackers = (log.tensorboard, _tensorboard), (log.wandb, _wandb), (log.trackio, _trackio)
        self._trackers = [opened(name, folder, settings) for name, opened in trackers if name]

    def put(self, row: Row) -> None:
        """Write one row; `step` counts finished steps."""
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()
        for put, _ in self._trackers:
            put(row)

    def close(self) -> None:
        """Hand over what is left."""
        self._file.close()
        for _, close in self._trackers:
            close()


def read(folder: Path) -> list[Row]:
    """All whole rows."""
    return [orjson.loads(line) for line in _lines(folder / NAME)]


def _lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


Tracker = tuple[Callable[[Row], None], Callable[[], None]]


def _numbers(row: Row) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}


def _tensorboard(name: str, folder: Path, settings: dict[str, Any]) -> Tracker:
    del folder, settings
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("--tensorboard", "tensorboard", "tensorboard") from error
    writer: Any = SummaryWriter(name)

    def put(row: Row) -> None:
        for key, value in _numbers(row).items():
            writer.add_scalar(key, value, row["step"])

    return put, writer.close


def _wandb(name: str, folder: Path, settings: dict[str, Any]) -> Tracker:
    try:
        import wandb  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtra("--wandb", "wandb", "wandb") from error
    run = wandb.init(project=name, name=folder.name, dir=str(folder), config=settings, resume="allow")
    return lambda row: run.log(_numbers(row), step=row["step"]), run.finish


def _trackio(name: str, folder: Path, settings: dict[str, Any]) -> Tracker:
    try:
        import trackio  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtra("log.trackio", "trackio", "trackio") from error
    trackio.init(project=name, name=folder.name, config=settings)
    return lambda row: trackio.log(_numbers(row), step=row["step"]), trackio.finish

"""The same dialogues in another shape or container; there and back again nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import FIELDS, KEYS, Dialogue, Shape
from ultrachat_cli.records.one_pass import Report, one_pass


def run(
    inputs: Sequence[Path] | None, output: Path | None, to: str = "ultrachat", progress: Progress | None = None
) -> Report:
    """Write all dialogues in one shape; what it has no place for is kept as `records.dialogue.Dialogue` says.

    Parquet holds messages. A line is a bad one where a field of its own bears a name that the new shape needs.
    """
    shape = next((shape for shape in KEYS if shape == to), None)
    if shape is None:
        raise ConfigError(f"--to: {to}: no such shape (use {', '.join(KEYS)})")
    if output is not None and output.suffix == ".parquet":
        if shape == "sharegpt":
            raise ConfigError("--to: Parquet files hold messages", "leave --to out")
        shape = "messages"
    with one_pass("convert", inputs, output, progress, shape=shape) as job:
        for path, number, dialogue in job.dialogues():
            if taken := _taken(dialogue, shape):
                job.bad(path, number, dialogue, f"field '{taken}' is taken, and {shape} needs it")
            else:
                job.put(dialogue)
    return job.report


def _taken(dialogue: Dialogue, shape: Shape) -> str:
    if KEYS[shape] in dialogue.extra:
        return KEYS[shape]
    needed = FIELDS.get(shape, ())
    return next((name for more in dialogue.turn_fields.values() for name in needed if name in more), "")

"""The run's dialogues in the other formats the field reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import orjson

from ultrachat_cli.generate.converse import Outcome
from ultrachat_cli.records import files, jsonl

Format = Literal["ultrachat", "messages", "sharegpt", "parquet"]


def export(folder: Path, shape: Format) -> list[Path]:
    """Write dialogues.<shape>.jsonl or dialogues.parquet beside dialogues.jsonl; nothing for `ultrachat`."""
    if shape == "ultrachat":
        return []
    target = folder / ("dialogues.parquet" if shape == "parquet" else f"dialogues.{shape}.jsonl")
    with files.writing(target, "messages" if shape == "parquet" else shape, extra=False) as put:
        for _, dialogue in files.dialogues(folder / files.RUN_FILE, jsonl.never):
            put(dialogue)
    return [target]


def rejected_line(outcome: Outcome) -> bytes:
    """The dialogue so far, the turn that was unfit, and why."""
    record = {**outcome.dialogue.record(), "reason": outcome.reason, "turn": outcome.bad_turn}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def check(shape: Format) -> None:
    """`MissingExtra` before the run rather than after it."""
    if shape == "parquet":
        files.pyarrow("--format parquet")

"""The run's dialogues in the other formats the field reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import orjson

from ultrachat_cli.errors import DataError, MissingExtra
from ultrachat_cli.generate.converse import Outcome
from ultrachat_cli.generate.run_folder import DIALOGUES
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.dialogue import Dialogue, parse

Format = Literal["ultrachat", "messages", "sharegpt", "parquet"]
_ROWS = 1000


def export(folder: Path, shape: Format) -> list[Path]:
    """Write dialogues.<shape>.jsonl or dialogues.parquet beside dialogues.jsonl; nothing for `ultrachat`."""
    if shape == "ultrachat":
        return []
    if shape == "parquet":
        return [_parquet(folder)]
    target = folder / f"dialogues.{shape}.jsonl"
    with jsonl.replacing(target) as file:
        for dialogue in _dialogues(folder):
            file.write(dialogue.line(shape))
    return [target]


def rejected_line(outcome: Outcome) -> bytes:
    """The dialogue so far, the turn that was unfit, and why."""
    record = {**outcome.dialogue.record(), "reason": outcome.reason, "turn": outcome.bad_turn}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def check(shape: Format) -> None:
    """`MissingExtra` before the run rather than after it."""
    if shape == "parquet":
        try:
            import pyarrow  # type: ignore[import-untyped] # noqa: F401
        except ImportError as error:
            raise MissingExtra("--format parquet", "pyarrow", "parquet") from error


def _dialogues(folder: Path) -> Iterator[Dialogue]:
    def bad(error: DataError) -> None:
        raise error

    for _, record in jsonl.read(folder / DIALOGUES, bad):
        yield parse(record)


def _parquet(folder: Path) -> Path:
    """Columns: id (text), messages (list of {role, content}), meta (JSON text)."""
    check("parquet")
    import pyarrow as pa
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("id", pa.string()), ("messages", pa.list_(message)), ("meta", pa.string())])
    target = folder / "dialogues.parquet"
    with jsonl.replacing(target) as file, parquet.ParquetWriter(file, schema) as writer:
        rows: list[dict[str, object]] = []
        for dialogue in _dialogues(folder):
            rows.append(
                {"id": dialogue.id, "messages": dialogue.messages, "meta": orjson.dumps(dialogue.meta).decode()}
            )
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return target

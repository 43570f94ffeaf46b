"""Tables in CSV files, with errors in the user's words."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ultrachat_cli.errors import DataError
from ultrachat_cli.records import jsonl


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """(columns, rows), packed or not. `DataError` for a file that cannot be read or has no first line."""
    try:
        with jsonl.opened(path) as file:
            reader = csv.DictReader(io.StringIO(file.read().decode("utf-8"), newline=""))
        rows = list(reader)
    except jsonl.unreadable() as error:
        raise DataError(path, 0, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, 0, f"not a table in CSV: {error}") from error
    if not reader.fieldnames:
        raise DataError(path, 0, "not a table in CSV: it is empty")
    return list(reader.fieldnames), rows

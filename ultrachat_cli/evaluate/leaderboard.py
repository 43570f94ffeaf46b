"""Several runs in one table, in the columns of alpaca_eval's `leaderboard.csv`, which it can read back."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import DataError
from ultrachat_cli.evaluate import csv_files, tables
from ultrachat_cli.evaluate.fields import label
from ultrachat_cli.evaluate.length_controlled import LengthControlled
from ultrachat_cli.evaluate.metrics import Metrics
from ultrachat_cli.records import jsonl

_COUNTS = ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length")
COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip
"""After the first, which has the names and no heading."""
OURS = ("score", "interval", "judge")
"""Columns that alpaca_eval does not have, written where they say something."""
_TEXTS = ("mode", "interval", "judge")
SHOWN = {
    "name": "model", "length_controlled_winrate": "LC win rate", "win_rate": "win rate", "standard_error": "std. error",
    "interval": "95% interval", "n_wins": "wins", "n_draws": "draws", "n_wins_base": "losses", "n_total": "n",
    "score": "score", "avg_length": "avg. length", "judge": "judge",
}  # fmt: skip
"""What people see -> its heading."""


@dataclass(frozen=True)
class Entry:
    """One model. None: not known, as in older files. Rates in percent; `mode`: alpaca_eval's word for who checked it.

    `score`: the mean one, in the judge's points; `interval`: of the win rate; `extra`: other columns of the file.
    """

    name: str
    win_rate: float | None = None
    standard_error: float | None = None
    n_wins: int | None = None
    n_wins_base: int | None = None
    n_draws: int | None = None
    n_total: int | None = None
    discrete_win_rate: float | None = None
    mode: str = ""
    avg_length: int | None = None
    length_controlled_winrate: float | None = None
    lc_standard_error: float | None = None
    score: float | None = None
    interval: str = ""
    judge: str = ""
    extra: dict[str, str] = field(default_factory=dict)


def entry(
    name: str, metrics: Metrics, controlled: LengthControlled | None = None, judge: str = "", score: float | None = None
) -> Entry:
    """The line of a run. Where answers have scores and nothing was compared, it has no counts."""
    columns = COLUMNS if metrics.n_total or score is None else ("avg_length",)
    plain = {column: getattr(metrics, column) for column in columns if hasattr(metrics, column)}
    interval = str(metrics.interval) if metrics.n_total else ""
    found = Entry(name, judge=judge, score=score, interval=interval, **plain)
    if controlled is None:
        return found
    return replace(found, length_controlled_winrate=controlled.win_rate, lc_standard_error=controlled.standard_error)


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """The best first: by length-controlled win rate where all have one, else by win rate; then by score and name."""
    rows = list(entries)
    key = "length_controlled_winrate" if all(row.length_controlled_winrate is not None for row in rows) else "win_rate"
    return sorted(rows, key=lambda row: (-_known(getattr(row, key)), -_known(row.score), row.name))


def _known(rate: float | None) -> float:
    return -math.inf if rate is None or math.isnan(rate) else rate


def read(path: Path) -> list[Entry]:
    """The lines of a `leaderboard.csv`, in its order. `DataError` for another kind of file or a wrong number."""
    columns, rows = csv_files.read(path)
    if "win_rate" not in columns:
        raise DataError(path, 0, "not a leaderboard: no column 'win_rate'")
    return [_entry(path, line, row, columns[0]) for line, row in enumerate(rows, start=2)]


def _entry(path: Path, line: int, row: dict[str, str], first: str) -> Entry:
    name = label(row.pop(first))
    texts = {column: row.pop(column, None) for column in (*COLUMNS, *OURS)}
    try:
        values = {column: _parsed(column, text) for column, text in texts.items() if text}
    except (ValueError, OverflowError) as error:
        raise DataError(path, line, f"{name}: {error}") from error
    return Entry(name, extra={column: text for column, text in row.items() if column and text}, **values)


def _parsed(column: str, text: str) -> Any:
    if column in _TEXTS:
        return text
    return round(float(text)) if column in _COUNTS else float(text)


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write a `leaderboard.csv`, numbers to the last digit. `UltraError` when the disk is full."""
    known = [*COLUMNS, *(column for column in OURS if any(getattr(row, column) not in (None, "") for row in entries))]
    more = list(dict.fromkeys(column for row in entries for column in row.extra))
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["", *known, *more])
    for row in entries:
        values = [getattr(row, column) for column in known]
        out.writerow([row.name, *map(_plain, values), *(row.extra.get(column, "") for column in more)])
    with jsonl.replacing(path) as file:
        file.write(text.getvalue().encode())


def _plain(value: object) -> str:
    return "" if value is None or value != value else str(value)  # nan is empty, as pandas writes it


def shown(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) for a terminal, without the columns that nothing is known of."""
    columns = [column for column in SHOWN if any(getattr(row, column) not in (None, "") for row in entries)]
    return [SHOWN[column] for column in columns], [[_cell(row, column) for column in columns] for row in entries]


def _cell(row: Entry, column: str) -> str:
    value = getattr(row, column)
    if value is None or value != value:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def html(entries: Sequence[Entry], title: str = "Leaderboard") -> str:
    """One page that fetches nothing."""
    headings, lines = shown(entries)
    return tables.document(title, f"<h1>{escape(title)}</h1>{tables.table(headings, map(tables.row, lines))}")

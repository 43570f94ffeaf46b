"""The table of `ultrachat data stats`, and its distributions as bars of text."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ultrachat_cli.data.page import COLUMNS, cell, label
from ultrachat_cli.data.report import Histogram, Report

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def stats(report: Report, *, plots: bool) -> None:
    """Print the report on stdout."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    table = Table(box=None, pad_edge=False)
    shown = [name for name in COLUMNS if any(getattr(row, name) is not None for row in report.rows_by_sector)]
    for name in shown:
        table.add_column(COLUMNS[name], justify="left" if name == "sector" else "right")
    for n, row in enumerate(report.rows_by_sector):
        table.add_row(*(cell(row, name) for name in shown), style="" if n else "bold")
    console.print(table)
    if plots:
        for histogram in report.histograms:
            console.print()
            console.print(Text(histogram.title, style="bold"))
            console.print(_bars(histogram))
    console.print()
    facts = Table.grid(padding=(0, 2))
    for name, text in {**report.method, "bad lines": f"{report.bad_lines:,}" if report.bad_lines else ""}.items():
        if text:
            facts.add_row(Text(name, style="dim"), Text(text))
    for path in report.files:
        facts.add_row(Text("file", style="dim"), Text(str(path)))
    console.print(facts)


def _bars(histogram: Histogram, width: int = 48) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    grid.add_column()
    grid.add_column(justify="right")
    top, total = max(*histogram.counts, 1.0), sum(histogram.counts) or 1.0
    last = max((n for n, count in enumerate(histogram.counts) if count), default=0)
    first = next((n for n, count in enumerate(histogram.counts) if count), 0)
    for n in range(first, last + 1):
        whole, part = divmod(round(histogram.counts[n] / top * width * 8), 8)
        bar = "█" * whole + (_EIGHTHS[part] if part else "")
        grid.add_row(label(histogram.edges, n), Text(bar, style="cyan"), f"{histogram.counts[n] / total:.1%}")
    return grid

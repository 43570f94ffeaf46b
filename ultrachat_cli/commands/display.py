"""What people see: results on stdout, notices on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ultrachat_cli.commands.harmless import harmless


class Rows(Protocol):
    """A report."""

    def record(self) -> dict[str, Any]:
        """For machines."""

    def rows(self) -> Iterable[tuple[str, str]]:
        """For people."""


notices = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One notice on stderr."""
    notices.print(Text(harmless(line), style="dim"), soft_wrap=True)


def dump(data: Any) -> None:
    """JSON on stdout."""
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str).decode())


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on a terminal, a line elsewhere."""
    if notices.is_terminal:
        with notices.status(what):
            yield
    else:
        say(what)
        yield


def _table(rows: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="bold"), Text(harmless(value)))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)


def report_rows(result: Rows, json: bool) -> None:
    """The end of a job that tells its own rows."""
    if json:
        dump(result.record())
    else:
        _table(result.rows())


def columns(headings: list[str], lines: list[list[str]]) -> None:
    """A table; numbers to the right."""
    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        numbers = all(line[place][:1].isdigit() or line[place] in ("", "-") for line in lines)
        table.add_column(heading, justify="right" if numbers else "left")
    for line in lines:
        table.add_row(*(Text(harmless(cell)) for cell in line))
    Console(soft_wrap=not sys.stdout.isatty(), highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def facts(found: dict[str, Any], json: bool) -> None:
    """One model."""
    if json:
        dump(found)
        return
    _table(
        [
            (name, value if isinstance(value, str) else orjson.dumps(value).decode())
            for name, value in found.items()
            if value
        ]
    )

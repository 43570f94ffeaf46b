"""What people see: a live display on a terminal, plain lines elsewhere, results on stdout, the rest on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ultrachat_cli.generate.estimate import Estimate
    from ultrachat_cli.generate.report import Counts, Report


class Rows(Protocol):
    """A report."""

    def record(self) -> dict[str, Any]:
        """For machines."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""


_PLAIN_EVERY = 30.0  # seconds
Say = Callable[[str], None]
_err = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One notice on stderr."""
    _err.print(Text(line, style="dim"), soft_wrap=True)


def dump(data: Any) -> None:
    """JSON on stdout."""
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str).decode())


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on a terminal, a line elsewhere."""
    if _err.is_terminal:
        with _err.status(what):
            yield
    else:
        say(what)
        yield


@contextmanager
def live(counts: Counts, *, verbose: int, quiet: bool) -> Iterator[Say]:
    """Show `counts` while the block runs; yields what takes notices. `verbose` 1: newest dialogue, 2: every one."""
    if verbose > 1 and not quiet:
        counts.on_kept = lambda data: _err.print(dialogue(data))
    if quiet:
        yield lambda line: None
    elif _err.is_terminal:
        rates = _Rates(counts)
        with Live(
            get_renderable=lambda: _panel(counts, rates, verbose), console=_err, refresh_per_second=4, transient=True
        ):
            yield say
    else:
        ended = threading.Event()

        def lines() -> None:
            rates = _Rates(counts)
            while not ended.wait(_PLAIN_EVERY):
                say(_line(counts, rates))
                if verbose == 1 and counts.newest:
                    _err.print(dialogue(counts.newest, longest=240))

        thread = threading.Thread(target=lines, daemon=True)
        thread.start()
        try:
            yield say
        finally:
            ended.set()


class _Rates:
    """Dialogues and tokens a second over the last half minute."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._seen: list[tuple[float, int, int]] = []

    def now(self) -> tuple[float, float]:
        counts = self._counts
        self._seen.append((time.monotonic(), counts.settled, counts.usage.completion_tokens))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > 30:
            self._seen.pop(0)
        (t0, d0, c0), (t1, d1, c1) = self._seen[0], self._seen[-1]
        if d1 == d0:  # nothing ended lately: the mean of the whole session says more than zero
            t0, d0, c0 = counts.started, 0, 0
        return ((d1 - d0) / (t1 - t0), (c1 - c0) / (t1 - t0)) if t1 > t0 else (0.0, 0.0)


def _eta(counts: Counts, rate: float) -> str:
    left = counts.planned - counts.written
    if rate <= 0 or left <= 0:
        return "-"
    fit = counts.written - counts.resumed if counts.written > counts.resumed else counts.settled
    seconds = int(left / rate * max(1.0, counts.settled / max(1, fit)))
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _figures(counts: Counts, rates: _Rates) -> list[tuple[str, str]]:
    dialogues, tokens = rates.now()
    usage = counts.usage
    rows = [
        ("rate", f"{dialogues:.2f} dialogues/s, {tokens:.0f} tokens/s"),
        ("eta", _eta(counts, dialogues)),
        ("in flight", f"{usage.in_flight} requests, {counts.in_dialogue} dialogues"),
        ("requests", f"{usage.requests:,}"),
        ("tokens", f"{usage.prompt_tokens:,} in, {usage.completion_tokens:,} out"),
        ("cost", f"${usage.cost:.4f}"),
    ]
    for name, counter in (
        ("rejected", counts.rejected), ("cut", counts.cut), ("failed", counts.failed),
        ("retries", usage.retries), ("notes", counts.warnings),
    ):  # fmt: skip
        if counter.total():
            rows.append((name, ", ".join(f"{n} {reason}" for reason, n in counter.most_common(5) if n)))
    return rows


def _line(counts: Counts, rates: _Rates) -> str:
    figures = "; ".join(f"{name} {value}" for name, value in _figures(counts, rates))
    return f"{counts.written}/{counts.planned} dialogues; {figures}"


def _panel(counts: Counts, rates: _Rates, verbose: int) -> RenderableType:
    if counts.state != "running":
        return Text(f"{counts.state} ...", style="bold")
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(f"{counts.written}/{counts.planned}", style="bold"),
        ProgressBar(total=max(1, counts.planned), completed=counts.written, width=40),
        Text("dialogues"),
    )
    table = Table.grid(padding=(0, 2))
    for name, value in _figures(counts, rates):
        table.add_row(Text(name, style="dim"), Text(value))
    parts: list[RenderableType] = [head, table]
    if verbose == 1 and counts.newest:
        parts.append(dialogue(counts.newest, longest=240))
    return Group(*parts)


def dialogue(data: list[str], longest: int = 0) -> RenderableType:
    """A dialogue, user and assistant in two colours; turns cut at `longest` characters."""
    text = Text()
    for n, turn in enumerate(data):
        shown = turn if not longest or len(turn) <= longest else turn[: longest - 3] + "..."
        text.append("assistant  " if n % 2 else "user       ", style="bold green" if n % 2 else "bold cyan")
        text.append(shown.replace("\n", "\n           ") + "\n")
    return text


def report(result: Report, json: bool) -> None:
    """The end of a run."""
    if json:
        dump(result.record())
        return
    rate = result.written / result.seconds if result.seconds else 0.0
    rows = [
        ("written", f"{result.written} of {result.planned} dialogues, {rate:.2f}/s, {result.seconds:.1f} s"),
        ("rejected", _counted(result.rejected)),
        ("cut short", _counted(result.cut)),
        ("near duplicates", f"{result.duplicates} openings dropped" if result.duplicates else ""),
        ("failed", _counted(result.failed)),
        ("requests", f"{result.requests:,}" + (f", {result.retries} retries" if result.retries else "")
         + (f", {result.repeated:,} answers from the journal" if result.repeated else "")),
        ("tokens", f"{result.prompt_tokens:,} in, {result.completion_tokens:,} out"),
        ("cost", f"unknown price: {', '.join(result.unpriced)}" if result.unpriced else f"${result.cost:.4f}"),
        ("notes", _counted(result.warnings)),
        ("stopped", result.stopped),
        ("files", "\n".join(str(file) for file in result.files)),
    ]  # fmt: skip
    _table(rows)


def _counted(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    return f"{sum(reasons.values())} ({', '.join(f'{n} {reason}' for reason, n in reasons.items())})"


def _table(rows: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="bold"), Text(value))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)


def report_rows(result: Rows, json: bool) -> None:
    """The end of a job that tells its own rows."""
    if json:
        dump(result.record())
    else:
        _table(list(result.rows()))


def columns(headings: list[str], lines: list[list[str]]) -> None:
    """A table; numbers to the right."""
    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        numbers = all(line[place][:1].isdigit() or line[place] == "-" for line in lines)
        table.add_column(heading, justify="right" if numbers else "left")
    for line in lines:
        table.add_row(*map(Text, line))
    Console(soft_wrap=not sys.stdout.isatty(), highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def estimate(plan: Estimate, json: bool) -> None:
    """What a run would take."""
    if json:
        dump(plan.record())
        return
    _table([(name, value) for name, value in plan.rows()])


def models(rows: list[dict[str, Any]], json: bool) -> None:
    """The registry."""
    if json:
        dump(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "role", "context", "licence", "source"):
        table.add_column(column)
    for row in rows:
        here = " (here)" if row["here"] else ""
        cells = (row["name"], row["role"], str(row.get("context", "")), row.get("licence", ""), row["source"] + here)
        table.add_row(*map(str, cells))
    Console(soft_wrap=not sys.stdout.isatty(), highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def datasets(rows: list[dict[str, Any]], json: bool) -> None:
    """The published sets."""
    if json:
        dump(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "rows", "MB", "licence", "hub", "parts"):
        table.add_column(column, justify="right" if column in ("rows", "MB") else "left")
    for row in rows:
        size = sum(file.get("megabytes", 0) for file in row["files"])
        parts = dict.fromkeys(file.get("sector") or file.get("split", "") for file in row["files"])
        cells = (row["name"], f"{row['rows']:,}", f"{size:,.0f}" if size else "", row["licence"], row.get("hub", "-"))
        table.add_row(*cells, ", ".join(filter(None, parts)))
    Console(soft_wrap=not sys.stdout.isatty(), highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


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

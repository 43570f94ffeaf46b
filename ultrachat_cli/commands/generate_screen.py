"""What people see while dialogues are made: a live panel on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ultrachat_cli.commands.display import notices, say
from ultrachat_cli.commands.harmless import harmless
from ultrachat_cli.generate.report import Counts

_PLAIN_EVERY = 30.0  # seconds
Say = Callable[[str], None]


@contextmanager
def live(counts: Counts, *, verbose: int, quiet: bool) -> Iterator[Say]:
    """Show `counts` while the block runs; yields what takes notices. `verbose` 1: newest dialogue, 2: every one."""
    if verbose > 1 and not quiet:
        counts.on_kept = lambda data: notices.print(dialogue(data))
    if quiet:
        yield lambda line: None
    elif notices.is_terminal:
        rates = _Rates(counts)
        with Live(
            get_renderable=lambda: _panel(counts, rates, verbose), console=notices, refresh_per_second=4, transient=True
        ):
            yield say
    else:
        ended = threading.Event()

        def lines() -> None:
            rates = _Rates(counts)
            while not ended.wait(_PLAIN_EVERY):
                say(_line(counts, rates))
                if verbose == 1 and counts.newest:
                    notices.print(dialogue(counts.newest, longest=240))

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
        table.add_row(Text(name, style="dim"), Text(harmless(value)))
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
        text.append(harmless(shown).replace("\n", "\n           ") + "\n")
    return text

"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ultrachat_cli.commands.harmless import harmless

_PLAIN_EVERY = 30.0  # seconds


class Shown:
    """A context manager that fulfils `ultrachat_cli.progress.Progress`."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description:<12}"), BarColumn(40), _Done(), TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=self._console, transient=True, disable=quiet or not self._console.is_terminal,
        )  # fmt: skip
        self._task: Task | None = None
        self._what, self._unit, self._total, self._done, self._said = "", "", 0, 0, time.monotonic()

    def __enter__(self) -> Shown:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def stage(self, what: str, total: int, unit: str) -> None:
        """A new stage begins."""
        if self._task is not None:
            self._bars.remove_task(self._task.id)
        number = self._bars.add_task(what, total=total or None, unit=unit, note="")
        self._task = next(task for task in self._bars.tasks if task.id == number)
        self._what, self._unit, self._total, self._done = what, unit, total, 0

    def advance(self, units: int = 1, note: str = "") -> None:
        """Move the bar; without a terminal, a line every half minute."""
        self._done += units
        if self._task is not None:
            self._bars.update(self._task.id, advance=units, note=note or self._task.fields["note"])
        if not self._console.is_terminal and time.monotonic() - self._said > _PLAIN_EVERY:
            self._said = time.monotonic()
            total = f" of {self._total:,}" if self._total else ""
            self.say(f"{self._what}: {self._done:,}{total} {self._unit}{note and '  ' + note}")

    def say(self, line: str) -> None:
        """One notice."""
        if not self._quiet:
            self._console.print(Text(harmless(line), style="dim"), soft_wrap=True)


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = f"/{int(task.total):,}" if task.total else ""
        speed = f"  {task.speed:,.0f}/s" if task.speed else ""
        return Text(f"{int(task.completed):,}{total} {task.fields.get('unit', '')}{speed}")

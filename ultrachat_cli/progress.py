"""How long work tells where it is: the contract between features and what people see."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Stages of a job, one after another."""

    def stage(self, what: str, total: int, unit: str) -> None:
        """A new stage begins: `total` units of work lie before it (0: unknown)."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """So much of the stage is done; `note`: what there is to tell of it."""

    def say(self, line: str) -> None:
        """A notice worth keeping on the screen."""


_SHOWN = 20


def say_bad_line(progress: Progress, message: str, count: int) -> None:
    """Say the `count`th bad line (from 1) while there are few; then, once, that more follow."""
    if count <= _SHOWN:
        progress.say(message)
    elif count == _SHOWN + 1:
        progress.say("more bad lines follow")


class Silent:
    """Shows nothing."""

    def stage(self, what: str, total: int, unit: str) -> None:
        """Nothing to show."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        """Nothing to show."""

"""What a conversation shows, and to whom: the contract between the session and a terminal, a pipe or a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ultrachat_cli.errors import UltraError


class Screen(Protocol):
    """Texts of models and servers come as they are: whoever shows them makes them harmless first."""

    def say(self, line: str) -> None:
        """A notice."""

    def statistics(self, line: str) -> None:
        """What an answer took."""

    def warn(self, error: UltraError) -> None:
        """What went wrong, and what to do about it; the conversation goes on."""

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names and what they stand for."""

    def text(self, text: str) -> None:
        """A whole answer."""

    def reply(self) -> AbstractContextManager[Callable[[str], None]]:
        """An answer under way: what is yielded takes its pieces."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of several answers are there; `done` equal to `total` ends it."""

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard. `UltraError` where there is none."""

    def clear(self) -> None:
        """Begin with an empty screen."""

    async def write(self, text: str, *, editor: bool) -> str:
        """Let the user change `text`, in an editor of theirs if so asked. `UltraError` where nobody can."""

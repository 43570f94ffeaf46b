"""What a chat shows: answers as markdown on a terminal, as they come in a pipe; notices where they disturb nobody."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from ultrachat_cli.commands.harmless import harmless
from ultrachat_cli.commands.markdown_stream import MarkdownStream
from ultrachat_cli.errors import UltraError

EVERY = 0.125  # seconds between two drawings at least
_SHARE = 10  # and this many times what the last one took: a block of any length costs a tenth of the time
_LONGEST_COPY = 74_994  # bytes that every terminal with OSC 52 takes


class Output:
    """Fulfils `ultrachat_cli.chat.screen.Screen` but for what needs somebody to type."""

    def __init__(self, *, plain: bool, quiet: bool, verbose: bool, talking: bool = False) -> None:
        """`talking`: somebody sits there: notices belong among the answers, not on stderr."""
        self.terminal = sys.stdout.isatty()
        dumb = os.environ.get("TERM", "") in ("", "dumb")
        self._styled = self.terminal and not dumb
        self._coloured = self._styled and not os.environ.get("NO_COLOR")
        self._plain, self._quiet, self._verbose, self._talking = plain, quiet, verbose, talking
        self._notices: TextIO = sys.stdout if talking and self.terminal else sys.stderr

    def _note(self, text: str, style: str = "2") -> None:
        styled = self._styled if self._notices is sys.stdout else self._notices.isatty() and self._styled
        text = harmless(text)
        print(f"\x1b[{style}m{text}\x1b[0m" if styled and style else text, file=self._notices, flush=True)

    def say(self, line: str) -> None:
        """A notice, unless told to be quiet."""
        if not self._quiet:
            self._note(line)

    def statistics(self, line: str) -> None:
        """In a pipe only when asked for."""
        if not self._quiet and (self._talking or self.terminal or self._verbose):
            self._note(line)

    def gap(self) -> None:
        """Between one thing said and the next."""
        print(file=self._notices, flush=True)

    def warn(self, error: UltraError) -> None:
        """As the command shows what ends it."""
        red = "1;31" if self._coloured else "1"
        self._note("error: " + error.message, red)
        if error.hint:
            self._note("  try: " + error.hint, "")

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Two columns; long texts go on under themselves."""
        wide = max((len(name) for name, _ in rows), default=0)
        for name, text in rows:
            lines = harmless(text).split("\n")
            self._note(f"{harmless(name):<{wide}}  " + f"\n{'':<{wide}}  ".join(lines), "")

    def text(self, text: str) -> None:
        """A whole answer."""
        with self.reply() as show:
            show(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """On a terminal only, in a line that goes again."""
        if self._quiet or not sys.stderr.isatty():
            return
        shown = f"{done} of {total} {what}" if what else ""
        print(f"\r\x1b[K{shown}" if self._styled else f"\r{shown:<40}\r", end="", file=sys.stderr, flush=True)

    @contextmanager
    def opening(self, name: str) -> Iterator[None]:
        """While a model is being opened: a notice that goes again, on a terminal only."""
        if not (self._styled and self.terminal) or self._quiet:
            yield
            return
        sys.stdout.write(f"\x1b[2mopening {harmless(name)} …\x1b[0m")
        sys.stdout.flush()
        try:
            yield
        finally:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def copy(self, text: str) -> None:
        """By the terminal itself (OSC 52), so that it works from afar and without X."""
        data = base64.b64encode(text.encode())
        if not self._styled:
            raise UltraError("this is no terminal that could take a copy")
        if len(data) > _LONGEST_COPY:
            raise UltraError(f"{len(text):,} characters are more than terminals take", "/save and open the file")
        sys.stdout.write(f"\x1b]52;c;{data.decode()}\x07")
        sys.stdout.flush()

    def clear(self) -> None:
        """The scroll-back stays."""
        if self._styled:
            sys.stdout.write("\x1b[H\x1b[2J")

    async def write(self, text: str, *, editor: bool) -> str:
        """Nobody is there."""
        raise UltraError("there is nobody to write it", "give the text after the command")

    @contextmanager
    def reply(self) -> Iterator[Callable[[str], None]]:
        """Pieces as they come in a pipe or with --plain; else markdown, drawn at most eight times a second."""
        if not self.terminal or self._plain:
            made_harmless = harmless if self.terminal else str
            ended = True

            def write(piece: str) -> None:
                nonlocal ended
                ended = piece.endswith("\n")
                sys.stdout.write(made_harmless(piece))
                sys.stdout.flush()

            try:
                yield write
            finally:
                if not ended:
                    write("\n")
            return
        drawing = _Drawing(self._styled, self._coloured)
        try:
            yield drawing.take
        finally:
            drawing.end()


class _Drawing:
    """Markdown on stdout while it comes."""

    def __init__(self, styled: bool, coloured: bool) -> None:
        self._stream = MarkdownStream(_window, styled=styled, coloured=coloured)
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._next = 0.0
        self._erase = "\r\x1b[K" if styled else ""
        if styled:
            self._write("\x1b[2m…\x1b[0m")

    def take(self, piece: str) -> None:
        """One more piece; drawn now, or soon with those that follow."""
        self._waiting.append(piece)
        if self._timer is None:
            self._timer = self._loop.call_at(max(self._next, self._loop.time()), self._draw)

    def _draw(self, *, final: bool = False) -> None:
        self._timer = None
        begun = self._loop.time()
        self._stream.feed(harmless("".join(self._waiting)))
        self._waiting.clear()
        if made := self._stream.take(final=final):
            self._write(self._erase + made)
            self._erase = ""
        now = self._loop.time()
        self._next = now + max(EVERY, _SHARE * (now - begun))

    def end(self) -> None:
        """All has come."""
        if self._timer is not None:
            self._timer.cancel()
        self._draw(final=True)
        self._write(self._erase)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _window() -> tuple[int, int]:
    """(columns, rows) as they are now; what COLUMNS says may be older."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        return columns or 80, rows or 24
    except (OSError, ValueError):
        return 80, 24

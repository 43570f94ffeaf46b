"""Markdown on a terminal while it is being written: blocks that are complete are printed once, the open one anew.

Rich renders and markdown-it tells blocks apart, so that a long answer costs what its longest block does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from itertools import pairwise

from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown

WIDEST = 100
"""Columns at most: longer lines are hard to read."""
_BLANK_END = re.compile(r"[ ]+((?:\x1b\[[\d;]*m)*)$")
_STYLE = re.compile(r"\x1b\[[\d;]*m")
_TABLE = re.compile(r"[^\n]*\|[^\n]*\n[ ]*\|?[ ]*:?-+")
_ROOM = 3  # rows of the window that are left free of what is drawn anew
_parser = MarkdownIt().enable("strikethrough").enable("table")  # as Rich's own


class MarkdownStream:
    """`feed` it text, write what `take` gives to the terminal. What was written stays, but for the rows of the open
    block that fit the window: those are drawn anew, in whatever width the window then has."""

    def __init__(self, size: Callable[[], tuple[int, int]], *, styled: bool, coloured: bool) -> None:
        """`size`: columns and rows of the window; not `styled`: no escape sequence, so complete blocks only."""
        self._size, self._styled, self._coloured = size, styled, coloured
        self._open = ""
        self._settled = 0
        """Lines of the open block that are printed for good."""
        self._drawn: list[int] = []
        """Columns of the lines that will be drawn anew."""
        self._any = False
        """Whether a block stands above."""

    def feed(self, text: str) -> None:
        """More of it, free of control characters but newline and tab."""
        self._open += text

    def take(self, *, final: bool = False) -> str:
        """What is to be written now; `final`: nothing more will come."""
        columns, rows = self._size()
        out = [self._erased(columns)]
        *complete, last = self._blocks()
        for block in [*complete, last] if final else complete:
            out += self._rendered(block, columns)[self._settled :]
            self._settled = 0
        self._open = "" if final else last
        if self._styled and self._open.strip():
            lines = self._rendered(last, columns, peek=True)
            fits = max(1, rows - _ROOM)
            if not _TABLE.match(last):  # whose columns move with every row
                out += lines[self._settled : -fits]
                self._settled = max(self._settled, len(lines) - fits)
            anew = lines[self._settled :][-fits:]
            self._drawn = [_columns_of(line) for line in anew]
            out += anew
        return "".join(out)

    def _erased(self, columns: int) -> str:
        """Up to where the open block is drawn anew; a window that became narrower has wrapped its lines."""
        rows = sum(max(1, -(-width // columns)) for width in self._drawn)
        self._drawn = []
        return f"\x1b[{rows}F\x1b[J" if rows else ""

    def _blocks(self) -> list[str]:
        """The text cut where one block ends and another begins."""
        lines = self._open.splitlines(keepends=True)
        starts = [token.map[0] for token in _parser.parse(self._open) if token.level == 0 and token.map]
        cuts = [0, *dict.fromkeys(starts[1:]), len(lines)]
        return ["".join(lines[a:b]) for a, b in pairwise(cuts)]

    def _rendered(self, block: str, columns: int, *, peek: bool = False) -> list[str]:
        """Lines, each with its end; the first one is blank where a block stands above. `peek`: it is not final."""
        made = StringIO()
        console = Console(
            file=made, width=min(columns, WIDEST), force_terminal=self._styled, no_color=not self._coloured,
            color_system="standard" if self._styled else None, legacy_windows=False, highlight=False,
        )  # fmt: skip
        console.print(Markdown(block, code_theme="ansi_dark", hyperlinks=False))
        lines = [_BLANK_END.sub(r"\1", line) if _columns_of(line) else "" for line in made.getvalue().split("\n")]
        lines = [line + "\n" for line in "\n".join(lines).strip("\n").split("\n")]
        above = ["\n"] if self._any else []
        self._any = self._any or not peek
        return above + lines


def _columns_of(line: str) -> int:
    """What a terminal shows of it takes so many."""
    return cell_len(_STYLE.sub("", line).rstrip())

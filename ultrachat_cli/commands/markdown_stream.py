"""Markdown on a terminal while it is being written: what is printed is never touched again.

Words are placed as they come, so the work grows with the text and no faster, the scroll-back is whole, and a window
that changes its width spoils nothing. Only a table waits for its end, under a notice of one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ultrachat_cli.commands.markdown_blocks import Code, table
from ultrachat_cli.commands.markdown_inline import Piece, spans
from ultrachat_cli.commands.markdown_words import Words

_FENCE = re.compile(r"(`{3,}|~{3,})\s*([^`]*)$")
_RULE = re.compile(r"([-*_])\s*(?:\1\s*){2,}$")
_HEADING = re.compile(r"(#{1,6})\s+(?=\S)")
_ITEM = re.compile(r"(?:[-*+]|(\d{1,9}[.)]))\s+(?=\S)")
_TASK = re.compile(r"\[([ xX])\]\s+(?=\S)")
_QUOTE = re.compile(r"(?:>\s?)+")
_OPEN = re.compile(
    r"[-*_][-*_\s]*$|\+\s*$|#{1,6}\s*$|\d{1,9}[.)]?\s*$|`{1,2}$|~{1,2}$|`{3}|~{3}|\||[-*+]\s+\[.?\]?\s*$"
)
"""Beginnings of lines that can still become more than one thing."""
_LONG = 400  # characters of a line of code that are shown before its end
_MOST_ROWS = 100  # of a table that waits for its end
_DEEPEST = 24  # columns of indentation that are kept


class MarkdownStream:
    """Takes text piece by piece; `take` gives what is to be written to the terminal."""

    def __init__(self, width: Callable[[], int], *, styled: bool = True, coloured: bool = True) -> None:
        """`width`: columns of the window, asked anew for every word; not `styled`: no escape sequence at all."""
        self._words = Words(width, styled=styled, coloured=coloured)
        self._start = ""  # of a line whose kind is not known yet
        self._rest = ""  # of a line of text: what cannot be told yet
        self._inside = False  # a line of text
        self._before, self._style = " ", ""
        self._anything = self._gap = self._listed = self._noticed = False
        self._code: Code | None = None
        self._shown = 0  # characters of a long line of code
        self._table: list[str] = []

    def take(self) -> str:
        """What was made since the last time."""
        if self._table and self._words.styled:
            self._words.raw("\r\x1b[K" if self._noticed else "")
            self._words.raw(f"table, {len(self._table)} rows …", "d")
            self._noticed = True
        return self._words.take()

    def feed(self, text: str) -> None:
        """More of it, free of control characters but newline and tab."""
        text, self._start = self._start + text, ""
        at = 0
        while at < len(text):
            end = text.find("\n", at)
            complete = end >= 0
            line = text[at:end] if complete else text[at:]
            if not self._inside:
                taken = self._line(line, complete)
                if taken is None:
                    self._start = line
                    return
                line = line[taken:]
            if self._inside:
                self._text(line, complete)
            at = end + 1 if complete else len(text)

    def finish(self) -> None:
        """No more comes: all of it is told, and the cursor stands on a new line."""
        if self._start or self._inside or self._shown:
            self.feed("\n")
        self._end_table()

    # lines

    def _line(self, line: str, complete: bool) -> int | None:
        """Begin a line; returns how much of it is dealt with, None while its kind is not known."""
        if self._code is not None:
            return self._code_line(self._code, line, complete)
        bare = line.lstrip(" \t")
        if not bare:
            return self._blank() if complete else None
        if not complete and (_OPEN.match(bare) and len(bare) < _LONG):
            return None
        if bare[0] == "|" and complete:
            self._add_row(bare)
            return len(line)
        self._end_table()
        indent = min(len(line[: len(line) - len(bare)].expandtabs(4)), _DEEPEST)
        if complete and (fence := _FENCE.match(bare)):
            self._open_block()
            self._code = Code(fence[1], fence[2].strip(), len(line) - len(bare), self._words.coloured)
            self._words.raw(f"── {self._code.language or 'code'}\n", "d")
            return len(line)
        if complete and _RULE.match(bare):
            self._open_block()
            self._words.raw("─" * min(40, self._words.width) + "\n", "d")
            return len(line)
        kept = self._begin_text(bare, indent, complete)
        return None if kept is None else len(line) - len(kept)

    def _blank(self) -> int:
        self._end_table()
        self._gap = True
        return 0

    def _open_block(self) -> None:
        if self._gap and self._anything:
            self._words.raw("\n")
        self._gap, self._anything = False, True

    def _begin_text(self, bare: str, indent: int, complete: bool) -> str | None:
        """Print what opens a line of text; returns the text itself, None while it cannot be told from its mark."""
        first: list[Piece] = [(" " * indent, "")] if indent else []
        hang = [*first]
        if quote := _QUOTE.match(bare):
            bare = bare[quote.end() :]
            if not complete and (not bare or _OPEN.match(bare)):
                return None
            bar = [("▌ " * quote[0].count(">"), "d")]
            first, hang = [*first, *bar], [*hang, *bar]
        self._style = ""
        if heading := _HEADING.match(bare):
            bare, self._style = bare[heading.end() :], "bh" if len(heading[1]) < 3 else "b"
        elif item := _ITEM.match(bare):
            bare = bare[item.end() :]
            mark = f"{item[1]} " if item[1] else "• "
            if task := _TASK.match(bare):
                bare, mark = bare[task.end() :], "☐ " if task[1] == " " else "☑ "
            first, hang = [*first, (mark, "b" if item[1] else "")], [*hang, (" " * len(mark), "")]
            self._listed = True
        elif not indent:
            self._listed = False
        self._open_block()
        self._words.begin(first, hang)
        self._inside, self._rest, self._before = True, "", " "
        return bare

    def _text(self, line: str, complete: bool) -> None:
        pieces, self._rest = spans(self._rest + line, final=complete, before=self._before)
        for text, style in pieces:
            self._words.put(text, style + self._style)
            self._before = text[-1:] or self._before
        if complete:
            self._words.end()
            self._inside = False

    # code and tables

    def _code_line(self, code: Code, line: str, complete: bool) -> int | None:
        if not complete:
            if len(line) < _LONG:
                return None
            self._words.raw(line)
            self._shown += len(line)
            return len(line)
        if self._shown:
            self._words.raw(line + "\n")
            self._shown = 0
        elif code.ends(line):
            self._words.raw("──\n", "d")
            self._code = None
        else:
            self._words.raw(code.line(line) + "\n")
        return len(line)

    def _add_row(self, line: str) -> None:
        if not self._table:
            self._open_block()
        self._table.append(line)
        if len(self._table) == _MOST_ROWS + 2:
            head = self._table[:2]
            self._end_table()
            self._table = head

    def _end_table(self) -> None:
        lines, self._table = self._table, []
        if not lines:
            return
        if self._noticed:
            self._words.raw("\r\x1b[K")
            self._noticed = False
        words = self._words
        drawn = table(lines, words.width, styled=words.styled, coloured=words.coloured)
        words.raw(drawn or "\n".join(lines) + "\n")

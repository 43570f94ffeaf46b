"""Words placed one after another on lines of a terminal: styled, wrapped, never touched again."""

from __future__ import annotations

import re
from collections.abc import Callable

from ultrachat_cli.commands.markdown_inline import Piece

WIDEST = 100
"""Columns at most: longer lines are hard to read."""
_SGR = {"b": "1", "d": "2", "i": "3", "u": "4", "s": "9"}
_COLOURS = {"c": "36", "h": "35"}
_WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\U00020000-\U0003fffd"
_TOKENS = re.compile(rf"\s+|[{_WIDE}]|[^\s{_WIDE}]+")
"""Space, a character that a line may end after, or a word."""
_LONGEST = 200  # characters of a word that is shown only when it is whole


class Words:
    """Takes styled text, gives what is written to the terminal."""

    def __init__(self, width: Callable[[], int], *, styled: bool, coloured: bool) -> None:
        """`width`: columns of the window, asked anew for every word; not `styled`: no escape sequence at all."""
        self._width, self.styled, self.coloured = width, styled, styled and coloured
        self._out: list[str] = []
        self._column = 0
        self._space = False
        self._word: list[Piece] = []
        self._hang: list[Piece] = []

    def take(self) -> str:
        """What was made since the last time; the word under way is not among it."""
        made = "".join(self._out)
        self._out.clear()
        return made

    @property
    def width(self) -> int:
        """Columns there are for text."""
        return max(20, min(self._width(), WIDEST))

    def raw(self, text: str, style: str = "") -> None:
        """Text as it is, wherever it ends."""
        known = _SGR | _COLOURS if self.coloured else _SGR
        codes = ";".join(dict.fromkeys(known[letter] for letter in style if letter in known)) if self.styled else ""
        self._out.append(f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text)

    def begin(self, first: list[Piece], hang: list[Piece]) -> None:
        """A line that begins with `first`, and whose further lines on the terminal begin with `hang`."""
        self._hang, self._column, self._space = hang, 0, False
        self._lead(first)

    def _lead(self, pieces: list[Piece]) -> None:
        for text, style in pieces:
            self.raw(text, style)
            self._column += cells(text)

    def put(self, text: str, style: str) -> None:
        """More of the line."""
        for token in _TOKENS.findall(text):
            if token.isspace():
                self.place()
                self._space = True
            else:
                ends = len(token) == 1 and not token.isascii() and cells(token) == 2
                if self._word and self._word[-1][1] == style:
                    token = self._word.pop()[0] + token
                self._word.append((token, style))
                if ends or len(token) > _LONGEST:
                    self.place()

    def place(self) -> None:
        """The word under way is whole."""
        if not self._word:
            return
        wide = sum(cells(text) for text, _ in self._word)
        if self._column and self._column + self._space + wide > self.width and self._column > self._least():
            self._out.append("\n")
            self._column = 0
            self._lead(self._hang)
        elif self._space and self._column > 0:
            self._out.append(" ")
            self._column += 1
        for text, style in self._word:
            self.raw(text, style)
        self._column = (self._column + wide) % max(1, self._width()) if wide > self.width else self._column + wide
        self._word.clear()
        self._space = False

    def _least(self) -> int:
        return sum(cells(text) for text, _ in self._hang)

    def end(self) -> None:
        """The line is whole."""
        self.place()
        self._out.append("\n")
        self._column, self._space = 0, False


def cells(text: str) -> int:
    """Columns a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)

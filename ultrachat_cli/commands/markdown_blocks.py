"""Code and tables on a terminal: the parts of markdown that are shown by the line or as a whole."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from ultrachat_cli.commands.markdown_inline import spans

_CONTEXT = 20  # lines of code before a line that tell how it is coloured: the work stays in proportion
_LONGEST = 2000  # characters of a line that is coloured at all
_DIVIDER = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_CELLS = re.compile(r"(?<!\\)\|")
_RICH = {"b": "bold", "i": "italic", "s": "strike", "c": "cyan", "u": "underline", "d": "dim", "h": "bold"}


class Code:
    """A fenced block. `fence`: what opened it; `indent`: columns before that, which its lines have too."""

    def __init__(self, fence: str, language: str, indent: int, coloured: bool) -> None:
        self._end = re.compile(rf"\s{{0,{indent + 3}}}{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        self._indent, self.language = indent, language
        self._before: deque[str] = deque(maxlen=_CONTEXT)
        self._lexer = _lexer(language) if coloured and language else None

    def ends(self, line: str) -> bool:
        """Whether the line closes the block."""
        return self._end.match(line) is not None

    def line(self, line: str) -> str:
        """One line of code, coloured."""
        kept = line[: self._indent].lstrip(" ") + line[self._indent :]
        if self._lexer is None or len(kept) > _LONGEST or not kept.strip():
            self._before.append(kept)
            return kept
        from pygments import highlight  # type: ignore[import-untyped]
        from pygments.formatters import TerminalFormatter  # type: ignore[import-untyped]

        self._before.append(kept)
        shown: str = highlight("\n".join(self._before), self._lexer, TerminalFormatter())
        return shown.rstrip("\n").rpartition("\n")[2] if "\n" in shown else kept


def _lexer(language: str) -> Any:
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        return get_lexer_by_name(language.split()[0].strip("{}.").lower(), stripnl=False)
    except (ClassNotFound, IndexError):
        return None


def table(lines: list[str], width: int, *, styled: bool, coloured: bool) -> str | None:
    """A table drawn from its lines of source; None where they make none."""
    if len(lines) < 2 or not _DIVIDER.match(lines[1].strip()):
        return None
    from io import StringIO

    from rich import box
    from rich.console import Console
    from rich.table import Table

    head, divider, *rows = [_row(line) for line in lines]
    drawn = Table(box=box.SIMPLE_HEAD if styled else box.ASCII2, pad_edge=False, header_style="bold")
    for n, cell in enumerate(head):
        mark = divider[n] if n < len(divider) else ""
        ends = mark.endswith(":")
        drawn.add_column(
            _cell(cell), justify="center" if ends and mark.startswith(":") else "right" if ends else "left"
        )
    for row in rows:
        drawn.add_row(*[_cell(cell) for cell in row[: len(head)]])
    out = StringIO()
    console = Console(
        file=out, width=width, force_terminal=styled, color_system="standard" if styled else None,
        no_color=not coloured, legacy_windows=False, highlight=False,
    )  # fmt: skip
    console.print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n")).strip("\n") + "\n"


def _row(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELLS.split(line.strip().removeprefix("|").removesuffix("|"))]


def _cell(text: str) -> Any:
    from rich.text import Text

    shown = Text()
    for n, part in enumerate(re.split(r"<br\s*/?>", text)):
        shown.append("\n" if n else "")
        for piece, style in spans(part.strip(), final=True)[0]:
            shown.append(piece, " ".join(_RICH[letter] for letter in style))
    return shown

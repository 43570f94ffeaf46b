"""Marks from 1 to 10 in what a judge says: taken as written, or not at all."""

from __future__ import annotations

import re
from typing import NamedTuple

from ultrachat_cli.backends.base import Messages

LOWEST, HIGHEST = 1, 10
_SCALE = re.compile(r"\b1(?:\.0)?\s*(?:-|–|to)\s*10(?:\.0)?\b")
_BEFORE = r"[\s*_\[(#>\"'`]*"
_VALUE = r"(?P<value>[-+]?\d+(?:[.,]\d+)*)"
_OF = r"(?:\s*(?:/|out\s+of)\s*(?P<of>\d+))"
_END = r"(?!\w|\s*/)(?P<more>\s*%|\s*[-–]\s*\d)?"
_NUMBER = f"{_VALUE}{_OF}?{_END}"
_LABELLED = re.compile(rf"(?:overall\s+)?\b(?:score|rating|mark)\b[\s:=*_\"']*(?:is\b|of\b)?{_BEFORE}{_NUMBER}", re.I)
_FIRST = re.compile(_BEFORE + _NUMBER)
_OF_TEN = re.compile(rf"(?<![\w.,]){_VALUE}{_OF}{_END}")

_WORDS = re.compile(r"[^\w\n]*\w")


class Mark(NamedTuple):
    """A mark and where it stands in the text, its label included."""

    value: float
    start: int
    end: int


def find(text: str, *, last: bool = False) -> Mark | None:
    """The mark: at the very beginning, after a label (`Score: 8`), or of ten (`8/10`); None where there is none.

    Decimals stay (8.5). Numbers below 1 or above 10, of another scale (4/5, 80%) and ranges (7-8) are no marks, and
    nothing is made of them: UltraFeedback's published scores hold tens that were ones (OpenBMB/UltraFeedback issue 8).
    `last`: a label counts before all else, of several the last: for judges that reason first.
    """
    # what only names the scale is no mark; as long as before, so that places stay
    shown = _SCALE.sub(lambda found: " " * len(found[0]), text)
    first, labelled = _FIRST.match(shown), list(_LABELLED.finditer(shown))
    if labelled and (last or not first):
        return _mark(labelled[-1 if last else 0])
    if first and not (last and _WORDS.match(shown, first.end())):  # "3 reasons ..." is how reasoning begins
        return _mark(first)
    of_ten = [mark for found in _OF_TEN.finditer(shown) if (mark := _mark(found))]
    return of_ten[-1 if last else 0] if of_ten else None


def _mark(found: re.Match[str]) -> Mark | None:
    if (
        found["more"]
        or found["of"] not in (None, str(HIGHEST))
        or "," in found["value"]
        or found["value"].count(".") > 1
    ):
        return None
    value = float(found["value"])
    return Mark(value, found.start(), found.end()) if LOWEST <= value <= HIGHEST else None


def asked(messages: Messages, characters: int = 0) -> tuple[str, bool]:
    """What an answer answers, as a judge reads it: one question alone, or the conversation up to the last one.

    With more than `characters` (0: any number) whole rounds at the beginning are left out, then the last message's
    beginning; the second value tells whether that was so. System messages are left out.
    """
    spoken = [m for m in messages if m["role"] != "system"]
    text = whole = _written(spoken)
    while characters and len(text) > characters and len(spoken) > 2:
        spoken = spoken[2:]
        text = _written(spoken)
    if characters and len(text) > characters:
        text = text[-characters:]
    return text, text != whole


def _written(spoken: Messages) -> str:
    if len(spoken) == 1:
        return spoken[0]["content"]
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in spoken)

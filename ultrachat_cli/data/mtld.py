"""MTLD, the measure of textual lexical diversity of McCarthy and Jarvis (2010).

The mean length of runs of words whose type-token ratio stays above 0.72, read forwards and backwards. Words are cut and
partial runs counted as the package `lexicalrichness` does it, which the UltraChat paper used; equal to it bit for bit.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

THRESHOLD = 0.72
_CUT = str.maketrans(dict.fromkeys(string.punctuation, " ") | dict.fromkeys(string.digits + "–—-"))


def words(text: str) -> list[str]:
    """Lower case, without digits and dashes, punctuation taken as space."""
    return text.lower().translate(_CUT).split()


def mtld(text: str) -> float | None:
    """The measure, in words; None for a text without any."""
    found = words(text)
    if not found:
        return None
    return (len(found) / _runs(found, found) + len(found) / _runs(reversed(found), found)) / 2


def _runs(read: Iterable[str], found: list[str]) -> float:
    """How many runs the words make, the last one in parts."""
    seen: set[str] = set()
    length, runs, ratio = 0, 0.0, 1.0
    for word in read:
        length += 1
        seen.add(word)
        ratio = len(seen) / length
        if ratio <= THRESHOLD:
            length, runs = 0, runs + 1
            seen = set()
    if length:
        runs += (1 - ratio) / (1 - THRESHOLD)
    return runs or 1.0  # no word occurs twice: the whole text is one run

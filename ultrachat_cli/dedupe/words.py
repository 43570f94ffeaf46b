"""What counts as a word: the tables the compiled kernel reads, and the same rule in plain Python.

A word is a run of letters, digits and combining marks, case-folded; characters of scripts written without spaces (Han,
kana, Thai and their like) and emoji are words of their own; everything else separates.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np

SEPARATOR, PART, ALONE = 0, 1, 2
_PLANE = 0x10000
_NO_SPACES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
)  # fmt: skip


def kind(character: str) -> int:
    """SEPARATOR, PART (of a word) or ALONE (a word of its own)."""
    point = ord(character)
    if point >= _PLANE:  # emoji, rare Han, ancient scripts
        return ALONE
    if not (character.isalnum() or unicodedata.category(character).startswith("M")):
        return SEPARATOR
    return ALONE if any(low <= point <= high for low, high in _NO_SPACES) else PART


def folded(character: str) -> int:
    """The code point that stands for a character: of its lower case, where that is one character."""
    lower = character.lower()
    return ord(lower) if len(lower) == 1 and ord(lower) < _PLANE else ord(character)


@cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """(kind uint8[65536], code uint64[65536]) of the characters of the basic plane; surrogates separate.

    A code is a number without pattern that stands for the folded character.
    """
    kinds = np.zeros(_PLANE, np.uint8)
    folds = np.arange(_PLANE)
    for point in range(_PLANE):
        if not 0xD800 <= point < 0xE000:
            kinds[point] = kind(chr(point))
            folds[point] = folded(chr(point))
    codes = (folds.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        codes = (codes ^ (codes >> np.uint64(shift))) * np.uint64(factor)
    return kinds, codes ^ (codes >> np.uint64(31))


def split(text: str) -> list[str]:
    """The words of a text: what the kernel hashes, for reading and for tests."""
    found: list[str] = []
    open_word = False
    for character in text:
        sort = kind(character)
        if sort == SEPARATOR:
            open_word = False
        elif sort == ALONE or not open_word:
            found.append(chr(folded(character)))
            open_word = sort == PART
        else:
            found[-1] += chr(folded(character))
    return found

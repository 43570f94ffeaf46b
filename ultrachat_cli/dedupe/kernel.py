"""The compiled kernel: words, n-grams and MinHash sketches of many texts at once; no Python object for a shingle.

All hashes are 64 bits wide. A text's n-grams are those of its words (`words.py`); a text of fewer words than n has one
n-gram, of all its words; a text of no words has none. The sketch is Fast Similarity Sketching (Dahlgaard, Knudsen and
Thorup, FOCS 2017): 256 bins filled in rounds, so that short and long texts alike get independent samples at the cost of
about two passes; the low byte of each bin's minimum is kept. Kernels that call each other live in one file: the
compiler's cache notices changes of the caller's file only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

BINS = 256
_F = TypeVar("_F", bound=Callable[..., Any])
_START = np.uint64(0xCBF29CE484222325)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
ROLL = np.uint64(0xD6E8FEB86659FD93)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)


def compiled(function: _F) -> _F:
    """Machine code, kept on disk between runs; releases the interpreter lock."""
    return cast(_F, numba.njit(cache=True, nogil=True)(function))


@compiled
def mix(value: np.uint64) -> np.uint64:
    """A bijection whose every output bit depends on every input bit (splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@compiled
def words(text: np.ndarray, start: int, end: int, kinds: np.ndarray, codes: np.ndarray, out: np.ndarray) -> Any:
    """Hashes of the words of UTF-8 bytes text[start:end] into `out` (uint64, end - start + 1 of room); how many.

    Nothing branches at the end of an ASCII word (it would be mispredicted every time), and indices are unsigned (signed
    ones are checked for being negative): together more than twice as fast.
    """
    count, inside, state = _ZERO, _ZERO, _START
    at, stop = np.uint64(start), np.uint64(end)
    while at < stop:
        byte = text[at]
        if byte < 0x80:
            part = np.uint64(kinds[byte])
            out[count] = state
            count += inside & (_ONE - part)
            longer = (state << np.uint64(5) | state >> np.uint64(59)) + codes[byte]
            state = _START ^ ((longer ^ _START) & (_ZERO - part))
            inside = part
            at += _ONE
            continue
        size, point = decoded(text, at, stop)
        at += size
        kind = 2 if point >= 0x10000 else np.int64(kinds[point])
        if kind == 1:
            state = (state << np.uint64(5) | state >> np.uint64(59)) + codes[point]
            inside = _ONE
            continue
        out[count] = state
        count += inside
        state, inside = _START, _ZERO
        if kind == 2:
            out[count] = _START + (codes[point] if point < 0x10000 else point * _STEP)
            count += _ONE
    out[count] = state
    count += inside
    for i in range(count):
        out[i] = mix(out[i])
    return np.int64(count)


@compiled
def decoded(text: np.ndarray, at: np.uint64, stop: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(bytes, code point) of the character that begins at `at`; beyond the basic plane any number above it will do."""
    first = np.uint64(text[at])
    left = stop - at
    low = np.uint64(0x3F)
    if first < np.uint64(0xE0) and left > np.uint64(1):
        return np.uint64(2), (first & np.uint64(0x1F)) << np.uint64(6) | (np.uint64(text[at + _ONE]) & low)
    if first < np.uint64(0xF0) and left > np.uint64(2):
        middle = (np.uint64(text[at + _ONE]) & low) << np.uint64(6)
        return np.uint64(3), (first & np.uint64(0x0F)) << np.uint64(12) | middle | (
            np.uint64(text[at + np.uint64(2)]) & low
        )
    point = _ZERO
    for i in range(min(np.uint64(4), left)):
        point = point << np.uint64(8) | np.uint64(text[at + np.uint64(i)])
    return np.uint64(4), point | np.uint64(0x10000)


@compiled
def grams(word: np.ndarray, count: int, n: int, out: np.ndarray) -> int:
    """Hashes of the n-grams of `count` words into `out`, in order, repeats included; how many."""
    if count == 0:
        return 0
    size = min(n, count)
    power = np.uint64(1)
    for _ in range(size - 1):
        power *= ROLL
    rolling = np.uint64(0)
    for i in range(size):
        rolling = rolling * ROLL + word[i]
    out[0] = mix(rolling)
    for i in range(size, count):
        rolling = (rolling - word[i - size] * power) * ROLL + word[i]
        out[i - size + 1] = mix(rolling)
    return count - size + 1


@compiled
def sketch(gram: np.ndarray, count: int, lowest: np.ndarray, out: np.ndarray) -> None:
    """The sketch of a set of n-gram hashes into `out`, uint8[256]; `lowest`: scratch, uint64[256]. Zeros for none."""
    out[:] = 0
    if count == 0:
        return
    lowest[:] = _FULL
    empty = BINS
    for turn in range(2 * BINS):
        salt = np.uint64(turn) * _STEP
        for i in range(count):
            value = gram[i] if turn == 0 else mix(gram[i] + salt)
            place = turn - BINS if turn >= BINS else np.int64(value >> np.uint64(56))
            value &= np.uint64(0x00FFFFFFFFFFFFFF)
            # The turn is the most significant part: a bin once filled is never lowered by a later turn.
            ranked = value | np.uint64(min(turn, 254)) << np.uint64(56)
            if ranked < lowest[place]:
                if lowest[place] == _FULL:
                    empty -= 1
                lowest[place] = ranked
        if empty == 0:
            break
    for i in range(BINS):
        out[i] = np.uint8(lowest[i] & np.uint64(0xFF))


@compiled
def digest(word: np.ndarray, count: int, out: np.ndarray) -> None:
    """128 bits of the words in their order into `out`, uint64[2]: equal for texts that differ in no word."""
    first, second = _START, _STEP
    for i in range(count):
        first = (first ^ word[i]) * _MIX_1
        first ^= first >> np.uint64(29)
        second = (second + word[i]) * _MIX_2
        second ^= second >> np.uint64(32)
    out[0] = mix(first + np.uint64(count))
    out[1] = mix(second ^ np.uint64(count))


@compiled
def describe(
    word: np.ndarray, starts: np.ndarray, ends: np.ndarray, n: int,
    sketches: np.ndarray, digests: np.ndarray, sizes: np.ndarray,
) -> None:  # fmt: skip
    """Sketch (uint8[m, 256]), digest (uint64[m, 2]) and word count (int32[m]) of texts of words starts[i]:ends[i]."""
    gram = np.empty(len(word) + 1, np.uint64)
    lowest = np.empty(BINS, np.uint64)
    for i in range(len(ends)):
        text = word[starts[i] : ends[i]]
        sketch(gram, grams(text, len(text), n, gram), lowest, sketches[i])
        digest(text, len(text), digests[i])
        sizes[i] = len(text)


@compiled
def hashed(text: np.ndarray, ends: np.ndarray, kinds: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(word hashes of all texts, one after another, uint64; where each text's words end, int64)."""
    word = np.empty(len(text) + 1, np.uint64)
    word_ends = np.empty(len(ends), np.int64)
    start = total = 0
    for i in range(len(ends)):
        total += words(text, start, ends[i], kinds, codes, word[total:])
        word_ends[i] = total
        start = ends[i]
    return word[:total], word_ends


@compiled
def rolled(word: np.ndarray, ends: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n-gram hashes of all texts, one after another, uint64; where each text's n-grams end, int64)."""
    gram = np.empty(len(word) + 1, np.uint64)
    gram_ends = np.empty(len(ends), np.int64)
    start = total = 0
    for i in range(len(ends)):
        total += grams(word[start : ends[i]], ends[i] - start, n, gram[total:])
        gram_ends[i] = total
        start = ends[i]
    return gram[:total], gram_ends


@compiled
def shingles(text: np.ndarray, n: int, kinds: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The n-gram hashes of one text in order, repeats included: uint64."""
    word = np.empty(len(text) + 1, np.uint64)
    gram = np.empty(len(text) + 1, np.uint64)
    count = grams(word, words(text, 0, len(text), kinds, codes, word), n, gram)
    return gram[:count].copy()


@compiled
def distinct(ordered: np.ndarray) -> np.ndarray:
    """The distinct values of a sorted array, which is overwritten."""
    count = 0
    for i in range(len(ordered)):
        if i == 0 or ordered[i] != ordered[i - 1]:
            ordered[count] = ordered[i]
            count += 1
    return ordered[:count]

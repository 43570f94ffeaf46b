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
_PRIME = np.uint64(0x00000100000001B3)
_START = np.uint64(0xCBF29CE484222325)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROLL = np.uint64(0xD6E8FEB86659FD93)
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
def words(text: np.ndarray, start: int, end: int, kinds: np.ndarray, folds: np.ndarray, out: np.ndarray) -> int:
    """Hashes of the words of UTF-8 bytes text[start:end] into `out` (uint64, end - start of room); how many."""
    count = 0
    state = _START
    inside = False
    at = start
    while at < end:
        byte = np.uint32(text[at])
        if byte < 0x80:
            point = byte
            at += 1
        elif byte < 0xE0 and at + 1 < end:
            point = (byte & np.uint32(0x1F)) << np.uint32(6) | (np.uint32(text[at + 1]) & np.uint32(0x3F))
            at += 2
        elif byte < 0xF0 and at + 2 < end:
            point = (
                (byte & np.uint32(0x0F)) << np.uint32(12)
                | (np.uint32(text[at + 1]) & np.uint32(0x3F)) << np.uint32(6)
                | (np.uint32(text[at + 2]) & np.uint32(0x3F))
            )
            at += 3
        else:
            point = np.uint32(0x10000)
            for n in range(at, min(at + 4, end)):
                point = point * np.uint32(31) + np.uint32(text[n])
            point |= np.uint32(0x10000)
            at += 4
        kind = 2 if point >= 0x10000 else kinds[point]
        if kind == 1:
            state = (state ^ np.uint64(folds[point])) * _PRIME
            inside = True
            continue
        if inside:
            out[count] = mix(state)
            count += 1
            state = _START
            inside = False
        if kind == 2:
            own = np.uint64(folds[point]) if point < 0x10000 else np.uint64(point)
            out[count] = mix((_START ^ own) * _PRIME)
            count += 1
    if inside:
        out[count] = mix(state)
        count += 1
    return count


@compiled
def grams(word: np.ndarray, count: int, n: int, out: np.ndarray) -> int:
    """Hashes of the n-grams of `count` words into `out`, in order, repeats included; how many."""
    if count == 0:
        return 0
    size = min(n, count)
    power = np.uint64(1)
    for _ in range(size - 1):
        power *= _ROLL
    rolling = np.uint64(0)
    for i in range(size):
        rolling = rolling * _ROLL + word[i]
    out[0] = mix(rolling)
    for i in range(size, count):
        rolling = (rolling - word[i - size] * power) * _ROLL + word[i]
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
    text: np.ndarray, ends: np.ndarray, n: int, kinds: np.ndarray, folds: np.ndarray,
    sketches: np.ndarray, digests: np.ndarray, sizes: np.ndarray,
) -> None:  # fmt: skip
    """Sketch (uint8[m, 256]), digest (uint64[m, 2]) and word count (int32[m]) of m texts, text i ending at ends[i]."""
    longest = 0
    start = 0
    for i in range(len(ends)):
        longest = max(longest, ends[i] - start)
        start = ends[i]
    word = np.empty(longest + 1, np.uint64)
    gram = np.empty(longest + 1, np.uint64)
    lowest = np.empty(BINS, np.uint64)
    start = 0
    for i in range(len(ends)):
        count = words(text, start, ends[i], kinds, folds, word)
        sketch(gram, grams(word, count, n, gram), lowest, sketches[i])
        digest(word, count, digests[i])
        sizes[i] = count
        start = ends[i]


@compiled
def hashed(text: np.ndarray, ends: np.ndarray, kinds: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(word hashes of all texts, one after another, uint64; where each text's words end, int64)."""
    word = np.empty(len(text) + 1, np.uint64)
    word_ends = np.empty(len(ends), np.int64)
    start = total = 0
    for i in range(len(ends)):
        total += words(text, start, ends[i], kinds, folds, word[total:])
        word_ends[i] = total
        start = ends[i]
    return word[:total].copy(), word_ends


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
    return gram[:total].copy(), gram_ends


@compiled
def shingles(text: np.ndarray, n: int, kinds: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The n-gram hashes of one text, repeats included: uint64, not sorted."""
    word = np.empty(len(text) + 1, np.uint64)
    gram = np.empty(len(text) + 1, np.uint64)
    count = grams(word, words(text, 0, len(text), kinds, folds, word), n, gram)
    return gram[:count].copy()

"""The compiled search for n-grams of many items in many texts (see `decontaminate`).

n-grams of the texts are hashed as they are looked up, as `kernel.grams` does it: whoever changes that, or `mix`,
changes this file too, or the compiler's cache keeps the old ones in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ultrachat_cli.dedupe import kernel, words
from ultrachat_cli.dedupe.kernel import ROLL, compiled, mix
from ultrachat_cli.dedupe.kernel import grams as rolled


@dataclass(frozen=True)
class Table:
    """n-grams of items, found by hash.

    grams uint64[g]: the distinct ones; slots int32[2^k]: open addressing, the number in `grams` of what is there, or
    -1; postings: for n-gram g, items[first[g]:first[g+1]] at word places[...]; sizes int32[items]: words (or, in a
    table of distinct n-grams, n-grams) of each item; offsets int64[items + 1]: running total of sizes; bits
    uint64[2^j]: a filter (two bits an n-gram) that answers most misses from the processor's cache.
    """

    n: int
    grams: np.ndarray
    slots: np.ndarray
    first: np.ndarray
    items: np.ndarray
    places: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    bits: np.ndarray

    @cached_property
    def scratch(self) -> tuple[np.ndarray, np.ndarray]:
        """(stamps of all words or n-grams, counts of all items): made once a process, as large as the table itself.

        Stamps are numbers that grow from search to search; the last one given is in the last place.
        """
        return np.zeros(max(int(self.offsets[-1]), len(self.first)) + 1, np.int64), np.zeros(len(self.sizes), np.int64)

    @classmethod
    def of(cls, text: np.ndarray, ends: np.ndarray, n: int, *, distinct: bool) -> Table:
        """The n-grams of all items. `distinct`: sets, with sizes in n-grams; else all places, with sizes in words."""
        kinds, codes = words.tables()
        word, word_ends = kernel.hashed(text, ends, kinds, codes)
        gram, gram_ends = kernel.rolled(word, word_ends, n)
        sizes = np.diff(word_ends, prepend=0).astype(np.int32)
        flat, owners, places = laid_out(gram, gram_ends, sizes, n, distinct)
        order = np.argsort(flat)
        flat = flat[order]
        first = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
        unique = flat[first]
        room = 1 << max(4, int(np.ceil(np.log2(2 * len(unique) + 1))))
        slots = np.full(room, -1, np.int32)
        bits = np.zeros(1 << max(10, int(np.log2(len(unique) + 1)) - 2), np.uint64)
        insert(unique, slots, bits)
        return cls(
            n, unique, slots, np.append(first, len(flat)).astype(np.int64), owners[order], places[order],
            sizes, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), bits,
        )  # fmt: skip


@compiled
def laid_out(
    gram: np.ndarray, ends: np.ndarray, sizes: np.ndarray, n: int, distinct: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n-grams, item of each, place of each): of each item the distinct ones, whose number becomes its size, or all.

    Without `distinct`, items of fewer than n words are left out: they cannot be recognised inside other text.
    """
    flat, owners, places = np.empty_like(gram), np.empty(len(gram), np.int32), np.empty(len(gram), np.int32)
    total = start = 0
    for item in range(len(ends)):
        own = gram[start : ends[item]].copy()
        start = ends[item]
        if distinct:
            own.sort()
        elif sizes[item] < n:
            continue
        first = total
        for i in range(len(own)):
            if i == 0 or not distinct or own[i] != own[i - 1]:
                flat[total], owners[total], places[total] = own[i], item, i
                total += 1
        if distinct:
            sizes[item] = total - first
    return flat[:total].copy(), owners[:total].copy(), places[:total].copy()


@compiled
def both(gram: np.uint64) -> np.uint64:
    """The two bits that stand for an n-gram within its word of the filter."""
    return np.uint64(1) << (gram >> np.uint64(20) & np.uint64(63)) | np.uint64(1) << (
        gram >> np.uint64(26) & np.uint64(63)
    )


@compiled
def insert(grams: np.ndarray, slots: np.ndarray, bits: np.ndarray) -> None:
    """Put distinct n-gram hashes into the table and the filter."""
    mask = np.uint64(len(slots) - 1)
    for g in range(len(grams)):
        at = grams[g] & mask
        while slots[at] >= 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = g
        bits[(grams[g] >> np.uint64(32)) & np.uint64(len(bits) - 1)] |= both(grams[g])


@compiled
def find(gram: np.uint64, grams: np.ndarray, slots: np.ndarray, bits: np.ndarray) -> int:
    """The number of an n-gram, or -1."""
    two = both(gram)
    if bits[(gram >> np.uint64(32)) & np.uint64(len(bits) - 1)] & two != two:
        return -1
    mask = np.uint64(len(slots) - 1)
    at = gram & mask
    while slots[at] >= 0 and grams[slots[at]] != gram:
        at = (at + np.uint64(1)) & mask
    return int(slots[at])


def search(
    word: np.ndarray, word_ends: np.ndarray, owners: np.ndarray, long: Table, near: Table, similar: float
) -> np.ndarray:
    """float64[k, 4] of (owner, item, share of the item's words covered, Jaccard similarity of the nearest turn).

    Turn i ends with word word_ends[i] and belongs to dialogue owners[i] (ascending). Lower similarities are 0.
    """
    covered = cover(
        word, word_ends, owners, long.n, long.grams, long.slots, long.bits, long.first, long.items, long.places,
        long.sizes, long.offsets, *long.scratch,
    )  # fmt: skip
    alike = nearest(word, word_ends, owners, near.n, near.grams, near.slots, near.bits, near.first, near.items,
                    near.sizes, similar, *near.scratch)  # fmt: skip
    return _merged(covered, alike)


def _merged(covered: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """One row for each (dialogue, item), of the largest values."""
    rows = np.zeros((len(covered) + len(alike), 4))
    rows[: len(covered), :3] = covered
    rows[len(covered) :, [0, 1, 3]] = alike
    pairs, inverse = np.unique(rows[:, :2], axis=0, return_inverse=True)
    found = np.zeros((len(pairs), 4))
    found[:, :2] = pairs
    for column in (2, 3):
        np.maximum.at(found[:, column], inverse.reshape(-1), rows[:, column])
    return found


@compiled
def cover(
    word: np.ndarray, ends: np.ndarray, owners: np.ndarray, n: int, grams: np.ndarray, slots: np.ndarray,
    bits: np.ndarray, first: np.ndarray, items: np.ndarray, places: np.ndarray, sizes: np.ndarray,
    offsets: np.ndarray, stamp: np.ndarray, count: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """float64[k, 3] of (dialogue, item, share of the item's words that lie in n-grams shared with the dialogue)."""
    touched = np.empty(len(sizes), np.int64)
    out = np.empty((1024, 3))
    found = many = start = 0
    stamp[-1] += 1
    power = np.uint64(1)
    for _ in range(n - 1):
        power *= ROLL
    for turn in range(len(ends)):
        owner, now = owners[turn], stamp[-1]
        rolling = np.uint64(0)
        for i in range(start, min(start + n - 1, ends[turn])):
            rolling = rolling * ROLL + word[i]
        for i in range(start + n - 1, ends[turn]):
            rolling = rolling * ROLL + word[i]
            g = find(mix(rolling), grams, slots, bits)
            rolling -= word[i - n + 1] * power
            if g < 0:
                continue
            for p in range(first[g], first[g + 1]):
                item = items[p]
                if count[item] == 0:
                    touched[many] = item
                    many += 1
                base = offsets[item] + places[p]
                for at in range(base, base + n):
                    if stamp[at] != now:
                        stamp[at] = now
                        count[item] += 1
        start = ends[turn]
        if turn + 1 == len(ends) or owners[turn + 1] != owner:
            for t in range(many):
                if found == len(out):
                    larger = np.empty((2 * found, 3))
                    larger[:found] = out
                    out = larger
                item = touched[t]
                out[found, 0], out[found, 1], out[found, 2] = owner, item, count[item] / sizes[item]
                count[item] = 0
                found += 1
            many = 0
            stamp[-1] += 1
    return out[:found].copy()


@compiled
def nearest(
    word: np.ndarray, ends: np.ndarray, owners: np.ndarray, n: int, grams: np.ndarray, slots: np.ndarray,
    bits: np.ndarray, first: np.ndarray, items: np.ndarray, sizes: np.ndarray, similar: float, seen: np.ndarray,
    count: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """float64[k, 3] of (dialogue, item, Jaccard similarity of a turn and the item), similarities >= similar only.

    A similar turn holds at most (1 - similar) / similar times an item's size of n-grams that are not the item's. A turn
    is given up when more than that for the largest item are in no item at all; most are, after a few words.
    """
    most = 0
    for item in range(len(sizes)):
        most = max(most, sizes[item])
    strange_most = most * (1 - similar) / similar
    enough = int(2 * strange_most) + 2 * n  # words that most often tell
    gram = np.empty(len(word) + 1, np.uint64)
    strangers = np.full(4096, -1, np.int64)  # counts distinct n-grams; two in one place count once, to be safe
    touched = np.empty(len(sizes), np.int64)
    out = np.empty((1024, 3))
    found = start = 0
    for turn in range(len(ends)):
        many = strange = 0
        seen[-1] += 1
        now = seen[-1]
        size = ends[turn] - start
        read = min(size, enough)
        total = rolled(word[start : start + read], read, n, gram)
        i = -1
        while True:
            i += 1
            if i == total:
                if read == size:
                    break
                read = size
                total = rolled(word[start : ends[turn]], size, n, gram)
            g = find(gram[i], grams, slots, bits)
            if g < 0:
                place = gram[i] & np.uint64(4095)
                if strangers[place] != turn:
                    strangers[place] = turn
                    strange += 1
                    if strange > strange_most:
                        break
                continue
            if seen[g] == now:
                continue
            seen[g] = now
            for p in range(first[g], first[g + 1]):
                if count[items[p]] == 0:
                    touched[many] = items[p]
                    many += 1
                count[items[p]] += 1
        distinct = -1
        for t in range(many):
            item = touched[t]
            if (
                strange <= strange_most and count[item] >= similar * sizes[item]
            ):  # else the union is too large whatever the turn holds
                if distinct < 0:
                    distinct = len(np.unique(gram[:total]))
                jaccard = count[item] / (sizes[item] + distinct - count[item])
                if jaccard >= similar:
                    if found == len(out):
                        larger = np.empty((2 * found, 3))
                        larger[:found] = out
                        out = larger
                    out[found, 0], out[found, 1], out[found, 2] = owners[turn], item, jaccard
                    found += 1
            count[item] = 0
        start = ends[turn]
    return out[:found].copy()

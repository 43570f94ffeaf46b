"""The compiled search for n-grams of many items in many texts (see `decontaminate`).

n-grams of the texts are hashed as they are looked up, as `kernel.grams` does it: whoever changes that, or `mix`,
changes this file too, or the compiler's cache keeps the old ones in here.
"""

from __future__ import annotations

import numpy as np

from ultrachat_cli.dedupe.kernel import ROLL, compiled, mix
from ultrachat_cli.dedupe.kernel import grams as rolled


@compiled
def marks(gram: np.uint64) -> np.uint64:
    """The three bits that stand for an n-gram within its word of the filter."""
    one, low = np.uint64(1), np.uint64(63)
    return one << (gram & low) | one << (gram >> np.uint64(6) & low) | one << (gram >> np.uint64(12) & low)


@compiled
def unshifted(heads: np.ndarray) -> np.uint64:
    """The number of bits of an n-gram after its first k, those that `heads` (2^k + 1 of them) tells apart."""
    spare, rest = 64, len(heads) - 1
    while rest > 1:
        rest >>= 1
        spare -= 1
    return np.uint64(spare)


@compiled
def insert(grams: np.ndarray, bits: np.ndarray) -> None:
    """Put n-gram hashes into the filter."""
    for g in range(len(grams)):
        bits[(grams[g] >> np.uint64(32)) & np.uint64(len(bits) - 1)] |= marks(grams[g])


@compiled
def known(gram: np.uint64, bits: np.ndarray) -> bool:
    """Whether the filter lets an n-gram pass."""
    three = marks(gram)
    return bool(bits[(gram >> np.uint64(32)) & np.uint64(len(bits) - 1)] & three == three)


@compiled
def find(gram: np.uint64, grams: np.ndarray, heads: np.ndarray, spare: np.uint64) -> int:
    """The number of an n-gram, or -1; `spare`: see `unshifted`."""
    head = np.int64(gram >> spare)
    for g in range(heads[head], heads[head + 1]):
        if grams[g] == gram:
            return g
    return -1


@compiled
def cover(
    word: np.ndarray, ends: np.ndarray, owners: np.ndarray, n: int, grams: np.ndarray, heads: np.ndarray,
    bits: np.ndarray, first: np.ndarray, items: np.ndarray, places: np.ndarray, sizes: np.ndarray,
    offsets: np.ndarray, stamp: np.ndarray, count: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """float64[k, 3] of (dialogue, item, share of the item's words that lie in n-grams shared with the dialogue)."""
    touched = np.empty(len(sizes), np.int64)
    out = np.empty((1024, 3))
    found = many = start = 0
    spare = unshifted(heads)
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
            gram = mix(rolling)
            rolling -= word[i - n + 1] * power
            if not known(gram, bits):
                continue
            g = find(gram, grams, heads, spare)
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
    word: np.ndarray, ends: np.ndarray, owners: np.ndarray, n: int, grams: np.ndarray, heads: np.ndarray,
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
    spare = unshifted(heads)
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
            g = find(gram[i], grams, heads, spare) if known(gram[i], bits) else -1
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

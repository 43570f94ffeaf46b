"""The compiled comparison of sketches and n-gram sets, and the forest in which what belongs together is united."""

from __future__ import annotations

import numpy as np

from ultrachat_cli.dedupe.kernel import BINS, compiled


@compiled
def common(a: np.ndarray, b: np.ndarray) -> int:
    """How many values two sorted arrays of distinct values share."""
    i = j = shared = 0
    while i < len(a) and j < len(b):
        left, right = a[i], b[j]
        shared += left == right
        i += left <= right
        j += right <= left
    return shared


@compiled
def similarity(flat: np.ndarray, bounds: np.ndarray, i: int, j: int) -> float:
    """Jaccard similarity of two of the sets in `flat`."""
    a, b = flat[bounds[i] : bounds[i + 1]], flat[bounds[j] : bounds[j + 1]]
    shared = common(a, b)
    return shared / max(1, len(a) + len(b) - shared)


@compiled
def root(parent: np.ndarray, i: int) -> int:
    """The root of i in a forest of indices; the path to it is halved."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def unite(parent: np.ndarray, i: int, j: int) -> None:
    """Join two trees; the lower index becomes the root, so the outcome does not depend on the order of calls."""
    i, j = root(parent, i), root(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@compiled
def roots(parent: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The root of each item."""
    found = np.empty(len(items), np.int64)
    for i in range(len(items)):
        found[i] = root(parent, items[i])
    return found


@compiled
def agreeing(a: np.ndarray, b: np.ndarray) -> int:
    """Bins in which two sketches agree."""
    same = 0
    for i in range(BINS):
        same += a[i] == b[i]
    return same


@compiled
def meet(a: np.ndarray, b: np.ndarray, rows: int) -> bool:
    """Whether two sketches agree in all rows of some band."""
    for first in range(0, BINS - rows + 1, rows):
        r = first
        while r < first + rows and a[r] == b[r]:
            r += 1
        if r == first + rows:
            return True
    return False


@compiled
def band_keys(sketches: np.ndarray, items: np.ndarray, first: int, rows: int) -> np.ndarray:
    """The key of one band of each item's sketch: its `rows` (at most 8) bytes from `first` as one uint64."""
    keys = np.empty(len(items), np.uint64)
    for i in range(len(items)):
        key = np.uint64(0)
        for r in range(first, first + rows):
            key = key << np.uint64(8) | np.uint64(sketches[items[i], r])
        keys[i] = key
    return keys


@compiled
def link(keys: np.ndarray, order: np.ndarray, items: np.ndarray, sketches: np.ndarray, least: int,
         parent: np.ndarray) -> None:  # fmt: skip
    """Unite the items of equal keys whose sketches agree in `least` bins; `order` sorts the keys."""
    end = 0
    while end < len(order):
        start = end
        while end < len(order) and keys[order[end]] == keys[order[start]]:
            end += 1
        trees = 0  # distinct trees among the earlier items of this run: once an item is in all of them, it is done
        for x in range(start, end):
            i = items[order[x]]
            found = 0
            for y in range(x - 1, start - 1, -1):
                if found == trees:
                    break
                j = items[order[y]]
                if root(parent, i) == root(parent, j):
                    found = max(found, 1)
                elif agreeing(sketches[i], sketches[j]) >= least:
                    unite(parent, i, j)
                    found += 1
            trees += 1 - found


@compiled
def verify(
    flat: np.ndarray, bounds: np.ndarray, sketches: np.ndarray, rows: int, least: int, threshold: float,
    parent: np.ndarray,
) -> None:  # fmt: skip
    """Unite the texts whose sketches meet and whose n-gram sets have a Jaccard similarity >= threshold.

    flat: all sets one after another, each sorted; set i is flat[bounds[i] : bounds[i + 1]].
    """
    trees = 0
    for i in range(len(bounds) - 1):
        found = 0
        for j in range(i - 1, -1, -1):
            if found == trees:
                break
            if root(parent, i) == root(parent, j):
                found = max(found, 1)
            elif (
                agreeing(sketches[i], sketches[j]) >= least
                and meet(sketches[i], sketches[j], rows)
                and similarity(flat, bounds, i, j) >= threshold
            ):
                unite(parent, i, j)
                found += 1
        trees += 1 - found

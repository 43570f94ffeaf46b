"""n-grams of benchmark items in tables that answer quickly, and the search for them in many texts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ultrachat_cli.dedupe import kernel
from ultrachat_cli.dedupe.kernel import compiled
from ultrachat_cli.dedupe.overlap import cover, insert, nearest, unshifted


@dataclass(frozen=True)
class Table:
    """n-grams of items, found by hash.

    grams uint64[g]: the distinct ones, ascending; heads int32[2^k + 1]: those whose first k bits are i lie at
    heads[i]:heads[i + 1], about one; postings: for n-gram g, items[first[g]:first[g+1]] at word places[...]; sizes
    int32[items]: words (or, in a table of distinct n-grams, n-grams) of each item; offsets int64[items + 1]: running
    total of sizes; bits uint64[2^j]: a filter, three bits an n-gram, that answers most misses from the processor's
    cache.
    """

    n: int
    grams: np.ndarray
    heads: np.ndarray
    first: np.ndarray
    items: np.ndarray
    places: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    bits: np.ndarray
    kept: tuple[Path, str] | None = None
    """Where its files are (see `keep`), if it has any."""

    @cached_property
    def scratch(self) -> tuple[np.ndarray, np.ndarray]:
        """(stamps of all words or n-grams, counts of all items): made once a process, as large as the table itself.

        Stamps are numbers that grow from search to search; the last one given is in the last place.
        """
        return np.zeros(max(int(self.offsets[-1]), len(self.first)) + 1, np.int64), np.zeros(len(self.sizes), np.int64)

    @classmethod
    def of(cls, word: np.ndarray, word_ends: np.ndarray, n: int, *, distinct: bool) -> Table:
        """The n-grams of items, item i's words ending at word_ends[i].

        `distinct`: sets, with sizes in n-grams; else all places, with sizes in words.
        """
        gram, gram_ends = kernel.rolled(word, word_ends, n)
        sizes = np.diff(word_ends, prepend=0).astype(np.int32)
        flat, owners, places = laid_out(gram, gram_ends, sizes, n, distinct)
        order = np.argsort(flat)
        flat = flat[order]
        first = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
        unique = flat[first]
        depth = max(4, int(np.log2(len(unique) + 1)))
        heads = np.zeros((1 << depth) + 1, np.int32)
        np.cumsum(np.bincount((unique >> unshifted(heads)).astype(np.int64), minlength=1 << depth), out=heads[1:])
        bits = np.zeros(1 << max(10, depth - 2), np.uint64)
        insert(unique, bits)
        return cls(
            n, unique, heads, np.append(first, len(flat)).astype(np.int32), owners[order], places[order],
            sizes, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), bits,
        )  # fmt: skip

    def keep(self, folder: Path, name: str) -> Table:
        """The same table in files of `folder`, which all processes of this machine share: sent to one as a path."""
        for array in self._arrays():
            np.save(folder / f"{name}-{array}.npy", getattr(self, array))
        return Table.opened(self.n, folder, name)

    @classmethod
    def opened(cls, n: int, folder: Path, name: str) -> Table:
        """What `keep` wrote."""
        # Mapped copy-on-write, as the compiler would take a read-only array for another type.
        found = {a: np.asarray(np.load(folder / f"{name}-{a}.npy", mmap_mode="c")) for a in cls._arrays()}
        return cls(n, **found, kept=(folder, name))

    @classmethod
    def _arrays(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name not in ("n", "kept")]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (Table.opened, (self.n, *self.kept)) if self.kept else super().__reduce_ex__(protocol)


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


def search(
    word: np.ndarray, word_ends: np.ndarray, owners: np.ndarray, long: Table, near: Table, similar: float
) -> np.ndarray:
    """float64[k, 4] of (owner, item, share of the item's words covered, Jaccard similarity of the nearest turn).

    Turn i ends with word word_ends[i] and belongs to dialogue owners[i] (ascending). Lower similarities are 0.
    """
    covered = cover(
        word, word_ends, owners, long.n, long.grams, long.heads, long.bits, long.first, long.items, long.places,
        long.sizes, long.offsets, *long.scratch,
    )  # fmt: skip
    alike = nearest(word, word_ends, owners, near.n, near.grams, near.heads, near.bits, near.first, near.items,
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

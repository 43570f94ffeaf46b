"""Near-duplicate openings are dropped as they come, in plan order, with flat memory.

Character 5-grams, one-permutation MinHash (48 bins; at Jaccard 0.7, 12 bands of 4 rows: a pair meets with probability
0.96, one of 0.8 with 0.998), candidates verified by exact Jaccard. In a crowded band only the newest are looked at, so
an opening costs the same however many came before. The index lives in the journal's file; verdicts are kept with it, so
a resumed run decides nothing twice. `ultrachat dedupe` is the thorough search.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import zlib
from array import array
from collections.abc import Iterator

from ultrachat_cli.records.journal import Journal

SCHEMA = """
CREATE TABLE IF NOT EXISTS openings(number INTEGER PRIMARY KEY, id TEXT UNIQUE, novel INTEGER, grams BLOB);
CREATE TABLE IF NOT EXISTS bands(band INTEGER, opening INTEGER, PRIMARY KEY(band, opening)) WITHOUT ROWID;
"""
_BINS, _GRAM, _LETTERS = 48, 5, 600
_NEWEST = 32  # candidates looked at in a band
_IN_BAND = "SELECT opening FROM bands WHERE band = ? ORDER BY opening DESC LIMIT ?"
_FLUSH = 200
_SPACE = re.compile(r"[\W_]+")


class OpeningIndex:
    """Which openings were seen. `threshold`: Jaccard similarity from which one counts as a duplicate."""

    def __init__(self, journal: Journal, threshold: float) -> None:
        self._journal, self._threshold, self._rows = journal, threshold, band_rows(threshold)
        self._unsaved: dict[str, tuple[bool, array[int], list[int]]] = {}
        self._unsaved_bands: dict[int, list[array[int]]] = {}
        self._saving_bands: dict[int, list[array[int]]] = {}
        self._saver = asyncio.Lock()

    async def novel(self, scope: str, identity: str, text: str) -> bool:
        """Whether nothing near `text` came before in `scope`; asked in plan order, remembered by id."""
        if (known := self._unsaved.get(identity)) is not None:
            return known[0]
        row = self._journal.reader.execute("SELECT novel FROM openings WHERE id = ?", (identity,)).fetchone()
        if row is not None:
            return bool(row[0])
        grams = shingles(text)
        bands = band_keys(grams, self._rows, zlib.crc32(scope.encode()))
        seen = set(grams)
        is_novel = all(jaccard(seen, other) < self._threshold for other in self._candidates(bands))
        self._unsaved[identity] = (is_novel, grams, bands if is_novel else [])
        if is_novel:
            for band in bands:
                self._unsaved_bands.setdefault(band, []).append(grams)
        if len(self._unsaved) >= _FLUSH:
            await self.save()
        return is_novel

    def _candidates(self, bands: list[int]) -> Iterator[array[int]]:
        found: set[int] = set()
        for band in bands:
            fresh = [*self._saving_bands.get(band, ()), *self._unsaved_bands.get(band, ())][-_NEWEST:]
            yield from fresh
            if len(fresh) < _NEWEST:
                found.update(row[0] for row in self._journal.reader.execute(_IN_BAND, (band, _NEWEST - len(fresh))))
        for number in sorted(found):
            row = self._journal.reader.execute("SELECT grams FROM openings WHERE number = ?", (number,)).fetchone()
            yield array("I", row[0])

    async def save(self) -> None:
        """Commit what was decided since the last call."""
        async with self._saver:  # one at a time: the verdicts on file are always a prefix of the plan
            unsaved, self._unsaved = self._unsaved, {}
            self._saving_bands, self._unsaved_bands = self._unsaved_bands, {}
            if unsaved:
                await self._journal.run(lambda db: _store(db, unsaved))
            self._saving_bands = {}


def _store(db: sqlite3.Connection, verdicts: dict[str, tuple[bool, array[int], list[int]]]) -> None:
    insert = "INSERT OR IGNORE INTO openings(id, novel, grams) VALUES (?, ?, ?)"
    db.execute("BEGIN")
    with db:
        for identity, (is_novel, grams, bands) in verdicts.items():
            number = db.execute(insert, (identity, is_novel, grams.tobytes() if is_novel else b"")).lastrowid
            db.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(band, number) for band in bands])


def shingles(text: str) -> array[int]:
    """Sorted distinct 32-bit hashes of the character 5-grams of the folded text's first 600 characters."""
    folded = _SPACE.sub(" ", text[:_LETTERS]).strip().casefold()
    last = max(1, len(folded) - _GRAM + 1)
    return array("I", sorted({zlib.crc32(folded[i : i + _GRAM].encode()) for i in range(last)}))


def band_rows(threshold: float) -> int:
    """The most rows a band may have for a pair at the threshold to meet with probability 0.95."""
    shapes = (8, 6, 4, 3, 2, 1)
    return next((rows for rows in shapes if 1 - (1 - threshold**rows) ** (_BINS // rows) >= 0.95), 1)


def band_keys(grams: array[int], rows: int, salt: int) -> list[int]:
    """The keys of the bands of `rows` rows.

    An empty bin borrows from the next one that is not (densified one-permutation MinHash).
    """
    lowest = [1 << 32] * _BINS
    for gram in grams:
        bin_ = gram % _BINS
        if gram < lowest[bin_]:
            lowest[bin_] = gram
    filled = list(lowest)
    for bin_ in range(_BINS):
        step = 0
        while filled[bin_] == 1 << 32:
            step += 1
            if lowest[(bin_ + step) % _BINS] != 1 << 32:
                filled[bin_] = lowest[(bin_ + step) % _BINS] + step  # marked by the distance, as densification asks
    bands = [filled[n : n + rows] for n in range(0, _BINS, rows)]
    return [zlib.crc32(repr((salt, n, band)).encode()) << 8 | n for n, band in enumerate(bands)]


def jaccard(a: set[int], b: array[int]) -> float:
    """Size of the intersection by size of the union."""
    common = len(a.intersection(b))
    return common / (len(a) + len(b) - common)

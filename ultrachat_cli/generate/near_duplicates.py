"""Near-duplicate openings are dropped as they come, in plan order, with flat memory.

Character 5-grams, one-permutation MinHash (16 bins, 8 bands of 2 rows: at Jaccard 0.7 a pair meets with probability
0.995), candidates verified by exact Jaccard. The index lives in the journal's file; verdicts are kept with it, so a
resumed run decides nothing twice.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import zlib
from array import array

from ultrachat_cli.records.journal import Journal

SCHEMA = """
CREATE TABLE IF NOT EXISTS openings(number INTEGER PRIMARY KEY, id TEXT UNIQUE, novel INTEGER, grams BLOB);
CREATE TABLE IF NOT EXISTS bands(band INTEGER, opening INTEGER, PRIMARY KEY(band, opening)) WITHOUT ROWID;
"""
_BINS, _BANDS, _GRAM, _LETTERS = 16, 8, 5, 600
_FLUSH = 200
_SPACE = re.compile(r"[\W_]+")


class OpeningIndex:
    """Which openings were seen. `threshold`: Jaccard similarity from which one counts as a duplicate."""

    def __init__(self, journal: Journal, threshold: float) -> None:
        self._journal, self._threshold = journal, threshold
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
        bands = band_keys(grams, zlib.crc32(scope.encode()))
        is_novel = all(jaccard(grams, other) < self._threshold for other in self._candidates(bands))
        self._unsaved[identity] = (is_novel, grams, bands if is_novel else [])
        if is_novel:
            for band in bands:
                self._unsaved_bands.setdefault(band, []).append(grams)
        if len(self._unsaved) >= _FLUSH:
            await self.save()
        return is_novel

    def _candidates(self, bands: list[int]) -> list[array[int]]:
        marks = ",".join("?" * len(bands))
        rows = self._journal.reader.execute(
            f"SELECT grams FROM openings WHERE number IN (SELECT opening FROM bands WHERE band IN ({marks}))", bands
        )
        found = [array("I", row[0]) for row in rows]
        for band in bands:
            found += self._unsaved_bands.get(band, ())
            found += self._saving_bands.get(band, ())
        return found

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


def band_keys(grams: array[int], salt: int) -> list[int]:
    """Eight band keys; an empty bin borrows from the next one that is not (densified one-permutation MinHash)."""
    lowest = [1 << 32] * _BINS
    for gram in grams:
        bin_ = gram % _BINS
        if gram < lowest[bin_]:
            lowest[bin_] = gram
    for bin_ in range(_BINS):
        step = 1
        while lowest[bin_] == 1 << 32:
            other = lowest[(bin_ + step) % _BINS]
            if other != 1 << 32:
                lowest[bin_] = other + step  # marked by the distance, as densification asks
            step += 1
    pairs = (b"%d %d %d %d" % (salt, n, lowest[2 * n], lowest[2 * n + 1]) for n in range(_BANDS))
    return [zlib.crc32(pair) << 8 | n for n, pair in enumerate(pairs)]


def jaccard(a: array[int], b: array[int]) -> float:
    """Size of the intersection by size of the union."""
    common = len(set(a).intersection(b))
    return common / (len(a) + len(b) - common)

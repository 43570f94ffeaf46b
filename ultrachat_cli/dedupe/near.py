"""Near duplicates: sketches that meet become groups of candidates, and the texts of a group are compared exactly.

A pair belongs together when its sketches meet in a band, agree in enough bins and its n-gram sets have a Jaccard
similarity of at least the threshold: a rule for the pair alone, so groups, processes and order change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from ultrachat_cli.dedupe import kernel, pairs, words
from ultrachat_cli.dedupe.bands import Bands
from ultrachat_cli.dedupe.scan import texts
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.blocks import Lines
from ultrachat_cli.records.dialogue import parse

_TASK = 2000  # texts a process takes at a time


def groups(sketches: np.ndarray, items: np.ndarray, bands: Bands, progress: Progress) -> list[np.ndarray]:
    """The candidate groups of `items` (int64 indices into `sketches`), each ascending, of two or more."""
    parent = np.arange(len(sketches))
    progress.stage("candidates", len(bands.starts), "bands")
    for first in bands.starts:
        keys = pairs.band_keys(sketches, items, first, bands.rows)
        pairs.link(keys, np.argsort(keys), items, sketches, bands.least, parent)
        progress.advance()
    return members(parent, items)


def members(parent: np.ndarray, items: np.ndarray) -> list[np.ndarray]:
    """The trees of a forest with more than one of `items` (ascending), in the order of their roots."""
    roots = pairs.roots(parent, items)
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(roots[order]) != 0)) if len(items) else items
    sizes = np.diff(np.append(starts, len(items)))
    several = sizes > 1
    return [items[order[a : a + n]] for a, n in zip(starts[several], sizes[several], strict=True)]


@dataclass(frozen=True)
class Task:
    """Some candidate groups with all a process needs to decide them: it reads the texts itself.

    place int64[m, 4]: source, start and length of the line, and which of its texts; rank int64[m]: the lowest survives.
    """

    number: int
    items: np.ndarray
    cuts: np.ndarray
    place: np.ndarray
    sketches: np.ndarray
    rank: np.ndarray


def tasks(
    found: list[np.ndarray], place: np.ndarray, sketches: np.ndarray, rank: np.ndarray, size: int = _TASK
) -> Iterator[Task]:
    """The groups in portions of about `size` texts."""
    batch: list[np.ndarray] = []
    total = number = 0
    for n, group in enumerate(found):
        batch.append(group)
        total += len(group)
        if total >= size or n + 1 == len(found):
            items = np.concatenate(batch)
            cuts = np.cumsum([0, *map(len, batch)])
            yield Task(number, items, cuts, place[items], sketches[items], rank[items])
            batch, total, number = [], 0, number + 1


def decide(task: Task, config: DedupeConfig, bands: Bands, plain: list[str]) -> np.ndarray:
    """float64[k, 3] of (item, item of its cluster that ranks lowest, their Jaccard similarity)."""
    lines = Lines(plain)
    try:
        parts = [
            _group(task, start, end, config, bands, lines)
            for start, end in zip(task.cuts[:-1], task.cuts[1:], strict=True)
        ]
    finally:
        lines.close()
    return np.concatenate([np.empty((0, 3)), *parts])


def _group(task: Task, start: int, end: int, config: DedupeConfig, bands: Bands, lines: Lines) -> np.ndarray:
    sets = [shingles(place, config, lines) for place in task.place[start:end]]
    flat = np.concatenate(sets)
    bounds = np.cumsum([0, *map(len, sets)])
    parent = np.arange(len(sets))
    pairs.verify(flat, bounds, task.sketches[start:end], bands.rows, bands.least, bands.threshold, parent)
    rank = task.rank[start:end]
    rows: list[tuple[float, float, float]] = []
    for cluster in members(parent, np.arange(len(sets))):
        best = cluster[np.argmin(rank[cluster])]
        rows += [
            (task.items[start + i], task.items[start + best], pairs.similarity(flat, bounds, i, best))
            for i in cluster
            if i != best
        ]
    return np.array(rows, np.float64).reshape(len(rows), 3)


def shingles(place: np.ndarray, config: DedupeConfig, lines: Lines) -> np.ndarray:
    """The n-gram set of the text at a place, sorted."""
    source, start, length, which = map(int, place)
    text = texts(parse(orjson.loads(lines(source, start, length))), config.scope)[which]
    kinds, codes = words.tables()
    found = kernel.shingles(np.frombuffer(text.encode(), np.uint8), config.ngram, kinds, codes)
    found.sort()  # numpy's sort is vectorised; its `unique` is three times as slow here
    return kernel.distinct(found)

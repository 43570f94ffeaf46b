"""Duplicates by meaning: texts become vectors, and a text goes when its cosine with one that stays reaches a threshold.

Texts are taken by rank, each compared with those that stay so far. No chains: of three texts of which neighbours are
alike and the ends are not, the ends stay. Chains would swallow large sets, as many questions are a little alike.
Up to `EXACT` texts all of those are looked at. Beyond that, each text is compared with those in the nearest lists
of an inverted file (https://github.com/facebookresearch/faiss, MIT): this can miss a duplicate, not invent one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from ultrachat_cli.dedupe.corpus import Corpus
from ultrachat_cli.dedupe.scan import texts
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.dedupe.work import Work
from ultrachat_cli.errors import MissingExtra
from ultrachat_cli.models import embeddings
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.blocks import Lines
from ultrachat_cli.records.dialogue import parse

EXACT = 100_000
"""Texts up to which all pairs are compared: 40 s on two cores, a hundredth of what their embedding takes."""
_PIECE = 4096  # texts embedded between two saves
_BLOCK = 2048  # texts compared with those that stay at once
_PROBES = 32  # lists of the inverted file that are searched


def require(config: DedupeConfig) -> None:
    """`ConfigError` or `MissingExtra` before anything is read rather than after it."""
    embeddings.require(config.semantic.model)
    _faiss()


def links(
    config: DedupeConfig, corpus: Corpus, items: np.ndarray, item_rank: np.ndarray, plain: list[str], work: Work,
    progress: Progress,
) -> np.ndarray:  # fmt: skip
    """float64[k, 3] of (item, the nearest item that stays, their cosine); texts without words stay alone.

    `items`: int64, what takes part; `item_rank`: int64 of every item of the corpus, the lowest stays; `plain`: the
    sources' JSONL.
    """
    if (saved := work.load("semantic")) is not None:
        return saved
    items = np.sort(items[corpus.sizes[items] > 0])
    vectors = _embedded(config, corpus, items, plain, work, progress)
    by_rank = np.argsort(item_rank[items], kind="stable")
    vectors, items = vectors[by_rank], items[by_rank]
    leader, cosine = leaders(vectors, config.semantic.threshold, progress)
    gone = np.flatnonzero(leader != np.arange(len(items)))
    found = np.column_stack([items[gone], items[leader[gone]], np.minimum(cosine[gone], 1)])
    found = found[np.argsort(found[:, 0])]
    work.save("semantic", found)
    return found


def _embedded(
    config: DedupeConfig, corpus: Corpus, items: np.ndarray, plain: list[str], work: Work, progress: Progress
) -> np.ndarray:
    """float16[n, d], rows of length 1: 768 bytes a text with MiniLM. Every piece is saved as it is ready."""
    model = embeddings.open(config.semantic.model, progress.say)
    vectors = np.empty((len(items), model.dimension), np.float16)
    progress.stage("embed", len(items), "texts")
    lines = Lines(plain)
    try:
        for start in range(0, len(items), _PIECE):
            part, name = items[start : start + _PIECE], f"vectors-{start // _PIECE:06}"
            found = work.load(name)
            if found is None:
                found = model.embed(_texts(config, corpus, part, lines)).astype(np.float16)
                work.save(name, found)
            vectors[start : start + len(part)] = found
            progress.advance(len(part))
    finally:
        lines.close()
    return vectors


def _texts(config: DedupeConfig, corpus: Corpus, items: np.ndarray, lines: Lines) -> list[str]:
    found: list[str] = []
    owner, compared = -1, [""]
    for item in items:
        if corpus.owner[item] != owner:
            owner = corpus.owner[item]
            start, length = map(int, corpus.place[owner, :2])
            line = lines(int(corpus.source[owner]), start, length)
            compared = texts(parse(orjson.loads(line)), config.scope)
        found.append(compared[item - corpus.item_first[owner]])
    return found


def leaders(vectors: np.ndarray, threshold: float, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """(int64[n], float32[n]): for each row, in this order, the nearest earlier row that stays, and their cosine.

    A row that reaches the threshold with none of those stays itself and is its own leader.
    """
    count = len(vectors)
    leader, cosine = np.arange(count), np.full(count, -2, np.float32)
    staying = _Matrix(vectors) if count <= EXACT else _Lists(vectors)
    progress.stage("compare", count, "texts")
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        near, best = staying.nearest(block)
        mutual = block @ block.T
        stay: list[int] = []
        for row in range(len(block)):
            if stay and (here := mutual[row, stay]).max() > best[row]:
                near[row], best[row] = start + stay[int(here.argmax())], here.max()
            if best[row] >= threshold:
                leader[start + row], cosine[start + row] = near[row], best[row]
            else:
                stay.append(row)
        staying.add(start + np.array(stay, np.int64))
        progress.advance(len(block))
    return leader, cosine


class _Matrix:
    """All rows that stay, compared one and all."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self._rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """These stay."""
        self._rows.append(rows)

    def nearest(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, cosine) of the nearest for each vector; cosine -2 where there is none yet."""
        near, best = np.full(len(block), -1), np.full(len(block), -2, np.float32)
        at = np.arange(len(block))
        for rows in self._rows:
            if len(rows):
                found = block @ self._vectors[rows].astype(np.float32).T
                top = found.argmax(1)
                better = found[at, top] > best
                near[better], best[better] = rows[top[better]], found[at, top][better]
        return near, best


class _Lists:
    """The rows that stay in lists, one for each of 4 * sqrt(n) centres; a vector is compared with the nearest lists."""

    def __init__(self, vectors: np.ndarray) -> None:
        faiss = _faiss()
        self._vectors = vectors
        count, dimension = vectors.shape
        centres = max(1, int(4 * count**0.5))
        self._centres = faiss.IndexFlatIP(dimension)
        half = faiss.ScalarQuantizer.QT_fp16
        self._index = faiss.IndexIVFScalarQuantizer(
            self._centres, dimension, centres, half, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.cp.seed, self._index.cp.spherical = 1, True
        drawn = np.random.default_rng(0).choice(count, min(count, 40 * centres), replace=False)
        self._index.train(vectors[np.sort(drawn)].astype(np.float32))
        self._index.nprobe = _PROBES

    def add(self, rows: np.ndarray) -> None:
        """These stay."""
        if len(rows):
            self._index.add_with_ids(self._vectors[rows].astype(np.float32), rows)

    def nearest(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, cosine) of the nearest that is found for each vector."""
        best, near = self._index.search(block, 1)
        return near[:, 0], np.where(near[:, 0] < 0, np.float32(-2), best[:, 0])


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("method semantic", "faiss-cpu", "semantic") from error
    return faiss

"""Duplicates by meaning: texts become vectors, and vectors whose cosine reaches the threshold are joined.

Up to `EXACT` texts every pair is compared. Beyond that, each is compared with those in the nearest lists of an inverted
file (https://github.com/facebookresearch/faiss, MIT) by the same cosine: this can miss a pair, not invent one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from ultrachat_cli.dedupe import near, pairs
from ultrachat_cli.dedupe.blocks import Lines
from ultrachat_cli.dedupe.corpus import Corpus
from ultrachat_cli.dedupe.scan import texts
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.dedupe.work import Work
from ultrachat_cli.errors import MissingExtra
from ultrachat_cli.models import embeddings
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import parse

EXACT = 100_000
"""Texts up to which all pairs are compared: 40 s on two cores, a hundredth of what their embedding takes."""
_PIECE = 4096  # texts embedded between two saves
_BLOCK = 2048  # texts compared with all others at once
_PROBES = 32  # lists of the inverted file that are searched


def require(config: DedupeConfig) -> None:
    """`ConfigError` or `MissingExtra` before anything is read rather than after it."""
    embeddings.require(config.semantic.model)
    _faiss()


def links(
    config: DedupeConfig, corpus: Corpus, items: np.ndarray, item_rank: np.ndarray, plain: list[str], work: Work,
    progress: Progress,
) -> np.ndarray:  # fmt: skip
    """float64[k, 3] of (item, item of its cluster that ranks lowest, their cosine); texts without words stay alone.

    `items`: int64, what takes part; `item_rank`: int64 of every item of the corpus; `plain`: the sources' JSONL.
    """
    if (saved := work.load("semantic")) is not None:
        return saved
    items = np.sort(items[corpus.sizes[items] > 0])
    vectors = _embedded(config, corpus, items, plain, work, progress)
    parent = np.arange(len(items))
    for a, b in _similar(vectors, config.semantic.threshold, progress):
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            pairs.unite(parent, i, j)
    parts = [np.empty((0, 3))]
    for cluster in near.members(parent, np.arange(len(items))):
        leader = cluster[np.argmin(item_rank[items[cluster]])]
        others = cluster[cluster != leader]
        cosine = np.minimum(vectors[others].astype(np.float32) @ vectors[leader].astype(np.float32), 1)
        parts.append(np.column_stack([items[others], np.full(len(others), items[leader]), cosine]))
    found = np.concatenate(parts)
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


Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
"""Rows and other rows, equally many."""


def _similar(vectors: np.ndarray, threshold: float, progress: Progress) -> Pairs:
    """Pairs of rows whose cosine reaches the threshold, block by block; a pair may come twice, a row with itself."""
    progress.stage("compare", len(vectors), "texts")
    search = _all_pairs if len(vectors) <= EXACT else _by_lists
    for found in search(vectors, threshold):
        progress.advance(min(_BLOCK, len(vectors)))
        yield found


def _all_pairs(vectors: np.ndarray, threshold: float) -> Pairs:
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        rows, others = [], []
        for other in range(start, len(vectors), _BLOCK):
            a, b = np.nonzero(block @ vectors[other : other + _BLOCK].astype(np.float32).T >= threshold)
            rows.append(a + start)
            others.append(b + other)
        yield np.concatenate(rows), np.concatenate(others)


def _by_lists(vectors: np.ndarray, threshold: float) -> Pairs:
    """Each row against those in the lists nearest to it; a list holds what one of 4 * sqrt(n) centres is nearest to."""
    faiss = _faiss()
    dimension = vectors.shape[1]
    centres = int(4 * len(vectors) ** 0.5)
    quantizer = faiss.IndexFlatIP(dimension)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, centres, half, faiss.METRIC_INNER_PRODUCT, False)
    index.cp.seed, index.cp.spherical = 1, True
    drawn = np.random.default_rng(0).choice(len(vectors), min(len(vectors), 40 * centres), replace=False)
    index.train(vectors[np.sort(drawn)].astype(np.float32))
    for start in range(0, len(vectors), _BLOCK):
        index.add(vectors[start : start + _BLOCK].astype(np.float32))
    index.nprobe = _PROBES
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        ends, _, b = index.range_search(block, threshold)
        a = np.repeat(np.arange(start, start + len(block)), np.diff(ends.astype(np.int64)))
        yield a, b


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("method semantic", "faiss-cpu", "semantic") from error
    return faiss

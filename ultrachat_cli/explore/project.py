"""Vectors become points in the unit square."""

from __future__ import annotations

from typing import Any

import numpy as np

from ultrachat_cli.progress import Progress

_FEWEST = 5  # points for which neighbourhoods mean anything
_EARLY, _LATE, _EVERY = 150, 250, 25  # iterations; the published 250 + 500 move hardly anything any more


def project(vectors: np.ndarray, method: str, seed: int, progress: Progress) -> np.ndarray:
    """x and y of each row, the longer side from 0 to 1, equal scales. Fewer than five rows are always left to PCA.

    One thread: with several, openTSNE's result depends on their number (and it is no faster on two).
    """
    progress.stage("project", _EARLY + _LATE if method == "tsne" else 0, "iterations" if method == "tsne" else "")
    distinct = len(np.unique(vectors, axis=0)) if len(vectors) < 1000 else len(vectors)
    few = min(len(vectors), distinct) < _FEWEST
    points = _pca(vectors) if method == "pca" or few else _tsne(vectors, seed, progress)
    points -= points.min(axis=0)
    scaled: np.ndarray = points / (float(points.max()) or 1.0)
    return scaled


def _pca(vectors: np.ndarray) -> np.ndarray:
    """The two directions of largest spread, their signs settled so that the map is not mirrored by chance."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[range(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points = np.zeros((len(vectors), 2))
    points[:, : len(axes)] = centred @ axes.T
    return points


def _tsne(vectors: np.ndarray, seed: int, progress: Progress) -> np.ndarray:
    from openTSNE import TSNE  # type: ignore[import-untyped]

    def moved(*_: Any) -> None:
        progress.advance(_EVERY)

    start = _pca(vectors)
    start *= 1e-4 / (start[:, 0].std() or 1.0)
    start += np.random.default_rng(seed).normal(0, 1e-6, start.shape)  # equal dialogues must be able to part
    fitted = TSNE(
        perplexity=min(30, (len(vectors) - 1) / 3), initialization=start, n_jobs=1, random_state=seed,
        early_exaggeration_iter=_EARLY, n_iter=_LATE, callbacks=moved, callbacks_every_iters=_EVERY,
    ).fit(vectors)  # fmt: skip
    return np.asarray(fitted, np.float64)

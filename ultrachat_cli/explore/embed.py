"""Dialogues become vectors: by their words, fitted to the set, or by an embedding model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ultrachat_cli.explore.settings import LEXICAL
from ultrachat_cli.progress import Progress

if TYPE_CHECKING:
    from ultrachat_cli.models.embeddings import Embedder

_DIMENSIONS = 64
_CHARS = 8000  # of a dialogue: enough to tell what it is about, and one endless dialogue does not hold up all others
_FEW = 20  # dialogues, below which the share of dialogues with a word says nothing about the word
_WORD = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]{2,}"
"""Scripts without spaces go by character."""
_BATCH = 256


def opened(name: str, progress: Progress) -> Embedder | None:
    """The embedding model of this name, fetched if need be; None for `lexical`."""
    if name == LEXICAL:
        return None
    from ultrachat_cli.models import embeddings

    return embeddings.open(name, progress.say)


def embed(texts: Sequence[str], model: Embedder | None, seed: int, progress: Progress) -> np.ndarray:
    """One row of float32 for each text, of length 1 (0 where nothing is known of it), the same for the same seed."""
    progress.stage("embed", len(texts), "dialogues")
    texts = [text[:_CHARS] for text in texts]
    return _lexical(texts, seed, progress) if model is None else _by_model(texts, model, progress)


def _by_model(texts: Sequence[str], model: Embedder, progress: Progress) -> np.ndarray:
    rows = np.zeros((len(texts), model.dimension), np.float32)
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        rows[start : start + _BATCH] = model.embed(batch)
        progress.advance(len(batch))
    return rows


def _lexical(texts: Sequence[str], seed: int, progress: Progress) -> np.ndarray:
    """TF-IDF without the words that most dialogues share, reduced by a truncated SVD (latent semantic analysis)."""
    from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
    from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

    def counted() -> Iterator[str]:
        for text in texts:
            yield text
            progress.advance()

    many = len(texts) >= _FEW
    words = TfidfVectorizer(
        token_pattern=_WORD, sublinear_tf=True, dtype=np.float32, max_features=50_000,
        min_df=2 if many else 1, max_df=0.5 if many else 1.0,
    )  # fmt: skip
    try:
        weights = words.fit_transform(counted())
    except ValueError:  # not a word in all of them
        return np.zeros((len(texts), 1), np.float32)
    if min(weights.shape) > _DIMENSIONS:
        weights = TruncatedSVD(_DIMENSIONS, n_iter=4, random_state=seed).fit_transform(weights)
    else:
        weights = weights.toarray()
    rows: np.ndarray = normalize(weights).astype(np.float32)
    return rows

"""Static embeddings: a text is the weighted mean of its tokens' vectors, some 15 times as fast as the transformer.

The table is distilled once by the method of model2vec (https://github.com/MinishLab/model2vec, MIT): every token of the
vocabulary goes through the transformer alone, the vectors are reduced by PCA and weighted by how rare the token is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ultrachat_cli.models import weights
from ultrachat_cli.models.sentence_encoder import LONG_TOKEN, SentenceEncoder, load_tokenizer, normalised
from ultrachat_cli.records import jsonl

DIMENSION = 256
LIMIT = 512
"""Tokens of a text that are looked at."""
_RARITY = 1e-4  # weight of a token = _RARITY / (_RARITY + its frequency), frequencies by Zipf's law (SIF)
_BATCH = 256  # texts


def path_of(source: Path) -> Path:
    """Where the table distilled from this weights file is kept."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return weights.cache() / f"{digest[:16]}.static.npy"


def distill(encoder: SentenceEncoder) -> Path:
    """Make the table of `encoder`'s vocabulary (float32[tokens, 256]); returns its file."""
    source = weights.main_file(encoder.folder)
    assert source is not None
    vocabulary = encoder.tokens
    vectors = np.zeros((max(vocabulary.values()) + 1, encoder.dimension), np.float32)
    order = [number for token, number in sorted(vocabulary.items(), key=lambda item: item[1]) if not _is_special(token)]
    vectors[order] = encoder.alone(order)
    reduced = _principal(vectors[order], DIMENSION)
    frequency = 1 / (np.arange(len(order)) + 2)  # vocabularies are sorted by frequency
    frequency /= frequency.sum()
    table = np.zeros((len(vectors), reduced.shape[1]), np.float32)
    table[order] = reduced * (_RARITY / (_RARITY + frequency))[:, None]
    target = path_of(source)
    with jsonl.replacing(target) as file:
        np.save(file, table, allow_pickle=False)
    return target


def _is_special(token: str) -> bool:
    return len(token) > 2 and token[0] + token[-1] in ("[]", "<>")


def _principal(vectors: np.ndarray, size: int) -> np.ndarray:
    """The rows in the basis of their `size` principal components, the mean taken off."""
    centred = vectors - vectors.mean(0)
    _, basis = np.linalg.eigh(centred.T @ centred)
    basis = basis[:, ::-1][:, :size]
    basis *= np.sign(basis[np.argmax(np.abs(basis), axis=0), np.arange(basis.shape[1])])  # the same on every machine
    reduced: np.ndarray = centred @ basis
    return reduced


class StaticEmbedder:
    """Looks tokens up in a table."""

    def __init__(self, name: str, table: Path, folder: Path) -> None:
        """`table`: what `distill` wrote; `folder`: the model it was distilled from, for its tokenizer."""
        self.name = name
        self._table = np.load(table, allow_pickle=False)
        self.dimension = int(self._table.shape[1])
        self._tokenizer = load_tokenizer(folder, LIMIT)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, dimension], each row of length 1 (of 0 for a text without known tokens)."""
        parts = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(texts), _BATCH):
            batch = [text[: LIMIT * LONG_TOKEN] for text in texts[start : start + _BATCH]]
            ids = [found.ids for found in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            counts = np.array([len(found) for found in ids])
            filled = np.flatnonzero(counts)
            sums = np.zeros((len(ids), self.dimension), np.float32)
            if len(filled):
                flat = self._table[np.concatenate([ids[n] for n in filled])]
                sums[filled] = np.add.reduceat(flat, np.cumsum(counts[filled]) - counts[filled])
            parts.append(normalised(sums))
        return np.concatenate(parts)

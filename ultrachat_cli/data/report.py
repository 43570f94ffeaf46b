"""The table of the UltraChat paper (EMNLP 2023, table 4) for any set: one row a sector, and one over all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PLOTTED = {
    "rounds": "rounds", "tokens": "tokens in a dialogue", "per_utterance": "tokens in an utterance, mean of a dialogue",
    "mtld": "MTLD, mean of a dialogue",
}  # fmt: skip
ALL = "all"
_BINS = 20


@dataclass(frozen=True)
class Row:
    """One line of the table; None: not measured. `dialogues` and `rounds` are of all, the rest of the sample."""

    sector: str
    dialogues: int
    rounds: float
    sampled: int
    tokens_per_dialogue: float
    tokens_per_utterance: float
    mtld: float | None
    topic_similarity: float | None
    coherence: float | None = None
    helpfulness: float | None = None


@dataclass(frozen=True)
class Histogram:
    """How many dialogues fall between two edges (the last bin holds all above it)."""

    title: str
    edges: list[float]
    counts: list[float]


@dataclass
class Report:
    """What was measured, and how."""

    rows_by_sector: list[Row]
    histograms: list[Histogram]
    bad_lines: int
    method: dict[str, str]
    """What each figure was taken with: tokenizer, sample, embedding, judge; or why it is missing."""
    judge_failed: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every line could be read and every mark was given an answer."""
        return not self.bad_lines and not self.judge_failed

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rows": [vars(row) for row in self.rows_by_sector],
            "histograms": [vars(histogram) for histogram in self.histograms],
            "method": self.method, "bad_lines": self.bad_lines, "judge_failed": self.judge_failed,
            "seconds": round(self.seconds, 3), "files": list(map(str, self.files)),
        }  # fmt: skip


@dataclass
class Columns:
    """What was measured of n sampled dialogues; all float64[n] but `sector` and `vectors`.

    `weight`: how many dialogues of the set each stands for; `mtld`: sum over its utterances with words, of which there
    are `spoken`; `vectors`: float32[n, d] of length 1, or None; marks are nan where there is none.
    """

    sector: np.ndarray
    weight: np.ndarray
    rounds: np.ndarray
    utterances: np.ndarray
    tokens: np.ndarray
    mtld: np.ndarray
    spoken: np.ndarray
    vectors: np.ndarray | None
    marks: dict[str, np.ndarray]


def row(sector: str, dialogues: int, rounds: int, columns: Columns) -> Row:
    """The line of a sector, or of `ALL`. Utterances and dialogues of a thinner sample weigh more."""
    mine = np.ones(len(columns.weight), np.bool_) if sector == ALL else columns.sector == sector
    weight = columns.weight[mine]
    tokens = float(weight @ columns.tokens[mine])
    vectors = columns.vectors[mine] if columns.vectors is not None else None
    return Row(
        sector, dialogues, rounds / max(1, dialogues), int(mine.sum()),
        tokens_per_dialogue=tokens / max(1.0, float(weight.sum())),
        tokens_per_utterance=tokens / max(1.0, float(weight @ columns.utterances[mine])),
        mtld=_mean(columns.mtld[mine], weight, columns.spoken[mine]),
        topic_similarity=similarity(vectors, weight) if vectors is not None else None,
        **{aspect: _marks(marks[mine], weight, columns.sector[mine]) for aspect, marks in columns.marks.items()},
    )  # fmt: skip


def _mean(sums: np.ndarray, weight: np.ndarray, counts: np.ndarray) -> float | None:
    total = float(weight @ counts)
    return float(weight @ sums) / total if total else None


def _marks(marks: np.ndarray, weight: np.ndarray, sector: np.ndarray) -> float | None:
    """The mean of the sectors' means: how many of each were judged does not matter."""
    total = mass = 0.0
    for name in set(sector.tolist()):
        given = marks[(sector == name) & ~np.isnan(marks)]
        if len(given):
            population = float(weight[sector == name].sum())
            total, mass = total + population * float(given.mean()), mass + population
    return total / mass if mass else None


def similarity(vectors: np.ndarray, weight: np.ndarray) -> float | None:
    """The weighted mean cosine over all pairs of different rows, from their sum: no pair is looked at."""
    pairs = weight.sum() ** 2 - (weight**2).sum()
    if pairs <= 0:
        return None
    whole = weight @ vectors.astype(np.float64)
    own = (weight**2) @ (vectors.astype(np.float64) ** 2).sum(1)
    return float((whole @ whole - own) / pairs)


def histograms(columns: Columns) -> list[Histogram]:
    """The distributions over dialogues; what lies above the 99th percentile is in the last bin."""
    spoken = np.where(columns.spoken, columns.spoken, 1)
    values = {
        "rounds": columns.rounds, "tokens": columns.tokens,
        "per_utterance": columns.tokens / np.where(columns.utterances, columns.utterances, 1),
        "mtld": columns.mtld / spoken,
    }  # fmt: skip
    found = []
    for name, title in PLOTTED.items():
        if not len(values[name]):
            continue
        edges = _edges(values[name], whole=name == "rounds")
        inside = np.minimum(values[name], edges[-1] - 1e-9)
        counts, _ = np.histogram(inside, edges, weights=columns.weight)
        found.append(Histogram(title, [float(edge) for edge in edges], [float(count) for count in counts]))
    return found


def _edges(values: np.ndarray, *, whole: bool) -> np.ndarray:
    """Round numbers as limits; for whole numbers, one bin each while there are few."""
    top = float(np.quantile(values, 0.99)) or 1.0
    if whole and top <= _BINS:
        return np.arange(0, int(top) + 2, dtype=np.float64)
    raw = top / _BINS
    unit = 10 ** np.floor(np.log10(raw))
    step = unit * next(size for size in (1, 2, 5, 10) if raw <= size * unit)
    edges: np.ndarray = np.arange(0, np.ceil(top / step) + 1) * step
    return edges

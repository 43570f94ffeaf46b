"""How sketches are cut into bands, and when two sketches are near enough to look at the texts."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from ultrachat_cli.dedupe.kernel import BINS

_MISS = 2.5e-4  # a pair exactly at the threshold goes unseen at most this often
_DEVIATIONS = 5.0


@dataclass(frozen=True)
class Bands:
    """`rows` bins a band; a pair is a candidate when it meets in a band and agrees in `least` bins of all."""

    threshold: float
    rows: int
    least: int

    @classmethod
    def of(cls, threshold: float) -> Bands:
        """The longest bands that still find pairs at the threshold: the fewest candidates in vain."""
        rows = next((r for r in range(8, 1, -1) if (1 - threshold**r) ** (BINS // r) <= _MISS), 1)
        deviation = sqrt(threshold * (1 - threshold) / BINS)
        return cls(threshold, rows, int(BINS * max(0.0, threshold - _DEVIATIONS * deviation)))

    @property
    def starts(self) -> range:
        """The first bin of every band."""
        return range(0, BINS - self.rows + 1, self.rows)

    def found(self, similarity: float) -> float:
        """The probability that a pair of this Jaccard similarity meets in some band."""
        return 1 - (1 - similarity**self.rows) ** (BINS // self.rows)

"""95% intervals and p-values: exact where that is simple, else by seeded resampling. Seeds make reports repeatable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
RESAMPLES = 10_000
WILSON, STUDENT, BOOTSTRAP = "Wilson", "Student's t", f"bootstrap of {RESAMPLES:,} resamples"
STUDENT_QUANTILES = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
)  # fmt: skip
"""Quantiles of (1 + LEVEL) / 2 of Student's t for 1 to 28 degrees of freedom."""
FEW = len(STUDENT_QUANTILES) + 2
"""Numbers of values below this have no bootstrap: its percentiles would be too narrow."""
_BLOCK = 1 << 20  # numbers drawn at once: some 20 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95% confidence interval, in the unit of what it belongs to. `method`: how it was found."""

    low: float
    high: float
    method: str

    def shown(self, digits: int) -> str:
        """For people."""
        return "-" if math.isnan(self.low) else f"{self.low:.{digits}f} to {self.high:.{digits}f}"

    def __str__(self) -> str:
        return self.shown(1)

    def within(self, low: float, high: float) -> Interval:
        """Cut to what is possible; nan stays."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def record(self) -> dict[str, float | str]:
        """For `--json`."""
        return {"low": self.low, "high": self.high, "level": LEVEL, "method": self.method}


def wilson(share: float, n: int, scale: float = 100.0) -> Interval:
    """Wilson's score interval (1927) of a share of n trials, times `scale`; never of width 0.

    For a mean of n values between 0 and 1 it is conservative: no such values vary more than wins and losses do.
    """
    if n == 0:
        return Interval(math.nan, math.nan, WILSON)
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return Interval(scale * max(0.0, centre - half), scale * min(1.0, centre + half), WILSON)


def of_shares(values: Sequence[float], seed: int = 0) -> Interval:
    """Of the mean, in percent, of values between 0 and 1: bootstrap, or Wilson where values are few or all the same."""
    if len(values) < FEW or min(values) == max(values):
        return wilson(math.fsum(values) / len(values) if values else math.nan, len(values))
    return of_mean(values, seed, scale=100.0)


def of_mean(values: Sequence[float], seed: int = 0, scale: float = 1.0) -> Interval:
    """Of the mean times `scale`: percentile bootstrap, or Student's t where values are few; nan for fewer than two."""
    n = len(values)
    array = np.asarray(values, np.float64)
    if n >= FEW:
        return _percentiles(scale * _resampled(array, seed, lambda drawn: drawn.mean(axis=1)))
    if n < 2:
        return Interval(math.nan, math.nan, STUDENT)
    centre, half = float(array.mean()), STUDENT_QUANTILES[n - 2] * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(scale * (centre - half), scale * (centre + half), STUDENT)


def of_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Interval | None:
    """Percentile bootstrap of 100 sum(above) / sum(below), both of the same rows; None for few rows."""
    if len(above) < FEW or min(below) <= 0:
        return None
    sums = _resampled(np.column_stack([above, below]).astype(np.float64), seed, lambda drawn: drawn.sum(axis=1))
    return _percentiles(100 * sums[:, 0] / sums[:, 1])


def _resampled(rows: np.ndarray, seed: int, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The statistic of each resample [resample, row, ...]; the same draws for a seed and a number of rows."""
    draw = np.random.default_rng(seed)
    step = max(1, _BLOCK // rows.size)
    found = [
        statistic(rows[draw.integers(0, len(rows), (min(step, RESAMPLES - start), len(rows)), np.int32)])
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(found)


def _percentiles(found: np.ndarray) -> Interval:
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), BOOTSTRAP)


def permutation(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of the mean difference being 0: how often turned signs give one as large (Monte Carlo, +1 rule)."""
    moved = np.asarray([difference for difference in differences if difference], np.float64)
    if not len(moved):
        return 1.0
    seen = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()  # sums in another order differ in the last digits
    draw = np.random.default_rng(seed)
    extreme = 0
    step = max(1, _BLOCK // len(moved))
    for start in range(0, RESAMPLES, step):
        signs = draw.integers(0, 2, (min(step, RESAMPLES - start), len(moved)), np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ moved) >= seen).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def sign(better: int, worse: int) -> float:
    """Two-sided exact p of as many ups as downs (sign test; McNemar's exact test where verdicts are win or loss)."""
    n, fewer = better + worse, min(better, worse)
    if better == worse:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return float(2 * tail / 2**n)  # of whole numbers: exact for any n

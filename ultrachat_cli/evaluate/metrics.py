"""What verdicts come to: win rates as alpaca_eval 0.6 has them, with intervals and by category."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrachat_cli.evaluate import intervals, orders
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.intervals import Interval


@dataclass(frozen=True)
class Metrics:
    """Rates in percent, draws half; `n_wins_base`: the reference's wins; `n_null`: no verdict, in none of the others.

    `avg_length`: mean characters of the model's answers, cut to a whole number as alpaca_eval does. The error is nan
    for fewer than two verdicts, rates for none.
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int
    n_null: int
    interval: Interval
    """Of `win_rate`."""
    discrete_interval: Interval
    """Of `discrete_win_rate`, by Wilson."""
    by_category: dict[str, Metrics] = field(default_factory=dict)
    """In order of appearance; empty where all is of one category."""

    @property
    def n_losses(self) -> int:
        """The model's, which are the reference's wins."""
        return self.n_wins_base

    @property
    def null_share(self) -> float:
        """Verdicts that could not be read, 0 to 1."""
        return self.n_null / max(1, self.n_null + self.n_total)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        plain = {key: value for key, value in vars(self).items() if isinstance(value, int | float)}
        found: dict[str, Any] = {
            **plain, "n_losses": self.n_losses, "interval": self.interval.record(),
            "discrete_interval": self.discrete_interval.record(),
        }  # fmt: skip
        if self.by_category:
            found["by_category"] = {name: metrics.record() for name, metrics in self.by_category.items()}
        return found


def summary(annotations: Sequence[Annotation], seed: int = 0) -> Metrics:
    """Win rate and what belongs to it. With w = preference - 1 and a preference of 0 taken as a draw:

    win_rate = 100 mean(w); standard_error = 100 sd(w, ddof 1) / sqrt(n); a win is w > 1/2, a loss w < 1/2, a draw
    exactly 1/2; discrete_win_rate = 100 (wins + draws / 2) / n. Two orders of one comparison count once, as their mean.
    """
    return _summary(orders.averaged(annotations), seed, grouped=True)


def _summary(annotations: Sequence[Annotation], seed: int, *, grouped: bool) -> Metrics:
    wins = [win for win in (annotation.win for annotation in annotations) if win is not None]
    n = len(wins)
    mean = math.fsum(wins) / n if n else math.nan
    n_wins, n_draws = sum(win > 0.5 for win in wins), sum(win == 0.5 for win in wins)
    discrete = (n_wins + n_draws / 2) / n if n else math.nan
    lengths = [len(annotation.output_2) for annotation in annotations]
    return Metrics(
        win_rate=100 * mean, standard_error=100 * standard_error(wins),
        n_wins=n_wins, n_wins_base=n - n_wins - n_draws, n_draws=n_draws, n_total=n,
        discrete_win_rate=100 * discrete, avg_length=sum(lengths) // len(lengths) if lengths else 0,
        n_null=len(annotations) - n, interval=intervals.of_shares(wins, seed),
        discrete_interval=intervals.wilson(discrete, n),
        by_category=_by_category(annotations, lambda some: _summary(some, seed, grouped=False)) if grouped else {},
    )  # fmt: skip


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: sd (ddof 1) / sqrt(n); nan for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def categories(annotations: Sequence[Annotation]) -> dict[str, list[Annotation]]:
    """The annotations of each category, in order of appearance; those of none under ""."""
    found: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        found.setdefault(annotation.group, []).append(annotation)
    return found


def _by_category(
    annotations: Sequence[Annotation], made: Callable[[Sequence[Annotation]], Metrics]
) -> dict[str, Metrics]:
    found = categories(annotations)
    return {name: made(some) for name, some in found.items()} if len(found) > 1 else {}

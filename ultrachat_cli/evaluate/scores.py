"""Suites with a score for each answer: means and ratios, by class and overall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ultrachat_cli.backends import marks
from ultrachat_cli.evaluate import intervals, orders
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.intervals import Interval
from ultrachat_cli.evaluate.metrics import categories, standard_error

OVERALL = "overall"


@dataclass(frozen=True)
class ScoreRow:
    """One class, or all. Means in the judge's points; nan where that side has no score, errors below two scores.

    `n`: answers of the model with a score; `n_both`: instructions with a score of both sides.
    `ratio`: 100 sum(model) / sum(reference) over those: UltraLM's and WizardLM's charts show this. Their "average" line
    is the ratio over all instructions, so a skill counts by its questions, unlike in a mean of the bars.
    """

    name: str
    n: int
    mean: float
    standard_error: float
    interval: Interval
    reference_mean: float
    reference_standard_error: float
    n_both: int
    ratio: float
    ratio_interval: Interval | None

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        found = dict(vars(self))
        for key in ("interval", "ratio_interval"):
            found[key] = found[key].record() if found[key] is not None else None
        return found


@dataclass(frozen=True)
class Scores:
    """The table: a row a class in order of appearance, and `overall`, over all instructions."""

    rows: list[ScoreRow]
    overall: ScoreRow

    @property
    def compared(self) -> bool:
        """Whether any instruction has a score of both sides."""
        return self.overall.n_both > 0

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {"classes": [row.record() for row in self.rows], OVERALL: self.overall.record()}


def scores(annotations: Sequence[Annotation], seed: int = 0) -> Scores | None:
    """The scores by class and overall; None where no annotation has any. Two orders count once, as their mean."""
    scored = [annotation for annotation in orders.averaged(annotations) if annotation.scores is not None]
    if not scored:
        return None
    classes = categories(scored)
    rows = [_row(name, some, seed) for name, some in classes.items()] if len(classes) > 1 else []
    return Scores(rows, _row(OVERALL, scored, seed))


def _row(name: str, annotations: Sequence[Annotation], seed: int) -> ScoreRow:
    given = [annotation.scores for annotation in annotations if annotation.scores is not None]
    theirs = [reference for reference, _ in given if not math.isnan(reference)]
    own = [model for _, model in given if not math.isnan(model)]
    both = [(reference, model) for reference, model in given if not math.isnan(reference + model)]
    interval = intervals.of_mean(own, seed)
    if all(marks.LOWEST <= score <= marks.HIGHEST for score in own):  # other judges' scales are not known
        interval = interval.within(marks.LOWEST, marks.HIGHEST)
    below, above = sum(reference for reference, _ in both), sum(model for _, model in both)
    return ScoreRow(
        name, len(own), mean(own), standard_error(own), interval, mean(theirs),
        standard_error(theirs), len(both),
        ratio=100 * above / below if below > 0 else math.nan,
        ratio_interval=intervals.of_ratio([m for _, m in both], [r for r, _ in both], seed),
    )  # fmt: skip


def mean(values: Sequence[float]) -> float:
    """nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan

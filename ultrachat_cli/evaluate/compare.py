"""Two runs on the same instructions, compared instruction by instruction: far sharper than comparing their averages."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrachat_cli.errors import UltraError
from ultrachat_cli.evaluate import intervals, orders
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.intervals import Interval
from ultrachat_cli.evaluate.orders import Consistency

WIN_RATE, SCORE = "win rate", "score"
_ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """B less A over `n` instructions that both have a verdict on, in points of win rate (percent) or of the scores.

    `better`, `worse`, `equal`: instructions on which B does better than A, worse, or as well. `p_permutation`: of a
    mean difference this large if A and B were alike (signs turned at random); `p_sign`: of this many ups and downs
    (exact; McNemar's test where verdicts are win or loss). Both two-sided.
    """

    name: str
    n: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval
    better: int
    worse: int
    equal: int
    p_permutation: float
    p_sign: float

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "interval": self.interval.record()}

    def shown(self, digits: int) -> str:
        """For people."""
        return (
            f"{self.difference:+.{digits}f} ({self.interval.shown(digits)}), "
            f"{self.mean_a:.{digits}f} to {self.mean_b:.{digits}f}, n {self.n:,}: "
            f"{self.better:,} better, {self.worse:,} worse, p {_p(self.p_permutation)} (sign test {_p(self.p_sign)})"
        )


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side. `alone`: instructions only one of them has; `notes`: what makes them hard to compare.

    `measure`: win rate, or score where answers were scored and compared with none.
    """

    a: str
    b: str
    measure: str
    overall: Difference
    by_category: list[Difference]
    alone: int
    consistency_a: Consistency | None = None
    consistency_b: Consistency | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def significant(self) -> bool:
        """Whether p (permutation) is below 0.05."""
        return self.overall.p_permutation < _ALPHA

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "A", self.a
        yield "B", self.b
        digits = 2 if self.measure == SCORE else 1
        yield "B less A", f"{self.measure} {self.overall.shown(digits)}"
        verdict = "differ" if self.significant else "cannot be told apart"
        yield "verdict", f"on these instructions the two {verdict} (p {_p(self.overall.p_permutation)})"
        for row in self.by_category:
            yield row.name or "(none)", row.shown(digits)
        for side, consistency in (("A", self.consistency_a), ("B", self.consistency_b)):
            if consistency is not None:
                yield f"orders, {side}", str(consistency)
        if len(self.by_category) > 1:
            expected = _ALPHA * len(self.by_category)
            yield "note", f"of {len(self.by_category)} categories, {expected:.1f} have p < 0.05 by chance alone"
        for note in self.notes:
            yield "note", note

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "a": self.a, "b": self.b, "measure": self.measure, "overall": self.overall.record(),
            "significant": self.significant,
            "by_category": [row.record() for row in self.by_category], "alone": self.alone, "notes": self.notes,
            "consistency_a": self.consistency_a.record() if self.consistency_a else None,
            "consistency_b": self.consistency_b.record() if self.consistency_b else None,
        }  # fmt: skip


def compare(a: Sequence[Annotation], b: Sequence[Annotation], name_a: str, name_b: str, seed: int = 0) -> Comparison:
    """Compare two runs by their verdicts on exactly the same instructions; two orders count once, as their mean.

    `UltraError` where no instruction has a verdict in both.
    """
    matched, alone = _matched(orders.averaged(a), orders.averaged(b))
    measure, of = WIN_RATE, _percent
    if all(one.win is None for one in (*a, *b)):
        measure, of = SCORE, _score
    judged = [pair for pair in matched if None not in map(of, pair)]
    if not judged:
        raise UltraError(f"{name_a} and {name_b} have no instruction in common that both got a verdict on")
    groups: dict[str, list[tuple[Annotation, Annotation]]] = {}
    for one, other in judged:
        groups.setdefault(one.group or other.group, []).append((one, other))
    notes = [f"{alone:,} instructions are in one run only and were left out"] if alone else []
    if len(judged) < len(matched):
        notes.append(f"{len(matched) - len(judged):,} instructions lack a verdict in a run and were left out")
    notes += _unlike("judge", [one.annotator for one, _ in judged], [other.annotator for _, other in judged])
    notes += _unlike("reference", [one.generator_1 for one, _ in judged], [other.generator_1 for _, other in judged])
    return Comparison(
        name_a, name_b, measure, _difference("all", judged, of, seed),
        [_difference(name, pairs, of, seed) for name, pairs in groups.items()] if len(groups) > 1 else [],
        alone, orders.consistency(a), orders.consistency(b), notes,
    )  # fmt: skip


def _percent(one: Annotation) -> float | None:
    return None if one.win is None else 100 * one.win


def _score(one: Annotation) -> float | None:
    return None if one.scores is None or math.isnan(one.scores[1]) else one.scores[1]


def _difference(
    name: str, pairs: Sequence[tuple[Annotation, Annotation]], of: Callable[[Annotation], float | None], seed: int
) -> Difference:
    values = [(of(one) or 0.0, of(other) or 0.0) for one, other in pairs]
    differences = [b - a for a, b in values]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    n = len(pairs)
    mean_a, mean_b = (sum(side) / n for side in zip(*values, strict=True))
    return Difference(
        name, n, mean_a, mean_b, sum(differences) / n, intervals.of_mean(differences, seed), better, worse,
        n - better - worse, intervals.permutation(differences, seed), intervals.sign(better, worse),
    )  # fmt: skip


def _matched(a: Sequence[Annotation], b: Sequence[Annotation]) -> tuple[list[tuple[Annotation, Annotation]], int]:
    """(pairs of one instruction, number of those left over); of a repeated instruction, first goes with first."""
    waiting: dict[str, deque[Annotation]] = defaultdict(deque)
    for one in b:
        waiting[one.instruction].append(one)
    pairs = [(one, waiting[one.instruction].popleft()) for one in a if waiting[one.instruction]]
    return pairs, len(a) + len(b) - 2 * len(pairs)


def _unlike(what: str, a: Sequence[str], b: Sequence[str]) -> list[str]:
    of_a, of_b = (", ".join(sorted(set(names) - {""})) for names in (a, b))
    return [] if of_a == of_b else [f"not the same {what}: {of_a or 'unnamed'} and {of_b or 'unnamed'}"]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

"""Both orders of one comparison: their mean, and how often the judge stands by its verdict when they are exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ultrachat_cli.evaluate import intervals
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.intervals import Interval, wilson

_BIASED = 0.001  # p of the sign test


@dataclass(frozen=True, slots=True)
class Consistency:
    """Of `n` comparisons with a verdict in both orders: `same` kept their outcome, `first` always chose what was shown
    first, `second` what was shown second; the rest went from a draw to a side or back.
    """

    n: int
    same: int
    first: int
    second: int

    @property
    def share(self) -> Interval:
        """Of `same`, in percent."""
        return wilson(self.same / self.n if self.n else 0.0, self.n)

    def __str__(self) -> str:
        return (
            f"{100 * self.same / self.n:.1f}% of {self.n:,} verdicts stand when the order is exchanged ({self.share}); "
            f"{self.first:,} always chose the first, {self.second:,} the second"
        )

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "interval": self.share.record()}


def pairs(annotations: Iterable[Annotation]) -> list[tuple[Annotation, Annotation | None]]:
    """Each comparison once, in order: its verdict and, where the other order was asked too, that one as well.

    Two verdicts belong together when all but the order is the same. Only verdicts that tell their order can.
    """
    found: list[list[Annotation]] = []
    alone: dict[tuple[object, ...], list[Annotation]] = {}
    for one in annotations:
        key = (one.instruction, one.output_1, one.output_2, one.generator_1, one.generator_2, one.annotator, one.group)
        other = alone.pop((*key, not one.switched), None) if one.switched is not None else None
        if other is not None:
            other.append(one)
            continue
        found.append([one])
        if one.switched is not None:
            alone[(*key, one.switched)] = found[-1]
    return [(several[0], several[1] if len(several) == 2 else None) for several in found]


def averaged(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Each comparison once: the mean of both orders' preferences and scores, or the one verdict there is.

    Without this, the two orders of a comparison would count as two instructions and errors come out too small.
    """
    return [one if other is None else _mean(one, other) for one, other in pairs(annotations)]


def _mean(one: Annotation, other: Annotation) -> Annotation:
    wins = [annotation.win for annotation in (one, other) if annotation.win is not None]
    scores = [annotation.scores for annotation in (one, other) if annotation.scores is not None]
    both = (_middle([first for first, _ in scores]), _middle([second for _, second in scores])) if scores else None
    return replace(
        one, switched=None, raw="\n\n".join(filter(None, (one.raw, other.raw))),
        preference=1 + _middle(wins) if wins else None, scores=both,
    )  # fmt: skip


def _middle(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def bias(annotations: Sequence[Annotation]) -> str:
    """What to say of a judge that prefers a place; "" of one that does not show it.

    Which answer is shown first is drawn, so a fair judge prefers either place as often, whoever answers better.
    """
    told = [one for one in annotations if one.switched is not None and one.outcome in ("win", "loss")]
    first = sum((one.outcome == "win") is one.switched for one in told)
    if intervals.sign(first, len(told) - first) >= _BIASED:
        return ""
    return (
        f"the judge chose the answer shown first {first:,} of {len(told):,} times: it looks at the place, "
        "which only --both-orders evens out"
    )


def consistency(annotations: Sequence[Annotation]) -> Consistency | None:
    """None where no comparison was asked in both orders, or none got both verdicts."""
    n = same = first = second = 0
    for one, other in pairs(annotations):
        if other is None or one.win is None or other.win is None:
            continue
        n += 1
        if one.outcome == other.outcome:
            same += 1
        elif {one.outcome, other.outcome} == {"win", "loss"}:
            chose_first = (one.outcome == "win") is bool(one.switched)
            first, second = first + chose_first, second + (not chose_first)
    return Consistency(n, same, first, second) if n else None

"""How far two judges agree on the same answers: a second judge, published verdicts, or people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ultrachat_cli.errors import UltraError
from ultrachat_cli.evaluate import orders
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.intervals import Interval, wilson


@dataclass(frozen=True)
class Agreement:
    """Of `n` comparisons judged by both: `same` outcomes (win, draw, loss), and Cohen's kappa, what is above chance.

    `kappa` is nan where both always say the same one thing. `counts`: (outcome, the other's outcome) -> how often.
    """

    judge: str
    other: str
    n: int
    same: int
    kappa: float
    counts: dict[tuple[str, str], int]

    @property
    def share(self) -> Interval:
        """Of `same`, in percent."""
        return wilson(self.same / self.n, self.n)

    def __str__(self) -> str:
        return f"{100 * self.same / self.n:.1f}% ({self.share}) of {self.n:,} with {self.other}, kappa {self.kappa:.2f}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "agreement", str(self)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        counts = [{"judge": own, "other": theirs, "n": n} for (own, theirs), n in sorted(self.counts.items())]
        return {**vars(self), "counts": counts, "interval": self.share.record()}


def agreement(annotations: Sequence[Annotation], others: Sequence[Annotation]) -> Agreement:
    """Compare verdicts on exactly the same instruction and answers. `UltraError` where there are none in common."""
    theirs = {_key(one): one for one in orders.averaged(others) if one.win is not None}
    both = [
        (one, theirs[_key(one)]) for one in orders.averaged(annotations) if one.win is not None and _key(one) in theirs
    ]
    if not both:
        raise UltraError(
            "agreement: no comparison has a verdict in both files", "both must hold the same instructions and answers"
        )
    counts = Counter((one.outcome, other.outcome) for one, other in both)
    n, same = len(both), sum(found for (own, other), found in counts.items() if own == other)
    own, other = Counter(one.outcome for one, _ in both), Counter(one.outcome for _, one in both)
    chance = sum(own[outcome] * other[outcome] for outcome in own) / n**2
    kappa = (same / n - chance) / (1 - chance) if chance < 1 else float("nan")
    names = [", ".join(sorted({one.annotator for one in side})) for side in zip(*both, strict=True)]
    return Agreement(names[0], names[1], n, same, kappa, dict(counts))


def _key(annotation: Annotation) -> tuple[str, str, str]:
    return annotation.instruction, annotation.output_1, annotation.output_2

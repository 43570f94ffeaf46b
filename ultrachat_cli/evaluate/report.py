"""What an evaluation comes to: for people, for machines, and for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import UltraError
from ultrachat_cli.evaluate import length_controlled, metrics, orders, scores
from ultrachat_cli.evaluate.agreement import Agreement, agreement
from ultrachat_cli.evaluate.annotations import Annotation, names, read_annotations
from ultrachat_cli.evaluate.judge import UNREADABLE
from ultrachat_cli.evaluate.length_controlled import Gamed, LengthControlled
from ultrachat_cli.evaluate.metrics import Metrics
from ultrachat_cli.evaluate.orders import Consistency
from ultrachat_cli.evaluate.scores import Scores
from ultrachat_cli.evaluate.settings import EvalConfig
from ultrachat_cli.evaluate.suites.questions import obtain
from ultrachat_cli.evaluate.tables import number
from ultrachat_cli.progress import Progress

_MANY = 40  # categories shown to people


@dataclass(frozen=True)
class OtherFiles:
    """What some figures need besides the verdicts. `gamed`: for length control; `verdicts`: of another judge."""

    gamed: Gamed | None = None
    verdicts: Sequence[Annotation] | None = None


def other_files(config: EvalConfig, progress: Progress) -> OtherFiles:
    """Those that `config` asks for. Raises `DataError`, and `UltraError` for what cannot be fetched."""
    gamed = None
    if config.length_controlled:
        path = config.gamed_file or obtain(length_controlled.GAMED, progress, "--gamed-file")
        gamed = length_controlled.read_gamed(path)
    return OtherFiles(gamed, read_annotations(config.agreement) if config.agreement is not None else None)


@dataclass
class Report:
    """`metrics` None: nothing was compared; `controlled`, `agreed`: where they were asked for."""

    suite: str
    annotations: Sequence[Annotation] = ()
    metrics: Metrics | None = None
    scores: Scores | None = None
    consistency: Consistency | None = None
    controlled: LengthControlled | None = None
    agreed: Agreement | None = None
    questions: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    """How it was made."""
    verdicts: int = 0
    """Verdicts that were asked for, in this session or before."""
    failed: Counter[str] = field(default_factory=Counter)
    """Those that could not be had, by reason."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Questions without an answer, by reason."""
    left_out: int = 0
    """Questions that a file has no answer to."""
    stored: bool = False
    """Whether the verdicts are from a file, so that nothing can be asked again."""
    identical: int = 0
    shortened: int = 0
    requests: int = 0
    repeated: int = 0
    tokens: int = 0
    cost: float = 0.0
    """US dollars of this session."""
    unpriced: list[str] = field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def compute(self, annotations: Sequence[Annotation], others: OtherFiles) -> None:
        """All figures, from the verdicts. `UltraError` where they do not fit `others`."""
        self.annotations = annotations
        compared = any(one.preference is not None or one.generator_1 for one in annotations)
        self.metrics = metrics.summary(annotations) if compared else None
        self.scores = scores.scores(annotations)
        self.consistency = orders.consistency(annotations)
        if others.gamed is not None:
            self.controlled = length_controlled.length_controlled(annotations, others.gamed)
        if others.verdicts is not None:
            self.agreed = agreement(annotations, others.verdicts)
        if (bias := orders.bias(annotations)) and bias not in self.warnings:
            self.warnings.append(bias)

    @property
    def complete(self) -> bool:
        """Whether nothing is left that the same command would ask for again."""
        return self.stored or not (self.failed or self.unanswered)

    def check(self, most: float) -> None:
        """`UltraError` when more than this share of the verdicts could not be read: figures of the rest would lie."""
        share = self.failed[UNREADABLE] / max(1, self.verdicts)
        if share > most:
            raise UltraError(
                f"{share:.1%} of the verdicts could not be read (at most {most:.0%} may be)",
                "raw_completion in annotations.json shows what the judge said: use another judge or preset"
                + ("" if self.stored else ", or run the same command again, which asks for them anew"),
            )

    def record(self) -> dict[str, Any]:
        """For `--json` and metrics.json."""
        model, reference, judge = names(self.annotations)
        own = {
            name: value for name, value in vars(self).items()
            if name not in ("annotations", "metrics", "scores", "consistency", "controlled", "agreed", "files")
        }  # fmt: skip
        parts = {
            "metrics": self.metrics, "scores": self.scores, "position_consistency": self.consistency,
            "length_controlled": self.controlled, "agreement": self.agreed,
        }  # fmt: skip
        return {
            "suite": self.suite, "model": model, "reference": reference, "judge": judge,
            **{name: part.record() for name, part in parts.items() if part is not None}, **own,
            "files": [str(path) for path in self.files],
        }  # fmt: skip

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        model, reference, judge = names(self.annotations)
        yield "model", model
        if self.metrics is not None:
            yield "against", reference
        yield "judge", judge
        yield "questions", f"{self.questions:,}"
        for warning in self.warnings:
            yield "WARNING", warning
        if self.metrics is not None:
            yield from _compared(self.metrics)
        if self.controlled is not None:
            yield "LC win rate", f"{self.controlled.win_rate:.2f} (std. error {self.controlled.standard_error:.2f})"
        if self.scores is not None:
            yield from _scored(self.scores)
        if self.consistency is not None:
            yield "both orders", str(self.consistency)
        if self.agreed is not None:
            yield from self.agreed.rows()
        if self.identical:
            yield "identical", f"{self.identical:,} pairs of the same answers count as draws, unasked"
        if self.left_out:
            yield "left out", f"{self.left_out:,} questions that a file has no answer to"
        if self.shortened:
            yield "shortened", f"{self.shortened:,} verdicts on answers cut in the middle to fit the judge's context"
        for name, counts in (("unanswered", self.unanswered), ("no verdict", self.failed)):
            if counts:
                reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common(4))
                yield name, f"{counts.total():,} ({reasons})" + ("" if self.stored else "; the same command asks again")
        if self.requests or self.repeated:
            yield "requests", f"{self.requests:,}, {self.repeated:,} answers from the journal, {self.seconds:.1f} s"
            unknown = f"unknown price: {', '.join(self.unpriced)}"
            yield "cost", f"{self.tokens:,} tokens, " + (unknown if self.unpriced else f"${self.cost:.4f}")
        yield "files", "\n".join(map(str, self.files))


def _compared(found: Metrics) -> Iterator[tuple[str, str]]:
    spread = f"95% {found.interval}; std. error {number(found.standard_error, 2)}"
    yield "win rate", f"{number(found.win_rate, 2)} ({spread})"
    yield "", _counted(found)
    yield "discrete", f"{number(found.discrete_win_rate, 2)} (95% {found.discrete_interval})"
    yield "avg. length", f"{found.avg_length:,} characters"
    for name, part in list(found.by_category.items())[:_MANY]:
        yield f"  {name or '(none)'}", f"{number(part.win_rate, 2)} ({part.interval}); {_counted(part)}"


def _counted(found: Metrics) -> str:
    return f"{found.n_wins:,} wins, {found.n_draws:,} draws, {found.n_wins_base:,} losses of {found.n_total:,}"


def _scored(found: Scores) -> Iterator[tuple[str, str]]:
    for line in [found.overall, *found.rows[:_MANY]]:
        text = f"{number(line.mean, 2)} ({line.interval.shown(2)}), n {line.n:,}"
        if found.compared:
            text += f"; reference {number(line.reference_mean, 2)}, ratio {number(line.ratio)}%"
        yield "score" if line is found.overall else f"  {line.name or '(none)'}", text

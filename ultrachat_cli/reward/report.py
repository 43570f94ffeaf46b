"""What a run of `score` or `critique` comes to."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ultrachat_cli.records import one_pass

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class Report:
    """`values`: every reward or mark that was given, in the order of the answers."""

    model: str
    values: array[float] = field(default_factory=lambda: array("d"))
    io: one_pass.Report = field(default_factory=one_pass.Report)
    tokens: int = 0
    """Read by the reward model, or in and out of the judge, in this session."""
    seconds: float = 0.0
    """Of this session's scoring."""
    truncated: int = 0
    """Answers judged without the beginning of their conversation, which did not fit the context."""
    failed: Counter[str] = field(default_factory=Counter)
    """Answers without a score, by reason."""
    requests: int = 0
    repeated: int = 0
    cost: float = 0.0
    unpriced: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every line could be read and every answer was given its score."""
        return self.io.complete and not self.failed

    def figures(self) -> dict[str, float]:
        """Mean, standard deviation and quantiles of the values; empty without values."""
        if not self.values:
            return {}
        import numpy as np

        values = np.array(self.values)
        found = {"mean": float(values.mean()), "sd": float(values.std()), "min": float(values.min())}
        names = [f"p{round(100 * share)}" for share in _QUANTILES]
        found |= dict(zip(names, map(float, np.quantile(values, _QUANTILES)), strict=True))
        return {**found, "max": float(values.max())}

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        speed = round(self.tokens / self.seconds, 1) if self.seconds else 0.0
        own = {key: value for key, value in vars(self).items() if key not in ("values", "io")}
        return {
            **self.io.record(), **own, "failed": dict(self.failed), "answers": len(self.values),
            "tokens_per_second": speed, **self.figures(),
        }  # fmt: skip

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "model", self.model
        yield "written", f"{self.io.written:,} dialogues, {len(self.values):,} answers with a score"
        figures = self.figures()
        if figures:
            yield "scores", f"mean {figures['mean']:.3f}, sd {figures['sd']:.3f}"
            inner = [f"{name} {figures[name]:.3f}" for name in figures if name not in ("mean", "sd")]
            yield "", ", ".join(inner)
        if self.tokens:
            yield "tokens", f"{self.tokens:,}, {self.tokens / max(self.seconds, 1e-9):,.0f}/s"
        if self.truncated:
            yield (
                "truncated",
                f"{self.truncated:,} answers: the beginning of their conversation did not fit the context",
            )
        if self.requests or self.repeated:
            yield "requests", f"{self.requests:,}, {self.repeated:,} answers from the journal"
            unknown = f"unknown price: {', '.join(self.unpriced)}"
            yield "cost", unknown if self.unpriced else f"${self.cost:.4f}"
        if self.failed:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.failed.most_common(4))
            yield "failed", f"{self.failed.total():,} ({reasons}); the same command asks for them again"
        if self.io.bad_lines:
            yield "bad lines", f"{self.io.bad_lines:,}"
        yield "files", "\n".join(map(str, self.io.files))

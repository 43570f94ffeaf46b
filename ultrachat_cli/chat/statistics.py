"""What answers take: time to the first token, tokens a second, tokens, money."""

from __future__ import annotations

from dataclasses import dataclass, field

from ultrachat_cli.backends.best_of import Candidate
from ultrachat_cli.records.completion import Completion

_SHORTEST = 0.01
"""Seconds in which nothing can be said of a speed."""


@dataclass
class Taken:
    """What one answer took. Times in seconds; `context`: tokens the model holds, 0 when unknown."""

    completion: Completion
    first: float | None
    """Until the first piece; None where the whole came at once."""
    seconds: float
    prompt: int
    context: int
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Of the answer."""
        return self.completion.completion_tokens

    @property
    def rate(self) -> float | None:
        """Tokens a second once the first had come."""
        if self.first is None or self.tokens < 2 or self.seconds - self.first < _SHORTEST:
            return None
        return (self.tokens - 1) / (self.seconds - self.first)

    def line(self) -> str:
        """All of it for people."""
        parts = [f"first token {self.first * 1000:,.0f} ms"] if self.first is not None else [f"{self.seconds:.1f} s"]
        parts += [f"{self.rate:,.1f} tok/s"] if self.rate else []
        parts += [f"{self.tokens:,} tokens"]
        if self.candidates:
            parts += [f"best of {len(self.candidates)}, score {self.candidates[0].score:.3g}"]
        used = f"context {self.prompt + self.tokens:,}"
        parts += [f"{used}/{self.context:,}" if self.context else used]
        cost = sum(each.cost for each in self.completions)
        parts += [f"${cost:.4f}"] if cost else []
        return " · ".join(parts)

    @property
    def completions(self) -> list[Completion]:
        """Everything that was paid for."""
        return [candidate.completion for candidate in self.candidates] or [self.completion]


@dataclass
class Totals:
    """What a session took so far."""

    answers: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def add(self, taken: Taken) -> None:
        """One more answer, or several of which one was chosen."""
        self.answers += len(taken.completions)
        self.tokens += sum(each.completion_tokens for each in taken.completions)
        self.prompt_tokens += sum(each.prompt_tokens for each in taken.completions)
        self.first += [taken.first] if taken.first is not None else []
        self.rates += [taken.rate] if taken.rate else []

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        rows = [("answers", f"{self.answers:,}"), ("tokens", f"{self.prompt_tokens:,} in, {self.tokens:,} out")]
        if self.first:
            mean = sum(self.first) / len(self.first) * 1000
            rows.append(("first token", f"{mean:,.0f} ms on average, {self.first[-1] * 1000:,.0f} ms the last"))
        if self.rates:
            rows.append(("speed", f"{sum(self.rates) / len(self.rates):,.1f} tokens a second"))
        return rows

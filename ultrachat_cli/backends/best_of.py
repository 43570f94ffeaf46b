"""Best-of-n: several answers to one prompt, and the one that a scorer likes best (UltraFeedback paper, section 3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ultrachat_cli.backends.base import Messages
from ultrachat_cli.records.completion import Completion


class Scorer(Protocol):
    """Tells how good answers are; more is better, and only answers to the same messages compare."""

    async def score(self, messages: Messages, answers: Sequence[str]) -> list[float]:
        """A number for each of `answers` to `messages`, which end with the user. Raises `UltraError`s."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the answers and what the scorer gives it."""

    completion: Completion
    score: float


async def best_of(
    ask: Callable[[int], Awaitable[Completion]], n: int, messages: Messages, scorer: Scorer
) -> list[Candidate]:
    """`n` answers, asked for all at once by `ask(0)` to `ask(n - 1)`, the best first; of equals, the earlier one.

    Raises what `ask` and the scorer raise.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(ask, k)) for k in range(n)]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    answers = [task.result() for task in tasks]
    scores = await scorer.score(messages, [answer.text for answer in answers])
    found = [Candidate(answer, score) for answer, score in zip(answers, scores, strict=True)]
    return sorted(found, key=lambda candidate: -candidate.score)


async def _awaited(ask: Callable[[int], Awaitable[Completion]], k: int) -> Completion:
    return await ask(k)

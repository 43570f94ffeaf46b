"""The answers that are judged: asked of any model, each once, alone or as the best of several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ultrachat_cli.backends.base import Messages, Sampling, prompt_tokens
from ultrachat_cli.backends.best_of import best_of
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.backends.scorers import KeptScores, OpenScorer
from ultrachat_cli.errors import BackendError, CircuitOpen
from ultrachat_cli.evaluate.annotations import Output
from ultrachat_cli.evaluate.settings import AnswerSettings
from ultrachat_cli.evaluate.suites.questions import Question
from ultrachat_cli.models.specs import ModelSpec
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.completion import Completion

T = TypeVar("T")
LONGEST = 2048
"""Tokens of an answer where neither settings nor registry tell: as the published UltraLM results were made."""
_SHORTEST = 64  # tokens that an answer is given room for, however long the question
_SPARE = 32  # tokens that an estimate may be short of


def fields(spec: ModelSpec, settings: AnswerSettings, several: bool) -> dict[str, Any]:
    """The request fields: the registry's, those of its evaluation, then what the settings say.

    `several`: for the best of many, temperature and top_p are 1 unless the settings say otherwise, as in the
    UltraFeedback paper, section 3.2.
    """
    found: dict[str, Any] = {"max_tokens": LONGEST, **spec.sampling, **spec.eval_sampling}
    if several:
        found |= {"temperature": 1.0, "top_p": 1.0}
    for name in ("max_tokens", "temperature", "top_p"):
        if getattr(settings, name) is not None:
            found[name] = getattr(settings, name)
    return {**found, **settings.extra}


def messages(spec: ModelSpec, settings: AnswerSettings, instruction: str) -> list[dict[str, str]]:
    """What is sent: the system prompt, where there is one, and the instruction as it stands."""
    system = spec.system if settings.system is None else settings.system
    asked = [{"role": "user", "content": instruction}]
    return [{"role": "system", "content": system}, *asked] if system else asked


class Answerer:
    """One model in this role. `failed`: what was said of the questions that got no answer, in the end."""

    def __init__(
        self, model: ChatModel, settings: AnswerSettings, best_of: int = 1, scorer: OpenScorer | None = None
    ) -> None:
        self.model, self._settings, self._n, self._scorer = model, settings, best_of, scorer
        rest = fields(model.spec, settings, best_of > 1)
        named = {name: rest.pop(name, None) for name in ("max_tokens", "temperature", "top_p")}
        self.sampling = Sampling(**named, seed=settings.seed, extra=rest)
        self.name = model.spec.name + (f"-best-of-{best_of}" if best_of > 1 else "")
        self.failed: list[str] = []

    async def answer(self, instruction: str) -> Completion:
        """One answer, or the best of several. Raises `BackendError`, `BudgetSpent`."""
        asked = messages(self.model.spec, self._settings, instruction)
        sampling = await self._fitting(asked)
        key = self.model.key("answer", asked, sampling)

        async def draw(k: int) -> Completion:
            return await self.model.ask(f"{key}/{k}", asked, replace(sampling, seed=self._settings.seed + k))

        if self._scorer is None or self.model.journal is None:
            return await draw(0)
        scorer = KeptScores(self._scorer, self.model.journal, f"{key}/scores/{self._scorer.name}/{self._n}")
        return (await best_of(draw, self._n, asked, scorer))[0].completion

    async def _fitting(self, asked: Messages) -> Sampling:
        """With as many tokens for the answer as the context leaves."""
        if not self.model.context:
            return self.sampling
        counted = await self.model.backend.count(asked)
        used = prompt_tokens(asked) + _SPARE if counted is None else counted
        room = max(_SHORTEST, self.model.context - used)
        return replace(self.sampling, max_tokens=min(room, self.sampling.max_tokens or LONGEST))

    async def every(self, questions: Sequence[Question], progress: Progress) -> list[Output]:
        """An answer to every question that got one, in their order. Raises `CircuitOpen`, `BudgetSpent`."""
        progress.stage(f"ask {self.name}"[:12], len(questions), "answers")

        async def one(question: Question) -> Output | None:
            try:
                completion = await self.answer(question.instruction)
            except CircuitOpen:
                raise
            except BackendError as error:
                self.failed.append(error.message)
                return None
            finally:
                progress.advance()
            return Output(
                question.instruction, completion.text, self.name, question.dataset, question.category,
                question.difficulty, {"finish": completion.finish} if completion.finish != "stop" else {},
            )  # fmt: skip

        width = 2 * self.model.limiter.slots.count
        found = await gathered((partial(one, question) for question in questions), width)
        return [output for output in found if output is not None]


async def gathered(calls: Iterable[Callable[[], Awaitable[T]]], width: int) -> list[T]:
    """What the calls return, in their order, `width` of them under way at a time; the first error ends all."""
    left = enumerate(calls)
    found: dict[int, T] = {}

    async def worker() -> None:
        for number, call in left:
            found[number] = await call()

    workers = [asyncio.create_task(worker()) for _ in range(width)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [found[number] for number in sorted(found)]

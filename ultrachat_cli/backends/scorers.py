"""Scorers for best-of-n and for `ultrachat score`: a reward model on this machine, or a chat model as the judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import orjson

from ultrachat_cli.backends import marks
from ultrachat_cli.backends.base import Messages, Sampling, prompt_tokens
from ultrachat_cli.backends.best_of import Scorer
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models import specs
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import NOT_ASKED, Journal

if TYPE_CHECKING:
    from ultrachat_cli.models.reward_model import RewardModel

Say = Callable[[str], None]
JUDGE = "judge:"
"""What the name of a chat model that judges begins with."""
NO_MARK = 0.0
"""The score of an answer for which the judge gave no mark after all attempts: below every mark."""
_PROMPT = (Path(__file__).parent / "prompts" / "score.md").read_text(encoding="utf-8")
_CHARACTERS = 3  # of a token, at least
_LONGEST = 32  # tokens of a judge's answer


class OpenScorer(Scorer, Protocol):
    """A scorer that holds on to something."""

    name: str
    """As it was asked for; for `meta.reward_model`."""

    async def close(self) -> None:
        """Let go of it."""
        ...


async def open_scorer(
    name: str, models: ChatModels, *, base_url: str | None = None, api_key_env: str | None = None,
    device: str = "auto", dtype: str = "auto", say: Say = lambda _: None,
) -> OpenScorer:  # fmt: skip
    """`judge:MODEL` for any chat model (asked through `models`), else a reward model: registry name, folder, hf:.

    Raises `ConfigError` for a name that is neither, and what opening the model raises.
    """
    if name.startswith(JUDGE):
        return JudgeScorer(name, await models.open(Endpoint(name.removeprefix(JUDGE), base_url, api_key_env)))
    spec = reward_spec(name)
    from ultrachat_cli.models.reward_model import RewardModel

    return RewardScorer(name, await asyncio.to_thread(RewardModel.open, spec, device=device, dtype=dtype, say=say))


def reward_spec(name: str) -> specs.ModelSpec:
    """The entry of a reward model; `ConfigError` for what is certainly none."""
    spec = specs.resolve(name)
    if spec.role not in ("reward", "chat") or (name in specs.known() and spec.role != "reward"):
        raise ConfigError(f"'{name}' is a {spec.role} model, not a reward model", f"as the judge: {JUDGE}{name}")
    if spec.scheme not in ("hf", "folder") or spec.embedded:
        raise ConfigError(f"'{name}' is not a reward model in transformers' layout", f"as the judge: {JUDGE}{name}")
    return spec


class KeptScores:
    """A scorer whose scores stay what they were: kept in a journal under `key`.

    Rewards differ in the last digits with the batch they are computed in (in bf16 in the second), and a run that goes
    on must choose as it did before.
    """

    def __init__(self, scorer: Scorer, journal: Journal, key: str) -> None:
        self._scorer, self._journal, self._key = scorer, journal, key

    async def score(self, messages: Messages, answers: Sequence[str]) -> list[float]:
        """The kept scores, or new ones of the scorer within."""

        async def scored() -> Completion:
            scores = await self._scorer.score(messages, answers)
            return Completion(orjson.dumps(scores).decode(), NOT_ASKED)

        kept: list[float] = orjson.loads((await self._journal.once(self._key, scored)).text)
        return kept


class RewardScorer:
    """A reward model in a thread of its own; what is asked for while it works goes into its next batches together."""

    def __init__(self, name: str, model: RewardModel) -> None:
        self.name, self._model = name, model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self._waiting: list[tuple[list[Messages], asyncio.Future[list[float]]]] = []
        self._working: asyncio.Task[None] | None = None

    async def score(self, messages: Messages, answers: Sequence[str]) -> list[float]:
        """The reward of each answer. Raises `UltraError`."""
        done: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        talks: list[Messages] = [[*messages, {"role": "assistant", "content": answer}] for answer in answers]
        self._waiting.append((talks, done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            talks = [talk for talks, _ in batch for talk in talks]
            try:
                rewards = iter(await loop.run_in_executor(self._thread, partial(self._model.rewards, talks)))
            except Exception as error:  # the worker's edge: whoever waits is to hear of it
                failure = UltraError(f"{self.name}: {error}") if isinstance(error, ValueError) else error
                for _, done in batch:
                    if not done.done():
                        done.set_exception(failure)
                continue
            for talks, done in batch:
                mine = [next(rewards) for _ in talks]
                if not done.done():
                    done.set_result(mine)

    async def close(self) -> None:
        """End the thread; what it is computing is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class JudgeScorer:
    """A chat model that marks answers from 1 to 10; every answer of it is journaled and asked for once."""

    def __init__(self, name: str, model: ChatModel) -> None:
        self.name, self.model = name, model
        self.cut = 0
        """Conversations whose beginning was left out to fit the judge's context."""

    async def score(self, messages: Messages, answers: Sequence[str]) -> list[float]:
        """The mark of each answer, `NO_MARK` where there is none. Raises `BackendError`, `BudgetSpent`."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.mark(messages, answer)) for answer in answers]
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [NO_MARK if (found := task.result()) is None else found for task in tasks]

    async def mark(self, messages: Messages, answer: str) -> float | None:
        """The mark of one answer; None when none of the attempts gave one."""
        prompt, sampling = self.prompt(messages, answer), Sampling(_LONGEST, 0.0)
        found, _ = await self.model.ask_until("score", prompt, sampling, lambda said: marks.find(said.text))
        return None if found is None else found.value

    def prompt(self, messages: Messages, answer: str) -> list[dict[str, str]]:
        """The judge's task, cut to its context."""
        context = self.model.context
        room = context - _LONGEST - prompt_tokens(_PROMPT + answer) if context else 0
        text, cut = marks.asked(messages, max(1, room) * _CHARACTERS if context else 0)
        self.cut += cut
        return _task(text, answer)

    @staticmethod
    def task(messages: Messages, answer: str) -> list[dict[str, str]]:
        """The judge's task in full."""
        return _task(marks.asked(messages)[0], answer)

    async def close(self) -> None:
        """Nothing: the model belongs to its `ChatModels`."""


def _task(asked: str, answer: str) -> list[dict[str, str]]:
    head, _, rest = _PROMPT.partition("{asked}")
    middle, _, tail = rest.partition("{answer}")
    return [{"role": "user", "content": head + asked + middle + answer + tail}]

"""Answers judged by a model that is asked: many requests at once, dialogues out in the order they came in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ultrachat_cli.backends import chat_model
from ultrachat_cli.backends.base import Messages
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels
from ultrachat_cli.errors import BackendError, BudgetSpent, CircuitOpen, ConfigError
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.journal import Journal
from ultrachat_cli.records.lock import FolderLock
from ultrachat_cli.records.one_pass import checked, make_room, one_pass
from ultrachat_cli.reward import answers
from ultrachat_cli.reward.report import Report
from ultrachat_cli.reward.settings import Judging, Turns

NO_MARK = "no usable score in the judge's answers"
Ask = Callable[[Messages, str], Awaitable[Any]]
"""What is found of an answer to messages; None where the model gave nothing usable."""


def journal_of(output: Path, settings: Judging, word: str) -> Path:
    """The journal's place: `<output>.<word>.sqlite` if no other is named; `ConfigError` where that cannot be known."""
    if settings.journal is not None:
        return settings.journal
    if output == files.STDIN:
        raise ConfigError("--journal: where are the answers kept? name a file", "or write to a file: --output")
    return files.beside(output, f"{word}.sqlite")


@asynccontextmanager
async def opened(path: Path, settings: Judging, environ: Mapping[str, str], say: Callable[[str], None],
                 report: Report) -> AsyncIterator[tuple[ChatModels, ChatModel]]:  # fmt: skip
    """The model with its journal, which no other process uses meanwhile; `report` gets what it took in the end."""
    make_room(path.parent)
    room = path.with_name(path.name + ".lock")
    lock = FolderLock(room)
    try:
        journal = Journal(path)
        try:
            models = ChatModels(
                settings.limits, journal, environ, prices=settings.prices, spent=journal.totals()[3],
                embedded_context=settings.embedded_context, say=say,
            )  # fmt: skip
            try:
                model = await models.open(settings.endpoint)
                report.unpriced = chat_model.unpriced([model])
                yield models, model
            finally:
                models.halt()
                await journal.flush()
                await models.close()
                usage = models.usage
                report.requests, report.repeated, report.cost = usage.requests, journal.repeated, usage.cost
                report.tokens = usage.prompt_tokens + usage.completion_tokens
        finally:
            journal.close()
    finally:
        lock.release()
        with suppress(OSError):  # another process waits for it already
            (room / "lock").unlink()
            room.rmdir()


async def annotate(
    settings: Judging, ask: Ask, parallel: int, report: Report, progress: Progress,
    write: Callable[[Dialogue, list[Any]], Dialogue],
) -> None:  # fmt: skip
    """Ask about every answer and put out every dialogue as `write` makes it. The output appears when all is done.

    A request that fails for good counts in `report.failed` and leaves None; `CircuitOpen` and `BudgetSpent` end all.
    """
    gate = asyncio.Semaphore(2 * parallel)
    waiting: deque[tuple[Dialogue, list[asyncio.Task[Any]]]] = deque()

    async def one(messages: Messages, answer: str) -> Any:
        async with gate:
            try:
                found = await ask(messages, answer)
            except CircuitOpen:
                raise
            except BackendError as error:
                report.failed[error.message] += 1
                return None
        if found is None:
            report.failed[NO_MARK] += 1
        return found

    try:
        with one_pass("judge", settings.inputs, settings.output, progress) as job:

            async def put() -> None:
                dialogue, tasks = waiting[0]
                found = [await task for task in tasks]
                waiting.popleft()
                job.put(write(dialogue, found))

            for path, line, dialogue in job.dialogues():
                places = answers.places(dialogue, settings.turns)
                if not places:
                    job.bad(path, line, dialogue, answers.NO_ANSWER)
                    continue
                asked = [one(answers.question(dialogue, place), dialogue.data[place]) for place in places]
                waiting.append((dialogue, [asyncio.create_task(question) for question in asked]))
                while len(waiting) > 4 * parallel or (waiting and all(task.done() for task in waiting[0][1])):
                    await put()
                await asyncio.sleep(0)
            while waiting:
                await put()
    except BudgetSpent as spent:
        raise BudgetSpent(spent.message, f"{spent.hint}; no output was written yet") from None
    finally:
        for _, tasks in waiting:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*(task for _, tasks in waiting for task in tasks), return_exceptions=True)
    report.io = job.report


@dataclass
class Estimate:
    """What a run would ask and cost, before anybody is asked; answers that are in the journal already cost nothing."""

    model: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "model", self.model
        yield "requests", f"{self.calls:,}"
        yield "tokens", f"about {self.prompt_tokens:,} in, {self.completion_tokens:,} out"
        yield "cost", "unknown price" if self.cost is None else f"about ${self.cost:,.4f}"
        yield "note", self.note


def estimate(settings: Judging, tokens: Callable[[Messages, str], int], answer: int) -> Estimate:
    """Count the requests. `tokens`: of the prompt about an answer; `answer`: tokens assumed of the model's answer."""
    settings.check_given()
    sources, _, _ = checked(settings.inputs, settings.output)
    spec = resolve(settings.endpoint.model, base_url=settings.endpoint.base_url)
    found = Estimate(spec.name, note=f"assumes {answer} tokens an answer; what the journal holds is asked no more")
    for path in sources:
        for _, dialogue in files.dialogues(path, lambda _: None):
            for place in answers.places(dialogue, settings.turns):
                found.calls += 1
                found.prompt_tokens += tokens(answers.question(dialogue, place), dialogue.data[place])
    found.completion_tokens = found.calls * answer
    price = settings.prices.get(spec.name) or spec.price
    if spec.scheme != "openai" and settings.endpoint.base_url is None:
        found.cost = 0.0
    elif price is not None:
        found.cost = price.cost(found.prompt_tokens, found.completion_tokens)
    return found


def numbers(
    report: Report, turns: Turns, keys: tuple[str, str], more: dict[str, Any], value: Callable[[Any], float]
) -> Callable[[Dialogue, list[Any]], Dialogue]:
    """The `write` of `annotate` that also collects the values for the report."""
    return partial(_noted, report=report, turns=turns, keys=keys, more=more, value=value)


def _noted(
    dialogue: Dialogue, found: list[Any], *, report: Report, turns: Turns, keys: tuple[str, str],
    more: dict[str, Any], value: Callable[[Any], float],
) -> Dialogue:  # fmt: skip
    report.values.extend(value(one) for one in found if one is not None)
    return answers.annotated(dialogue, found, turns, *keys, **more)

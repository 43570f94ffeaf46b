"""Answers judged by a model that is asked: many requests at once, dialogues out in the order they came in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.backends import chat_model
from ultrachat_cli.backends.base import Messages
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels
from ultrachat_cli.errors import BackendError, BudgetSpent, CircuitOpen, ConfigError
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.journal import Journal
from ultrachat_cli.records.lock import FolderLock
from ultrachat_cli.records.one_pass import checked, make_room, one_pass
from ultrachat_cli.reward import answers
from ultrachat_cli.reward.report import Report
from ultrachat_cli.reward.settings import Judging

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


@dataclass(frozen=True)
class Kept:
    """Where what is found of answers is written, see `answers.annotated`, and its number for the report."""

    one: str
    several: str
    value: Callable[[Any], float] = float
    more: Mapping[str, Any] = field(default_factory=dict)


async def annotate(
    settings: Judging, ask: Ask, kept: Kept, models: ChatModels, report: Report, progress: Progress
) -> None:
    """Ask about every answer and write what is found into meta. The output appears when all is done.

    A request that fails for good counts in `report.failed` and leaves None; `CircuitOpen` and `BudgetSpent` end all.
    """
    gate = asyncio.Semaphore(2 * models.parallel)
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
        usage = models.usage
        tokens = usage.prompt_tokens + usage.completion_tokens
        progress.advance(1, f"{tokens:,} tokens" + (f", ${usage.cost:.4f}" if usage.cost else ""))
        return found

    def ready() -> bool:
        return bool(waiting) and all(task.done() for task in waiting[0][1])

    progress.stage("judge", _total(settings), "answers")
    try:
        with one_pass("judge", settings.inputs, settings.output, _Notices(progress)) as job:

            async def put() -> None:
                dialogue, tasks = waiting[0]
                found = [await task for task in tasks]
                waiting.popleft()
                report.values.extend(kept.value(one) for one in found if one is not None)
                job.put(answers.annotated(dialogue, found, settings.turns, kept.one, kept.several, **kept.more))

            for path, line, dialogue in job.dialogues():
                places = answers.places(dialogue, settings.turns)
                if not places:
                    job.bad(path, line, dialogue, answers.NO_ANSWER)
                    continue
                asked = [one(answers.question(dialogue, place), dialogue.data[place]) for place in places]
                waiting.append((dialogue, [asyncio.create_task(question) for question in asked]))
                while len(waiting) > 4 * models.parallel or ready():
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


def _total(settings: Judging) -> int:
    """Answers to ask about; 0, for an unknown number, where stdin is read."""
    sources, _, _ = checked(settings.inputs, settings.output)
    if files.STDIN in sources:
        return 0
    found = (dialogue for path in sources for _, dialogue in files.dialogues(path, lambda _: None))
    return sum(len(answers.places(dialogue, settings.turns)) for dialogue in found)


class _Notices(Silent):
    """What is read is no progress here, but its notices are passed on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, line: str) -> None:
        """To whom it concerns."""
        self._progress.say(line)

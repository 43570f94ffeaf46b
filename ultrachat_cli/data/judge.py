"""Coherence and helpfulness, 1 to 10, by a judge model; every answer is kept in a journal and never paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli import signals
from ultrachat_cli.backends import marks
from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.errors import BackendError, CircuitOpen
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.journal import Journal
from ultrachat_cli.records.manifest import fingerprint

ASPECTS = ("coherence", "helpfulness")
_PROMPTS = Path(__file__).parent / "prompts"
_LONGEST = 24_000  # characters of a dialogue that are shown where the model's context is not known
_CHARACTERS = 3  # of a token, at least
_ROOM = 400  # tokens for the prompt around the dialogue and the answer
_SAMPLING = Sampling(max_tokens=32, temperature=0.0)


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and where what was paid for is kept."""

    endpoint: Endpoint
    journal: Path
    limits: LimitSettings


@dataclass
class Verdicts:
    """aspect -> mark of each dialogue (None where the judge gave none), and what it took."""

    judge: str
    marks: dict[str, list[float | None]]
    requests: int = 0
    repeated: int = 0
    cost: float = 0.0
    failed: int = 0
    cut: int = 0
    prompts: dict[str, str] = field(default_factory=dict)
    """Content hashes."""


def interruptible(asked: Coroutine[Any, Any, Verdicts]) -> Verdicts:
    """Run it; a first signal cancels it, so that what was answered is kept, and is then a `KeyboardInterrupt`.

    Raised in the middle of an event loop, as signals otherwise are here, that would now and then be lost in a callback.
    """

    async def guarded() -> Verdicts:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(*_: Any) -> None:
            give_back()  # a second one does not wait
            loop.call_soon_threadsafe(task.cancel)

        with signals.handled(stop) as give_back:
            return await asked

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def judge(
    dialogues: Sequence[Dialogue], settings: JudgeSettings, environ: Mapping[str, str],
    advance: Callable[[], None], say: Callable[[str], None],
) -> Verdicts:  # fmt: skip
    """Ask for both marks of every dialogue. Raises `UltraError`s of the endpoint; single failures are counted."""
    prompts = {aspect: (_PROMPTS / f"{aspect}.md").read_text(encoding="utf-8") for aspect in ASPECTS}
    journal = Journal(settings.journal)
    try:
        models = ChatModels(settings.limits, journal, environ, spent=journal.totals()[3], say=say)
        try:
            model = await models.open(settings.endpoint)
            verdicts = Verdicts(model.spec.name, {aspect: [None] * len(dialogues) for aspect in ASPECTS})
            verdicts.prompts = {aspect: fingerprint(text.encode()) for aspect, text in prompts.items()}
            shown = [_shown(dialogue, model.context) for dialogue in dialogues]
            verdicts.cut = sum(cut for _, cut in shown)
            gate = asyncio.Semaphore(2 * settings.limits.concurrency)

            async def one(aspect: str, n: int) -> None:
                async with gate:
                    try:
                        verdicts.marks[aspect][n] = await _ask(model, prompts[aspect], shown[n][0])
                    except CircuitOpen:
                        raise
                    except BackendError:
                        verdicts.failed += 1
                advance()

            try:
                async with asyncio.TaskGroup() as group:
                    for n in range(len(dialogues)):
                        for aspect in ASPECTS:
                            group.create_task(one(aspect, n))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
            verdicts.requests, verdicts.cost = models.usage.requests, models.usage.cost
            verdicts.repeated = journal.repeated
            return verdicts
        finally:
            models.halt()
            await journal.flush()
            await models.close()
    finally:
        journal.close()


def _shown(dialogue: Dialogue, context: int) -> tuple[str, bool]:
    """The dialogue as the judge reads it, and whether its end was cut off to fit."""
    speakers = ("User", "Assistant")
    text = "\n\n".join(f"{speakers[n % 2]}: {turn}" for n, turn in enumerate(dialogue.data))
    most = max(1, context - _ROOM) * _CHARACTERS if context else _LONGEST
    return text[:most], len(text) > most


async def _ask(model: ChatModel, prompt: str, text: str) -> float | None:
    messages = [{"role": "user", "content": prompt.replace("{dialogue}", text)}]
    found, _ = await model.ask_until("judge", messages, _SAMPLING, lambda answer: marks.find(answer.text))
    return None if found is None else found.value

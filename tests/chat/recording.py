"""A session whose screen only remembers, with a model the test scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.backends.base import Messages, Prompt, Sampling
from ultrachat_cli.backends.best_of import Scorer
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels
from ultrachat_cli.backends.limits import Budget, Limiter, Usage
from ultrachat_cli.chat.session import Session
from ultrachat_cli.chat.settings import ChatConfig, ChatLimits
from ultrachat_cli.chat.transcript import Kept
from ultrachat_cli.errors import UltraError
from ultrachat_cli.models.specs import ModelSpec
from ultrachat_cli.records.completion import Completion


@dataclass
class Recording:
    """Fulfils `Screen`."""

    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    table: list[tuple[str, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    copied: str = ""
    written: str = ""
    steps: list[tuple[str, int, int]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.said.append(line)

    def statistics(self, line: str) -> None:
        self.taken.append(line)

    def warn(self, error: UltraError) -> None:
        self.warned.append(error.message)

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        self.table = list(rows)

    def text(self, text: str) -> None:
        self.shown.append(text)

    @contextmanager
    def reply(self) -> Iterator[Callable[[str], None]]:
        pieces: list[str] = []
        try:
            yield pieces.append
        finally:
            self.shown.append("".join(pieces))

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))

    def copy(self, text: str) -> None:
        self.copied = text

    def clear(self) -> None:
        self.shown.clear()

    async def write(self, text: str, *, editor: bool) -> str:
        return self.written


class Model:
    """A backend: `answer(messages)` gives a text or raises; `tokens` counts a prompt, None only estimates."""

    def __init__(self, answer: Callable[[Messages], str], tokens: Callable[[Messages], int] | None = None) -> None:
        self.answer, self.tokens = answer, tokens
        self.asked: list[list[dict[str, str]]] = []
        self.sampling: list[Sampling] = []
        self.counted = 0
        self.before_piece: Callable[[int], Any] = lambda n: None
        self.usage = True
        self.closed = False

    async def complete(self, prompt: Prompt, sampling: Sampling, *, schema: object = None) -> Completion:
        assert not isinstance(prompt, str)
        self.asked.append([dict(message) for message in prompt])
        self.sampling.append(sampling)
        text = self.answer(prompt)
        used = (100, len(text.split())) if self.usage else (0, 0)
        return Completion(text, "stop", *used, "test")

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str | Completion]:
        whole = await self.complete(prompt, sampling)
        for n, word in enumerate(whole.text.split(" ")):
            if (wait := self.before_piece(n)) is not None:
                await wait
            yield f" {word}" if n else word
        yield whole

    async def count(self, messages: Messages) -> int | None:
        self.counted += 1
        return None if self.tokens is None else self.tokens(messages)

    async def models(self) -> list[str] | None:
        return None

    async def close(self) -> None:
        self.closed = True


def opened(
    backend: Model, *, context: int = 0, system: str = "", scorer: Scorer | None = None, state: Path | None = None,
    **config: Any,
) -> Session:  # fmt: skip
    """A session with that backend; `config`: of `ChatConfig`."""
    limits = ChatLimits(backoff=0.001, max_wait=0.001)
    settings = ChatConfig(model="test-model", limits=limits, **config)
    models = ChatModels(limits, None, {})
    limiter = Limiter(limits, Usage(), Budget(None))
    spec = ModelSpec(name="test-model", source="openai:test-model", context=context, system=system)
    model = ChatModel(spec, backend, limiter, None, None, context, "test:", served=True)
    return Session(settings, models, model, Recording(), scorer=scorer, kept=Kept(state) if state else None)


def screen(session: Session) -> Recording:
    assert isinstance(session.screen, Recording)
    return session.screen

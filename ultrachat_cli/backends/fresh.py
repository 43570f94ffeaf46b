"""An answer that is wanted new and heard while it is made: past the journal, within the limits, stopped at will."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from ultrachat_cli.backends import base
from ultrachat_cli.backends.base import Prompt, Sampling
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.errors import BackendError
from ultrachat_cli.records.completion import Completion

INTERRUPTED = "interrupted"
"""The finish reason of an answer that was stopped."""


class Reply:
    """One answer under way. `text`: what came so far, also after an error."""

    def __init__(self, model: ChatModel, prompt: Prompt, sampling: Sampling, hear: Callable[[str], None]) -> None:
        """`hear` is called with every piece as it comes."""
        self._model, self._prompt, self._sampling, self._hear = model, prompt, sampling, hear
        self._pieces: list[str] = []
        self._stopped = False
        self._task: asyncio.Task[Completion] | None = None

    @property
    def text(self) -> str:
        """What came so far."""
        return "".join(self._pieces)

    def stop(self) -> None:
        """End it; `made` then returns what came, with the finish reason `interrupted`."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def made(self) -> Completion:
        """The whole answer. Asked for again after a failure only while nothing was heard of it.

        Raises `BackendError`, `BudgetSpent`.
        """
        limiter = self._model.limiter
        limiter.forgive()  # a person who asks again has perhaps started the server meanwhile
        running = limiter.run(
            self._once,
            prompt=base.prompt_tokens(self._prompt),
            completion=self._sampling.max_tokens or 1024,
            price=self._model.price,
        )
        self._task = asyncio.ensure_future(running)
        try:
            return await self._task
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            return Completion("", INTERRUPTED)
        finally:
            self._task.cancel()

    async def _once(self) -> Completion:
        try:
            async with aclosing(self._model.backend.stream(self._prompt, self._sampling)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        return piece
                    self._pieces.append(piece)
                    self._hear(piece)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not (self._stopped and self._pieces and task):
                raise
            task.uncancel()  # what came was paid for: it is accounted for as an answer is
            return Completion(self.text, INTERRUPTED, model=self._model.spec.name)
        except BackendError as error:
            if self._pieces:
                error.retryable = False
            raise
        raise BackendError(f"{self._model.spec.name}: the answer has no end", retryable=not self._pieces)

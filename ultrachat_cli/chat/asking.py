"""How one answer is asked for: with what fits, streamed or as the best of several, stopped at will."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from ultrachat_cli.backends.base import estimate_tokens
from ultrachat_cli.backends.best_of import Candidate, Scorer, best_of
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.backends.fresh import INTERRUPTED, Reply
from ultrachat_cli.chat import settings
from ultrachat_cli.chat.context import Counter, Fit, fit, overflowed
from ultrachat_cli.chat.conversation import Conversation, Round
from ultrachat_cli.chat.screen import Screen
from ultrachat_cli.chat.settings import ChatSampling
from ultrachat_cli.chat.statistics import Taken
from ultrachat_cli.errors import BackendError, ConfigError, UltraError
from ultrachat_cli.records.completion import Completion


class Asker:
    """Gets answers from one model. `dropped`: oldest rounds that the last prompt had no room for."""

    def __init__(self, model: ChatModel, screen: Screen, scorer: Scorer | None, context: int | None) -> None:
        """`context`: tokens that may be used, where that is less than the model holds."""
        self.model, self.scorer, self._screen = model, scorer, screen
        self.context = min(filter(None, (context, model.context)), default=0)
        self.dropped = 0
        self._counter = Counter(model.backend)
        self._reply: Reply | None = None
        self._drawing: asyncio.Task[list[Candidate]] | None = None
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether an answer is under way, so that `stop` ends it."""
        return self._reply is not None or self._drawing is not None

    def stop(self) -> None:
        """End the answer under way; what came stays."""
        self._stopped = True
        if self._reply is not None:
            self._reply.stop()
        if self._drawing is not None:
            self._drawing.cancel()

    async def used(self, talk: Conversation) -> int:
        """Tokens of the conversation as it would be sent, exact or estimated."""
        return await self._counter.count(talk.messages(self.dropped))

    async def answer(self, talk: Conversation, sampling: ChatSampling, n: int) -> Taken | None:
        """Answer the last round, by the best of `n`; None when stopped before anything came.

        A server that finds the prompt too long gets one round less each time. Raises `UltraError`; what came before
        an error is kept as the answer.
        """
        self._stopped = False
        longest = settings.longest(sampling, self.model.spec, self.model.served)
        skip = 0 if self.context else min(self.dropped, len(talk.rounds) - 1)
        while True:
            fitting = await fit(talk, self._counter, self.context, longest, skip)
            self._say_dropped(fitting.dropped)
            try:
                if n > 1:
                    return await self._draw(talk.rounds[-1], fitting, sampling, n)
                return await self._stream(talk.rounds[-1], fitting, sampling)
            except BackendError as error:
                if not overflowed(error) or talk.pending is None:
                    raise
                if fitting.dropped >= len(talk.rounds) - 1:
                    hint = "shorten it, or the system prompt (/system)"
                    raise UltraError(f"this message is too long for the model: {error.message}", hint) from error
                skip = fitting.dropped + 1
            finally:
                self._reply = self._drawing = None

    def _say_dropped(self, dropped: int) -> None:
        if dropped > self.dropped:
            rounds = "oldest round no longer fits" if dropped == 1 else f"oldest {dropped} rounds no longer fit"
            self._screen.say(f"the {rounds} the context" + (f" of {self.context:,} tokens" if self.context else ""))
        self.dropped = dropped

    async def _stream(self, waiting: Round, fitting: Fit, sampling: ChatSampling) -> Taken | None:
        begun = time.perf_counter()
        first: float | None = None
        wanted = settings.request(sampling, self.model.spec, self.model.served, fitting.max_tokens)
        with self._screen.reply() as show:

            def hear(piece: str) -> None:
                nonlocal first
                if first is None:
                    first = time.perf_counter() - begun
                show(piece)

            reply = self._reply = Reply(self.model, fitting.messages, wanted, hear)
            try:
                completion = await reply.made()
            finally:
                if reply.text:  # whatever ended it
                    waiting.answer = reply.text
                    waiting.facts = {"model": self.model.spec.name, "finish": "broken off"}
        seconds = time.perf_counter() - begun
        if not completion.text.strip():
            waiting.answer = None
            if completion.finish == INTERRUPTED:
                return None
            raise BackendError(f"{self.model.spec.name} answered with nothing", "/regen asks again")
        waiting.answer, waiting.facts = completion.text, self.facts(completion)
        return self._taken(completion, fitting, first, seconds)

    async def _draw(self, waiting: Round, fitting: Fit, sampling: ChatSampling, n: int) -> Taken | None:
        if self.scorer is None:
            raise ConfigError(*NO_SCORER)
        begun, done = time.perf_counter(), 0
        wanted = settings.request(sampling, self.model.spec, self.model.served, fitting.max_tokens)
        self.model.limiter.forgive()

        async def ask(k: int) -> Completion:
            nonlocal done
            own = wanted if wanted.seed is None else replace(wanted, seed=wanted.seed + k)
            completion = await self.model.ask("", fitting.messages, own)
            done += 1
            self._screen.progress("answers" if done < n else "scoring them", done, n)
            return completion

        self._screen.progress("answers", 0, n)
        self._drawing = asyncio.ensure_future(best_of(ask, n, fitting.messages, self.scorer))
        try:
            found = await self._drawing
        except asyncio.CancelledError:
            if self._stopped:
                return None
            self._drawing.cancel()
            raise
        finally:
            self._screen.progress("", n, n)
        best = found[0].completion
        waiting.answer, waiting.facts = best.text, {**self.facts(best), "best_of": n, "score": found[0].score}
        self._screen.text(best.text)
        taken = self._taken(best, fitting, None, time.perf_counter() - begun)
        taken.candidates = found
        return taken

    def _taken(self, completion: Completion, fitting: Fit, first: float | None, seconds: float) -> Taken:
        if not fitting.exact:
            self._counter.learn(fitting.messages, completion.prompt_tokens)
        prompt = fitting.prompt if fitting.exact else completion.prompt_tokens or fitting.prompt
        return Taken(completion, first, seconds, prompt, self.context)

    def facts(self, completion: Completion) -> dict[str, Any]:
        """What is kept beside an answer."""
        tokens = completion.completion_tokens or estimate_tokens(completion.text)
        return {"model": self.model.spec.name, "finish": completion.finish, "tokens": tokens}


NO_SCORER = (
    "--best-of needs --reward-model: something must tell the best answer",
    "--reward-model ultrarm-13b, or --reward-model judge:openai:gpt-4o-mini",
)

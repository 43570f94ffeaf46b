"""Answers of a local model, token by token, many at once.

What a prompt has in common with an earlier one is not computed again: so a conversation's next turn, another answer
to the same question and an edited turn cost what is new in them. Requests join and leave the running batch at any
token; equal prompts are computed once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from ultrachat_cli.models.causal_lm import CausalLM
from ultrachat_cli.models.drawing import Chooser, Drawing, choose
from ultrachat_cli.models.kept_caches import KeptCaches, Known
from ultrachat_cli.models.kv_cache import Rows
from ultrachat_cli.models.text_stream import TextStream

_CHUNK = {"cpu": 256, "cuda": 1024}
"""Tokens of a prompt computed in one go: how long a running answer, or somebody who gives up, waits."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an answer ended (`stop` or `length`) and its tokens; `cached`: those of the prompt that were known."""

    finish: str
    prompt: int
    completion: int
    cached: int


Event = str | Ended | BaseException


@dataclass(eq=False)
class Request:
    """A prompt, and where its answer goes: pieces of text, then `Ended`; or an exception."""

    ids: list[int]
    emit: Callable[[Event], None]
    drawing: Drawing = field(default_factory=Drawing)
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    """Ids that end the answer, besides those of the model's generation config."""
    left: bool = False
    """Set by whoever does not want the answer any more; nothing is emitted from then on."""


@dataclass(eq=False)
class _Answer:
    """A request under way. `ids`: prompt and answer so far; `fed`: how many of them the cache has."""

    request: Request
    text: TextStream
    chooser: Chooser
    ids: list[int]
    longest: int
    fed: int = 0
    cached: int = 0


@dataclass(eq=False)
class _Filling:
    """A prompt that is being computed, for one answer or several."""

    answers: list[_Answer]
    cache: Cache
    done: int


@dataclass(eq=False)
class _Batch:
    """Answers that grow together; row n of the cache is that of answer n."""

    cache: Cache
    answers: list[_Answer] = field(default_factory=list)


class Decoder:
    """Answers requests with `model`. `backend`: its `tokenizers.Tokenizer`; `slots`: answers at once, at most.

    Belongs to one thread. `add` what is asked, then call `step` until `idle`.
    """

    def __init__(self, model: CausalLM, backend: Any, *, slots: int = 16) -> None:
        self.model = model
        self._backend, self._slots = backend, slots
        special = [number for number, token in backend.get_added_tokens_decoder().items() if token.special]
        self._hidden = frozenset(special)
        self._chunk = _CHUNK.get(model.model.device.type, _CHUNK["cuda"])
        self._kept = KeptCaches(model)
        self._waiting: deque[_Answer] = deque()
        self._filling: _Filling | None = None
        self._batches: list[_Batch] = []

    def add(self, request: Request) -> None:
        """Take a request in; its prompt must leave room for a token of answer."""
        room = self.model.context - len(request.ids)
        assert room > 0
        assert request.ids
        text = TextStream(self._backend, self._hidden | request.ends | self.model.ends, request.stops)
        longest = min(room, request.max_tokens or room)
        self._waiting.append(_Answer(request, text, Chooser(request.drawing), list(request.ids), longest))

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._filling or self._batches)

    def step(self) -> None:
        """One more token of every answer, and a piece of the next prompt."""
        with torch.inference_mode():
            self._drop_left()
            if self._filling is None and self._waiting and self._carries([self._waiting[0]]):
                self._filling = self._begin()
            if self._filling is not None:
                self._fill(self._filling)
            for batch in self._batches:
                self._advance(batch)
            self._batches = [batch for batch in self._batches if batch.answers]

    def fail(self, error: BaseException) -> None:
        """Give up what is under way, with this error; what waits goes on."""
        for answer in [*(self._filling.answers if self._filling else ()), *self._running()]:
            self._emit(answer, error)
        self._filling, self._batches = None, []
        self._kept.clear()

    def abandon(self, error: BaseException) -> None:
        """The same, and for what waits too."""
        self.fail(error)
        while self._waiting:
            self._emit(self._waiting.popleft(), error)

    def _running(self) -> Iterator[_Answer]:
        return (answer for batch in self._batches for answer in batch.answers)

    def _carries(self, more: list[_Answer]) -> bool:
        """Whether so many more answers are within slots and memory; one always is if there are no others."""
        all_ = [*self._running(), *more]
        tokens = sum(len(one.request.ids) + one.longest for one in all_)
        return len(all_) == 1 or (len(all_) <= self._slots and tokens * self.model.kv_bytes <= self.model.room)

    def _drop_left(self) -> None:
        self._waiting = deque(answer for answer in self._waiting if not answer.request.left)
        if (filling := self._filling) and all(answer.request.left for answer in filling.answers):
            self._keep(filling.answers[0].ids[: filling.done], filling.cache)
            self._filling = None
        for batch in self._batches:
            for row in reversed(range(len(batch.answers))):
                if batch.answers[row].request.left:
                    self._leave(batch, row)
        self._batches = [batch for batch in self._batches if batch.answers]

    def _begin(self) -> _Filling:
        first = self._waiting.popleft()
        answers = [first]
        if self.model.plain:
            for other in [one for one in self._waiting if one.ids == first.ids]:
                if self._carries([*answers, other]):
                    self._waiting.remove(other)
                    answers.append(other)
        in_use = [
            Known(np.asarray(answer.ids[: answer.fed]), batch.cache, row)
            for batch in self._batches
            for row, answer in enumerate(batch.answers)
        ]
        cache, common = self._kept.take(first.ids, in_use)
        first.cached = common
        for answer in answers[1:]:
            answer.cached = len(answer.ids)
        return _Filling(answers, cache, common)

    def _fill(self, filling: _Filling) -> None:
        ids = filling.answers[0].ids
        part = ids[filling.done : filling.done + self._chunk]
        logits = self.model.forward([part], [filling.done], filling.cache)
        filling.done += len(part)
        if filling.done < len(ids):
            return
        self._filling = None
        answers = [answer for answer in filling.answers if not answer.request.left]
        several = logits.repeat(len(answers), 1)
        tokens = choose(several, [one.chooser for one in answers], [one.ids for one in answers]) if answers else []
        prompt, going_on = list(ids), []
        for answer, token in zip(answers, tokens, strict=True):
            answer.fed = len(prompt)
            if not self._say(answer, token):
                going_on.append(answer)
        if not going_on:
            self._keep(prompt, filling.cache)
        for n, answer in enumerate(going_on):
            self._join(answer, filling.cache, last=n == len(going_on) - 1)

    def _join(self, answer: _Answer, cache: Cache, *, last: bool) -> None:
        """Let an answer run. `cache` has its prompt, and is needed for others unless this is the `last`."""
        if self._batches and self.model.batches:
            batch = self._batches[0]
            if isinstance(batch.cache, Rows) and isinstance(cache, Rows):
                batch.cache.join(cache)
                batch.answers.append(answer)
                return
        if not last and isinstance(cache, Rows) and not self.model.batches:
            cache = cache.copy(0, answer.fed)
        self._batches.append(_Batch(cache, [answer]))

    def _advance(self, batch: _Batch) -> None:
        tokens = [answer.ids[-1:] for answer in batch.answers]
        logits = self.model.forward(tokens, [answer.fed for answer in batch.answers], batch.cache)
        chosen = choose(logits, [one.chooser for one in batch.answers], [one.ids for one in batch.answers])
        for row in reversed(range(len(chosen))):
            answer = batch.answers[row]
            answer.fed += 1
            if self._say(answer, chosen[row]):
                self._leave(batch, row)

    def _leave(self, batch: _Batch, row: int) -> None:
        answer, last = batch.answers[row], batch.answers.pop()
        if row < len(batch.answers):
            batch.answers[row] = last
        cache = batch.cache.leave(row) if isinstance(batch.cache, Rows) else batch.cache
        self._keep(answer.ids[: answer.fed], cache)

    def _keep(self, ids: list[int], cache: Cache) -> None:
        used = sum(batch.cache.nbytes for batch in self._batches if batch.answers and isinstance(batch.cache, Rows))
        self._kept.keep(ids, cache, min(self.model.room // 2, self.model.room - used))

    def _say(self, answer: _Answer, token: int) -> bool:
        """Add a token to an answer; whether it was the last."""
        asked = len(answer.request.ids)
        if token in self.model.ends or token in answer.request.ends:
            self._end(answer, "stop", len(answer.ids) - asked + 1)
            return True
        answer.ids.append(token)
        self._emit(answer, answer.text.push(token))
        said = len(answer.ids) - asked
        if answer.text.stopped or said == answer.longest:
            self._end(answer, "length", said)
            return True
        return False

    def _end(self, answer: _Answer, finish: str, said: int) -> None:
        self._emit(answer, answer.text.finish())
        finish = "stop" if answer.text.stopped else finish
        self._emit(answer, Ended(finish, len(answer.request.ids), said, answer.cached))

    def _emit(self, answer: _Answer, event: Event) -> None:
        if event != "" and not answer.request.left:
            answer.request.emit(event)

"""Weights on this machine, run by transformers: one thread owns the model, requests come to it from the event loop."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultrachat_cli.backends.base import Messages, Prompt, Sampling
from ultrachat_cli.errors import BackendError, MissingExtra
from ultrachat_cli.machine import cores
from ultrachat_cli.models import formats
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.models.specs import ModelSpec
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.registry import did_you_mean

if TYPE_CHECKING:
    from ultrachat_cli.models.causal_lm import CausalLM
    from ultrachat_cli.models.chat_tokens import ChatTokenizer
    from ultrachat_cli.models.decode import Decoder, Event, Request
    from ultrachat_cli.models.drawing import Drawing

_ANSWERS_A_CORE = 8
_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "repeat_penalty", "repeat_last_n", "seed")
_LAST = 64  # tokens llama.cpp's repeat_penalty looks back on, unless told


class LocalBackend:
    """A model folder. Answers are made together, up to `slots` at once; what prompts have in common is kept."""

    def __init__(self, name: str, model: CausalLM, tokenizer: ChatTokenizer, *, slots: int = 16) -> None:
        from ultrachat_cli.models.decode import Decoder

        self.name, self.slots = name, slots
        self.context = model.context
        """Most tokens of a prompt and its answer."""
        self._model, self._tokenizer = model, tokenizer
        self._worker = _Worker(Decoder(model, tokenizer.backend, slots=slots))

    @classmethod
    def open(
        cls, spec: ModelSpec, folder: Path, settings: LocalSettings | None = None, *, slots: int = 16
    ) -> LocalBackend:
        """Load the model `spec` from a folder in transformers' layout; takes as long as reading it from the disk.

        Raises `UltraError`: not a model, incomplete, too large for the memory, no chat format; `MissingExtra`.
        """
        # libgomp reads this once, as torch loads. Its default spins so long that beside one busy process a token takes
        # 0.2 to 2 s instead of 0.04 (SmolLM2, 2 cores); with this 0.07, and 0.043 on a machine of its own.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        try:
            from ultrachat_cli.models.causal_lm import load
        except ImportError as error:
            raise MissingExtra(f"model {spec.name}", "torch and transformers", "local") from error
        from ultrachat_cli.models.chat_tokens import ChatTokenizer

        tokenizer = ChatTokenizer(folder, spec.format)
        model = load(folder, settings or LocalSettings(), name=spec.name, context=spec.context)
        if model.model.device.type == "cpu":
            slots = min(slots, _ANSWERS_A_CORE * cores())
        return cls(spec.name, model, tokenizer, slots=slots)

    async def complete(
        self, prompt: Prompt, sampling: Sampling, *, schema: Mapping[str, Any] | None = None
    ) -> Completion:
        """One answer. A schema is not enforced: lists are parsed from plain text."""
        whole: Completion | None = None
        async for piece in self.stream(prompt, sampling):
            if isinstance(piece, Completion):
                whole = piece
        assert whole is not None
        if not whole.text.strip() and whole.finish != "length":
            raise BackendError(f"{self.name}: empty answer (finish_reason {whole.finish})")
        return whole

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str | Completion]:
        """The answer piece by piece, then the whole of it. Left early, it stops at the next token."""
        from ultrachat_cli.models.decode import Ended, Request

        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(heard.put_nowait, event)

        request = Request(
            self._ids(prompt), emit, self._drawing(sampling), sampling.max_tokens, sampling.stop, self._ends(prompt)
        )
        self._worker.ask(request)
        pieces: list[str] = []
        try:
            while True:
                event = await heard.get()
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Ended):
                    known = event.cached
                    yield Completion(
                        "".join(pieces), event.finish, event.prompt, event.completion, self.name, cached_tokens=known
                    )
                    return
                pieces.append(event)
                yield event
        finally:
            request.left = True

    async def count(self, messages: Messages) -> int | None:
        """Exactly what the prompt takes of the context."""
        return len(self._ids(messages, check=False))

    async def models(self) -> list[str] | None:
        """The one model."""
        return [self.name]

    async def close(self) -> None:
        """End the thread, and what is being answered with it."""
        await asyncio.to_thread(self._worker.close)

    def _ids(self, prompt: Prompt, *, check: bool = True) -> list[int]:
        if isinstance(prompt, str):
            ids = self._raw(prompt)
        else:
            try:
                ids = self._tokenizer.prompt(prompt)
            except ValueError as error:
                raise BackendError(f"{self.name}: {error}", status=400, code="invalid_messages") from error
        if not ids:
            raise BackendError(f"{self.name}: the prompt is empty", status=400, code="invalid_prompt")
        if check and len(ids) >= self.context:
            raise BackendError(
                f"{self.name}: the prompt has {len(ids)} tokens, the context {self.context}, answer included",
                "shorten the conversation, or use a model with a longer context",
                status=400,
                code="context_length_exceeded",
            )
        return ids

    def _raw(self, prompt: str) -> list[int]:
        """Special tokens in a raw prompt are such tokens; it begins as the model's texts do."""
        tokenizer = self._tokenizer
        own = tokenizer.format == formats.TOKENIZER
        begins = tokenizer.settings.get("add_bos_token") if own else formats.FORMATS[tokenizer.format].bos
        ids = tokenizer.tokens(prompt)
        if begins and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
            return [tokenizer.bos, *ids]
        return ids

    def _ends(self, prompt: Prompt) -> frozenset[int]:
        ends = {self._tokenizer.end} | ({self._tokenizer.eos} if isinstance(prompt, str) else set())
        return frozenset(end for end in ends if end is not None)

    def _drawing(self, sampling: Sampling) -> Drawing:
        """`BackendError` for a field that is not known here, and for a value that none can be."""
        from ultrachat_cli.models.drawing import Drawing

        asked = {**sampling.body()}
        for name in ("max_tokens", "stop"):
            asked.pop(name, None)
        if unknown := [name for name in asked if name not in _FIELDS]:
            raise BackendError(
                f"{self.name}: sampling field '{unknown[0]}' is not known to local weights"
                f"{did_you_mean(unknown[0], _FIELDS)}",
                f"leave it out; known are max_tokens, stop, {', '.join(_FIELDS)}",
                status=400,
                code="unknown_field",
            )
        given = {**self._model.defaults, **{name: value for name, value in asked.items() if value is not None}}
        try:
            last = 0 if "repetition_penalty" in asked or "repeat_penalty" not in asked else _LAST
            drawing = Drawing(
                temperature=float(given.get("temperature", 1.0)),
                top_p=float(given.get("top_p", 1.0)),
                top_k=max(0, int(given.get("top_k", 0))),
                min_p=float(given.get("min_p", 0.0)),
                penalty=float(asked.get("repeat_penalty", given.get("repetition_penalty", 1.0))),
                penalty_last=int(given.get("repeat_last_n", last)),
                seed=None if given.get("seed") is None else int(given["seed"]),
            )
            sound = drawing.temperature >= 0 and 0 < drawing.top_p <= 1 and 0 <= drawing.min_p <= 1
            if not (sound and drawing.penalty > 0 and (sampling.max_tokens is None or sampling.max_tokens > 0)):
                raise ValueError("out of range")
        except (TypeError, ValueError) as error:
            raise BackendError(
                f"{self.name}: sampling fields that cannot be: {asked | {'max_tokens': sampling.max_tokens}}",
                "temperature >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, penalties > 0, max_tokens > 0",
                status=400,
                code="invalid_field",
            ) from error
        return drawing


class _Worker:
    """The thread that decodes; it starts with the first request and can be ended and started again."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, request: Request) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="decoder", daemon=True)
            self._thread.start()
        self._inbox.put(request)

    def close(self) -> None:
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            with suppress(queue.Empty):
                while True:
                    request = self._inbox.get(block=self._decoder.idle)
                    if request is None:
                        self._decoder.abandon(BackendError("the local model is being closed"))
                        return
                    self._decoder.add(request)
            try:
                self._decoder.step()
            except Exception as error:  # a worker's edge: whoever waits gets it
                self._decoder.fail(_told(error))


def _told(error: Exception) -> Exception:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        hint = "lower --concurrency or the length of the conversation; --quantize 4bit makes room"
        return BackendError(f"the GPU's memory is full: {str(error).splitlines()[0]}", hint)
    return error

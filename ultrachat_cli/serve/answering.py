"""Requests answered by a model, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from aiohttp import web

from ultrachat_cli.backends.base import Prompt, Sampling
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.backends.fresh import Reply
from ultrachat_cli.errors import BackendError, BudgetSpent
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.serve.bodies import Asked, Refused

_REPETITION = {"repetition_penalty", "repeat_penalty"}


@dataclass(frozen=True)
class Shape:
    """How answers look at one of the two addresses."""

    chat: bool
    model: str

    def head(self, chunk: bool = False) -> dict[str, Any]:
        """What every answer begins with; a stream has one for all its events."""
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex[:24]}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.model}

    def whole(self, index: int, answer: Completion) -> dict[str, Any]:
        """A choice of an answer that is no stream."""
        said = {"message": {"role": "assistant", "content": answer.text}} if self.chat else {"text": answer.text}
        return {"index": index, **said, "logprobs": None, "finish_reason": answer.finish}

    def piece(self, index: int, text: str | None, finish: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """A choice of an event."""
        delta: dict[str, str] = {"role": "assistant"} if first else {}
        said: dict[str, Any] = {"delta": delta | ({} if text is None else {"content": text})}
        return {"index": index, **(said if self.chat else {"text": text or ""}), "logprobs": None,
                "finish_reason": finish}  # fmt: skip


def usage(answers: Sequence[Completion], n: int) -> dict[str, Any]:
    """Tokens; a prompt that is answered `n` times counts once."""
    asked = sum(answer.prompt_tokens for answer in answers[::n])
    said = sum(answer.completion_tokens for answer in answers)
    known = sum(answer.cached_tokens for answer in answers[::n])
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said,
            "prompt_tokens_details": {"cached_tokens": known}}  # fmt: skip


async def whole(model: ChatModel, asked: Asked, shape: Shape) -> web.Response:
    """All answers in one body. Raises `Refused`."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(Reply(model, *one, lambda _: None).made()) for one in _each(model, asked)]
    except ExceptionGroup as several:
        raise refused(several.exceptions[0]) from several
    answers = [task.result() for task in tasks]
    choices = [shape.whole(index, answer) for index, answer in enumerate(answers)]
    return reply({**shape.head(), "choices": choices, "usage": usage(answers, asked.n)})


async def streamed(request: web.Request, model: ChatModel, asked: Asked, shape: Shape) -> web.StreamResponse:
    """All answers as events, as they come. Raises `Refused` while nothing was sent; later errors are events."""
    events: asyncio.Queue[tuple[int, str | Completion | BaseException]] = asyncio.Queue()

    async def answer(index: int, prompt: Prompt, sampling: Sampling) -> None:
        try:
            events.put_nowait(
                (index, await Reply(model, prompt, sampling, lambda p: events.put_nowait((index, p))).made())
            )
        except Exception as error:  # whoever reads the events gets it
            events.put_nowait((index, error))

    tasks = [asyncio.create_task(answer(n, *one)) for n, one in enumerate(_each(model, asked))]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    head = shape.head(chunk=True)
    answers: dict[int, Completion] = {}
    begun: set[int] = set()
    try:
        while len(answers) < len(tasks):
            index, event = await events.get()
            if isinstance(event, BaseException) and not response.prepared:
                raise refused(event) from event
            if not response.prepared:
                await response.prepare(request)
            if isinstance(event, BaseException):
                await _send(response, refused(event).body)
                return response
            if index not in begun and shape.chat:
                begun.add(index)
                await _send(response, {**head, "choices": [shape.piece(index, "", first=True)]})
            if isinstance(event, Completion):
                answers[index] = event
                await _send(response, {**head, "choices": [shape.piece(index, None, event.finish)]})
            else:
                await _send(response, {**head, "choices": [shape.piece(index, event)]})
        if asked.usage:
            counted = usage([answers[n] for n in sorted(answers)], asked.n)
            await _send(response, {**head, "choices": [], "usage": counted})
        await response.write(b"data: [DONE]\n\n")
        return response
    finally:  # also when the client went away: then nobody is to go on answering
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply(body: dict[str, Any], status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def refused(error: BaseException) -> Refused:
    """What a client is told of an error of the model; a bug of ours is raised as it is."""
    if isinstance(error, BackendError):
        message = f"{error.message} ({error.hint})" if error.hint else error.message
        if error.status in (400, 413, 422, 429):
            kind = "rate_limit_error" if error.status == 429 else ""
            return Refused(error.status, message, code=error.code or None, kind=kind)
        return Refused(502, message, code=error.code or "backend_error")
    if isinstance(error, BudgetSpent):
        return Refused(429, error.message, code="insufficient_quota", kind="insufficient_quota")
    raise error


def _each(model: ChatModel, asked: Asked) -> list[tuple[Prompt, Sampling]]:
    """Every answer's prompt and sampling. Answers to one prompt have seeds that follow each other."""
    sampling = asked.sampling
    if not model.served:  # what the registry recommends, where the client says nothing
        advice = {key: value for key, value in model.spec.sampling.items() if key != "max_tokens"}
        if _REPETITION & sampling.extra.keys():
            advice = {key: value for key, value in advice.items() if key not in _REPETITION}
        temperature, top_p = advice.pop("temperature", None), advice.pop("top_p", None)
        sampling = replace(
            sampling,
            temperature=temperature if sampling.temperature is None else sampling.temperature,
            top_p=top_p if sampling.top_p is None else sampling.top_p,
            extra={**advice, **sampling.extra},
        )
    several = [replace(sampling, seed=None if sampling.seed is None else sampling.seed + n) for n in range(asked.n)]
    return [(prompt, one) for prompt in asked.prompts for one in several]


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + orjson.dumps(event) + b"\n\n")

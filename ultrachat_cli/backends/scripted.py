"""Answers without a model: from a file of rules, or synthetic text. For dry runs and tests."""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.backends.base import Messages, Prompt, Sampling, estimate_tokens, prompt_tokens
from ultrachat_cli.errors import BackendError, DataError
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.completion import Completion

Answer = Callable[[Prompt, Sampling, Mapping[str, Any] | None], tuple[str, str]]
"""(prompt, sampling, schema) -> (text, finish reason)."""

SYNTHETIC = "synthetic"
_WORDS = [
    "water",
    "history",
    "market",
    "garden",
    "engine",
    "teacher",
    "winter",
    "bridge",
    "music",
    "island",
    "doctor",
    "letter",
    "forest",
    "planet",
    "kitchen",
    "river",
    "language",
    "morning",
    "village",
    "science",
    "painter",
    "mountain",
    "story",
    "harbour",
    "machine",
    "library",
    "season",
    "country",
    "animal",
    "theatre",
    "valley",
    "student",
    "weather",
    "journey",
    "council",
    "factory",
    "orchard",
    "pattern",
    "station",
    "society",
    "temple",
    "captain",
    "evening",
    "festival",
    "colour",
    "mineral",
    "ocean",
    "farmer",
    "railway",
    "culture",
    "balance",
    "summer",
    "window",
    "question",
    "energy",
    "climate",
    "reason",
]
_OPENERS = ("How does the", "Why did the", "What makes the", "Where would the", "Which part of the", "When can the")


class ScriptedBackend:
    """A backend whose answers are computed here; answers at once, counts estimated tokens."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @classmethod
    def open(cls, place: str) -> ScriptedBackend:
        """`synthetic`, or a JSONL file of rules `{"match": text, "reply": text or list, "finish": "stop"}`.

        The first rule whose `match` occurs in the last message answers; an empty `match` answers anything.
        """
        return cls(synthetic if place == SYNTHETIC else _rules(Path(place)))

    async def complete(
        self, prompt: Prompt, sampling: Sampling, *, schema: Mapping[str, Any] | None = None
    ) -> Completion:
        """One answer; token counts are estimates."""
        text, finish = self._answer(prompt, sampling, schema)
        return Completion(text, finish, prompt_tokens(prompt), estimate_tokens(text), "scripted")

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str | Completion]:
        """The answer word by word, then the whole of it."""
        answer = await self.complete(prompt, sampling)
        for n, word in enumerate(answer.text.split(" ")):
            yield f" {word}" if n else word
        yield answer

    async def count(self, messages: Messages) -> int | None:
        """Only estimates."""
        return None

    async def models(self) -> list[str] | None:
        """Nothing is served."""
        return None

    async def close(self) -> None:
        """Nothing to release."""


def _rules(path: Path) -> Answer:
    rules: list[tuple[str, str, str]] = []

    def bad(error: DataError) -> None:
        raise error

    for number, rule in jsonl.read(path, bad):
        reply = rule.get("reply") if isinstance(rule, dict) else None
        if not isinstance(reply, str | list):
            raise DataError(path, number, "a rule needs a 'reply' that is text or a list of texts")
        text = reply if isinstance(reply, str) else orjson.dumps({"items": reply}).decode()
        rules.append((str(rule.get("match", "")), text, str(rule.get("finish", "stop"))))

    def answer(prompt: Prompt, _: Sampling, __: Mapping[str, Any] | None) -> tuple[str, str]:
        last = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        for match, text, finish in rules:
            if match in last:
                return text, finish
        raise BackendError(f"{path}: no rule matches: {last[:80]!r}", 'add a rule with an empty "match"')

    return answer


def synthetic(prompt: Prompt, sampling: Sampling, schema: Mapping[str, Any] | None) -> tuple[str, str]:
    """Plain English of no meaning, the same for the same request, different for different ones."""
    text = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
    draw = random.Random(zlib.crc32(f"{sampling.seed} {text}".encode()))
    if schema is not None:
        name, array = next(iter(schema["properties"].items()))
        items = [_sentence(draw) + "?" for _ in range(array.get("maxItems", 10))]
        return orjson.dumps({name: items}).decode(), "stop"
    return " ".join(_sentence(draw) + ending for ending in (".", ".", "?")), "stop"


def _sentence(draw: random.Random) -> str:
    a, b, c, d = draw.sample(_WORDS, 4)
    return f"{draw.choice(_OPENERS)} {a} of the {b} change a {c} near the {d}"

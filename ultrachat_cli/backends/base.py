"""What every backend offers: messages or a raw prompt in, a completion out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ultrachat_cli.records.completion import Completion

Messages = Sequence[Mapping[str, str]]
Prompt = Messages | str
"""Chat messages, or the text of a raw completion."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Generation settings of one request. None leaves the server's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields sent as they are (top_k, repeat_penalty, min_p, ...)."""

    def body(self) -> dict[str, Any]:
        """The request fields."""
        fields: dict[str, Any] = dict(self.extra)
        for name in ("max_tokens", "temperature", "top_p", "seed"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        if self.stop:
            fields["stop"] = list(self.stop)
        return fields


class Backend(Protocol):
    """A source of completions. Raises `BackendError`; never retries by itself (that is `limits`)."""

    async def complete(
        self, prompt: Prompt, sampling: Sampling, *, schema: Mapping[str, Any] | None = None
    ) -> Completion:
        """One answer; `schema`: a JSON schema that the answer must follow."""
        ...

    def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str | Completion]:
        """The answer piece by piece, and last of all the whole of it. Closed early, it stops being made."""
        ...

    async def count(self, messages: Messages) -> int | None:
        """Tokens of the prompt that asks for the answer to `messages`; None where they can only be estimated."""
        ...

    async def models(self) -> list[str] | None:
        """Names the endpoint serves; None when it does not tell."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


def estimate_tokens(text: str) -> int:
    """Tokens of a text before anyone counted them: four bytes of UTF-8 a token, rounded up."""
    return len(text) // 4 + 1 if text.isascii() else len(text.encode()) // 4 + 1


def prompt_tokens(prompt: Prompt) -> int:
    """Estimated tokens of a whole prompt, with a few for each turn's frame."""
    if isinstance(prompt, str):
        return estimate_tokens(prompt)
    return sum(estimate_tokens(message["content"]) + 4 for message in prompt)

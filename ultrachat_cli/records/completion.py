"""What a model answered: the thing that is paid for, and so the thing that is journaled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `finish`: `stop`, `length` or what the server said; tokens as the server counts; `cost`: dollars.

    `cached_tokens`: those of the prompt that the model knew already and did not work out again. `logprobs`: where they
    were asked for and given, JSON text: for each token of the answer a list of the likeliest, [token, log probability].
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    cost: float = 0.0
    cached_tokens: int = 0
    logprobs: str | None = None

"""What of a conversation fits: whole rounds, the newest of them, under the system prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ultrachat_cli.backends import base
from ultrachat_cli.backends.base import Backend, Messages
from ultrachat_cli.chat.conversation import Conversation
from ultrachat_cli.errors import BackendError, UltraError

_SHORTEST = 16  # tokens an answer needs at the very least
_OVERFLOW = re.compile(
    r"(?i)context[ _](length|size|window)|maximum context|exceed\w* .{0,40}context|prompt is too long"
)


@dataclass(frozen=True)
class Fit:
    """What is sent. `dropped`: oldest rounds left out; `prompt`: its tokens; `max_tokens`: room for the answer."""

    messages: Messages
    dropped: int
    prompt: int
    exact: bool
    max_tokens: int | None


class Counter:
    """Tokens of a prompt: as the backend counts them, else estimated and corrected by what the server reported."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._ratio = 1.0
        self.exact = False

    async def count(self, messages: Messages) -> int:
        """Tokens of the prompt that asks for the answer to `messages`; `exact` tells whether they were counted."""
        counted = await self._backend.count(messages)
        self.exact = counted is not None
        return round(base.prompt_tokens(messages) * self._ratio) if counted is None else counted

    def learn(self, messages: Messages, reported: int) -> None:
        """What the server counted for a prompt makes later estimates better."""
        if reported:
            self._ratio = min(4.0, max(0.25, reported / base.prompt_tokens(messages)))


async def fit(talk: Conversation, counter: Counter, context: int, longest: int | None, skip: int = 0) -> Fit:
    """The newest rounds that fit `context` tokens (0: unknown, all but `skip` are sent) beside the answer.

    The answer is given `longest` tokens of room, but no more than half of the context: the history has the other half
    whatever `longest` says. `UltraError` when the system prompt and the newest turn alone are too long.
    """
    if not context:
        messages = talk.messages(skip)
        return Fit(messages, skip, await counter.count(messages), counter.exact, longest)
    room = context - min(longest or context // 4, context // 2)
    last = len(talk.rounds) - 1
    counted: dict[int, int] = {}

    async def tokens(dropped: int) -> int:
        if dropped not in counted:
            counted[dropped] = await counter.count(talk.messages(dropped))
        return counted[dropped]

    dropped = min(skip, last)
    if await tokens(dropped) > room and dropped < last:
        low, high = dropped + 1, last  # the first that fits, or the newest turn alone
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if await tokens(middle) > room else (low, middle)
        dropped = low
    prompt = await tokens(dropped)
    if prompt + _SHORTEST > context:
        with_system = "this message with the system prompt" if talk.system else "this message"
        raise UltraError(
            f"{with_system} takes {'' if counter.exact else 'about '}{prompt:,} tokens, and the context holds "
            f"{context:,}",
            "shorten it" + (", or the system prompt (/system)" if talk.system else ""),
        )
    most = context - prompt
    return Fit(talk.messages(dropped), dropped, prompt, counter.exact, None if longest is None else min(longest, most))


def overflowed(error: BackendError) -> bool:
    """Whether a server refused a prompt because it is too long for its context."""
    if error.code in ("context_length_exceeded", "exceed_context_size_error"):
        return True
    return error.status in (400, 413, 422, 500) and _OVERFLOW.search(error.message) is not None

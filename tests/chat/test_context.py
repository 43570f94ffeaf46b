"""Which rounds are sent, and how much room the answer has."""

from __future__ import annotations

import asyncio

import pytest

from tests.chat.recording import Model, opened, screen
from ultrachat_cli.backends.base import Messages, prompt_tokens
from ultrachat_cli.chat.context import Counter, Fit, fit, overflowed
from ultrachat_cli.chat.conversation import Conversation, Round
from ultrachat_cli.errors import BackendError, UltraError


def words(messages: Messages) -> int:
    return sum(len(message["content"].split()) for message in messages)


def talk(rounds: int, system: str = "S S") -> Conversation:
    """Ten words a round, and a question of five."""
    said = [Round("u u u u u", "a a a a a") for _ in range(rounds)]
    return Conversation(system, [*said, Round("u u u u u")])


def fitted(conversation: Conversation, context: int, longest: int | None, model: Model | None = None) -> Fit:
    return asyncio.run(fit(conversation, Counter(model or Model(lambda _: "", words)), context, longest))


@pytest.mark.parametrize(
    ("context", "longest", "dropped"),
    [(1000, 100, 0), (157, 50, 0), (156, 50, 1), (147, 50, 1), (146, 50, 2), (100, 50, 6), (65, 50, 8), (57, 50, 8)],
)
def test_as_many_whole_rounds_as_fit_beside_the_answer(context: int, longest: int, dropped: int) -> None:
    """Ten rounds are 107 words; the answer never claims more than half of the context."""
    found = fitted(talk(10), context, longest)
    room = context - min(longest, context // 2)
    assert found.prompt == 107 - 10 * found.dropped
    assert found.prompt <= room or found.dropped == 10
    assert found.dropped == 0 or found.prompt + 10 > room, "no round too many is dropped"
    assert found.dropped == pytest.approx(dropped, abs=0)
    assert found.messages[0] == {"role": "system", "content": "S S"}
    assert found.messages[-1] == {"role": "user", "content": "u u u u u"}


def test_the_original_rule_is_not_copied() -> None:
    """UltraLM's own client cut everything to 40 tokens when 2,000 were wanted of a context of 2,048."""
    found = fitted(talk(60), 2048, 2000)
    assert (found.dropped, found.prompt, found.max_tokens) == (0, 607, 2048 - 607)


def test_what_can_never_fit_is_one_error() -> None:
    with pytest.raises(UltraError, match="this message with the system prompt takes 307 tokens, and the context holds"):
        fitted(Conversation("s " * 300, [Round("a", "b"), Round("u u u u u u u")]), 200, 50)
    with pytest.raises(UltraError, match="this message takes 300 tokens"):
        fitted(Conversation("", [Round("u " * 300)]), 200, None)


def test_an_unknown_context_trims_nothing() -> None:
    assert fitted(talk(500), 0, 50).dropped == 0


def test_counting_is_seldom() -> None:
    model = Model(lambda _: "", words)
    fitted(talk(1000), 10_500, 50, model)
    assert model.counted == 1, "what fits is counted once"
    fitted(talk(1000), 300, 50, model)
    assert model.counted < 15, "what does not is halved"


def test_estimates_learn_from_what_the_server_counted() -> None:
    async def counted() -> tuple[int, int, int]:
        counter, messages = Counter(Model(lambda _: "")), talk(3).messages()
        first = await counter.count(messages)
        counter.learn(messages, 2 * first)
        second = await counter.count(messages)
        counter.learn(messages, 0)
        return first, second, await counter.count(messages)

    first, second, third = asyncio.run(counted())
    assert first == prompt_tokens(talk(3).messages())
    assert second == third == 2 * first


@pytest.mark.parametrize(
    ("status", "code", "message", "is_one"),
    [
        (400, "context_length_exceeded", "", True),
        (400, "", "This model's maximum context length is 2048 tokens.", True),
        (400, "exceed_context_size_error", "the request exceeds the available context size", True),
        (500, "", "request (3000 tokens) exceeds the available context size (2048 tokens)", True),
        (400, "", "temperature is out of range", False),
        (401, "", "no context length for you", False),
    ],
)
def test_refusals_that_mean_too_long(status: int, code: str, message: str, is_one: bool) -> None:
    assert overflowed(BackendError(message, status=status, code=code)) is is_one


def refusing(most: int) -> Model:
    def answer(messages: Messages) -> str:
        if words(messages) > most:
            raise BackendError("too long", status=400, code="context_length_exceeded")
        return "fine by me"

    return Model(answer)


def test_a_server_that_finds_it_too_long_gets_a_round_less_until_it_fits() -> None:
    async def run() -> None:
        session = opened(refusing(30), system="S")
        for n in range(6):
            await session.say(f"q{n} u u u u")
        assert len(session.talk.rounds) == 6, "the conversation itself is whole"
        assert screen(session).said == [
            "the oldest round no longer fits the context",
            "the oldest 2 rounds no longer fit the context",
        ]
        sent = session.model.backend.asked[-1]  # type: ignore[attr-defined]
        assert [m["content"][:2] for m in sent if m["role"] == "user"] == ["q2", "q3", "q4", "q5"]
        assert sent[0]["role"] == "system"
        with pytest.raises(UltraError, match="too long for the model"):
            await session.say("u " * 40)
        assert len(session.talk.rounds) == 6
        await session.say("short")

    asyncio.run(run())


def test_a_known_context_trims_and_says_so_once_each_time() -> None:
    async def run() -> None:
        session = opened(Model(lambda _: "a a a a a", words), context=64, system="S S", sampling={"max_new_tokens": 24})
        for _ in range(6):
            await session.say("u u u u u")
        assert screen(session).said == [
            "the oldest round no longer fits the context of 64 tokens",
            "the oldest 2 rounds no longer fit the context of 64 tokens",
        ]
        assert [s.max_tokens for s in session.model.backend.sampling] == [24] * 6  # type: ignore[attr-defined]
        with pytest.raises(UltraError, match="the context holds 64"):
            await session.say("u " * 70)
        assert len(session.talk.rounds) == 6
        assert session.talk.pending is None

    asyncio.run(run())

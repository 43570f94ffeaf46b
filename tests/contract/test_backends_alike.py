"""Scripted answers and a served model keep one contract, so that a test against the one speaks for the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson
import pytest

from tests.conftest import Serve
from ultrachat_cli.backends.base import Backend, Sampling
from ultrachat_cli.backends.openai import OpenAIBackend
from ultrachat_cli.backends.scripted import ScriptedBackend
from ultrachat_cli.errors import BackendError
from ultrachat_cli.generate.lists import schema
from ultrachat_cli.records.completion import Completion

T = TypeVar("T")
Open = Callable[[], Backend]
RIVERS = ["the Amazon", "the Nile", "the Danube"]
RULES = [
    ("river", orjson.dumps({"items": RIVERS}).decode(), "stop"),
    ("long", "This goes on and", "length"),
    ("sky", "Blue light is scattered  more.\nSo it comes from everywhere.", "stop"),
]
SAMPLING = Sampling(max_tokens=100, temperature=0.7, top_p=0.9, seed=3, stop=("\n\n",))


def ask(text: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, what is it?"},
        {"role": "user", "content": text},
    ]


@pytest.fixture(params=["scripted", "openai"])
def opened(request: pytest.FixtureRequest, server: Serve, tmp_path: Path) -> Open:
    """A backend that answers by the rules above, and to nothing else."""
    path = tmp_path / "rules.jsonl"
    key = "finish_reason" if request.param == "openai" else "finish"
    path.write_bytes(b"".join(orjson.dumps({"match": m, "reply": r, key: f}) + b"\n" for m, r, f in RULES))
    if request.param == "scripted":
        return lambda: ScriptedBackend.open(str(path))
    url = server(script=str(path), context=200).url
    return lambda: OpenAIBackend(url, "test-model")


def use(opened: Open, job: Callable[[Backend], Awaitable[T]]) -> T:
    async def main() -> T:
        backend = opened()
        try:
            return await job(backend)
        finally:
            await backend.close()

    return asyncio.run(main())


def test_an_answer_is_whole(opened: Open) -> None:
    answer = use(opened, lambda backend: backend.complete(ask("Why is the sky blue?"), SAMPLING))
    assert (answer.text, answer.finish) == (RULES[2][1], "stop")
    assert answer.prompt_tokens > 0
    assert answer.completion_tokens > 0
    assert answer.model
    assert answer.cost == 0


def test_only_the_last_message_is_answered(opened: Open) -> None:
    messages = [*ask("Why is the sky blue?"), {"role": "assistant", "content": "It is."}, *ask("a long one")[-1:]]
    assert use(opened, lambda backend: backend.complete(messages, SAMPLING)).text == RULES[1][1]


def test_a_cut_answer_says_so(opened: Open) -> None:
    assert use(opened, lambda backend: backend.complete(ask("a long one"), SAMPLING)).finish == "length"


def test_a_raw_prompt(opened: Open) -> None:
    assert use(opened, lambda backend: backend.complete("Under a blue sky", SAMPLING)).text == RULES[2][1]


def test_a_schema_gives_json(opened: Open) -> None:
    answer = use(opened, lambda backend: backend.complete(ask("Name a river."), SAMPLING, schema=schema(3)))
    assert orjson.loads(answer.text) == {"items": RIVERS}


def test_a_stream_is_the_answer_in_pieces(opened: Open) -> None:
    async def both(backend: Backend) -> tuple[list[str | Completion], Completion]:
        pieces = [piece async for piece in backend.stream(ask("Why is the sky blue?"), SAMPLING)]
        return pieces, await backend.complete(ask("Why is the sky blue?"), SAMPLING)

    (*pieces, last), whole = use(opened, both)
    assert len(pieces) > 3
    assert all(pieces)
    assert "".join(map(str, pieces)) == whole.text
    assert last == whole


def test_a_stream_can_be_left_early(opened: Open) -> None:
    async def first(backend: Backend) -> str:
        stream = backend.stream(ask("Why is the sky blue?"), SAMPLING)
        async for piece in stream:
            return str(piece)
        return ""

    assert use(opened, first).strip() == "Blue"


def test_the_same_request_has_the_same_answer_however_many_at_once(opened: Open) -> None:
    async def at_once(backend: Backend) -> set[str]:
        return {
            answer.text
            for answer in await asyncio.gather(*(backend.complete(ask("blue sky"), SAMPLING) for _ in range(10)))
        }

    assert use(opened, at_once) == {RULES[2][1]}


def test_what_cannot_be_answered_is_a_backend_error_that_asking_again_does_not_mend(opened: Open) -> None:
    """No rule matches; the prompt is longer than the context."""
    with pytest.raises(BackendError) as caught:
        use(opened, lambda backend: backend.complete(ask("Nothing of the kind. " * 60), SAMPLING))
    assert not caught.value.retryable
    assert not caught.value.fatal


def test_an_unanswerable_stream_is_the_same_error(opened: Open) -> None:
    async def drain(backend: Backend) -> None:
        async for _ in backend.stream(ask("Nothing of the kind. " * 60), SAMPLING):
            pass

    with pytest.raises(BackendError) as caught:
        use(opened, drain)
    assert not caught.value.retryable


def test_models_are_names_or_not_told(opened: Open) -> None:
    assert use(opened, lambda backend: backend.models()) in (None, ["test-model"])


def test_closing_is_always_allowed(opened: Open) -> None:
    async def thrice(backend: Backend) -> None:
        await backend.close()
        await backend.complete(ask("blue sky"), SAMPLING)
        await backend.close()

    use(opened, thrice)


def test_synthetic_answers_are_reproducible_and_differ() -> None:
    async def some(backend: Backend) -> list[str]:
        return [
            (await backend.complete(ask(text), Sampling(seed=seed))).text for text in ("one", "two") for seed in (1, 2)
        ]

    first, second = (use(lambda: ScriptedBackend.open("synthetic"), some) for _ in range(2))
    assert first == second
    assert len(set(first)) == 4


def test_synthetic_lists_are_as_long_as_asked() -> None:
    answer = use(
        lambda: ScriptedBackend.open("synthetic"),
        lambda backend: backend.complete(ask("Name some rivers."), SAMPLING, schema=schema(13)),
    )
    assert len(set(orjson.loads(answer.text)["items"])) == 13

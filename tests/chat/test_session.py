"""Asking, stopping, choosing the best, commands, settings, files: everything but the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.chat.recording import Model, opened, screen
from ultrachat_cli.backends.base import Messages
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.chat import settings, slash
from ultrachat_cli.chat.session import Session
from ultrachat_cli.chat.settings import ChatSampling
from ultrachat_cli.chat.statistics import Taken
from ultrachat_cli.errors import BackendError, UltraError
from ultrachat_cli.models.specs import ModelSpec
from ultrachat_cli.records.completion import Completion


def echo(messages: Messages) -> str:
    return f"you said {messages[-1]['content']}"


def run(job: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(job())  # type: ignore[arg-type]


async def do(session: Session, *lines: str) -> None:
    for line in lines:
        await slash.run(session, line)


def said(session: Session) -> list[tuple[str, str | None]]:
    return [(each.user, each.answer) for each in session.talk.rounds]


class Longest:
    """The longer, the better."""

    async def score(self, messages: Messages, answers: Sequence[str]) -> list[float]:
        return [float(len(answer)) for answer in answers]


# asking


def test_rounds_statistics_and_what_is_sent() -> None:
    async def job() -> None:
        session = opened(Model(echo), system="Be brief.")
        await do(session, "a", "//b", "c d")
        assert said(session) == [("a", "you said a"), ("/b", "you said /b"), ("c d", "you said c d")]
        assert len(session.model.backend.asked[-1]) == 6  # type: ignore[attr-defined]
        assert session.talk.rounds[0].facts == {"model": "test-model", "finish": "stop", "tokens": 3}
        assert "3 tokens · context 103" in screen(session).taken[0]
        await do(session, "/stats")
        assert dict(screen(session).table)["tokens"] == "300 in, 10 out"

    run(job)


def test_a_failure_before_anything_came_keeps_the_question_for_regen() -> None:
    async def job() -> None:
        working = False

        def answer(messages: Messages) -> str:
            if not working:
                raise BackendError("gone", retryable=True)
            return echo(messages)

        session = opened(Model(answer))
        with pytest.raises(BackendError, match="gone"):
            await session.say("a")
        assert said(session) == [("a", None)]
        working = True
        await do(session, "/regen")
        assert said(session) == [("a", "you said a")]
        working = False
        for failing in ("/regen", "/edit 1 b"):
            with pytest.raises(BackendError):
                await do(session, failing)
            assert said(session) == [("a", "you said a")], "the old answer stays"
        with pytest.raises(BackendError):
            await session.say("b")
        working = True
        await session.say("c")
        assert said(session) == [("a", "you said a"), ("c", "you said c")]
        assert "dropped" in screen(session).said[-1]

    run(job)


def test_a_failure_midway_keeps_what_came_and_is_not_asked_again() -> None:
    async def job() -> None:
        async def break_off() -> None:
            raise BackendError("the answer broke off", retryable=True)

        model = Model(echo)
        model.before_piece = lambda n: break_off() if n == 2 else None
        session = opened(model)
        with pytest.raises(BackendError, match="broke off"):
            await session.say("a")
        assert said(session) == [("a", "you said")]
        assert session.talk.rounds[0].facts["finish"] == "broken off"
        assert len(model.asked) == 1
        model.before_piece = lambda n: None
        await session.say("b")
        assert [m["content"] for m in model.asked[-1]] == ["a", "you said", "b"], "the part is part of the conversation"

    run(job)


def test_stopping_keeps_what_came_and_counts_it() -> None:
    async def job() -> None:
        model, heard = Model(echo), asyncio.Event()

        async def wait() -> None:
            heard.set()
            await asyncio.Event().wait()

        model.before_piece = lambda n: wait() if n == 2 else None
        session = opened(model)
        asking = asyncio.create_task(session.say("a"))
        await heard.wait()
        session.stop()
        taken = await asking
        assert taken is not None
        assert said(session) == [("a", "you said")]
        assert session.talk.rounds[0].facts["finish"] == "interrupted"
        assert screen(session).said == ["stopped; what came is kept"]
        assert session.model.limiter.usage.completion_tokens > 0, "what came was paid for"
        heard.clear()
        model.before_piece = lambda n: wait()
        asking = asyncio.create_task(session.say("b"))
        await heard.wait()
        session.stop()
        assert await asking is None
        assert said(session)[-1] == ("b", None)
        assert screen(session).said[-1] == "stopped before anything came; /regen asks again"

    run(job)


def test_an_empty_answer_is_an_error() -> None:
    async def job() -> None:
        session = opened(Model(lambda _: " "))
        with pytest.raises(BackendError, match="answered with nothing"):
            await session.say("a")
        assert said(session) == [("a", None)]

    run(job)


# best of n


def test_best_of_shows_the_best_and_keeps_the_others() -> None:
    async def job() -> None:
        answers = iter(["middling", "the longest of all", "short"])
        session = opened(Model(lambda _: next(answers)), scorer=Longest(), best_of=3, sampling={"seed": 5})
        taken = await session.say("a")
        assert taken is not None
        assert screen(session).shown == ["the longest of all"]
        assert sorted(s.seed for s in session.model.backend.sampling) == [5, 6, 7]  # type: ignore[attr-defined]
        assert [(done, total) for _, done, total in screen(session).steps] == [(0, 3), (1, 3), (2, 3), (3, 3), (3, 3)]
        assert session.talk.rounds[0].facts["score"] == 18.0
        await do(session, "/best")
        assert [text for _, text in screen(session).table] == ["the longest of all", "middling", "short"]
        await do(session, "/best 2")
        assert screen(session).shown[-1] == "middling"
        assert said(session) == [("a", "the longest of all")], "shown is not taken"
        await do(session, "/best pick 3")
        assert said(session) == [("a", "short")]
        for wrong in ("/best 4", "/best 0", "/best pick", "/best pick x", "/best first"):
            with pytest.raises(UltraError):
                await do(session, wrong)
        assert session.totals.answers == 3

    run(job)


def test_stopping_best_of_leaves_the_question() -> None:
    async def job() -> None:
        class Never:
            async def score(self, messages: Messages, answers: Sequence[str]) -> list[float]:
                scoring.set()
                await asyncio.Event().wait()
                return []

        scoring = asyncio.Event()
        session = opened(Model(echo), scorer=Never(), best_of=2)
        asking = asyncio.create_task(session.say("a"))
        await scoring.wait()
        session.stop()
        assert await asking is None
        assert said(session) == [("a", None)]

    run(job)


def test_best_of_needs_a_scorer() -> None:
    async def job() -> None:
        session = opened(Model(echo))
        with pytest.raises(UltraError, match="--best-of needs --reward-model") as raised:
            await do(session, "/set best_of 4")
        assert "judge:openai:gpt-4o-mini" in raised.value.hint

    run(job)


# commands


def test_unknown_commands_and_settings_name_near_ones() -> None:
    async def job() -> None:
        session = opened(Model(echo))
        for line, problem in (
            ("/regenn", r"unknown command '/regenn' \(did you mean '/regen'\?\)"),
            ("/etc/passwd is a file", "unknown command '/etc/passwd'"),
            ("/set temprature 1", r"unknown setting 'temprature' \(did you mean 'temperature'\?\)"),
            ("/set temperature hot", "temperature hot: input should be a valid number"),
            ("/set temperature 9", "less than or equal to 5"),
            ("/set top_p 0", "greater than 0"),
            ("/set max_new_tokens 1.5", "max_new_tokens 1.5"),
            ("/set best_of 0", "a number from 1 to 256"),
            ("/edit", "a number is expected"),
            ("/edit x", "'x' is not a number"),
            ("/edit 1 text", "no round 1"),
            ("/undo", "nothing to undo"),
            ("/regen", "nothing was said"),
            ("/copy", "no round 0"),
            ("/best", "no other candidates"),
            ("/load", "which one"),
            ("/export", "where to"),
            ("/save", "nothing was said yet"),
            ("/load nowhere.jsonl", "no such file"),
        ):
            with pytest.raises(UltraError, match=problem):
                await do(session, line)
        assert said(session) == []
        assert session.sampling == ChatSampling()

    run(job)


def test_every_command_is_in_the_help() -> None:
    async def job() -> None:
        session = opened(Model(echo))
        await do(session, "/help")
        names = {name.split()[0] for name, _ in screen(session).table}
        wanted = (
            "help system set regen edit undo save load export model best stats multi copy clear exit history editor"
        )
        assert {f"/{name}" for name in wanted.split()} <= names
        for name in ("/exit", "/quit", "/q"):
            with pytest.raises(slash.Leave):
                await do(session, name)

    run(job)


def test_system_set_edit_undo_copy_multi_clear(tmp_path: Path) -> None:
    async def job() -> None:
        session = opened(Model(echo), system="own", state=tmp_path)
        await do(session, "/system")
        assert screen(session).table == [("system", "own")]
        await do(session, "/system Be brief.", "/set temperature=0.5", "/set max_tokens 9", "a", "b", "c")
        assert session.model.backend.asked[-1][0] == {"role": "system", "content": "Be brief."}  # type: ignore[attr-defined]
        sampling = session.model.backend.sampling[-1]  # type: ignore[attr-defined]
        assert (sampling.temperature, sampling.max_tokens) == (0.5, 9)
        await do(session, "/set temperature none", "/edit 2 B\nBB")
        assert said(session) == [("a", "you said a"), ("B\nBB", "you said B\nBB")]
        assert session.sampling.temperature is None
        screen(session).written = "written"
        await do(session, "/edit 1", "/editor", "/copy 1")
        assert said(session) == [("written", "you said written")] * 2
        assert screen(session).copied == "you said written"
        await do(session, "/multi", "/undo", "/history")
        assert session.multi
        assert screen(session).table == [("1 user", "written"), ("  model", "you said written")]
        before = session.talk.id
        await do(session, "/system none", "/clear")
        assert (session.talk.rounds, session.talk.system) == ([], "")
        assert session.talk.id != before
        assert before in screen(session).said[-1], "what is cleared is kept, and where is said"

    run(job)


def test_set_lists_values_and_where_they_come_from() -> None:
    async def job() -> None:
        session = opened(Model(echo))
        await do(session, "/set seed 7", "/set")
        table = dict(screen(session).table)
        assert table["seed"] == "7"
        assert table["top_p"] == "- (left to the backend)"
        assert table["best_of"] == "1"

    run(job)


# files


def test_what_is_saved_is_loaded_exactly(tmp_path: Path) -> None:
    async def job() -> None:
        path = tmp_path / "talk.jsonl"
        first = opened(Model(echo), state=tmp_path / "state")
        await do(first, "/system S", "/set temperature 0.25", "/set seed 3", "a", "b", f"/save {path}")
        assert not first.unsaved
        await do(first, "c")
        assert first.unsaved
        await do(first, "/save")
        record = orjson.loads(path.read_bytes())
        assert record["data"] == ["a", "you said a", "b", "you said b", "c", "you said c"]
        assert record["meta"]["system"] == "S"
        second = opened(Model(echo), system="another", state=tmp_path / "state")
        await do(second, f"/load {path}")
        assert second.dialogue().line() == first.dialogue().line()
        assert second.sampling == first.sampling
        assert not second.unsaved
        await do(second, f"/export {tmp_path / 'set.jsonl'}", f"/export {tmp_path / 'set'}")
        assert (tmp_path / "set.jsonl").read_bytes() == path.read_bytes() * 2
        await do(second, "/undo", "/save")
        assert len(orjson.loads(path.read_bytes())["data"]) == 4
        third = opened(Model(echo), state=tmp_path / "state")
        await do(third, "/load last")
        assert said(third) == said(second)

    run(job)


def test_loading_opens_the_model_or_keeps_the_old_one(tmp_path: Path) -> None:
    async def job() -> None:
        path = tmp_path / "talk.jsonl"
        first = opened(Model(echo))
        first.endpoint = Endpoint("scripted:synthetic")
        await do(first, "a", f"/save {path}")
        second = opened(Model(echo))
        await do(second, f"/load {path}")
        assert (second.endpoint.model, second.model.spec.name) == ("scripted:synthetic", "scripted")
        path.write_bytes(path.read_bytes().replace(b"scripted:synthetic", b"no-such-model"))
        third = opened(Model(echo))
        await do(third, f"/load {path}")
        assert third.endpoint.model == "test-model"
        assert "unknown model 'no-such-model'" in screen(third).warned[0]
        assert said(third) == [("a", "you said a")]

    run(job)


def test_another_model_keeps_the_conversation_and_a_failing_one_the_old_model() -> None:
    async def job() -> None:
        session = opened(Model(echo), system="own")
        await do(session, "a", "/model scripted:synthetic", "b")
        assert session.model.spec.name == "scripted"
        assert session.talk.system == "", "the old model's own system prompt went with it"
        assert [user for user, _ in said(session)] == ["a", "b"]
        with pytest.raises(UltraError, match="unknown model"):
            await do(session, "/model nonsense")
        assert session.endpoint.model == "scripted:synthetic"
        await do(session, "/model", "c")
        assert screen(session).said[-1].startswith("scripted:synthetic")

    run(job)


def test_a_local_model_that_is_left_gives_its_memory_back_unless_it_judges() -> None:
    async def job() -> None:
        for judges in (False, True):
            model = Model(echo)
            session = opened(model, scorer=Longest())
            session.model.url = "local:test"
            if judges:
                session.asker.scorer.model = session.model  # type: ignore[union-attr]
            await do(session, "/model scripted:synthetic", "a")
            assert model.closed is not judges

    run(job)


def test_speed_is_told_only_where_there_was_time_to_measure_it() -> None:
    def rate(tokens: int, first: float | None, seconds: float) -> float | None:
        return Taken(Completion("x", "stop", 1, tokens), first, seconds, 1, 0).rate

    assert rate(11, 0.5, 1.5) == pytest.approx(10)
    assert rate(11, 0.5, 0.5001) is rate(1, 0.1, 5) is rate(9, None, 5) is None


def test_the_file_of_save_is_whole_after_every_answer(tmp_path: Path) -> None:
    async def job() -> None:
        path = tmp_path / "talk.jsonl"
        session = opened(Model(echo), save=path, state=tmp_path / "state")
        await do(session, "a")
        assert orjson.loads(path.read_bytes())["data"] == ["a", "you said a"]
        await do(session, "b", "/undo")
        assert orjson.loads(path.read_bytes())["data"] == ["a", "you said a"]
        path.unlink()
        path.mkdir()
        await do(session, "c")
        assert "folder" in screen(session).warned[0]
        assert said(session)[-1] == ("c", "you said c"), "a file that cannot be written ends nothing"
        with pytest.raises(UltraError, match="cannot be written") as caught:
            await do(session, f"/save {tmp_path / 'none' / 'talk.jsonl'}")
        assert caught.value.hint == "check the folder and its permissions, or name another file"

    run(job)


# settings


def test_settings_of_a_request_by_kind_of_backend() -> None:
    spec = ModelSpec(
        source="x:y", sampling={"temperature": 0.3, "repeat_penalty": 1.1, "mirostat": 1, "max_tokens": 384}
    )
    own = ChatSampling(top_k=5, temperature=0.0)
    here = settings.request(own, spec, False, 77)
    assert (here.temperature, here.max_tokens) == (0.0, 77)
    assert here.extra == {"mirostat": 1, "top_k": 5, "repeat_penalty": 1.1}
    there: Any = settings.request(own, spec, True, None)
    assert there.extra == {"mirostat": 1, "top_k": 5, "repetition_penalty": 1.1}
    assert settings.longest(own, spec, True) == 384
    bare = ModelSpec(source="x:y")
    assert settings.longest(own, bare, True) is None
    assert settings.longest(own, bare, False) == 2000

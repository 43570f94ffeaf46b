"""OpenAIBackend against a real server: what it asks, what it answers, and how every fault of a provider looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson
import pytest

from tests.conftest import Answer, Asked, Reply, Serve, Web, completion, error
from tests.openai_server import Running
from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.openai import OpenAIBackend
from ultrachat_cli.errors import BackendError
from ultrachat_cli.generate.lists import schema
from ultrachat_cli.records.completion import Completion

T = TypeVar("T")
ASK = [{"role": "user", "content": "Why is the sky blue over Peru?"}]
PLAIN = Sampling()
KEY = "sk-very-secret-0123456789"


def use(
    url: str,
    job: Callable[[OpenAIBackend], Awaitable[T]],
    model: str = "test-model",
    key: str | None = None,
    timeout: float = 20,
) -> T:
    """Run one job with a backend that is closed afterwards."""

    async def main() -> T:
        backend = OpenAIBackend(url, model, api_key=key, timeout=timeout)
        try:
            return await job(backend)
        finally:
            await backend.close()

    return asyncio.run(main())


async def streamed(backend: OpenAIBackend, sampling: Sampling = PLAIN) -> list[str]:
    return [piece async for piece in backend.stream(ASK, sampling) if isinstance(piece, str)]


def fails(
    url: str, model: str = "test-model", key: str | None = None, timeout: float = 20, stream: bool = False
) -> BackendError:
    """The error of one request."""

    async def job(backend: OpenAIBackend) -> object:
        return await (streamed(backend) if stream else backend.complete(ASK, PLAIN))

    with pytest.raises(BackendError) as caught:
        use(url, job, model, key, timeout)
    return caught.value


def replies(tmp_path: Path, *lines: dict[str, str]) -> str:
    path = tmp_path / "script.jsonl"
    path.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    return str(path)


def test_chat(steady: Running) -> None:
    answer = use(steady.url, lambda backend: backend.complete(ASK, PLAIN))
    assert len(answer.text.split()) > 10
    assert (answer.finish, answer.model) == ("stop", "test-model")
    assert answer.prompt_tokens > 0
    assert answer.completion_tokens > 0
    assert steady.stats()["by_status"] == {"200": 1}


def test_a_slash_at_the_end_of_the_url_does_no_harm(steady: Running) -> None:
    assert use(steady.url + "/", lambda backend: backend.complete(ASK, PLAIN)).text


def test_raw_completion(steady: Running) -> None:
    answer = use(steady.url, lambda backend: backend.complete("Once upon a time in Peru", PLAIN))
    assert len(answer.text.split()) > 10
    assert answer.completion_tokens > 0


def test_a_raw_completion_goes_to_its_own_endpoint(web: Callable[[Answer], Web]) -> None:
    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, orjson.dumps({"choices": [{"text": "and so on", "finish_reason": "length"}]})

    site = web(answer)
    got = use(site.url, lambda backend: backend.complete("Once", Sampling(max_tokens=3)))
    assert (got.text, got.finish) == ("and so on", "length")
    assert [asked.path for asked in site.asked] == ["/v1/completions"]
    assert site.asked[0].json == {"model": "test-model", "prompt": "Once", "max_tokens": 3}


def test_sampling_becomes_request_fields(web: Callable[[Answer], Web]) -> None:
    site = web(lambda _: completion("yes"))
    sampling = Sampling(
        max_tokens=9, temperature=0.0, top_p=0.5, seed=0, stop=("\n",), extra={"top_k": 4, "repeat_penalty": 1.1}
    )
    use(site.url, lambda backend: backend.complete(ASK, sampling), key=KEY)
    assert site.asked[0].path == "/v1/chat/completions"
    assert site.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert site.asked[0].json == {
        "model": "test-model", "messages": ASK, "max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "seed": 0,
        "stop": ["\n"], "top_k": 4, "repeat_penalty": 1.1,
    }  # fmt: skip


def test_what_is_not_set_is_not_sent(web: Callable[[Answer], Web]) -> None:
    site = web(lambda _: completion("yes"))
    use(site.url, lambda backend: backend.complete(ASK, PLAIN))
    assert site.asked[0].json == {"model": "test-model", "messages": ASK}
    assert "Authorization" not in site.asked[0].headers


def test_schema(steady: Running) -> None:
    answer = use(steady.url, lambda backend: backend.complete(ASK, PLAIN, schema=schema(7)))
    items = orjson.loads(answer.text)["items"]
    assert len(items) == len(set(items)) == 7


def test_a_refused_schema_is_left_out_from_then_on(server: Serve) -> None:
    plain = server(no_schema=True)

    async def thrice(backend: OpenAIBackend) -> list[str]:
        asked = [[{"role": "user", "content": f"List {n} rivers."}] for n in range(3)]
        return [(await backend.complete(messages, PLAIN, schema=schema(5))).text for messages in asked]

    assert all(use(plain.url, thrice))
    assert plain.stats()["by_status"] == {"400": 1, "200": 3}


def test_requests_under_way_while_the_schema_is_refused_all_get_their_answer(server: Serve) -> None:
    plain = server(no_schema=True, delay=0.02)

    async def at_once(backend: OpenAIBackend) -> int:
        asked = [[{"role": "user", "content": f"List {n} rivers."}] for n in range(8)]
        answers = await asyncio.gather(*(backend.complete(messages, PLAIN, schema=schema(5)) for messages in asked))
        return len({answer.text for answer in answers})

    assert use(plain.url, at_once) == 8


def test_a_400_that_is_not_about_the_schema_is_an_error(web: Callable[[Answer], Web]) -> None:
    site = web(lambda _: error(400, "temperature is not supported with this model"))
    with pytest.raises(BackendError) as caught:
        use(site.url, lambda backend: backend.complete(ASK, PLAIN, schema=schema(5)))
    assert (caught.value.status, caught.value.retryable, caught.value.fatal) == (400, False, False)
    assert "temperature is not supported" in caught.value.message
    assert len(site.asked) == 1


def test_stream(server: Serve, tmp_path: Path) -> None:
    said = "Blue light is scattered more, and so it comes from everywhere."
    scripted = server(script=replies(tmp_path, {"match": "sky", "reply": said}))
    pieces = use(scripted.url, streamed)
    assert len(pieces) == len(said.split())
    assert "".join(pieces) == said


def test_a_stream_counts_tokens(server: Serve) -> None:
    async def last(backend: OpenAIBackend) -> object:
        return [piece async for piece in backend.stream(ASK, PLAIN)][-1]

    whole = use(server().url, last)
    assert isinstance(whole, Completion)
    assert (whole.finish, whole.model) == ("stop", "test-model")
    assert whole.prompt_tokens > 0
    assert whole.completion_tokens > 0


def test_a_stream_of_a_server_that_does_not_count(web: Callable[[Answer], Web]) -> None:
    """Some refuse `stream_options`: they are asked again without, once and for all."""
    events = b'data: {"choices": [{"delta": {"content": "Yes."}, "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'

    def answer(asked: Asked) -> Reply:
        counted = "stream_options" in asked.json
        return error(400, "unknown field stream_options") if counted else (200, {}, events)

    site = web(answer)

    async def twice(backend: OpenAIBackend) -> list[object]:
        return [[piece async for piece in backend.stream(ASK, PLAIN)] for _ in range(2)]

    assert use(site.url, twice) == [["Yes.", Completion("Yes.", "length", 0, 0, "test-model")]] * 2
    assert len(site.asked) == 3


def test_models(steady: Running) -> None:
    assert use(steady.url, lambda backend: backend.models()) == ["test-model", "other-model"]


def test_models_of_a_server_without_such_a_list(web: Callable[[Answer], Web]) -> None:
    for reply in (error(404, "nothing here"), error(500, "later"), (200, {}, b"<html>"), (200, {}, b'{"data": 3}')):
        site = web(lambda _, reply=reply: reply)  # type: ignore[misc]
        assert use(site.url, lambda backend: backend.models()) is None


def test_models_with_a_wrong_key(server: Serve) -> None:
    with pytest.raises(BackendError) as caught:
        use(server(key="sk-right").url, lambda backend: backend.models(), key=KEY)
    assert (caught.value.status, caught.value.fatal, caught.value.retryable) == (401, True, False)


def test_models_of_nobody(free_port: int) -> None:
    with pytest.raises(BackendError, match="cannot be reached"):
        use(f"http://127.0.0.1:{free_port}/v1", lambda backend: backend.models())


@pytest.mark.parametrize(
    ("fault", "status"),
    [("p500", 500), ("pmalformed", 0), ("pempty", 0), ("pnull", 0), ("pdrop", 0), ("ptorn", 0)],
)
def test_faults_that_may_pass(server: Serve, fault: str, status: int) -> None:
    problem = fails(server(**{fault: 1.0}).url)
    assert (problem.retryable, problem.fatal, problem.status) == (True, False, status)
    assert problem.retry_after is None
    assert problem.message.startswith("http://127.0.0.1:")


def test_429_with_retry_after(server: Serve) -> None:
    problem = fails(server(p429=1.0, retry_after=7.5).url)
    assert (problem.retryable, problem.fatal, problem.status, problem.retry_after) == (True, False, 429, 7.5)
    assert problem.code == "rate_limit_exceeded"


def test_429_without_retry_after(server: Serve) -> None:
    problem = fails(server(p429=1.0).url)
    assert (problem.retryable, problem.status, problem.retry_after) == (True, 429, None)


@pytest.mark.parametrize(("header", "seconds"), [("0", 0.0), ("-3", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_odd_retry_after(web: Callable[[Answer], Web], header: str, seconds: float | None) -> None:
    site = web(lambda _: error(503, "busy", **{"Retry-After": header}))
    problem = fails(site.url)
    assert (problem.retryable, problem.status, problem.retry_after) == (True, 503, seconds)


def test_quota_used_up_is_fatal(web: Callable[[Answer], Web]) -> None:
    problem = fails(web(lambda _: error(429, "You exceeded your current quota.", "insufficient_quota")).url)
    assert (problem.retryable, problem.fatal, problem.status) == (False, True, 429)


def test_time_out(server: Serve) -> None:
    problem = fails(server(delay=30.0).url, timeout=0.3)
    assert (problem.retryable, problem.fatal, problem.status) == (True, False, 0)
    assert "no answer within 0.3 s" in problem.message


def test_wrong_key(server: Serve) -> None:
    problem = fails(server(key="sk-right").url, key=KEY)
    assert (problem.retryable, problem.fatal, problem.status) == (False, True, 401)
    assert "--api-key-env" in problem.hint
    assert KEY not in problem.message + problem.hint


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
def test_a_server_that_echoes_the_key_does_not_make_us_print_it(web: Callable[[Answer], Web], status: int) -> None:
    site = web(lambda asked: error(status, f"Incorrect API key provided: {asked.headers['Authorization']}"))
    for stream in (False, True):
        problem = fails(site.url, key=KEY, stream=stream)
        assert KEY not in f"{problem} {problem.hint} {problem!r}"


def test_a_body_that_echoes_the_key_does_not_make_us_print_it(web: Callable[[Answer], Web]) -> None:
    site = web(lambda asked: (200, {}, b"who sent " + asked.headers["Authorization"].encode()))
    assert KEY not in str(fails(site.url, key=KEY))


def test_credentials_in_the_url_are_used_but_not_printed(web: Callable[[Answer], Web], free_port: int) -> None:
    site = web(lambda _: error(500, "no"))
    problem = fails(site.url.replace("//", "//someone:pass-word@"))
    assert "pass-word" not in f"{problem} {problem.hint}"
    assert site.asked[0].headers["Authorization"].startswith("Basic ")
    nobody = fails(f"http://someone:pass-word@127.0.0.1:{free_port}/v1")
    assert "pass-word" not in f"{nobody} {nobody.hint}"


def test_model_that_is_not_there(steady: Running) -> None:
    problem = fails(steady.url, model="no-such-model")
    assert (problem.retryable, problem.fatal, problem.status) == (False, True, 404)
    assert problem.code == "model_not_found"
    assert "no-such-model" in problem.message
    assert "--model" in problem.hint


def test_url_that_is_not_there(steady: Running) -> None:
    problem = fails(steady.url.removesuffix("/v1"))
    assert (problem.retryable, problem.fatal, problem.status) == (False, True, 404)
    assert "/v1" in problem.hint


def test_too_long_for_the_context(server: Serve) -> None:
    problem = fails(server(context=2).url)
    assert (problem.retryable, problem.fatal, problem.status) == (False, False, 400)
    assert problem.code == "context_length_exceeded"


def test_nobody_there(free_port: int) -> None:
    problem = fails(f"http://127.0.0.1:{free_port}/v1")
    assert (problem.retryable, problem.fatal, problem.status) == (True, False, 0)
    assert f"http://127.0.0.1:{free_port}/v1: cannot be reached" in problem.message
    assert "--base-url" in problem.hint


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": "x"}}], "usage": "much"}',
        b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
        b'{"choices": {"message": {"content": "x"}}}',
        b"\xff\xfe\x00",
    ],
)
def test_200_that_is_no_chat_completion(web: Callable[[Answer], Web], body: bytes) -> None:
    problem = fails(web(lambda _: (200, {"Content-Type": "text/html"}, body)).url)
    assert (problem.status, problem.fatal) == (0, False)
    assert problem.retryable


def test_a_page_of_html_is_shown_with_a_hint(web: Callable[[Answer], Web]) -> None:
    problem = fails(web(lambda _: (200, {"Content-Type": "text/html"}, b"<html>Welcome to nginx!</html>")).url)
    assert "not a chat completion" in problem.message
    assert "Welcome to nginx!" in problem.message
    assert "/v1" in problem.hint


@pytest.mark.parametrize(("status", "retryable"), [(502, True), (503, True), (504, True), (413, False), (405, False)])
def test_html_of_a_proxy(web: Callable[[Answer], Web], status: int, retryable: bool) -> None:
    problem = fails(web(lambda _: (status, {"Content-Type": "text/html"}, b"<html>" + b"x" * 5000)).url)
    assert (problem.status, problem.retryable) == (status, retryable)
    assert len(problem.message) < 500


def test_an_answer_cut_at_once_by_its_length_is_an_answer(web: Callable[[Answer], Web]) -> None:
    choice = {"message": {"content": ""}, "finish_reason": "length"}
    site = web(lambda _: (200, {}, orjson.dumps({"choices": [choice], "model": None})))
    answer = use(site.url, lambda backend: backend.complete(ASK, PLAIN))
    assert (answer.text, answer.finish, answer.model, answer.prompt_tokens) == ("", "length", "test-model", 0)


@pytest.mark.parametrize("fault", ["p500", "pmalformed", "pdrop", "ptorn"])
def test_faults_of_a_stream(server: Serve, fault: str) -> None:
    problem = fails(server(**{fault: 1.0}).url, stream=True)
    assert (problem.retryable, problem.fatal) == (True, False)


def test_429_with_retry_after_of_a_stream(server: Serve) -> None:
    problem = fails(server(p429=1.0, retry_after=7.5).url, stream=True)
    assert (problem.retryable, problem.status, problem.retry_after) == (True, 429, 7.5)


def test_time_out_of_a_stream(server: Serve) -> None:
    problem = fails(server(delay=30.0).url, timeout=0.3, stream=True)
    assert (problem.retryable, problem.status) == (True, 0)
    assert "no answer within 0.3 s" in problem.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to nginx!</html>",
        b'data: {"choices": [{"delta": {"content": "half an answ"}}]}\n\n',
        b'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n',
        b"data: [3]\n\ndata: [DONE]\n\n",
    ],
    ids=["empty", "html", "without end", "error event", "no object"],
)
def test_a_stream_that_is_no_whole_answer_is_an_error(web: Callable[[Answer], Web], body: bytes) -> None:
    problem = fails(web(lambda _: (200, {"Content-Type": "text/event-stream"}, body)).url, stream=True)
    assert problem.retryable


def test_many_at_once_share_one_pool(server: Serve) -> None:
    slow = server(delay=0.1)

    async def at_once(backend: OpenAIBackend) -> int:
        asked = [[{"role": "user", "content": f"Question {n}"}] for n in range(200)]
        answers = await asyncio.gather(*(backend.complete(messages, PLAIN) for messages in asked))
        return len({answer.text for answer in answers})

    assert use(slow.url, at_once) == 200
    stats = slow.stats()
    assert (stats["answered"], stats["repeats"], stats["peak_in_flight"]) == (200, 0, 200)


def test_connections_are_kept(steady: Running) -> None:
    before = steady.stats()["connections"]

    async def one_by_one(backend: OpenAIBackend) -> None:
        for n in range(20):
            await backend.complete([{"role": "user", "content": f"Question {n}"}], PLAIN)

    use(steady.url, one_by_one)
    assert steady.stats()["connections"] - before <= 2  # one of them is the request for these figures


def test_an_answer_after_a_fault_on_the_same_pool(server: Serve) -> None:
    """A dropped or torn connection leaves nothing behind that would spoil the next request."""
    faulty = server(pdrop=0.3, ptorn=0.3, seed=5)

    async def until_answered(backend: OpenAIBackend) -> int:
        asked = [[{"role": "user", "content": f"Question {n}"}] for n in range(40)]
        got = await asyncio.gather(*(backend.complete(one, PLAIN) for one in asked), return_exceptions=True)
        assert all(isinstance(one, Completion) or (isinstance(one, BackendError) and one.retryable) for one in got)
        return sum(isinstance(one, Completion) for one in got)

    answered = use(faulty.url, until_answered)
    assert 5 < answered < 35
    assert faulty.stats()["answered"] == answered


def test_closing_twice_and_before_use(steady: Running) -> None:
    async def twice(backend: OpenAIBackend) -> None:
        await backend.close()
        await backend.complete(ASK, PLAIN)
        await backend.close()

    use(steady.url, twice)


def test_the_proxy_of_the_environment_is_used_except_for_this_machine(
    web: Callable[[Answer], Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = web(lambda _: completion("through the proxy"))
    direct = web(lambda _: completion("straight"))
    monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert use(direct.url, lambda backend: backend.complete(ASK, PLAIN)).text == "straight"
    assert use("http://llm.example/v1", lambda backend: backend.complete(ASK, PLAIN)).text == "through the proxy"
    assert proxy.asked[0].path == "http://llm.example/v1/chat/completions"


@pytest.mark.parametrize("raw", [False, True])
def test_log_probabilities_where_they_are_asked_for(web: Callable[[Answer], Web], raw: bool) -> None:
    """Both layouts of the protocol: lists of objects for chat, mappings for raw completions."""
    if raw:
        told: object = {"tokens": ["m"], "top_logprobs": [{"m": -0.25, "M": -1.5}, None]}
    else:
        top = [{"token": token, "logprob": value} for token, value in (("m", -0.25), ("M", -1.5))]
        told = {"content": [{"token": "m", "logprob": -0.25, "top_logprobs": top}, {"token": ".", "logprob": 0}]}

    def answer(asked: Asked) -> Reply:
        wants = "logprobs" in asked.json
        choice = {"text": "m.", "message": {"content": "m."}, "logprobs": told if wants else None}
        return 200, {}, orjson.dumps({"choices": [choice]})

    site = web(answer)
    prompt = "Which?" if raw else ASK

    async def both(backend: OpenAIBackend) -> list[str | None]:
        asked = Sampling(max_tokens=2, extra={"logprobs": True, "top_logprobs": 5})
        return [(await backend.complete(prompt, sampling)).logprobs for sampling in (asked, PLAIN)]

    assert use(site.url, both) == ['[[["m",-0.25],["M",-1.5]],[]]', None]
    assert site.asked[0].json["top_logprobs"] == 5

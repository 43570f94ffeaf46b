"""`serve` as its clients see it: our own backend, the openai package, and whoever sends nonsense."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import pytest

from tests.conftest import Serve, Ultrachat
from tests.train import tiny
from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.openai import OpenAIBackend
from ultrachat_cli.backends.scripted import ScriptedBackend
from ultrachat_cli.errors import BackendError, UltraError
from ultrachat_cli.models.decode import Decoder
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.serve import run
from ultrachat_cli.serve.settings import ServeConfig

pytestmark = pytest.mark.usefixtures("one_core")
T = TypeVar("T")
KEY = "sk-for-clients"
ASK = [{"role": "user", "content": "Why is the sky blue?"}]
CHAT = {"model": "scripted", "messages": ASK}


@dataclass
class Site:
    """A server in a thread of this process."""

    url: str
    name: str
    said: list[str]

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer; `path` as after /v1."""
        host, port = self.url.removeprefix("http://").removesuffix("/v1").rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        connection.request("POST", f"/v1{path}", data, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, orjson.loads(answer)


@contextmanager
def serving(environ: Mapping[str, str] | None = None, **config: Any) -> Iterator[Site]:
    ready: Future[tuple[str, str]] = Future()
    said: list[str] = []
    loop = asyncio.new_event_loop()

    async def main() -> None:
        config_ = ServeConfig(**{"port": 0, "model": "scripted:synthetic", **config})
        job = run.run(
            config_, environ=environ or {}, ready=lambda *at: ready.set_result(at), say=said.append, warn=said.append
        )
        try:
            await job
        except BaseException as error:
            ready.set_exception(error)

    task: asyncio.Task[None] = loop.create_task(main())
    thread = threading.Thread(target=loop.run_until_complete, args=[task])
    thread.start()
    try:
        yield Site(*ready.result(30), said)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        assert not thread.is_alive()
        loop.close()


@pytest.fixture(scope="module")
def scripted() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A tiny model of random weights."""
    folder = tiny.llama(tmp_path_factory.mktemp("llama") / "tiny")
    (folder / "ultrachat.json").write_bytes(orjson.dumps({"context": 400}))
    with serving(model=str(folder), format="chatml", local={"device": "cpu", "dtype": "float32"}) as site:
        yield site


def use(site: Site, job: Callable[[OpenAIBackend], Awaitable[T]], key: str | None = None) -> T:
    async def main() -> T:
        backend = OpenAIBackend(site.url, site.name, api_key=key, timeout=20)
        try:
            return await job(backend)
        finally:
            await backend.close()

    return asyncio.run(main())


def test_our_own_backend_gets_what_the_model_says(scripted: Site) -> None:
    async def both(backend: OpenAIBackend) -> tuple[Completion, list[str | Completion]]:
        return await backend.complete(ASK, Sampling(seed=4)), [p async for p in backend.stream(ASK, Sampling(seed=4))]

    whole, (*pieces, last) = use(scripted, both)
    direct = asyncio.run(ScriptedBackend.open("synthetic").complete(ASK, Sampling(seed=4)))
    assert whole.text == direct.text
    assert whole.prompt_tokens == direct.prompt_tokens
    assert whole.completion_tokens == direct.completion_tokens
    assert len(pieces) > 5
    assert last == whole
    assert use(scripted, lambda backend: backend.models()) == ["scripted"]


def test_local_weights_through_the_server(local: Site) -> None:
    sampling = Sampling(20, 0.8, 0.9, 3, ("zzz",), {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1})

    async def twice(backend: OpenAIBackend) -> list[Completion]:
        return [await backend.complete(ASK, sampling) for _ in range(2)]

    first, again = use(local, twice)
    assert first.text == again.text
    assert (first.finish, first.completion_tokens) == ("length", 20)
    assert again.cached_tokens == first.prompt_tokens - 1
    raw = use(local, lambda backend: backend.complete("Once upon a time", Sampling(5, 0.0)))
    assert (raw.prompt_tokens, raw.completion_tokens) == (16, 5)


def test_errors_of_the_model_are_the_clients(local: Site) -> None:
    async def fails(backend: OpenAIBackend, stream: bool, messages: Any, sampling: Sampling) -> BackendError:
        async def drained() -> None:
            async for _ in backend.stream(messages, sampling):
                pass

        with pytest.raises(BackendError) as caught:
            await (drained() if stream else backend.complete(messages, sampling))
        return caught.value

    long = [{"role": "user", "content": "word " * 200}]
    for stream in (False, True):
        error = use(local, lambda b, s=stream: fails(b, s, long, Sampling()))  # type: ignore[misc]
        assert (error.status, error.code, error.retryable) == (400, "context_length_exceeded", False)
        error = use(local, lambda b, s=stream: fails(b, s, ASK, Sampling(extra={"topk": 3})))  # type: ignore[misc]
        assert error.status == 400
        assert "did you mean 'top_k'" in error.message


def test_several_answers(local: Site) -> None:
    body = {"model": "tiny", "messages": ASK, "n": 3, "temperature": 1.5, "seed": 1, "max_tokens": 8}
    status, answer = local.post("/chat/completions", body)
    assert status == 200
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 24
    one = local.post("/chat/completions", {**body, "n": 1})[1]
    assert answer["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert answer["choices"][0]["message"] == one["choices"][0]["message"]
    texts = local.post("/completions", {"model": "tiny", "prompt": ["One", "Two"], "n": 2, "max_tokens": 3})[1]
    assert len(texts["choices"]) == 4


def test_a_client_that_goes_away_ends_the_answer(local: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, each of these answers would take more than 300 steps."""
    steps: list[int] = []
    real = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self: (steps.append(1), real(self)))

    async def first(backend: OpenAIBackend) -> None:
        async for _ in backend.stream(ASK, Sampling(temperature=0.0)):
            return

    for _ in range(5):
        use(local, first)
    assert use(local, lambda backend: backend.complete(ASK, Sampling(3, 0.0))).completion_tokens == 3
    assert 5 < len(steps) < 750


def test_the_openai_package(local: Site) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=local.url, api_key="any") as client:
        asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_tokens": 10, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + 10
        events = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert said == whole.choices[0].message.content
        assert events[0].choices[0].delta.role == "assistant"
        assert events[-1].usage.completion_tokens == 10
        assert [model.id for model in client.models.list()] == ["tiny"]
        text = client.completions.create(model="tiny", prompt="Once", max_tokens=4, stream=True)
        assert next(event.object for event in text) == "text_completion"
        with pytest.raises(openai.NotFoundError, match="does not exist here"):
            client.chat.completions.create(**{**asked, "model": "gpt-9"})
        with pytest.raises(openai.BadRequestError, match="not supported"):
            client.chat.completions.create(**asked, logprobs=True)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/chat/completions", b"{nonsense", 400, "not JSON"),
        ("/chat/completions", b"[1]", 400, "JSON object"),
        ("/chat/completions", {"messages": ASK}, 400, "model: a name is expected"),
        ("/chat/completions", {**CHAT, "model": "gpt-9"}, 404, "does not exist here; served is 'scripted'"),
        ("/chat/completions", {"model": "scripted"}, 400, "messages"),
        ("/chat/completions", {**CHAT, "messages": []}, 400, "messages"),
        ("/chat/completions", {**CHAT, "messages": ["hi"]}, 400, "messages[0].role"),
        ("/chat/completions", {**CHAT, "messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ("/chat/completions", {**CHAT, "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
        ("/chat/completions", {**CHAT, "temperature": "hot"}, 400, "temperature"),
        ("/chat/completions", {**CHAT, "temperature": -1}, 400, "temperature"),
        ("/chat/completions", {**CHAT, "max_tokens": 0}, 400, "max_tokens"),
        ("/chat/completions", {**CHAT, "max_tokens": True}, 400, "max_tokens"),
        ("/chat/completions", {**CHAT, "n": 1000}, 400, "n: a whole number from 1 to 128"),
        ("/chat/completions", {**CHAT, "stop": [1]}, 400, "stop"),
        ("/chat/completions", {**CHAT, "stream": "yes"}, 400, "stream: true or false"),
        ("/chat/completions", {**CHAT, "stream_options": {"include_usage": True}}, 400, "only with stream"),
        ("/chat/completions", {**CHAT, "tools": [{"type": "function"}]}, 400, "tools: not supported"),
        ("/completions", {"model": "scripted"}, 400, "prompt"),
        ("/completions", {"model": "scripted", "prompt": [1, 2]}, 400, "prompt"),
        ("/completions", {"model": "scripted", "prompt": "x", "echo": True}, 400, "echo: not supported"),
        ("/embeddings", {}, 404, "POST /v1/embeddings: not found"),
        ("/models", {}, 405, "method not allowed"),
    ],
)
def test_bad_requests(scripted: Site, path: str, body: Any, status: int, said: str) -> None:
    got, answer = scripted.post(path, body)
    assert got == status
    assert said in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_fields_that_change_nothing_are_fine(scripted: Site) -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    body = {
        "model": "scripted", "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [],
        "user": "me", "metadata": {"a": "b"}, "response_format": {"type": "text"}, "stop": None, "logprobs": False,
        "messages": [{"role": "developer", "content": parts}, {"role": "user", "content": "Hello", "name": "me"}],
    }  # fmt: skip
    assert scripted.post("/chat/completions", body)[0] == 200


def test_a_body_that_is_too_large() -> None:
    with serving(max_body=2000) as site:
        status, answer = site.post("/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x" * 3000}]})
        assert status == 413
        assert "2000 bytes" in answer["error"]["message"]


def test_a_key(free_port: int) -> None:
    with serving({"MY_KEY": KEY}, client_key_env="MY_KEY") as site:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            status, answer = site.post("/chat/completions", CHAT, **headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(BackendError) as caught:
            use(site, lambda backend: backend.models(), "wrong")
        assert caught.value.status == 401
        assert use(site, lambda backend: backend.complete(ASK, Sampling()), KEY).text
        assert site.said == []


def test_an_endpoint_behind_it(server: Serve) -> None:
    behind = server(models="test-model", key="sk-upstream", p500=0.0)
    environ = {"UP": "sk-upstream"}
    with serving(environ, model="test-model", base_url=behind.url, api_key_env="UP") as site:
        answer = use(site, lambda backend: backend.complete(ASK, Sampling(extra={"reasoning_effort": "low"})))
        assert len(answer.text.split()) > 5
    assert behind.stats()["by_status"] == {"200": 1}


def test_an_endpoint_that_fails_is_a_bad_gateway(server: Serve) -> None:
    behind = server(models="test-model", p500=1.0)
    with serving(model="test-model", base_url=behind.url, limits={"attempts": 2, "backoff": 0.01}) as site:
        for _ in range(2):
            status, answer = site.post("/chat/completions", {**CHAT, "model": "test-model"})
            assert (status, answer["error"]["type"]) == (502, "api_error")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"client_key_env": "NOT_SET"}, "NOT_SET is not set"),
        ({"api_key_env": "X"}, "--client-key-env"),
        ({"model": "smollm2-134m"}, "did you mean 'smollm2-135m'"),
        ({"host": "256.1.1.1"}, "cannot be used"),
    ],
)
def test_what_cannot_be_served(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UltraError) as caught, ExitStack() as stack:
        stack.enter_context(serving(**config))
    assert said in caught.value.message + caught.value.hint


def test_a_wide_open_server_says_so() -> None:
    with serving(host="0.0.0.0") as site:
        assert "anybody who reaches 0.0.0.0" in site.said[0]
    with serving() as site:
        assert site.said == []


def test_a_port_that_is_taken(scripted: Site, ultrachat: Ultrachat) -> None:
    port = scripted.url.removesuffix("/v1").rsplit(":", 1)[1]
    done = ultrachat("serve", "--model", "scripted:synthetic", "--port", port)
    assert done.code == 1
    assert f"127.0.0.1:{port} cannot be used: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(ultrachat: Ultrachat, number: signal.Signals) -> None:
    started = ultrachat.start("serve", "--model", "scripted:synthetic", "--port", "0")
    assert started.process.stdout is not None
    line = started.process.stdout.readline()
    assert line.startswith("scripted is served at http://127.0.0.1:")
    host, port = line.split("//")[1].strip().removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))):  # somebody who is connected does not hold it up
        done, seconds = started.send(number)
    assert done.code == 0
    assert done.stderr == ""
    assert seconds < 3

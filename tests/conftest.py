"""Fixtures for tests that run the real command against real servers on the loopback interface."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.openai_server import Options, Running, running

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: test processes share the cores

COMMAND = Path(sys.executable).with_name("ultrachat")


@dataclass(frozen=True)
class Result:
    """What a command left: exit code and the two streams."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, all of it, as one JSON document."""
        return orjson.loads(self.stdout)


@dataclass
class Started:
    """A command under way, in a process group of its own."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout: float = 60) -> Result:
        out, err = self.process.communicate(timeout=timeout)
        return Result(self.process.returncode, out, err)

    def send(self, number: int, timeout: float = 60) -> tuple[Result, float]:
        """Send a signal and wait for the end; also the seconds that took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        return self.wait(timeout), time.monotonic() - begun

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()


@dataclass
class Ultrachat:
    """The installed console script, run in a folder and an environment of the test's own."""

    folder: Path
    environ: dict[str, str]
    started: list[Started] = field(default_factory=list)

    def start(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        preexec: Callable[[], None] | None = None,
        stdin: Path | None = None,
    ) -> Started:
        with (stdin or Path(os.devnull)).open("rb") as fed:
            process = subprocess.Popen(
                [str(COMMAND), *(os.fspath(arg) for arg in args)],
                stdin=fed,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=cwd or self.folder,
                env={**self.environ, **(env or {})},
                preexec_fn=preexec,
            )
        self.started.append(Started(process))
        return self.started[-1]

    def __call__(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        preexec: Callable[[], None] | None = None,
        stdin: Path | None = None,
        timeout: float = 120,
    ) -> Result:
        return self.start(*args, env=env, cwd=cwd, preexec=preexec, stdin=stdin).wait(timeout)

    def many(self, *commands: Sequence[str | Path]) -> list[Result]:
        """The results of commands that do not depend on each other, run two at a time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda command: self(*command), commands))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the files in tests/golden anew")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, a file's tests stay together, and only one of them runs the embedded model."""
    for item in items:
        group = "embedded" if item.get_closest_marker("embedded") else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """A core for each test process: threads of tiny models that wait for busy cores take 20 times as long."""
    before = os.sched_getaffinity(0)
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of the caller's: no keys, no proxies, no settings, a home of its own."""
    home = tmp_path_factory.mktemp("home")
    return {
        "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "COLUMNS": "160",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # tiny models: threads only wait for each other on cores that other tests use
    }


@pytest.fixture
def ultrachat(tmp_path: Path, environ: dict[str, str]) -> Iterator[Ultrachat]:
    """`ultrachat("generate", ...)` in the test's folder; `.start(...)` for one that is to be interrupted."""
    command = Ultrachat(tmp_path, environ)
    yield command
    for started in command.started:
        if started.alive:
            started.kill()


Serve = Callable[..., Running]


@pytest.fixture
def server() -> Iterator[Serve]:
    """`server(delay=0.1, p429=0.05, ...)`: a fresh OpenAI server for this test, ended with it."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(Options(**options)))


@pytest.fixture(scope="session")
def _steady() -> Iterator[Running]:
    with running(Options(models="test-model,other-model")) as steady:
        yield steady


@pytest.fixture
def steady(_steady: Running) -> Running:
    """A faultless server that all tests share (models test-model and other-model), its counters at zero."""
    _steady.ask("POST", "/reset")
    return _steady


@dataclass(frozen=True)
class Asked:
    """One request as a small server of a test saw it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


Reply = tuple[int, Mapping[str, str], bytes]
Answer = Callable[[Asked], Reply]


@dataclass
class Web:
    """A small HTTP server with answers of the test's own; `asked` is what it saw."""

    url: str
    asked: list[Asked]


def completion(text: str) -> Reply:
    """A chat completion that says `text`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    body = {"object": "chat.completion", "model": "test-model", "choices": [choice], "usage": usage}
    return 200, {"Content-Type": "application/json"}, orjson.dumps(body)


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An error body of the OpenAI protocol."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return status, {"Content-Type": "application/json", **headers}, orjson.dumps(body)


@pytest.fixture
def web() -> Iterator[Callable[[Answer], Web]]:
    """`web(answer)`: serves `answer(request)` for whatever is asked; its URL ends in /v1."""
    with ExitStack() as stack:

        def serve(answer: Answer) -> Web:
            asked: list[Asked] = []

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"
                wbufsize = -1  # head and body in one packet

                def do_GET(self) -> None:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    request = Asked(self.command, self.path, dict(self.headers), body)
                    asked.append(request)
                    status, headers, reply = answer(request)
                    self.send_response(status)
                    for name, value in {**headers, "Content-Length": str(len(reply))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply)

                do_POST = do_GET

                def log_message(self, *_: object) -> None:
                    pass

            class Quiet(ThreadingHTTPServer):
                daemon_threads = True
                request_queue_size = 128

                def handle_error(self, *_: object) -> None:
                    pass  # a client that went away is what some tests are about

            listener = stack.enter_context(Quiet(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown)
            return Web(f"http://127.0.0.1:{listener.server_address[1]}/v1", asked)

        yield serve


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

"""Processor time of a chat client for each token of a long reply on a terminal: `python -m tests.bench.chat_client`.

A server of its own process streams 2,000 tokens of markdown at 400 a second; each client runs on a pseudo-terminal that
is read all the time, and its own processor time is what the kernel accounts to it. The time of the same client for a
reply of one token (start, imports) is taken off. `floor`: http.client, json and a write for every token.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import http.client
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKENS, RATE = 2000, 400
END = "THATWASALL"
BIN = Path(sys.executable).parent
SECTION = """## A section about rivers

Rivers shape the **valleys** they run through, and the *people* who live there know `how` they do it. Water takes what
is loose and leaves it where it slows down, so that every bend grows a little each year until the river cuts it off.

- the upper course: steep, narrow, full of stones
- the middle course: **wider**, with bends that move
- the lower course: slow, and heavy with mud

```python
def meander(length: float, slope: float) -> float:
    return length / max(slope, 1e-6)  # the flatter, the longer
```

"""


def pieces(count: int) -> Iterator[str]:
    """As many tokens, about four characters each."""
    cut = re.findall(r"\s?\S{1,5}|\s", SECTION)
    for n in range(count - 1):
        yield cut[n % len(cut)]
    yield f"\n\n{END}"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    size = re.search(r"(?i)content-length: (\d+)", head)
    body = await reader.readexactly(int(size[1])) if size else b""
    if "/load_model" in head:  # transformers chat asks for it
        ready = b'data: {"status": "ready", "cached": true}\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + ready)
        writer.close()
        return
    if "/chat/completions" not in head:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        return
    asked = json.loads(body)
    wanted = int(asked["messages"][-1]["content"].split()[-1])
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": int(time.time()), "model": "m"}

    def event(delta: dict[str, str], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        writer.write(b"data: " + json.dumps({**common, "choices": [choice]}).encode() + b"\n\n")

    begun = time.perf_counter()
    for n, piece in enumerate(pieces(wanted)):
        event({"role": "assistant", "content": piece}, None)
        await asyncio.sleep(max(0.0, begun + (n + 1) / RATE - time.perf_counter()))
    event({}, "stop")
    usage = {"prompt_tokens": 10, "completion_tokens": wanted, "total_tokens": 10 + wanted}
    if (asked.get("stream_options") or {}).get("include_usage"):
        writer.write(b"data: " + json.dumps({**common, "choices": [], "usage": usage}).encode() + b"\n\n")
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()
    writer.close()


async def serve() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def floor(url: str, message: str) -> None:
    host, _, path = url.removeprefix("http://").partition("/")
    client = http.client.HTTPConnection(host)
    client.request("POST", f"/{path}/chat/completions", json.dumps({"messages": [{"content": message}]}))
    for line in client.getresponse():
        if line.startswith(b"data: {") and (choices := json.loads(line[6:])["choices"]):
            sys.stdout.write(choices[0]["delta"].get("content", ""))
            sys.stdout.flush()


def spent(command: list[str], typed: list[bytes]) -> float:
    """Processor seconds of a command on a terminal; each of `typed` when the one before is answered."""
    pid, terminal = pty.fork()
    if pid == 0:
        home = tempfile.mkdtemp(prefix="ultrachat-bench-")
        os.environ |= {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "HOME": home}
        os.environ.pop("COLUMNS", None)
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    seen, waiting, quiet = b"", [*typed], time.monotonic()
    while True:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux: the other end is closed
                data = b""
            if not data:
                break
            seen, quiet = seen + data, time.monotonic()
        ready = (seen and len(waiting) == len(typed)) or END.encode() in seen
        if waiting and ready and time.monotonic() - quiet > 1:
            os.write(terminal, waiting.pop(0) + b"\r")
            quiet = time.monotonic()
    _, status, usage = os.wait4(pid, 0)
    os.close(terminal)
    if status or END.encode() not in seen:
        raise RuntimeError(f"{command[0]} ended with {status}:\n{seen[-2000:].decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.chat_client", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def measure(name: str, url: str, tokens: int) -> float:
    """Processor seconds of a client for a reply of so many tokens."""
    message = f"say {tokens}"
    ours = [str(BIN / "ultrachat"), "chat", "-m", "m", "--base-url", url]
    if name == "floor":
        return spent([sys.executable, "-m", "tests.bench.chat_client", "--floor", url, message], [])
    if name == "transformers chat":
        peer = [str(BIN / "transformers"), "chat", "m", url, "max_new_tokens=4000"]
        return spent(peer, [message.encode(), b"!exit"])
    options = ["--plain"] if name == "ultrachat --plain" else []
    return spent([*ours, *options], [message.encode(), b"/exit"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="be the server")
    parser.add_argument("--floor", nargs=2, metavar=("URL", "MESSAGE"), help="be the floor")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the reply")
    parser.add_argument("--runs", type=int, default=3, help="the least of so many is taken")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    elif options.floor:
        floor(*options.floor)
    else:
        clients = ["floor", "ultrachat --plain", "ultrachat", "transformers chat"]
        if not (BIN / "transformers").exists():
            clients.remove("transformers chat")
        with server() as url:
            for name in clients:
                one = min(measure(name, url, 1) for _ in range(options.runs))
                all_ = min(measure(name, url, options.tokens) for _ in range(options.runs))
                per_token = (all_ - one) / (options.tokens - 1) * 1000
                print(
                    f"{name:<20} {per_token:8.3f} ms a token   ({one:.2f} s for one, {all_:.2f} s for all)", flush=True
                )


if __name__ == "__main__":
    main()

"""A server whose streamed answers the test makes itself, piece by piece, while it looks at what the client does."""

from __future__ import annotations

import queue
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

END, DROP = object(), object()


class Streaming:
    """`say` sends a piece of the answer under way, or of the next one; `asked`: request bodies."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.left = threading.Event()
        """A client went away in the middle of an answer."""
        self.usage: dict[str, int] | None = {"prompt_tokens": 11, "completion_tokens": 7}
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self._pieces: queue.Queue[Any] = queue.Queue()
        self.url = ""

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self._pieces.put(piece)

    def end(self) -> None:
        self._pieces.put(END)

    def drop(self) -> None:
        """Break the connection in the middle of the answer."""
        self._pieces.put(DROP)

    def answer(self, *texts: str) -> None:
        """Whole answers to the next requests."""
        for text in texts:
            self.say(*text.split(" ")[:1], *(f" {word}" for word in text.split(" ")[1:]))
            self.end()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        body = orjson.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.asked.append(body)
        refusal = self.refuse(body)
        if refusal is not None:
            status, error = refusal
            text = orjson.dumps({"error": error})
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        request.close_connection = True
        while True:
            try:
                piece = self._pieces.get(timeout=0.02)
            except queue.Empty:
                if _gone(request.connection):
                    self.left.set()
                    return
                continue
            if piece is DROP:
                request.connection.shutdown(socket.SHUT_RDWR)
                return
            events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": piece}}]}]
            if piece is END:
                events = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
                events += [{"choices": [], "usage": self.usage}] if self.usage else []
            try:
                for event in events:
                    request.wfile.write(b"data: " + orjson.dumps({**event, "model": body["model"]}) + b"\n\n")
                if piece is END:
                    request.wfile.write(b"data: [DONE]\n\n")
                    return
            except OSError:
                self.left.set()
                return

    def refuse(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return self.refusal


def _gone(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


@contextmanager
def streaming(server: Streaming | None = None) -> Iterator[Streaming]:
    """A running server; models: any."""
    state = server or Streaming()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            state.serve(self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        state.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
        try:
            yield state
        finally:
            listener.shutdown()

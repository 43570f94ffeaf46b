"""A folder on the loopback interface, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ultrachat_cli.errors import UltraError

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files only; a page of another site that makes its name point here gets nothing."""

    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Refuses a request that asks for another host."""
        if not super().parse_request():
            return False
        host = self.headers.get("Host", "").partition(":")[0]
        if host not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return False
        return True

    def end_headers(self) -> None:
        """The next map on the same port is another one."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def list_directory(self, _: object) -> None:
        """There is nothing to leaf through."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A browser that went away is no error."""


def serve(folder: Path, port: int, ready: Callable[[str], None]) -> None:
    """Calls `ready` with the URL, then serves until it is interrupted."""
    try:
        server = _Server((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise UltraError(f"port {port} cannot be used: {error.strerror}", "leave --port out for a free one") from error
    with server:
        try:
            ready(f"http://{HOST}:{server.server_address[1]}/")
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return

"""A hub in a folder: what `huggingface_hub` asks for when it fetches and pushes small data sets, on the loopback.

Routes: https://github.com/huggingface/huggingface_hub (Apache-2.0), `hf_api.py` and `file_download.py`.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`folder`/org/name/... are its data sets; what is pushed lands there."""

    folder: Path
    url: str = ""
    token: str = ""
    asked: list[str] = field(default_factory=list)
    break_after: int = 0
    """Cut the next file off after so many bytes, once."""


@contextmanager
def running(folder: Path, token: str = "") -> Iterator[Hub]:
    hub = Hub(folder, token=token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, data: Any) -> None:
            self._say(200, orjson.dumps(data), Content_Type="application/json")

        def _refused(self) -> bool:
            hub.asked.append(f"{self.command} {self.path}")
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._say(401, b"{}")
                return True
            return False

        def do_GET(self) -> None:
            if self._refused():
                return
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "datasets"]:
                root = hub.folder / parts[2] / parts[3]
                names = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]
                if parts[4:5] == ["tree"]:
                    sizes = ((name, (root / name).stat().st_size) for name in names)
                    self._json([{"type": "file", "path": n, "size": s, "oid": "x"} for n, s in sizes])
                else:
                    siblings = [{"rfilename": name} for name in names]
                    self._json({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings})
                return
            path = hub.folder / parts[1] / parts[2] / "/".join(parts[5:]) if parts[0] == "datasets" else None
            self._file(path or hub.folder / parts[-1])

        do_HEAD = do_GET

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self._say(404, b"{}", X_Error_Code="EntryNotFound")
                return
            data = path.read_bytes()
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0] or 0)
            if start >= len(data) > 0:
                self._say(416)
                return
            facts = {"ETag": etag, "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            if start:
                facts["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if hub.break_after and self.command == "GET":
                cut, hub.break_after = hub.break_after, 0
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:cut])
                self.close_connection = True
                return
            self._say(206 if start else 200, data[start:], **facts)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self._refused():
                return
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[-1] == "create":
                wanted = orjson.loads(body)
                name = "/".join(filter(None, [wanted.get("organization"), wanted["name"]]))
                self._json({"url": f"{hub.url}/datasets/{name}", "name": name})
            elif "preupload" in parts:
                names = [file["path"] for file in orjson.loads(body)["files"]]
                self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
            elif "commit" in parts:
                for line in body.splitlines():
                    row = orjson.loads(line)
                    if row["key"] == "file":
                        path = hub.folder / parts[2] / parts[3] / row["value"]["path"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(row["value"]["content"]))
                self._json(
                    {
                        "commitUrl": f"{hub.url}/datasets/{parts[2]}/{parts[3]}/commit/{COMMIT}",
                        "commitOid": COMMIT,
                        "success": True,
                    }
                )
            else:
                self._json({})

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

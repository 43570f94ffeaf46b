"""`ultrachat explore` as people start it."""

from __future__ import annotations

import signal
import time
import urllib.request
from pathlib import Path

import orjson
import pytest

from tests import invented
from tests.conftest import Ultrachat


def test_export(ultrachat: Ultrachat, tmp_path: Path) -> None:
    source = invented.write(tmp_path / "in.jsonl", 40)
    done = ultrachat("explore", source, "--export", "map.html", "--json")
    assert (done.code, done.json["shown"], done.json["bad_lines"]) == (0, 40, 0)
    assert done.json["files"] == ["map.html"]
    assert (tmp_path / "map.html").stat().st_size > 500_000


def test_bad_lines_end_an_export_with_3(ultrachat: Ultrachat, tmp_path: Path) -> None:
    source = invented.write(tmp_path / "in.jsonl", 9)
    with source.open("a") as file:
        file.write("{torn\n")
    done = ultrachat("explore", source, "--export", "map", "--json")
    assert (done.code, done.json["bad_lines"]) == (3, 1)
    assert f"{source}:10: not JSON" in done.stderr
    assert (tmp_path / "map" / "index.html").is_file()


def test_nothing_to_draw(ultrachat: Ultrachat, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    done = ultrachat("explore", "in.jsonl", "--no-open")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr == "error: no dialogues in in.jsonl\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(
    ultrachat: Ultrachat, tmp_path: Path, free_port: int, number: signal.Signals
) -> None:
    source = invented.write(tmp_path / "in.jsonl", 40)
    started = ultrachat.start("explore", source, "--no-open", "--port", str(free_port), "--json", "--projection", "pca")
    url = f"http://127.0.0.1:{free_port}/"
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                page = answer.read()
            break
        except OSError:
            time.sleep(0.1)
    assert b'id="map"' in page
    done, seconds = started.send(number)
    assert (done.code, orjson.loads(done.stdout)["url"]) == (0, url)
    assert seconds < 2
    assert "Traceback" not in done.stderr

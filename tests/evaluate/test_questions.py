"""Sets of questions: the published files' shapes, anyone's own, and what is said where there is none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from ultrachat_cli.errors import ConfigError, DataError, UltraError
from ultrachat_cli.evaluate.plan import SUITES
from ultrachat_cli.evaluate.suites.questions import Question, QuestionSet, load
from ultrachat_cli.progress import Silent


def read(suite: str, path: Path, rows: list[Any]) -> QuestionSet:
    path.write_bytes(orjson.dumps(rows) if path.suffix == ".json" else b"\n".join(map(orjson.dumps, rows)))
    return load(SUITES[suite], str(path), "", Silent())


def test_the_published_shapes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"idx": 1, "Skill": "Writting", "Difficulty": "9", "Instruction": "Write."}]
    assert read("evol", tmp_path / "e.jsonl", rows).questions == [Question("Write.", "Writting", "9")]
    rows = [{"dataset": "koala", "instruction": "Why?", "output": "So.", "generator": "text_davinci_003"}]
    found = read("alpaca", tmp_path / "a.json", rows)
    assert found.questions == [Question("Why?", dataset="koala")]
    assert [(answer.output, answer.generator) for answer in found.answers] == [("So.", "text_davinci_003")]
    assert found.sha256 == hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()


def test_a_question_of_two_classes_is_asked_once(tmp_path: Path) -> None:
    rows = [{"class": " Vicuna ", "data": "Why?"}, {"class": " World Knowledge-Easy ", "data": "Who?"},
            {"class": " Writing ", "data": "Why?"}]  # fmt: skip
    found = read("curated", tmp_path / "c.json", rows)
    assert found.questions == [Question("Why?", "Vicuna"), Question("Who?", "World Knowledge-Easy")]
    assert (found.rows, found.total) == (3, 2)


def test_any_set_of_ones_own(tmp_path: Path) -> None:
    rows = ["Plain?", {"question": "Q?", "category": "x"}, {"prompt": "P?", "skill": "y", "difficulty": 3},
            {"Instruction": "I?"}, {"text": "T?", "class": "z"}]  # fmt: skip
    for suite in SUITES:
        found = read(suite, tmp_path / "own.json", rows)
        assert [q.instruction for q in found.questions] == ["Plain?", "Q?", "P?", "I?", "T?"]
        assert [q.category for q in found.questions] == ["", "x", "y", "", "z"]
        assert found.questions[2].difficulty == "3"
    with pytest.raises(DataError, match=r"bad\.json:2: no instruction"):
        read("evol", tmp_path / "bad.json", [{"question": "Q?"}, {"answer": "A."}])
    with pytest.raises(DataError, match="an empty instruction"):
        read("evol", tmp_path / "bad.json", [{"question": " "}])
    with pytest.raises(DataError, match="holds no questions"):
        read("evol", tmp_path / "bad.json", [])


def test_a_part_is_spread_over_the_set() -> None:
    whole = load(SUITES["curated"], "demo", "", Silent())
    assert 10 <= len(whole.questions) <= 16
    assert len({q.category for q in whole.questions}) >= 5
    part = whole.limited(4)
    assert [q.instruction for q in part.questions] == [whole.questions[n].instruction for n in (0, 3, 6, 9)]
    assert whole.limited(None) is whole is whole.limited(99)
    assert (part.total, part.record()["asked"]) == (12, 4)


def test_a_set_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UltraError, match="alpaca_eval_2 is not here and could not be fetched") as caught:
        load(SUITES["alpaca"], None, "weighted_alpaca_eval_gpt4_turbo", Silent())
    assert "ultrachat data pull alpaca_eval_2; licence: cc-by-nc-4.0" in caught.value.hint
    for name in ("none.json", "ultrafeedback"):  # the second is no set of questions
        with pytest.raises(ConfigError, match=f"--dataset {name}: no such file"):
            load(SUITES["alpaca"], name, "alpaca_eval_gpt4", Silent())


def test_a_set_that_was_fetched_is_read_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path))
    folder = tmp_path / "datasets" / "ultra_eval"
    folder.mkdir(parents=True)
    rows = [{"class": " Vicuna ", "data": f"Why {n % 381}?"} for n in range(385)]
    (folder / "ultra_eval.json").write_bytes(orjson.dumps(rows))
    found = load(SUITES["curated"], None, "pairwise-score", Silent())
    assert (found.rows, found.total, found.licence) == (385, 381, "mit")


def test_a_set_of_the_hub_that_is_here_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path))
    monkeypatch.setattr("ultrachat_cli.records.fetch._from_hub", lambda *_: pytest.fail("the hub was asked"))
    folder = tmp_path / "datasets" / "alpaca_eval"
    folder.mkdir(parents=True)
    rows = [{"instruction": f"Why {n}?", "dataset": "d", "output": "So.", "generator": "g"} for n in range(805)]
    (folder / "alpaca_eval.json").write_bytes(orjson.dumps(rows))
    assert len(load(SUITES["alpaca"], None, "alpaca_eval_gpt4", Silent()).answers) == 805
    (folder / "alpaca_eval.json").write_bytes(orjson.dumps(rows[:9]))
    with pytest.raises(UltraError, match=r"alpaca_eval\.json: 9 records where the registry says 805") as caught:
        load(SUITES["alpaca"], None, "alpaca_eval_gpt4", Silent())
    assert "remove it and pull again" in caught.value.hint

"""Files of answers and verdicts: what goes in comes out, what is wrong is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.evaluate import peer
from tests.evaluate.made import annotation
from ultrachat_cli.errors import DataError
from ultrachat_cli.evaluate.annotations import (
    Annotation,
    Output,
    read_annotations,
    read_outputs,
    write_annotations,
    write_outputs,
)

THEIRS: dict[str, Any] = {
    "instruction": "Name a river.", "output_1": "The Nile.", "generator_1": "base", "dataset": "demo",
    "output_2": "The Po.</s>", "generator_2": "ours", "annotator": "some_judge", "preference": 1.25,
    "price_per_example": 0.01, "raw_completion": {"text": "M", "logprobs": [1, None]},
}  # fmt: skip


def put(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["annotations.json", "annotations.jsonl", "annotations.json.gz"])
def test_annotations_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    given = [
        annotation(1, 2.0, category="Math", switched=True, scores=(3.0, 8.5), raw="A better\n"),
        annotation(2, None, switched=False, answer="\x00</script>\u2028 é"),
        Annotation("q", "", "", "", "", 1.0, "", difficulty="7", extra={"time_per_example": 0.5, "mine": [1, {}]}),
    ]
    write_annotations(tmp_path / name, given)
    assert read_annotations(tmp_path / name) == given
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_score_comes_back_as_nan(tmp_path: Path) -> None:
    write_annotations(tmp_path / "a.json", [annotation(1, scores=(math.nan, 7.0))])
    (found,) = read_annotations(tmp_path / "a.json")
    assert found.scores is not None
    assert math.isnan(found.scores[0])
    assert found.scores[1] == 7


def test_alpaca_evals_fields_are_read_and_kept(tmp_path: Path) -> None:
    (found,) = read_annotations(put(tmp_path / "annotations.json", [THEIRS]))
    assert (found.output_1, found.output_2, found.generator_2) == ("The Nile.", "The Po.</s>", "ours")
    assert (found.preference, found.annotator, found.group, found.raw) == (1.25, "some_judge", "demo", "")
    assert set(found.extra) == {"price_per_example", "raw_completion"}
    write_annotations(tmp_path / "again.json", [found])
    assert json.loads((tmp_path / "again.json").read_text()) == [THEIRS]


def test_the_judges_words_are_read_where_they_are_text(tmp_path: Path) -> None:
    (found,) = read_annotations(put(tmp_path / "annotations.json", [{**THEIRS, "raw_completion": "m"}]))
    assert found.raw == "m"


@pytest.mark.parametrize(("given", "read"), [(0, 1.5), (1, 1.0), (1.5, 1.5), (2.0, 2.0), (None, None)])
def test_preferences_of_all_versions_are_read(tmp_path: Path, given: float | None, read: float | None) -> None:
    (found,) = read_annotations(put(tmp_path / "annotations.json", [{**THEIRS, "preference": given}]))
    assert found.preference == read


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preference": 2.5}, "'preference' is 2.5, not null, 0 or a number from 1 to 2"),
        ({"preference": "1"}, "'preference' is \"1\", not null, 0 or a number from 1 to 2"),
        ({"preference": True}, "'preference' is true, not null, 0 or a number from 1 to 2"),
        ({"output_2": None}, "'output_2' is not a text"),
        ({"scores": [1]}, "'scores' is not two numbers"),
        ({"dataset": ["a"]}, "'dataset' is not a text"),
        ({"is_switched_outputs": "yes"}, "'is_switched_outputs' is neither true nor false"),
    ],
)
def test_a_wrong_field_is_named_with_its_row(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = put(tmp_path / "annotations.json", [THEIRS, {**THEIRS, **change}, {**THEIRS, **change}])
    with pytest.raises(DataError) as caught:
        read_annotations(path)
    assert caught.value.line == 2
    assert caught.value.reason == f"{reason} (the first of 2 bad rows)"


@pytest.mark.parametrize("key", ["instruction", "output_1", "output_2", "preference"])
def test_a_missing_field_is_named(tmp_path: Path, key: str) -> None:
    path = put(tmp_path / "annotations.json", [{name: value for name, value in THEIRS.items() if name != key}])
    with pytest.raises(DataError, match=f"{path}:1: no '{key}'"):
        read_annotations(path)


def test_outputs_come_back_with_unknown_fields(tmp_path: Path) -> None:
    given = [Output("q", "a", "ours", "demo", "Writing", "3", {"samples": ["x"]}), Output("r", "")]
    write_outputs(tmp_path / "model_outputs.json", given)
    assert read_outputs(tmp_path / "model_outputs.json") == given


@pytest.mark.parametrize("text", ["[]", "", "{}", "[3]", '{"instruction": "q"', '[{"instruction": "q"}]'])
def test_a_file_without_answers_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model_outputs.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"model_outputs\.json"):
        read_outputs(path)
    with pytest.raises(DataError, match=r"nowhere\.json"):
        read_outputs(tmp_path / "nowhere.json")


@peer.needed
def test_alpaca_eval_reads_what_is_written(tmp_path: Path) -> None:
    write_outputs(tmp_path / "model_outputs.json", [Output("q é", "a\n", "ours", "demo", extra={"n": 3})])
    (found,) = peer.loaded(tmp_path / "model_outputs.json")
    assert {key: found[key] for key in ("instruction", "output", "generator", "dataset", "n")} == {
        "instruction": "q é", "output": "a\n", "generator": "ours", "dataset": "demo", "n": 3,
    }  # fmt: skip
    write_annotations(tmp_path / "annotations.json", [annotation(1, 1.25, switched=True, raw="m")])
    (verdict,) = peer.loaded(tmp_path / "annotations.json")
    assert (verdict["preference"], verdict["generator_2"], verdict["raw_completion"]) == (1.25, "ours", "m")


def test_names_are_one_line_that_a_terminal_can_show(tmp_path: Path) -> None:
    row = {"instruction": "q\x1b", "output": "a\n\x1b[31m", "generator": " our\x1b[31ms\n[b]two\u202e "}
    (tmp_path / "outputs.json").write_bytes(orjson.dumps([row]))
    (found,) = read_outputs(tmp_path / "outputs.json")
    assert (found.instruction, found.output, found.generator) == ("q\x1b", "a\n\x1b[31m", "our [31ms [b]two")

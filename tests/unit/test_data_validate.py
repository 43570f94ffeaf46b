"""`data validate`: every problem of every record, in its place."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from ultrachat_cli.data import convert, validate
from ultrachat_cli.data.validate import Problem

U, A, S = ({"role": who, "content": "x"} for who in ("user", "assistant", "system"))
G, H = {"from": "gpt", "value": "x"}, {"from": "human", "value": "x"}


def validated(path: Path, limit: int | None = None) -> tuple[list[Problem], validate.Report]:
    found: list[Problem] = []
    return found, validate.run([path], found.append, limit)


@pytest.mark.parametrize(
    ("record", "kinds"),
    [
        ({"data": ["q", "a"]}, []),
        ({"messages": [S, U, A, U, A]}, []),
        ({"conversations": [H, G]}, []),
        ([1], ["not_an_object"]),
        ("x", ["not_an_object"]),
        (None, ["not_an_object"]),
        ({}, ["no_turns"]),
        ({"data": "text"}, ["no_turns"]),
        ({"data": []}, ["no_turns"]),
        ({"messages": [S]}, ["no_turns"]),
        ({"data": ["q", 1]}, ["not_text"]),
        ({"data": [None, "a", ["q"], "a"]}, ["not_text", "not_text"]),
        ({"messages": [U, {"role": "assistant", "content": None}]}, ["not_text"]),
        ({"messages": [U, "text"]}, ["not_text", "role_order", "odd_turns"]),
        ({"data": ["q", " \n", "", "a"]}, ["empty_turn", "empty_turn"]),
        ({"data": ["q"]}, ["odd_turns"]),
        ({"data": ["q", "", 3], "meta": "x"}, ["bad_meta", "empty_turn", "not_text", "odd_turns"]),
        ({"messages": [A, U]}, ["role_order", "odd_turns"]),
        ({"messages": [A]}, ["role_order"]),
        ({"messages": [U, U, A]}, ["role_order"]),
        ({"messages": [U, A, A, U, A]}, ["role_order"]),
        ({"messages": [U, S, A]}, ["role_order"]),
        ({"messages": [S, S, U, A]}, ["role_order"]),
        ({"messages": [U, {"role": "tool", "content": "x"}, A]}, ["role_order"]),
        ({"conversations": [H, {"value": "x"}]}, ["role_order", "odd_turns"]),
        ({"messages": [S, U, A], "meta": {"system": "other"}}, ["refused"]),
    ],
)
def test_all_problems_of_a_record_are_named(tmp_path: Path, record: Any, kinds: list[str]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\n{"data": ["q", "a"]}\n' + orjson.dumps(record) + b"\n")
    found, report = validated(path)
    assert [(problem.file, problem.line, problem.kind) for problem in found] == [(str(path), 3, kind) for kind in kinds]
    assert report.records == 2
    assert report.complete == (not kinds)


def test_details_say_which_turn(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(orjson.dumps({"messages": [S, U, A, A, {"role": "user", "content": ""}]}))
    found, _ = validated(path)
    assert [str(problem) for problem in found] == [
        f"{path}:1: empty turn: turn 5",
        f"{path}:1: role order: turn 4 is by assistant where user should speak",
        f"{path}:1: odd turns: does not end with the assistant",
    ]


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"data": ["q", "a"]\n{"data": ["q\xff", "a"]}\n\xfe\n{"data": ["q", "a"]}')
    found, report = validated(path)
    assert [(problem.line, problem.kind) for problem in found] == [(1, "not_json"), (2, "bad_utf8"), (3, "bad_utf8")]
    assert str(found[0]) == f"{path}:1: not json: unexpected end of data"
    assert found[1].detail == "at character 13 of the line"
    assert report.records == 4


def test_an_id_is_used_once_in_all_files(tmp_path: Path) -> None:
    turns = ["q", "a"]
    for name, records in (
        ("a", [{"id": 1, "data": turns}, {"data": turns}, {"data": turns}, {"id": None, "data": turns}]),
        ("b", [{"id": "1", "data": turns}, {"prompt_id": "p", "data": turns}, {"prompt_id": "p", "data": []}]),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, records)))
    found, _ = validated(tmp_path)
    assert [(Path(problem.file).name, problem.line, problem.kind, problem.detail) for problem in found] == [
        ("b.jsonl", 1, "duplicate_id", "1"),
        ("b.jsonl", 3, "no_turns", "'data' holds none"),
        ("b.jsonl", 3, "duplicate_id", "p"),
    ]


@pytest.mark.parametrize("name", ["in.json", "in.jsonl.gz", "in.jsonl.zst", "in.parquet"])
def test_every_container_is_looked_into(tmp_path: Path, name: str) -> None:
    records = [{"id": "a", "data": ["q", "a"]}, {"id": "a", "data": ["q"]}]
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(b"\n".join(map(orjson.dumps, records)))
    if name == "in.json":
        (tmp_path / name).write_bytes(orjson.dumps(records))
    else:
        convert.run([plain], tmp_path / name)
    found, report = validated(tmp_path / name)
    assert [(problem.line, problem.kind) for problem in found] == [(2, "odd_turns"), (2, "duplicate_id")]
    assert report.problems == {"odd_turns": 1, "duplicate_id": 1}


def test_a_file_that_cannot_be_read_on_is_told_and_the_next_one_read(tmp_path: Path) -> None:
    draw = random.Random(1)
    data = b"".join(orjson.dumps({"data": [str(draw.random()), "a"]}) + b"\n" for _ in range(2000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data)[:-3000])
    (tmp_path / "b.jsonl").write_bytes(b'{"data": []}\n')
    found, report = validated(tmp_path)
    assert [problem.kind for problem in found] == ["unreadable", "no_turns"]
    assert report.records > 100


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_a_limit_is_for_each_kind_and_all_are_counted(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"data": ["q"]}\n{"data": []}\n' * 3)
    found, report = validated(path, limit)
    assert [problem.kind for problem in found] == ["odd_turns", "no_turns"] * limit
    assert report.problems == {"odd_turns": 3, "no_turns": 3}
    assert report.record()["problems"] == {"odd_turns": 3, "no_turns": 3}

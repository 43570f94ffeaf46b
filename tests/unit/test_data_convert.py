"""`data convert`: there and back again, over random dialogues, in every shape and container."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import rows
from ultrachat_cli.data import convert
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.records.dialogue import KEYS, Dialogue, Shape, parse

Record = dict[str, Any]
LETTERS = 'ab \n\t"\\/é漢字🙂\u2028\u0000\u202e{}[]ﬀ'
SHAPES: list[Shape] = ["ultrachat", "messages", "sharegpt"]
CONTAINERS = [
    *((shape, end) for shape in SHAPES for end in ("jsonl", "jsonl.gz", "jsonl.zst")),
    ("messages", "parquet"),
]


def text(draw: random.Random) -> str:
    return "".join(draw.choices(LETTERS, k=draw.randrange(12)))


def value(draw: random.Random, depth: int = 2) -> Any:
    simple = [text(draw), draw.randrange(-(10**15), 10**15), draw.random(), True, None]
    nested = [[value(draw, depth - 1)], {text(draw): value(draw, depth - 1)}] if depth else []
    return draw.choice([*simple, *nested])


def invented(draw: random.Random, shape: Shape) -> Record:
    """A record of any kind: with and without id, meta, system message, more fields of it and of its messages."""
    data = [text(draw) for _ in range(2 * draw.randrange(4))]
    record: Record = {"id": f"{text(draw)}x"} if draw.random() < 0.8 else {}
    meta = {key: value(draw) for key in draw.sample(["sector", "n", "é"], draw.randrange(4))}
    extra = {key: value(draw) for key in draw.sample(["prompt", "score", "x y"], draw.randrange(4))}
    places = [str(n) for n in range(len(data)) if draw.random() < 0.2]
    if draw.random() < 0.4:
        meta["system"] = text(draw)
        places += ["system"] if draw.random() < 0.3 else []
    if places:
        meta["turn_fields"] = {place: {"weight": draw.randrange(2), "é": text(draw)} for place in places}
    whole = Dialogue(record.get("id", ""), data, meta, extra)
    return whole.record(shape)


def write(path: Path, records: list[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


@pytest.mark.parametrize("origin", SHAPES)
@pytest.mark.parametrize(("shape", "end"), CONTAINERS)
def test_there_and_back_again(tmp_path: Path, origin: Shape, shape: Shape, end: str) -> None:
    draw = random.Random(f"{origin} {shape} {end}")
    records = [invented(draw, origin) for _ in range(150)]
    source = write(tmp_path / "a.jsonl", records)
    there = convert.run([source], tmp_path / f"b.{end}", shape)
    back = convert.run([tmp_path / f"b.{end}"], tmp_path / "c.jsonl", origin)
    assert rows(tmp_path / "c.jsonl") == records
    assert (there.written, back.written, there.complete, back.complete) == (150, 150, True, True)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_the_one_the_field_reads(tmp_path: Path, shape: Shape) -> None:
    record = {"prompt": "q", "prompt_id": "p", "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "q", "name": "Ann"},
        {"role": "assistant", "content": "a"}]}  # fmt: skip
    convert.run([write(tmp_path / "in.jsonl", [record])], tmp_path / "out.jsonl", shape)
    expected: dict[str, Any] = {
        "ultrachat": {"data": ["q", "a"], "meta": {"system": "Be brief.", "turn_fields": {"0": {"name": "Ann"}}}},
        "messages": {"messages": record["messages"]},
        "sharegpt": {"conversations": [{"from": "system", "value": "Be brief."},
                                       {"from": "human", "value": "q", "name": "Ann"}, {"from": "gpt", "value": "a"}]},
    }  # fmt: skip
    assert rows(tmp_path / "out.jsonl") == [{"id": "p", "prompt": "q", "prompt_id": "p"} | expected[shape]]


def test_parquet_holds_plain_columns(tmp_path: Path) -> None:
    import pyarrow.parquet

    record = {"id": "a", "data": ["q", "a"], "meta": {"system": "s", "n": 1}, "score": 0.5}
    convert.run([write(tmp_path / "in.jsonl", [record, {"data": []}])], tmp_path / "out.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    turns = [("system", "s"), ("user", "q"), ("assistant", "a")]
    messages = [{"role": who, "content": said} for who, said in turns]
    assert found == [
        {"id": "a", "messages": messages, "meta": '{"n":1}', "extra_fields": '{"score":0.5}'},
        {"id": "", "messages": [], "meta": "{}", "extra_fields": None},
    ]


def test_parquet_of_others_is_read_with_all_its_columns(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet

    message = {"role": "user", "content": "q", "name": None}
    row = {"prompt_id": "p", "messages": [message], "meta": "not JSON", "when": datetime.date(2024, 5, 6), "none": None}
    pyarrow.parquet.write_table(pa.Table.from_pylist([row, row | {"meta": None}]), tmp_path / "in.parquet")
    report = convert.run([tmp_path / "in.parquet"], tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl") == [
        {"id": "p", "data": ["q"], "prompt_id": "p", "when": "2024-05-06", "none": None}
    ]
    assert rows(tmp_path / "out.rejected.jsonl")[0]["reason"] == "'meta' is not an object"
    assert report.bad_lines == 1


@pytest.mark.parametrize(
    ("record", "shape", "field"),
    [
        ({"data": ["q", "a"], "messages": "see below"}, "messages", "messages"),
        ({"data": ["q", "a"], "messages": [{"role": "user", "content": "other"}]}, "messages", "messages"),
        ({"data": "2024-05-06", "messages": [{"role": "user", "content": "q"}]}, "ultrachat", "data"),
        ({"messages": [{"role": "user", "content": "q", "from": "Ann"}]}, "sharegpt", "from"),
        ({"conversations": [{"from": "human", "value": "q", "role": "x"}]}, "messages", "role"),
    ],
)
def test_a_field_in_the_way_is_told_and_nothing_is_lost(
    tmp_path: Path, record: Record, shape: Shape, field: str
) -> None:
    good = {"id": "x", "data": ["q", "a"]}
    report = convert.run([write(tmp_path / "in.jsonl", [record, good])], tmp_path / "out.jsonl", shape)
    assert (report.read, report.written, report.bad_lines) == (1, 1, 1)
    rejected = rows(tmp_path / "out.rejected.jsonl")[0]
    assert rejected["reason"] == f"field '{field}' is taken, and {shape} needs it"
    assert orjson.loads(rejected["text"]) == record


def test_messages_that_cannot_be_kept_are_no_dialogue() -> None:
    system = {"role": "system", "content": "s"}
    user = {"role": "user", "content": "q"}
    for record, fault in (
        ({"messages": [system, system, user]}, "turn 2 is by 'system'"),
        ({"messages": [system, user], "meta": {"system": "other"}}, r"meta\.system is taken"),
        ({"messages": [user | {"name": "Ann"}], "meta": {"turn_fields": 1}}, r"meta\.turn_fields is taken"),
    ):
        with pytest.raises(ValueError, match=fault):
            parse(record)


@pytest.mark.parametrize("fields", [7, {"0": 1}, {"9": {"a": 1}}, {"system": {"a": 1}}, {"x": {}}])
def test_meta_of_the_same_name_that_means_something_else_stays(fields: Any) -> None:
    dialogue = Dialogue("a", ["q", "a"], {"turn_fields": fields})
    for shape in SHAPES:
        assert dialogue.record(shape)["meta"] == {"turn_fields": fields}
        assert parse(dialogue.record(shape)) == dialogue


def test_a_part_keeps_what_belongs_to_its_turns() -> None:
    messages = [{"role": ("assistant" if n % 2 else "user"), "content": str(n), "n": n} for n in range(6)]
    system = {"role": "system", "content": "s", "n": -1}
    whole = parse({"id": "a", "messages": [system, *messages], "meta": {"k": 1}})
    part = whole.part(2, 5).record("messages")
    assert part == {"id": "a", "messages": [system, *messages[2:5]], "meta": {"k": 1}}
    assert whole.record("messages")["messages"] == [system, *messages]


def test_choices_are_checked(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [])
    with pytest.raises(ConfigError, match=r"--to: chatml: no such shape \(use ultrachat, messages, sharegpt\)"):
        convert.run([source], tmp_path / "out.jsonl", "chatml")
    with pytest.raises(ConfigError, match="Parquet files hold messages"):
        convert.run([source], tmp_path / "out.parquet", "sharegpt")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert set(KEYS) == set(SHAPES)

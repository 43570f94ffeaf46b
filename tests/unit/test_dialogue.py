from __future__ import annotations

from typing import Any

import orjson
import pytest

from ultrachat_cli.records.dialogue import Dialogue, Shape, parse, role

TURNS = ["Hi", "Hello", 'Why?\n"So" he said \u2028 é', "Because."]
DIALOGUE = Dialogue("abc", TURNS, {"sector": "world", "n": 1})
SHAPES: list[Shape] = ["ultrachat", "messages", "sharegpt"]


def test_the_published_shape() -> None:
    assert DIALOGUE.record() == {"id": "abc", "data": TURNS, "meta": {"sector": "world", "n": 1}}


def test_the_shape_of_messages() -> None:
    record = DIALOGUE.record("messages")
    assert list(record) == ["id", "messages", "meta"]
    assert record["messages"][:2] == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * 2


def test_the_shape_of_sharegpt() -> None:
    record = DIALOGUE.record("sharegpt")
    assert list(record) == ["id", "conversations", "meta"]
    assert record["conversations"][:2] == [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_one_line_that_reads_back(shape: Shape) -> None:
    line = DIALOGUE.line(shape)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse(orjson.loads(line)) == DIALOGUE


def test_roles_alternate_from_the_user() -> None:
    assert [role(n) for n in range(4)] == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(("turns", "rounds"), [(0, 0), (1, 0), (2, 1), (4, 2), (5, 2), (14, 7)])
def test_a_round_is_a_question_with_its_answer(turns: int, rounds: int) -> None:
    assert Dialogue("x", ["t"] * turns).rounds == rounds


def test_the_system_message_goes_to_the_meta() -> None:
    record = {"messages": [{"role": "system", "content": "Be brief."}, *DIALOGUE.messages], "meta": {"a": 1}}
    found = parse(record)
    assert (found.data, found.meta) == (TURNS, {"a": 1, "system": "Be brief."})
    assert record["meta"] == {"a": 1}


def test_the_200k_set_is_read_by_its_prompt_id() -> None:
    record = {"prompt": "Hi", "prompt_id": "f0e3", "messages": DIALOGUE.messages}
    assert (parse(record).id, parse(record).data) == ("f0e3", TURNS)


@pytest.mark.parametrize(
    ("fields", "identity"),
    [({"id": "x"}, "x"), ({"id": 7}, "7"), ({"id": 0}, "0"), ({}, ""), ({"id": "a", "prompt_id": "b"}, "a")],
)
def test_the_id_is_text(fields: dict[str, Any], identity: str) -> None:
    assert parse({**fields, "data": TURNS}).id == identity


def test_an_id_of_null_is_none_at_all() -> None:
    assert parse({"id": None, "prompt_id": "p", "data": TURNS}).id == "p"


@pytest.mark.parametrize("speakers", [("human", "gpt"), ("user", "assistant")])
def test_sharegpt_knows_both_names_of_each_speaker(speakers: tuple[str, str]) -> None:
    turns = [{"from": who, "value": text} for who, text in zip(speakers, ("a", "b"), strict=True)]
    assert parse({"conversations": turns}).data == ["a", "b"]


def _messages(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": who, "content": "x"} for who in roles]}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ([], "not a JSON object"),
        ("text", "not a JSON object"),
        (None, "not a JSON object"),
        ({}, "no 'data', 'messages' or 'conversations' list"),
        ({"data": "text"}, "no 'data', 'messages' or 'conversations' list"),
        ({"data": ["a", 1]}, "'data' holds something other than text"),
        ({"data": ["a", None]}, "'data' holds something other than text"),
        ({"data": [], "meta": "x"}, "'meta' is not an object"),
        (_messages("assistant", "user"), "turn 1 is by 'assistant' where 'user' should speak"),
        (_messages("user", "user"), "turn 2 is by 'user' where 'assistant' should speak"),
        (_messages("user", "system", "assistant"), "turn 2 is by 'system'"),
        (_messages("user", "tool"), "turn 2 is by 'tool'"),
        ({"messages": [{"role": "user"}]}, "turn 1 has no text under 'content'"),
        ({"messages": [{"role": "user", "content": None}]}, "turn 1 has no text under 'content'"),
        ({"messages": ["Hi"]}, "turn 1 has no text under 'content'"),
        ({"conversations": [{"role": "user", "content": "x"}]}, "turn 1 has no text under 'value'"),
    ],
)
def test_what_is_no_dialogue_is_told_apart(record: object, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse(record)


def test_a_dialogue_does_not_share_the_list_it_came_from() -> None:
    record = {"data": ["a", "b"]}
    parse(record).data.append("c")
    assert record == {"data": ["a", "b"]}

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.conftest import MakeModel, OpenJournal
from ultrachat_cli.backends.base import Prompt, Sampling
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.generate.lists import ListMaker, clean, parse_list, plain
from ultrachat_cli.generate.prompts import Prompts
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.settings import Opener

SHORT = "lists shorter than asked for"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["a", "b"]', ["a", "b"]),
        ('{"items": ["a", "b"]}', ["a", "b"]),
        ('{"questions": ["a"], "n": 1}', ["a"]),
        ('{"count": 2, "questions": ["a", "b"]}', ["a", "b"]),
        ('[{"question": "a"}, {"question": "b"}]', ["a", "b"]),
        ('{"1": "a", "2": "b"}', ["a", "b"]),
        ('["a", 3, null, "", "  ", "b"]', ["a", "b"]),
        ('```json\n{"items": ["a?", "b?"]}\n```', ["a?", "b?"]),
        ('```\n["a?", "b?"]\n```', ["a?", "b?"]),
        ('Sure! Here they are: ["a", "b"] Enjoy!', ["a", "b"]),
        ('["say \\"x\\" now", "caf\\u00e9"]', ['say "x" now', "café"]),
        ('["1. a", "- b", "**c**"]', ["a", "b", "c"]),
        ("1. a\n2. b\n10. c", ["a", "b", "c"]),
        ("1) a\n(2) b\n3: c\n  4. d", ["a", "b", "c", "d"]),
        ("a) x\nb) y", ["x", "y"]),
        ("- a\n* b\n• c\n– d", ["a", "b", "c", "d"]),
        ("Here are some ideas:\n\n1. a\n\n2. b\n\nI hope these help!", ["a", "b"]),
        ("Certainly! Two questions\n- a\n- b", ["a", "b"]),
        ("Why one?\nWhy two?", ["Why one?", "Why two?"]),
        ("Here you go:\nWhy one?\nWhy two?\n", ["Why one?", "Why two?"]),
        ("1. Why [a]?\n2. Why {b}?", ["Why [a]?", "Why {b}?"]),
        ("1. What does f(x) = {x} mean?\n2. b", ["What does f(x) = {x} mean?", "b"]),
        ("1. **Bread**: what is it?\n2. __Tea__", ["Bread: what is it?", "Tea"]),
        ('```\n1. a\n2. b\n```', ["a", "b"]),
        ('{\n  "items": [\n    "a b?",\n    "c d?",\n', ["a b?", "c d?"]),
        ('"a",\n"b",', ["a", "b"]),
        ("", []),
        ("\n \n", []),
        ("[]", []),
        ("{}", []),
        ("[1, 2]", []),
        ("Here is the list:", []),
    ],
)  # fmt: skip
def test_a_list_is_read_from_whatever_a_model_writes(text: str, items: list[str]) -> None:
    assert parse_list(text) == items


@pytest.mark.parametrize(
    "torn", ['{"items": ["a b?", "c d?", "e', '["a b?", "c d?", "e', '{"items": ["a b?", "c d?"', '["a b?", "c d?",']
)
def test_of_torn_json_the_whole_items_are_kept(torn: str) -> None:
    assert parse_list(torn) == ["a b?", "c d?"]


def test_the_torn_item_of_torn_json_is_dropped() -> None:
    assert parse_list('{\n "items": [\n  "a b?",\n  "c d?",\n  "e') == ["a b?", "c d?"]


@pytest.mark.parametrize("text", ["Here are [2] items:\n1. a\n2. b", "1. a\n2. b\n\nSources: [1, 2]"])
def test_a_number_in_brackets_does_not_hide_the_list(text: str) -> None:
    assert parse_list(text) == ["a", "b"]


def test_a_bracket_behind_the_json_does_not_hide_it() -> None:
    assert parse_list('{"items": ["a", "b"]}\n(see {note})') == ["a", "b"]


def test_capital_letters_mark_rows_too() -> None:
    assert parse_list("A) x\nB) y") == ["x", "y"]


@pytest.mark.parametrize(
    ("item", "cleaned"),
    [
        ("3. x", "x"),
        ("  - x ", "x"),
        ('"x",', "x"),
        ("“x”", "x"),
        ("*x*", "x"),
        ("**Bold** text", "Bold text"),
        ("`x`;", "x"),
        ("many   spaces\tand\nlines", "many spaces and lines"),
        ("1984: why?", "1984: why?"),
        ("3.5 litres of what?", "3.5 litres of what?"),
        ("I. Newton's laws", "I. Newton's laws"),
        ("What's a 'foo'?", "What's a 'foo'?"),
        ("-5 degrees", "-5 degrees"),
        ("", ""),
        ('""', ""),
    ],
)
def test_an_item_is_freed_from_its_wrapping(item: str, cleaned: str) -> None:
    assert clean(item) == cleaned


@pytest.mark.parametrize("item", ['Explain the term "entropy"', "the meaning of 'home'", "the use of __init__"])
def test_quotes_that_belong_to_the_text_stay(item: str) -> None:
    assert clean(item) == item


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Why is it so?", "why is it so", True),
        ("  Why -- is it so?! ", "Why is it so", True),
        ("Größe", "GRÖSSE", True),
        ("为什么？", "为什么", True),
        ("Why is it so?", "Why is it not so?", False),
        ("Point 1", "Point 2", False),
    ],
)
def test_items_are_the_same_when_their_letters_are(one: str, other: str, same: bool) -> None:
    assert (plain(one) == plain(other)) is same


class Opinions:
    """A model that writes lists: `make(n, count)` gives the items of its n-th answer; keeps what it was asked."""

    def __init__(self, make: Callable[[int, int], list[str] | str]) -> None:
        self.make = make
        self.prompts: list[str] = []
        self.schemas: list[Mapping[str, Any]] = []

    def __call__(self, prompt: Prompt, _: Sampling, schema: Mapping[str, Any] | None) -> tuple[str, str]:
        assert not isinstance(prompt, str)
        assert schema is not None
        self.prompts.append(prompt[-1]["content"])
        self.schemas.append(schema)
        made = self.make(len(self.prompts), schema["properties"]["items"]["maxItems"])
        return made if isinstance(made, str) else orjson.dumps({"items": made}).decode(), "stop"


def fresh(n: int, count: int) -> list[str]:
    """Items nobody wrote before."""
    return [f"Question {n} part {i}?" for i in range(count)]


def maker(model: ChatModel, counts: Counts | None = None, prompts: Prompts | None = None, **settings: Any) -> ListMaker:
    opener = Opener.model_validate(settings)
    return ListMaker(model, prompts or Prompts(), opener, 7, Counts() if counts is None else counts)


def take(lists: ListMaker, asked: int, consumed: int | None = None, key: str = "key") -> list[str]:
    """The first `consumed` of `asked` items of a prompt."""

    async def consume() -> list[str]:
        source = lists.items(key, "world/questions", asked, topic="Art", subtopic="frescoes")
        found: list[str] = []
        while consumed is None or len(found) < consumed:
            try:
                found.append(await anext(source))
            except StopAsyncIteration:
                break
        return found

    return asyncio.run(consume())


@pytest.mark.parametrize(("consumed", "requests"), [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3), (12, 3), (99, 3)])
def test_no_more_is_asked_for_than_is_taken(make_model: MakeModel, consumed: int, requests: int) -> None:
    model = make_model(Opinions(fresh))
    found = take(maker(model, per_request=5), 12, consumed)
    assert len(found) == min(consumed, 12)
    assert model.limiter.usage.requests == requests


def test_each_request_asks_for_what_is_missing_and_names_what_there_is(make_model: MakeModel) -> None:
    opinions = Opinions(fresh)
    found = take(maker(make_model(opinions), per_request=5), 12)
    assert [s["properties"]["items"]["maxItems"] for s in opinions.schemas] == [5, 5, 2]
    assert len(set(found)) == 12
    assert found[0] not in opinions.prompts[0]
    assert all(item in opinions.prompts[1] for item in found[:5])
    assert not any(item in opinions.prompts[1] for item in found[5:])
    assert all("frescoes" in prompt for prompt in opinions.prompts)


def test_the_schema_asks_for_an_object_of_so_many_texts(make_model: MakeModel) -> None:
    opinions = Opinions(fresh)
    take(maker(make_model(opinions)), 4)
    (schema,) = opinions.schemas
    items = schema["properties"]["items"]
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["items"], False)
    assert (items["type"], items["minItems"], items["maxItems"]) == ("array", 4, 4)
    assert items["items"]["type"] == "string"


def test_a_short_list_is_asked_for_again_and_added_up(make_model: MakeModel) -> None:
    counts = Counts()
    opinions = Opinions(lambda n, count: fresh(n, 2))
    found = take(maker(make_model(opinions), counts, list_retries=2), 5)
    assert len(set(found)) == 5
    assert len(opinions.prompts) == 3
    assert not counts.warnings


def test_a_list_that_stays_short_is_accepted_with_a_warning(make_model: MakeModel) -> None:
    counts = Counts()
    opinions = Opinions(lambda n, count: ["Why a?", "Why b?"])
    found = take(maker(make_model(opinions), counts, list_retries=2), 5)
    assert found == ["Why a?", "Why b?"]
    assert counts.warnings[SHORT] >= 1
    assert 3 <= len(opinions.prompts) <= 6


@pytest.mark.parametrize("answer", ["", "{}", "I'd rather not:", '{"items": []}'])
@pytest.mark.parametrize("retries", [0, 3])
def test_a_model_that_writes_no_list_is_not_asked_for_ever(make_model: MakeModel, answer: str, retries: int) -> None:
    counts = Counts()
    opinions = Opinions(lambda n, count: answer)
    assert take(maker(make_model(opinions), counts, list_retries=retries), 50) == []
    assert len(opinions.prompts) == 1 + retries
    assert counts.warnings[SHORT] == 1


def test_one_new_item_a_request_still_comes_to_an_end(make_model: MakeModel) -> None:
    opinions = Opinions(lambda n, count: ["Why a?", f"Why {n}?"])
    found = take(maker(make_model(opinions), per_request=5, list_retries=0), 10)
    assert len(found) == len(set(found)) == 10
    assert len(opinions.prompts) <= 10


def test_duplicates_are_dropped_within_and_between_requests(make_model: MakeModel) -> None:
    answers = [["Why a?", "why A", "Why b?"], ["WHY B", "Why c?", "Why d?"], ["Why e?"]]
    opinions = Opinions(lambda n, count: answers[min(n, 3) - 1])
    found = take(maker(make_model(opinions), per_request=3, list_retries=0), 5)
    assert found == ["Why a?", "Why b?", "Why c?", "Why d?", "Why e?"]


def test_more_than_was_asked_for_is_not_taken(make_model: MakeModel) -> None:
    opinions = Opinions(lambda n, count: fresh(n, 50))
    assert len(take(maker(make_model(opinions), per_request=5), 7)) == 7
    assert len(opinions.prompts) == 2


def test_a_model_that_knows_no_json_is_understood(make_model: MakeModel) -> None:
    opinions = Opinions(lambda n, count: "Sure!\n" + "\n".join(f"{i + 1}. Why {n} and {i}?" for i in range(count)))
    assert take(maker(make_model(opinions)), 3) == ["Why 1 and 0?", "Why 1 and 1?", "Why 1 and 2?"]


def test_items_longer_than_the_prompt_allows_are_dropped(make_model: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    request = "max_chars: 10\n## user\n{count} questions about {subtopic} ({topic}).{avoid}\n"
    (tmp_path / "world" / "questions.md").write_text(request)
    opinions = Opinions(lambda n, count: ["Why a?", "Why is it so long?", f"Why {n}?"])
    found = take(maker(make_model(opinions), prompts=Prompts(tmp_path), list_retries=0, per_request=3), 2)
    assert found == ["Why a?", "Why 1?"]


def test_what_was_answered_once_is_not_asked_again(open_journal: OpenJournal, make_model: MakeModel) -> None:
    opinions = Opinions(fresh)
    model = make_model(opinions)
    first = take(maker(model, per_request=5), 12)
    model.journal = open_journal()
    assert take(maker(model, per_request=5), 12) == first
    assert len(opinions.prompts) == 3
    take(maker(model, per_request=5), 5, key="other key")
    assert len(opinions.prompts) == 4


def test_requests_carry_seeds_of_their_own_unless_they_are_switched_off(make_model: MakeModel) -> None:
    seeds: list[int | None] = []

    def answer(prompt: Prompt, sampling: Sampling, schema: Mapping[str, Any] | None) -> tuple[str, str]:
        seeds.append(sampling.seed)
        return orjson.dumps(fresh(len(seeds), 5)).decode(), "stop"

    model = make_model(answer)
    take(maker(model, per_request=5), 15, key="a")
    assert len(set(seeds)) == 3
    assert None not in seeds
    take(maker(model, send_seed=False), 1, key="b")
    assert seeds[3] is None


@pytest.mark.parametrize(
    ("said", "text"), [('"Write a poem."', "Write a poem."), ("  “Write.”\n", "Write."), ('Say "x".', 'Say "x".')]
)
def test_a_free_text_is_freed_from_quotes_around_it(make_model: MakeModel, said: str, text: str) -> None:
    lists = maker(make_model(lambda *_: (said, "stop")))
    assert asyncio.run(lists.text("key", "writing/expand", type="Poems", instruction="Write a poem")) == text

"""`ultrachat generate` against a served model: the three sectors, every option, and what is on file afterwards."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import ROUNDS, dialogues, ids, manifest, refused, rows
from tests.conftest import Answer, Asked, Serve, Ultrachat, Web, completion, error
from tests.openai_server import Running, Voice

SECTORS = ("world", "writing", "materials")
REFUSAL = "I'm sorry, but I can't help with that."
PROSE = "Farmers near the river grow rice in spring. They repair the old dams before the rain comes. "


def served(steady: Running, *more: str | Path) -> tuple[str | Path, ...]:
    return ("generate", "-m", "test-model", "--base-url", steady.url, "--json", *more)


def check(row: dict[str, Any], low: int, high: int) -> None:
    """One line of dialogues.jsonl, against everything that is promised of it."""
    assert list(row) == ["id", "data", "meta"]
    assert re.fullmatch("[0-9a-f]{16}", row["id"])
    data, meta = row["data"], row["meta"]
    assert all(isinstance(turn, str) and turn.strip() == turn and turn for turn in data)
    assert len(data) % 2 == 0
    assert 2 * low <= len(data) <= 2 * high
    assert low <= meta["rounds_drawn"] <= high
    assert meta["models"] == {"assistant": "test-model", "user": "test-model"}
    assert meta["path"]
    assert meta["persona"]
    assert re.fullmatch(f"{meta['sector']}/user@[0-9a-f]{{12}}", meta["prompt"])
    assert meta["seed"] == 0
    {"world": _world, "writing": _writing, "materials": _materials}[meta["sector"]](data[0], meta)


def _world(first: str, meta: dict[str, Any]) -> None:
    assert meta["kind"] in ("topic", "related", "meta", "specific", "general")
    assert meta.get("topic") or meta.get("entity")


def _writing(first: str, meta: dict[str, Any]) -> None:
    assert meta["type"]
    assert (first != meta["instruction"]) if meta["expanded"] else "instruction" not in meta


def _materials(first: str, meta: dict[str, Any]) -> None:
    assert meta["instruction"] in first
    assert meta["template"].count("{text}") == meta["template"].count("{instruction}") == 1
    assert meta["source"]
    assert len(first) > len(meta["instruction"]) + 150


@pytest.mark.parametrize("sector", SECTORS)
def test_a_sector(ultrachat: Ultrachat, steady: Running, sector: str) -> None:
    result = ultrachat(*served(steady, "--sector", sector, "--limit", "25"))
    assert result.code == 0, result
    folder = ultrachat.folder / "runs" / sector
    lines = dialogues(folder)
    for line in lines:
        check(line, *ROUNDS[sector])
        assert line["meta"]["sector"] == sector
    assert len(set(ids(folder))) == 25
    assert len({line["data"][0] for line in lines}) == 25
    assert len({len(line["data"]) for line in lines}) > 1, "the number of rounds is drawn"
    assert len({line["meta"]["persona"] for line in lines}) > 5
    report = result.json
    assert (report["sector"], report["planned"], report["written"]) == (sector, 25, 25)
    assert report["folder"] == f"runs/{sector}"
    assert report["failed"] == report["rejected"] == {}
    stats = steady.stats()
    assert report["requests"] == stats["requests"] == stats["answered"]
    assert (stats["repeats"], report["retries"], report["stopped"]) == (0, 0, "")


def test_openings_are_spread(ultrachat: Ultrachat, steady: Running) -> None:
    """World: in the published proportions and round the topics; writing: round the types."""
    ultrachat(*served(steady, "-s", "world", "-n", "62"))
    metas = [line["meta"] for line in dialogues(ultrachat.folder / "runs/world")]
    assert Counter(meta["kind"] for meta in metas) == {"topic": 12, "meta": 5, "specific": 20, "general": 25}
    assert len({meta["topic"] for meta in metas if "topic" in meta}) == 12
    entities = [meta["entity"] for meta in metas if "entity" in meta]
    assert max(Counter(entities).values()) <= 3
    ultrachat(*served(steady, "-s", "writing", "-n", "40"))
    types = Counter(line["meta"]["type"] for line in dialogues(ultrachat.folder / "runs/writing"))
    assert len(types) == 20
    assert set(types.values()) == {2}


def test_nothing_is_asked_twice_in_one_session(ultrachat: Ultrachat, steady: Running) -> None:
    """The three kinds of entity openings begin with the same list of meta questions."""
    assert ultrachat(*served(steady, "-n", "120", "--rounds", "1")).code == 0
    assert steady.stats()["repeats"] == 0


def test_a_small_run_asks_for_few_lists(ultrachat: Ultrachat, steady: Running) -> None:
    report = ultrachat(*served(steady, "-n", "20", "--rounds", "2")).json
    assert report["requests"] <= 20 * 3 + 2 * 20, "a plan is lazy: at most two list requests an opening"


def test_all_sectors(ultrachat: Ultrachat, steady: Running) -> None:
    result = ultrachat(*served(steady, "-s", "all", "-n", "20"))
    assert result.code == 0
    lines = dialogues(ultrachat.folder / "runs/all")
    assert Counter(line["meta"]["sector"] for line in lines) == {"world": 7, "writing": 7, "materials": 6}
    for line in lines:
        check(line, *ROUNDS[line["meta"]["sector"]])
    assert set(manifest(ultrachat.folder / "runs/all")["identity"]["lists"]) >= {"topics", "entities", "templates"}


ROUNDS_ASKED = {"2": (2, 2), "1": (1, 1), "4-5": (4, 5)}


def test_rounds(ultrachat: Ultrachat, steady: Running) -> None:
    results = ultrachat.many(*(served(steady, "--rounds", rounds, "-n", "12", "-o", rounds) for rounds in ROUNDS_ASKED))
    assert [result.code for result in results] == [0, 0, 0]
    for rounds, (low, high) in ROUNDS_ASKED.items():
        lines = dialogues(ultrachat.folder / rounds)
        assert len(lines) == 12
        for line in lines:
            check(line, low, high)


def test_the_manifest(ultrachat: Ultrachat, steady: Running) -> None:
    ultrachat(*served(steady, "-n", "5", "--set", "user.temperature=0.9"))
    found = manifest(ultrachat.folder / "runs/world")
    assert found["kind"] == "generate"
    assert found["counts"]["written"] == found["counts"]["planned"] == 5
    assert found["counts"]["requests"] == steady.stats()["requests"]
    assert found["config"]["user"]["temperature"] == 0.9
    assert found["config_sources"]["user.temperature"] == "--set user.temperature"
    assert found["config_sources"]["limit"] == "--limit"
    assert set(found["models"]) == {"assistant", "user", "opening"}
    assert found["models"]["assistant"]["url"] == steady.url
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in found["identity"]["prompts"].values())
    assert found["versions"]["ultrachat"]
    assert [session["state"] for session in found["sessions"]] == ["finished"]


# Formats


SHAPES = ("messages", "sharegpt", "parquet")


def test_other_formats_say_the_same(ultrachat: Ultrachat, steady: Running) -> None:
    results = ultrachat.many(*(served(steady, "-n", "8", "--format", shape, "-o", shape) for shape in SHAPES))
    for shape, result in zip(SHAPES, results, strict=True):
        assert result.code == 0, result
        same(ultrachat.folder / shape, shape)
        name = "dialogues.parquet" if shape == "parquet" else f"dialogues.{shape}.jsonl"
        assert result.json["files"] == [f"{shape}/dialogues.jsonl", f"{shape}/{name}"]


def same(folder: Path, shape: str) -> None:
    """The other file holds the dialogues of dialogues.jsonl, in its own shape."""
    own = dialogues(folder)
    if shape == "parquet":
        import pyarrow.parquet

        found = pyarrow.parquet.read_table(folder / "dialogues.parquet").to_pylist()
        assert [orjson.loads(row["meta"]) for row in found] == [row["meta"] for row in own]
        turns = [[(turn["role"], turn["content"]) for turn in row["messages"]] for row in found]
    else:
        found = rows(folder / f"dialogues.{shape}.jsonl")
        assert [row["meta"] for row in found] == [row["meta"] for row in own]
        key, who, what = ("messages", "role", "content") if shape == "messages" else ("conversations", "from", "value")
        turns = [[(turn[who], turn[what]) for turn in row[key]] for row in found]
    names = ("human", "gpt") if shape == "sharegpt" else ("user", "assistant")
    assert turns == [[(names[n % 2], text) for n, text in enumerate(row["data"])] for row in own]
    assert [row["id"] for row in found] == [row["id"] for row in own]


def test_a_format_can_be_asked_for_later_at_no_cost(ultrachat: Ultrachat, steady: Running) -> None:
    ultrachat(*served(steady, "-n", "5"))
    asked = steady.stats()["requests"]
    assert ultrachat(*served(steady, "-n", "5", "--format", "messages")).code == 0
    assert len(rows(ultrachat.folder / "runs/world/dialogues.messages.jsonl")) == 5
    assert steady.stats()["requests"] == asked


def test_parquet_without_pyarrow_is_refused_before_the_run(ultrachat: Ultrachat, steady: Running) -> None:
    broken = ultrachat.folder / "no" / "pyarrow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not installed')\n")
    result = ultrachat(*served(steady, "-n", "5", "--format", "parquet"), env={"PYTHONPATH": str(broken.parent)})
    refused(result, 1, "pip install 'ultrachat-cli[parquet]'")
    assert steady.stats()["requests"] == 0


# Materials and entities


def c4(path: Path, count: int = 6) -> Path:
    """Lines as C4 has them, one of them too short to be used."""
    lines = [
        {"text": f"Report number {n}. " + PROSE * 4, "timestamp": "2019-04-22T00:00:00Z",
         "url": f"https://example.org/{'blog' if n % 2 else 'zzz'}/{n}.html"}
        for n in range(count)
    ]  # fmt: skip
    lines.insert(2, {"text": "too short", "url": "https://example.org/blog/x"})
    path.write_bytes(gzip.compress(b"".join(orjson.dumps(line) + b"\n" for line in lines)))
    return path


def test_materials_in_the_shape_of_c4(ultrachat: Ultrachat, steady: Running) -> None:
    path = c4(ultrachat.folder / "c4.jsonl.gz")
    result = ultrachat(*served(steady, "-s", "materials", "--materials", path, "-n", "12"))
    assert result.code == 0, result
    lines = dialogues(ultrachat.folder / "runs/materials")
    assert len(lines) == 12
    for line in lines:
        check(line, *ROUNDS["materials"])
        number = line["meta"]["source"].rpartition("/")[2].removesuffix(".html")
        assert f"Report number {number}. {PROSE}" in line["data"][0]
        assert (line["meta"]["type"] is not None) == ("/blog/" in line["meta"]["source"])
    assert set(Counter(line["meta"]["source"] for line in lines).values()) == {2}


def test_only_classified_materials(ultrachat: Ultrachat, steady: Running) -> None:
    path = c4(ultrachat.folder / "c4.jsonl.gz")
    arguments = ("-s", "materials", "--materials", path, "-n", "6", "--set", "materials.classified_only=true")
    assert ultrachat(*served(steady, *arguments)).code == 0
    lines = dialogues(ultrachat.folder / "runs/materials")
    assert len(lines) == 6
    assert all("/blog/" in line["meta"]["source"] for line in lines)


def test_materials_from_files_and_folders_of_every_kind(ultrachat: Ultrachat, steady: Running) -> None:
    import pyarrow
    import pyarrow.parquet

    folder = ultrachat.folder / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.txt").write_text("A text file. " + PROSE * 4)
    (folder / "deep" / "two.md").write_text("A note in Markdown. " + PROSE * 4)
    (folder / "three.jsonl").write_bytes(orjson.dumps({"text": "A line of JSON. " + PROSE * 4}))
    table = pyarrow.table({"text": ["A row of Parquet. " + PROSE * 4], "url": ["https://example.org/news/1"]})
    pyarrow.parquet.write_table(table, ultrachat.folder / "four.parquet")
    arguments = ("-s", "materials", "--materials", "texts", "--materials", "four.parquet", "-n", "4")
    result = ultrachat(*served(steady, *arguments))
    assert result.code == 0, result
    firsts = [line["data"][0] for line in dialogues(ultrachat.folder / "runs/materials")]
    for begin in ("A text file.", "A note in Markdown.", "A line of JSON.", "A row of Parquet."):
        assert sum(begin in first for first in firsts) == 1


def test_materials_from_a_writing_run(ultrachat: Ultrachat, steady: Running) -> None:
    words = ("--set", "writing.expand=0", "--rounds", "2", "--set", "materials.min_chars=50")
    ultrachat(*served(steady, "-s", "writing", "-n", "4", *words[:4]))
    result = ultrachat(*served(steady, "-s", "materials", "--materials", "runs/writing", "-n", "4", *words))
    assert result.code == 0, result
    written = dialogues(ultrachat.folder / "runs/writing")
    answers = {max(line["data"][1::2], key=len): line["meta"]["type"] for line in written}
    for line in dialogues(ultrachat.folder / "runs/materials"):
        text = next(answer for answer in answers if answer in line["data"][0])
        assert line["meta"]["type"] == answers[text]


def test_entities_of_the_user(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "mine.txt").write_text("# of my own\nLake Titicaca\nthe Danube\n\nLake Titicaca\n")
    result = ultrachat(*served(steady, "--entities", "mine.txt", "-n", "10", "--set", "world.mix.topic=0"))
    assert result.code == 0, result
    found = Counter(line["meta"]["entity"] for line in dialogues(ultrachat.folder / "runs/world"))
    assert set(found) == {"Lake Titicaca", "the Danube"}
    assert min(found.values()) >= 3


# Models


def test_models_of_their_own_on_two_servers(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    """The assistant on one server, the user on another, the openings by a second model of the first."""
    seen: dict[str, list[Asked]] = {"lists": [], "assistant": [], "user": []}

    def reply(asked: Asked, who: str) -> tuple[int, Any, bytes]:
        if asked.method == "GET":
            return error(404, "no such list")
        seen[who].append(asked)
        number = len(seen[who])
        if who == "lists":
            return completion(orjson.dumps({"items": Voice(number).questions(10)}).decode())
        return completion(f"The {who} says number {number}: rivers {number} and mills {number * 7} go together.")

    def first(asked: Asked) -> tuple[int, Any, bytes]:
        return reply(asked, "lists" if asked.body and asked.json["model"] == "list-model" else "assistant")

    one, two = web(first), web(lambda asked: reply(asked, "user"))
    result = ultrachat(
        "generate", "-n", "4", "--rounds", "3", "--json", "-m", "strong", "--base-url", one.url,
        "--user-model", "small", "--user-base-url", two.url, "--opening-model", "list-model",
        "--set", f"opening.base_url={one.url}", "--set", "world.mix.topic=0",
    )  # fmt: skip
    assert result.code == 0, result
    assert {asked.json["model"] for asked in one.asked if asked.body} == {"strong", "list-model"}
    assert {asked.json["model"] for asked in two.asked if asked.body} == {"small"}
    assert (len(seen["assistant"]), len(seen["user"])) == (4 * 3, 4 * 2)
    for asked in seen["assistant"]:
        roles = [message["role"] for message in asked.json["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    for asked in seen["user"]:
        messages = asked.json["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
        assert "put yourself in the user's place" in messages[-1]["content"].lower(), "the instruction comes last"
    for line in dialogues(ultrachat.folder / "runs/world"):
        assert line["meta"]["models"] == {"assistant": "strong", "user": "small"}
        assert all("The assistant says" in turn for turn in line["data"][1::2])
        assert all("The user says" in turn for turn in line["data"][2::2])
    models = manifest(ultrachat.folder / "runs/world")["models"]
    assert [(models[role]["name"], models[role]["url"]) for role in ("assistant", "user", "opening")] == [
        ("strong", one.url), ("small", two.url), ("list-model", one.url),
    ]  # fmt: skip


@pytest.mark.parametrize("option", ["--user-model", "--opening-model"])
def test_another_model_of_the_same_server(ultrachat: Ultrachat, steady: Running, option: str) -> None:
    result = ultrachat(*served(steady, "-n", "3", option, "other-model"))
    assert result.code == 0, result
    role = "user" if option == "--user-model" else "opening"
    model = manifest(ultrachat.folder / "runs/world")["models"][role]
    assert (model["name"], model["url"]) == ("other-model", steady.url)


def test_only_a_user_url_of_its_own(ultrachat: Ultrachat, steady: Running, server: Serve) -> None:
    other = server()
    assert ultrachat(*served(steady, "-n", "3", "--rounds", "2", "--user-base-url", other.url)).code == 0
    assert other.stats()["answered"] == 3


def test_concurrency(ultrachat: Ultrachat, server: Serve) -> None:
    slow = server(delay=0.05)
    assert ultrachat(*served(slow, "-n", "12", "-j", "5", "--rounds", "2")).code == 0
    assert slow.stats()["peak_in_flight"] == 5


def test_a_server_without_schemas(ultrachat: Ultrachat, server: Serve) -> None:
    """Lists are parsed from prose here, one item each: short ones are asked for again, then taken with a warning."""
    plain = server(no_schema=True)
    result = ultrachat(*served(plain, "-n", "3", "-j", "1"))
    assert result.code == 0, result
    assert plain.stats()["by_status"]["400"] == 1
    assert result.json["warnings"]["lists shorter than asked for"] > 0
    assert len(ids(ultrachat.folder / "runs/world")) == 3


def test_a_server_without_schemas_asked_many_at_once(ultrachat: Ultrachat, server: Serve) -> None:
    plain = server(no_schema=True, delay=0.02)
    result = ultrachat(*served(plain, "-n", "10"))
    assert result.code == 0, result
    assert len(ids(ultrachat.folder / "runs/world")) == 10


def test_scripted_rules(ultrachat: Ultrachat) -> None:
    rules = [
        {"match": "subtopics", "reply": ["mountain weather", "river trade"]},
        {"match": "Write 10 questions", "reply": [f"How does wind number {n} shape valley {n}?" for n in range(9)]},
        {"match": "Put yourself in the user's place", "reply": "And why is that, at the coast of Peru?"},
        {"match": "", "reply": "Because the air is thin there."},
    ]
    (ultrachat.folder / "rules.jsonl").write_bytes(b"".join(orjson.dumps(rule) + b"\n" for rule in rules))
    result = ultrachat(
        "generate", "-m", "scripted:rules.jsonl", "-n", "2", "--rounds", "2", "--json",
        "--set", "world.mix={topic: 1, meta: 0, specific: 0, general: 0}", "--set", "filters.repeated=1",
        "--set", "min_rounds=1",
    )  # fmt: skip
    assert result.code == 0, result
    for line in dialogues(ultrachat.folder / "runs/world"):
        assert line["data"][:2] == [line["data"][0], "Because the air is thin there."]
        assert line["meta"]["subtopic"] == "mountain weather"
        assert line["meta"]["models"] == {"assistant": "scripted", "user": "scripted"}


def test_the_demo_config_with_scripted_models(ultrachat: Ultrachat) -> None:
    result = ultrachat("generate", "--config", "demo", "-m", "scripted:synthetic", "--json")
    assert result.code == 0, result
    lines = dialogues(ultrachat.folder / "runs/demo")
    assert Counter(line["meta"]["sector"] for line in lines) == dict.fromkeys(SECTORS, 2)
    assert all(len(line["data"]) in (4, 6) for line in lines)
    assert len(ids(ultrachat.folder / "runs/demo")) == 6


# The same again, and more


def test_the_same_command_again_asks_nothing(ultrachat: Ultrachat, steady: Running) -> None:
    command = served(steady, "-s", "all", "-n", "15")
    ultrachat(*command)
    folder, asked = ultrachat.folder / "runs/all", steady.stats()["requests"]
    before = (folder / "dialogues.jsonl").read_bytes()
    again = ultrachat(*command)
    assert again.code == 0
    assert (steady.stats()["requests"], again.json["requests"]) == (asked, asked)
    assert again.json["written"] == 15
    assert (folder / "dialogues.jsonl").read_bytes() == before


def test_a_raised_limit_extends_the_run(ultrachat: Ultrachat, steady: Running) -> None:
    folder = ultrachat.folder / "runs/world"
    ultrachat(*served(steady, "-n", "8"))
    before, asked = (folder / "dialogues.jsonl").read_bytes(), steady.stats()["requests"]
    result = ultrachat(*served(steady, "-n", "20"))
    assert (result.code, result.json["written"]) == (0, 20)
    assert (folder / "dialogues.jsonl").read_bytes().startswith(before)
    assert steady.stats()["repeats"] == 0
    assert steady.stats()["requests"] > asked
    ultrachat(*served(steady, "-n", "20", "-o", "whole"))
    assert set(ids(ultrachat.folder / "whole")) == set(ids(folder)), "the same dialogues as if made in one go"


def test_a_lowered_limit_removes_nothing(ultrachat: Ultrachat, steady: Running) -> None:
    ultrachat(*served(steady, "-n", "8"))
    asked = steady.stats()["requests"]
    assert ultrachat(*served(steady, "-n", "3")).code == 0
    assert len(ids(ultrachat.folder / "runs/world")) == 8
    assert steady.stats()["requests"] == asked


def test_the_seed_decides(ultrachat: Ultrachat, steady: Running) -> None:
    seeds = {"a": "7", "b": "7", "c": "8"}
    ultrachat.many(
        *(served(steady, "-s", "all", "-n", "9", "--seed", seed, "-o", name) for name, seed in seeds.items())
    )
    by_run = {name: {line["id"]: line for line in dialogues(ultrachat.folder / name)} for name in seeds}
    assert len(by_run["a"]) == 9
    assert by_run["a"] == by_run["b"]
    assert not set(by_run["a"]) & set(by_run["c"])


def test_speed_does_not_change_what_is_made(ultrachat: Ultrachat, steady: Running, server: Serve) -> None:
    uneven = server(delay=0.002, jitter=0.03)
    settings = (("slow", steady, "1"), ("fast", uneven, "32"))
    ultrachat.many(*(served(at, "-n", "25", "-j", slots, "-o", name) for name, at, slots in settings))
    slow, fast = (
        {line["id"]: line["data"] for line in dialogues(ultrachat.folder / name)} for name in ("slow", "fast")
    )
    assert len(slow) == 25
    assert slow == fast


# Filters and rejections, as far as a command shows them


def refusing(some: Callable[[str], bool]) -> Answer:
    """A server whose assistant refuses the dialogues with some openings."""

    def answer(asked: Asked) -> tuple[int, Any, bytes]:
        if asked.method == "GET":
            return error(404, "no")
        voice, messages = Voice(asked.json["seed"]), asked.json["messages"]
        if "response_format" in asked.json:
            return completion(orjson.dumps({"items": voice.questions(10)}).decode())
        if "put yourself in" in messages[-1]["content"].lower():
            return completion(voice.questions(1)[0])
        return completion(REFUSAL if some(messages[0]["content"]) else voice.sentences(30))

    return answer


def test_unfit_dialogues_are_kept_apart_with_their_reason(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    site = web(refusing(lambda opening: len(opening) % 2 == 1))
    result = ultrachat("generate", "-m", "x", "--base-url", site.url, "-n", "8", "--rounds", "2", "--json")
    assert result.code == 0, result
    kept = dialogues(ultrachat.folder / "runs/world")
    rejected = rows(ultrachat.folder / "runs/world/rejected.jsonl")
    assert len(kept) == 8
    assert rejected
    assert result.json["rejected"] == {"refusal": len(rejected)}
    assert all(len(row["data"][0]) % 2 == 0 for row in kept)
    for row in rejected:
        assert (row["reason"], row["turn"]) == ("refusal", REFUSAL)
        assert len(row["data"]) == 1
    assert not {row["id"] for row in kept} & {row["id"] for row in rejected}


def test_a_model_that_can_do_nothing_right_stops_the_run(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    site = web(refusing(lambda opening: True))
    result = ultrachat("generate", "-m", "x", "--base-url", site.url, "-n", "2", "--rounds", "2", "--json")
    refused(result, 1, "world: ", "dialogues rejected for 0 kept", "refusal", "runs/world/rejected.jsonl")


# Settings


def test_settings_from_everywhere(ultrachat: Ultrachat, steady: Running) -> None:
    """default < file < environment < --set < flag."""
    (ultrachat.folder / "my.yaml").write_text("limit: 2\nrounds: 2\nseed: 1\nuser: {temperature: 0.1, top_p: 0.5}\n")
    result = ultrachat(
        *served(steady, "-c", "my.yaml", "--set", "user.temperature=1.0", "--set", "seed=3", "--seed", "4"),
        env={
            "ULTRACHAT_GENERATE__LIMIT": "4",
            "ULTRACHAT_GENERATE__USER__TOP_P": "0.25",
            "ULTRACHAT_GENERATE__SEED": "2",
        },
    )
    assert result.code == 0, result
    found = manifest(ultrachat.folder / "runs/world")
    config, sources = found["config"], found["config_sources"]
    assert (config["limit"], config["rounds"], config["seed"]) == (4, "2", 4)
    assert (config["user"]["temperature"], config["user"]["top_p"]) == (1.0, 0.25)
    assert sources["limit"] == "environment ULTRACHAT_GENERATE__LIMIT"
    assert sources["rounds"] == "my.yaml:2"
    assert sources["user.temperature"] == "--set user.temperature"
    assert sources["seed"] == "--seed"
    assert len(ids(ultrachat.folder / "runs/world")) == 4


def test_sampling_reaches_the_server(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    site = web(lambda asked: error(404, "no") if asked.method == "GET" else error(401, "stop here"))
    ultrachat(
        "generate", "-m", "x", "--base-url", site.url, "-n", "1", "-j", "1", "--set", "opening.temperature=0.3",
        "--set", "opening.send_seed=false", "--set", "opening.extra={reasoning_effort: low}",
    )  # fmt: skip
    asked = next(asked.json for asked in site.asked if asked.method == "POST")
    assert (asked["temperature"], asked["reasoning_effort"]) == (0.3, "low")
    assert "seed" not in asked


def test_prompts_of_the_user(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "prompts/world").mkdir(parents=True)
    (ultrachat.folder / "prompts/world/user.md").write_text("## user\nSay the next thing. {persona}\n")
    assert ultrachat(*served(steady, "-n", "2", "-o", "own", "--set", "prompts=prompts")).code == 0
    assert ultrachat(*served(steady, "-n", "2", "-o", "shipped")).code == 0
    own, shipped = (
        {line["meta"]["prompt"] for line in dialogues(ultrachat.folder / name)} for name in ("own", "shipped")
    )
    assert len(own) == len(shipped) == 1
    assert own != shipped


# Streams


def test_quiet_says_nothing(ultrachat: Ultrachat, steady: Running) -> None:
    result = ultrachat(*served(steady, "-n", "2", "-q"))
    assert (result.code, result.stderr) == (0, "")
    assert result.json["written"] == 2


def test_json_is_all_there_is_on_stdout(ultrachat: Ultrachat, steady: Running) -> None:
    result = ultrachat(*served(steady, "-n", "2", "-vv"))
    assert result.json["written"] == 2
    assert "no price known for test-model" in result.stderr


def test_the_report_for_people(ultrachat: Ultrachat, steady: Running) -> None:
    result = ultrachat("generate", "-m", "test-model", "--base-url", steady.url, "-n", "3")
    assert result.code == 0
    assert "3 of 3 dialogues" in result.stdout
    assert "runs/world/dialogues.jsonl" in result.stdout
    assert "unknown price: test-model" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr, "no colours in a pipe"


def test_the_cost_is_reported_where_the_price_is_known(ultrachat: Ultrachat, steady: Running) -> None:
    report = ultrachat(*served(steady, "-n", "3", "--set", "prices.test-model={input: 1000, output: 2000}")).json
    paid = (report["prompt_tokens"] * 1000 + report["completion_tokens"] * 2000) / 1e6
    assert report["cost"] == pytest.approx(paid, abs=1e-5)
    assert report["unpriced"] == []

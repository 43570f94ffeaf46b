"""`--dry-run`: the plan in numbers, from nothing but the settings."""

from __future__ import annotations

import time

import orjson
import pytest

from tests.commands.checks import dialogues, refused
from tests.conftest import Ultrachat
from tests.openai_server import Running

NOBODY = ("--base-url", "http://127.0.0.1:1/v1", "-m", "test-model")


def test_nobody_is_asked_and_nothing_is_made(ultrachat: Ultrachat) -> None:
    result = ultrachat("generate", "--dry-run", "--json", *NOBODY, "-n", "10", "--rounds", "4", "-o", "run")
    assert (result.code, result.stderr) == (0, "")
    plan = result.json
    assert (plan["folder"], plan["openings"]) == ("run", {"world": 10})
    assert sum(plan["kinds"].values()) == 10
    assert plan["dialogue_requests"] == 10 * (4 + 3)
    assert plan["opening_requests"] > 0
    assert plan["prompt_tokens"] > plan["completion_tokens"] > 10 * 4 * 200
    assert plan["cost"] is None, "nobody knows the price of test-model"
    assert list(ultrachat.folder.iterdir()) == []


def test_no_key_is_needed(ultrachat: Ultrachat) -> None:
    plan = ultrachat("generate", "--dry-run", "--json", "-m", "gpt-4o-mini", "-n", "100").json
    assert plan["cost"] == pytest.approx(plan["prompt_tokens"] * 0.15e-6 + plan["completion_tokens"] * 0.6e-6, rel=0.01)


def test_no_weights_are_needed(ultrachat: Ultrachat) -> None:
    (ultrachat.folder / "topics.yaml").write_text("[weather, trade]")
    (ultrachat.folder / "entities.txt").write_text("rice\nboats\n")
    lists = ("--set", "world.topics=topics.yaml", "--entities", "entities.txt")
    plan = ultrachat("generate", "--dry-run", "--json", "-n", "5", *lists).json
    assert plan["models"] == dict.fromkeys(("assistant", "user", "opening"), "smollm2-135m")
    assert plan["cost"] == 0


def test_the_plan_of_the_embedded_model(ultrachat: Ultrachat) -> None:
    """Its prompts want items of a certain form, which made-up lists need not have."""
    (ultrachat.folder / "topics.yaml").write_text("[weather, trade]")
    (ultrachat.folder / "entities.txt").write_text("rice\nboats\n")
    lists = ("--set", "world.topics=topics.yaml", "--entities", "entities.txt")
    plan = ultrachat("generate", "--dry-run", "--json", "-s", "all", "-n", "15", *lists).json
    assert plan["openings"] == {"world": 5, "writing": 5, "materials": 5}


def test_for_people(ultrachat: Ultrachat) -> None:
    result = ultrachat("generate", "--dry-run", "-s", "all", *NOBODY, "-n", "10")
    assert result.code == 0
    for words in ("4 world, 3 writing, 3 materials", "for openings", "in dialogues", "unknown price", "runs/all"):
        assert words in result.stdout


@pytest.mark.parametrize("sector", ["world", "writing", "materials"])
def test_the_run_asks_what_the_plan_says(ultrachat: Ultrachat, steady: Running, sector: str) -> None:
    command = ("generate", "-s", sector, "-n", "25", "-m", "test-model", "--base-url", steady.url, "--json")
    plan = ultrachat(*command, "--dry-run").json
    assert steady.stats()["requests"] == 0
    report = ultrachat(*command).json
    lines = dialogues(ultrachat.folder / "runs" / sector)
    turns = sum(line["meta"]["rounds_drawn"] for line in lines)
    assert plan["openings"] == {sector: 25}
    assert report["requests"] == pytest.approx(plan["opening_requests"] + plan["dialogue_requests"], rel=0.2)
    assert plan["dialogue_requests"] == pytest.approx(2 * turns - 25, rel=0.1)


def test_prices_of_the_user_and_several_models(ultrachat: Ultrachat) -> None:
    price = ("--set", "prices={strong: {input: 10, output: 30}, weak: {input: 1, output: 2}}")
    models = (
        "--user-model",
        "weak",
        "--user-base-url",
        "http://127.0.0.1:1/v1",
        "--opening-model",
        "scripted:synthetic",
    )
    common = ("generate", "--dry-run", "--json", "-n", "20", "-m", "strong", "--base-url", "http://127.0.0.1:1/v1")
    mixed = ultrachat(*common, *price, *models).json
    alone = ultrachat(*common, *price).json
    assert mixed["models"] == {"assistant": "strong", "user": "weak", "opening": "scripted"}
    assert 0 < mixed["cost"] < alone["cost"]
    assert ultrachat(*common, *models).json["cost"] is None


def test_rate_limits_give_a_time(ultrachat: Ultrachat) -> None:
    plan = ultrachat("generate", "--dry-run", "--json", *NOBODY, "-n", "50", "--rpm", "10").json
    requests = plan["opening_requests"] + plan["dialogue_requests"]
    assert plan["minutes_at_limits"] == pytest.approx(requests / 10, rel=0.01)


def test_materials_that_are_soon_used_up(ultrachat: Ultrachat) -> None:
    """The plan says how many dialogues there can be, not how many were wished for."""
    text = "Farmers near the river grow rice in spring. " * 10
    lines = [orjson.dumps({"text": f"Text {n}. {text}"}) for n in range(3)]
    (ultrachat.folder / "texts.jsonl").write_bytes(b"\n".join(lines))
    plan = ultrachat(
        "generate", "--dry-run", "--json", *NOBODY, "-s", "materials", "--materials", "texts.jsonl", "-n", "99"
    ).json
    assert plan["openings"] == {"materials": 15}


def test_faults_are_found(ultrachat: Ultrachat) -> None:
    refused(ultrachat("generate", "--dry-run", "--rounds", "5-3"), 2, "impossible range")
    refused(ultrachat("generate", "--dry-run", "-m", "smollm2-135"), 2, "did you mean 'smollm2-135m'?")
    refused(ultrachat("generate", "--dry-run", "-s", "materials", "--materials", "none.txt"), 2, "no such file")


def test_an_existing_run_is_left_as_it_is(ultrachat: Ultrachat, steady: Running) -> None:
    command = ("generate", "-n", "3", "-m", "test-model", "--base-url", steady.url, "-o", "run")
    ultrachat(*command)
    before = {path: path.read_bytes() for path in (ultrachat.folder / "run").iterdir()}
    assert ultrachat(*command, "--dry-run", "--restart", "--yes").code == 0
    assert {path: path.read_bytes() for path in (ultrachat.folder / "run").iterdir()} == before


def test_the_published_size(ultrachat: Ultrachat) -> None:
    begun = time.monotonic()
    plan = ultrachat("generate", "--config", "world-large", "-m", "gpt-4o-mini", "--dry-run", "--json").json
    assert time.monotonic() - begun < 20
    assert plan["openings"] == {"world": 500_000}
    assert sum(plan["kinds"].values()) == pytest.approx(500_000, rel=0.001)
    assert plan["dialogue_requests"] == pytest.approx(500_000 * 9, rel=0.01)  # 3-7 rounds: 5 answers and 4 questions
    assert plan["cost"] > 100
    for kind, share in (("topic", 12), ("meta", 5), ("specific", 20), ("general", 25)):
        assert plan["kinds"][kind] / 500_000 == pytest.approx(share / 62, abs=0.02)


def test_a_large_plan_of_writing(ultrachat: Ultrachat) -> None:
    begun = time.monotonic()
    plan = ultrachat("generate", "--config", "writing-large", "-m", "gpt-4o-mini", "--dry-run", "--json").json
    assert time.monotonic() - begun < 20
    assert plan["openings"] == {"writing": 40_000}
    assert plan["opening_requests"] > 40_000 * 0.8, "an expansion for four in five"

from __future__ import annotations

import asyncio
import random
from functools import cache
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.generate import estimate as estimates
from ultrachat_cli.generate import shipped
from ultrachat_cli.generate.converse import draw_rounds
from ultrachat_cli.generate.estimate import Estimate
from ultrachat_cli.generate.settings import GenerateConfig

HERE: dict[str, Any] = {"model": "openai:gpt-4o-mini"}
"""Priced at 0.15 and 0.60 dollars."""


def estimate(**settings: Any) -> Estimate:
    config = GenerateConfig.model_validate({"assistant": HERE, **settings})
    return asyncio.run(estimates.estimate(config))


@cache
def small(sector: str) -> Estimate:
    return estimate(sector=sector, limit=30, rounds=3)


@pytest.mark.parametrize("sector", ["world", "writing", "materials", "all"])
def test_a_dialogue_of_three_rounds_takes_five_requests(sector: str) -> None:
    found = small(sector)
    assert found.dialogue_requests == 30 * 5
    assert found.openings.total() == found.kinds.total() == 30
    assert found.models == {"assistant": "gpt-4o-mini", "user": "gpt-4o-mini", "opening": "gpt-4o-mini"}


@pytest.mark.parametrize(("rounds", "requests"), [("1", 1), ("2", 3), ("7", 13)])
def test_requests_grow_by_two_a_round(rounds: str, requests: int) -> None:
    assert estimate(sector="materials", limit=4, rounds=rounds).dialogue_requests == 4 * requests


def test_rounds_are_drawn_from_the_range() -> None:
    found = estimate(sector="materials", limit=40)  # 2-4 rounds
    assert 40 * 3 < found.dialogue_requests < 40 * 7
    assert found.dialogue_requests % 2 == 0  # 40 odd numbers


def test_rounds_are_the_same_as_the_run_will_draw() -> None:
    config = GenerateConfig.model_validate({"sector": "world"})
    drawn = {draw_rounds(random.Random(f"0/{n}"), "world", config) for n in range(200)}
    assert drawn == {3, 4, 5, 6, 7}
    assert draw_rounds(random.Random("0/x"), "world", config) == draw_rounds(random.Random("0/x"), "world", config)


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_all_three_sectors_share_the_limit(limit: int) -> None:
    found = estimate(sector="all", limit=limit, rounds=2)
    assert found.openings.total() == limit
    assert set(found.openings) == {"world", "writing", "materials"}
    assert max(found.openings.values()) - min(found.openings.values()) <= 1
    assert found.dialogue_requests == 3 * limit


def test_openings_of_the_world_come_in_their_proportions() -> None:
    mix = {"topic": 1, "meta": 2, "specific": 3, "general": 4}
    kinds = estimate(sector="world", limit=100, rounds=1, world={"mix": mix, "breadth": 4}).kinds
    assert (kinds["topic"] + kinds["related"], kinds["meta"], kinds["specific"], kinds["general"]) == (10, 20, 30, 40)


@pytest.mark.parametrize(("per_request", "expand", "requests"), [(5, 0.0, 20), (5, 1.0, 20 + 40), (2, 0.0, 20)])
def test_requests_for_openings_are_those_of_the_lists_and_of_what_is_expanded(
    per_request: int, expand: float, requests: int
) -> None:
    """40 openings of 20 types: one list of each type, and one request more for each that is expanded."""
    found = estimate(
        sector="writing", limit=40, rounds=1, opening={"per_request": per_request}, writing={"expand": expand}
    )
    assert found.opening_requests == requests


def test_a_text_needs_one_request_for_its_instructions() -> None:
    found = estimate(sector="materials", limit=40, rounds=1, materials={"instructions": 4, "breadth": 10})
    assert found.opening_requests == 10


def test_a_plan_that_runs_dry_is_told_as_it_is() -> None:
    passages = (shipped.DATA / "passages.jsonl").read_text(encoding="utf-8").count("\n")
    found = estimate(sector="materials", limit=10_000, rounds=2, materials={"instructions": 2})
    assert found.openings["materials"] == 2 * passages
    assert found.dialogue_requests == 3 * 2 * passages


def test_a_large_plan_is_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = estimate(sector="writing", limit=20, rounds=2)
    monkeypatch.setattr(estimates, "_SIMULATED", 20)
    found = estimate(sector="writing", limit=20_000, rounds=2)
    assert found.openings["writing"] == 20_000
    assert found.dialogue_requests == 60_000
    assert found.opening_requests == 1000 * looked.opening_requests
    assert found.prompt_tokens == pytest.approx(1000 * looked.prompt_tokens)


def test_every_answer_is_read_again_in_the_rounds_after_it() -> None:
    one, two, three = (estimate(sector="materials", limit=5, rounds=n) for n in (1, 2, 3))
    assert two.completion_tokens - one.completion_tokens == three.completion_tokens - two.completion_tokens
    second, third = two.prompt_tokens - one.prompt_tokens, three.prompt_tokens - two.prompt_tokens
    assert second > 0
    assert third - second == 5 * 2 * (estimates.ANSWER + estimates.QUESTION)
    assert two.completion_tokens - one.completion_tokens == 5 * (estimates.ANSWER + estimates.QUESTION)


def test_shorter_answers_cost_less() -> None:
    assistant, user = {**HERE, "max_tokens": 50}, {"max_tokens": 10}
    found = estimate(sector="materials", limit=30, rounds=3, assistant=assistant, user=user)
    assert small("materials").completion_tokens - found.completion_tokens == 30 * (3 * 250 + 2 * 30)


@pytest.mark.parametrize("sector", ["world", "writing", "materials", "all"])
def test_cost_is_tokens_times_price(sector: str) -> None:
    found = small(sector)
    assert found.cost == pytest.approx((found.prompt_tokens * 0.15 + found.completion_tokens * 0.6) / 1e6)
    assert found.cost
    assert found.cost > 0


def test_each_role_is_charged_at_its_own_price() -> None:
    free = {"input": 0, "output": 0}
    whole = estimate(sector="writing", limit=10, rounds=2, prices={"gpt-4o-mini": {"input": 0, "output": 1_000_000}})
    answers = estimate(
        sector="writing",
        limit=10,
        rounds=2,
        user={"model": "openai:a"},
        opening={"model": "openai:b"},
        prices={"gpt-4o-mini": {"input": 0, "output": 1_000_000}, "a": free, "b": free},
    )
    assert whole.cost == whole.completion_tokens
    assert answers.cost == 10 * 2 * estimates.ANSWER


@pytest.mark.parametrize("role", ["assistant", "user", "opening"])
def test_one_unknown_price_makes_the_cost_unknown(role: str) -> None:
    found = estimate(limit=5, rounds=1, **{role: {"model": "openai:nobody-knows"}})
    assert found.cost is None
    assert ("cost", "unknown price") in found.rows()


def test_the_price_of_a_registry_model_served_elsewhere_is_unknown() -> None:
    assert estimate(limit=5, assistant={"model": "qwen3-8b", "base_url": "http://host/v1"}).cost is None


def test_the_embedded_model_costs_nothing() -> None:
    assert estimate(limit=5, assistant={"model": "smollm2-135m"}).cost == 0.0


@pytest.mark.parametrize("limits", [{}, {"rpm": 10}, {"tpm": 1000}, {"rpm": 1e9, "tpm": 1000}, {"rpm": 1, "tpm": 1e9}])
def test_the_slower_limit_tells_the_minutes(limits: dict[str, float]) -> None:
    found = estimate(limit=10, rounds=2, limits=limits)
    requests = (found.opening_requests + found.dialogue_requests) / limits.get("rpm", float("inf"))
    tokens = (found.prompt_tokens + found.completion_tokens) / limits.get("tpm", float("inf"))
    assert found.minutes_at_limits == pytest.approx(max(requests, tokens))
    shown = dict(found.rows())["rate limits"]
    assert shown == (f"at least {found.minutes_at_limits:,.1f} minutes" if limits else "")


def test_the_same_settings_give_the_same_estimate() -> None:
    assert estimate(limit=25) == estimate(limit=25)
    assert estimate(limit=25, seed=1) != estimate(limit=25, seed=2)


def test_the_record_is_json() -> None:
    record = orjson.loads(orjson.dumps(small("all").record()))
    assert record["dialogue_requests"] == 150
    assert record["openings"] == {"world": 10, "writing": 10, "materials": 10}


@pytest.mark.parametrize(
    "settings",
    [
        {"assistant": {"model": "no such model"}},
        {"sector": "materials", "materials": {"paths": ["none.jsonl"]}},
        {"prompts": "none"},
        {"user": {"personas": "none.yaml"}},
        {"world": {"entities": "none.txt"}},
        {"world": {"topics": "none.yaml"}},
    ],
)
def test_what_would_stop_the_run_stops_the_estimate(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        estimate(**settings)


def test_an_assistant_without_a_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="a model is needed"):
        estimate(assistant={"model": None})


def test_templates_that_are_not_there_are_a_fault_of_the_config() -> None:
    with pytest.raises(ConfigError):
        estimate(sector="materials", materials={"templates": "none.yaml"})

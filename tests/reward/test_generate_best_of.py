"""`generate --best-of`: the best of several answers stays, and every sample is journaled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.checks import dialogues, manifest, refused
from tests.conftest import Answer, Asked, Reply, Ultrachat, Web, completion
from tests.reward import tiny

SHORT, LONG = ("It is so, in short.", "Nobody can tell."), (
    "Those who looked into it found the same again and again.",
    "There are letters of that time in which merchants complain of it at length.",
)  # fmt: skip
"""For the first and the second turn: an answer that repeats an earlier one would be unfit."""


def talking(request: Asked) -> Reply:
    """A model that gives one of several answers by its seed, marks the long ones higher, and asks on as the user."""
    if request.method == "GET":
        return 404, {}, b""
    told = request.json
    last = told["messages"][-1]["content"]
    if "Reply with the number alone" in last:
        marked = last.split("--- answer ---\n")[1].split("\n--- end")[0]
        return completion("9" if marked.startswith(LONG) else "3.5")
    if told["model"] == "user":
        return completion(f"What about the year {1900 + len(told['messages'])}?")
    return completion(answer(told["seed"], len(told["messages"])))


def answer(seed: int, messages: int) -> str:
    return f"{(SHORT, LONG, SHORT)[seed % 3][messages // 2]} Sample {seed}."


def command(url: str, *more: str | Path) -> tuple[str | Path, ...]:
    return (
        "generate", "-s", "world", "-n", "3", "--rounds", "2", "-m", "test-model", "--base-url", url,
        "--user-model", "user", "--opening-model", "scripted:synthetic", "-o", "run", "--json",
        "--set", "filters.language=null", *more,
    )  # fmt: skip


def test_the_answer_with_the_best_mark_stays(web: Callable[[Answer], Web], ultrachat: Ultrachat) -> None:
    seen = web(talking)
    best = command(seen.url, "--best-of", "4", "--reward-model", "judge:judge")
    result = ultrachat(*best)
    assert result.code == 0, result.stderr
    told = dialogues(ultrachat.folder / "run")
    assert len(told) == 3
    posts = [request.json for request in seen.asked if request.method == "POST"]
    drawn = Counter(str(told["messages"]) for told in posts if told["model"] == "test-model")
    assert set(drawn.values()) == {4}
    seeds = [told["seed"] for told in posts if told["model"] == "test-model"]
    assert len(set(seeds)) == len(seeds)
    drawn_by: dict[str, list[int]] = {}
    for post in posts:
        if post["model"] == "test-model":
            drawn_by.setdefault(str([message["content"] for message in post["messages"]]), []).append(post["seed"])
    for row in told:
        for n in range(1, len(row["data"]), 2):
            possible = any(seed % 3 == 1 for seed in drawn_by[str(row["data"][:n])])
            assert row["data"][n].startswith(LONG) == possible
        assert row["meta"]["reward"] == (9.0 if row["data"][-1].startswith(LONG) else 3.5)
        assert (row["meta"]["best_of"], row["meta"]["reward_model"]) == (4, "judge:judge")
    told_by = manifest(ultrachat.folder / "run")
    assert told_by["identity"]["config"]["assistant"]["best_of"] == 4
    asked = len(posts)
    openings = result.json["requests"] - asked
    assert 0 < openings < 20, "scores that are kept are no requests"
    assert ultrachat(*best).code == 0
    assert len([request for request in seen.asked if request.method == "POST"]) == asked, "nothing is asked twice"
    refused(ultrachat(*command(seen.url)), 2, "assistant.best_of")


@pytest.mark.usefixtures("one_core")
def test_a_reward_model_chooses(web: Callable[[Answer], Web], ultrachat: Ultrachat) -> None:
    from ultrachat_cli.models.reward_model import RewardModel
    from ultrachat_cli.models.specs import resolve

    seen = web(talking)
    folder = tiny.ultrarm(ultrachat.folder / "rm")
    result = ultrachat(*command(seen.url, "--best-of", "3", "--reward-model", folder))
    assert result.code == 0, result.stderr
    model = RewardModel.open(resolve(str(folder)), device="cpu")
    answers: dict[str, list[str]] = {}
    for request in seen.asked:
        if request.method == "POST" and request.json["model"] == "test-model":
            text = answer(request.json["seed"], len(request.json["messages"]))
            answers.setdefault(str([m["content"] for m in request.json["messages"]]), []).append(text)
    for row in dialogues(ultrachat.folder / "run"):
        spoken = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(row["data"])]
        for n in range(1, len(spoken), 2):
            offered = answers[str(row["data"][:n])]
            rewards = model.rewards([[*spoken[:n], {"role": "assistant", "content": text}] for text in offered])
            assert row["data"][n] == offered[rewards.index(max(rewards))]
        assert row["meta"]["reward"] == pytest.approx(model.rewards([spoken])[0], abs=1e-4)


def test_a_dry_run_multiplies(ultrachat: Ultrachat) -> None:
    plain = ("generate", "-s", "world", "-n", "4", "--rounds", "2", "-m", "openai:gpt-4o-mini", "--dry-run", "--json")
    best = (*plain, "--best-of", "4", "--reward-model")
    results = ultrachat.many(plain, (*best, "ultrarm-13b"), (*best, "judge:openai:gpt-4o"))
    one, rewarded, judged = (result.json for result in results)
    users, answers = 4, 8  # requests in four dialogues of two rounds
    assert one["dialogue_requests"] == users + answers
    assert rewarded["dialogue_requests"] == users + 4 * answers
    assert judged["dialogue_requests"] == users + 8 * answers
    assert one["cost"] < rewarded["cost"] < judged["cost"]
    assert (rewarded["models"]["reward"], judged["models"]["judge"]) == ("ultrarm-13b", "gpt-4o")


def test_settings_that_cannot_be_meant(ultrachat: Ultrachat) -> None:
    for words, says in (
        (("--best-of", "4"), "--best-of 4 --reward-model NAME"),
        (("--reward-model", "ultrarm-13b"), "go together"),
        (("--best-of", "4", "--reward-model", "ultrarm"), "unknown model 'ultrarm'"),
        (("--best-of", "4", "--reward-model", "ultralm-13b"), "not a reward model"),
    ):
        refused(ultrachat("generate", "-m", "openai:gpt-4o-mini", "--dry-run", *words), 2, says)

"""Scorers for best-of-n: a reward model in its thread, a judge through journal and limits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer, Asked, Reply, Web, completion
from tests.reward import tiny
from ultrachat_cli.backends.best_of import best_of
from ultrachat_cli.backends.chat_model import ChatModels
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.backends.scorers import NO_MARK, KeptScores, RewardScorer, open_scorer
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models.reward_model import RewardModel
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import Journal

pytestmark = pytest.mark.usefixtures("one_core")
QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
ANSWERS = ["So.", "Because it is as it is.", "No idea.", "x" * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.ultrarm(tmp_path_factory.mktemp("rm") / "rm")


def with_models(path: Path, work: Callable[[ChatModels], Coroutine[Any, Any, Any]]) -> Any:
    async def inside() -> Any:
        journal = Journal(path / "journal.sqlite")
        models = ChatModels(LimitSettings(backoff=0.01), journal, {})
        try:
            return await work(models)
        finally:
            await journal.flush()
            await models.close()
            journal.close()

    return asyncio.run(inside())


def test_a_reward_model_scores_answers_and_the_best_comes_first(folder: Path, tmp_path: Path) -> None:
    async def work(models: ChatModels) -> Any:
        scorer = await open_scorer(str(folder), models, device="cpu")

        async def ask(k: int) -> Completion:
            return Completion(ANSWERS[k])

        try:
            return await scorer.score(QUESTION, ANSWERS), await best_of(ask, 4, QUESTION, scorer)
        finally:
            await scorer.close()

    scores, candidates = with_models(tmp_path, work)
    model = RewardModel.open(resolve(str(folder)), device="cpu")
    wanted = model.rewards([[*QUESTION, {"role": "assistant", "content": answer}] for answer in ANSWERS])
    assert scores == pytest.approx(wanted, abs=1e-4)
    ranked = [answer for _, answer in sorted(zip(wanted, ANSWERS, strict=True), reverse=True)]
    assert [candidate.completion.text for candidate in candidates] == ranked


def test_what_comes_while_it_works_is_scored_together() -> None:
    calls: list[int] = []
    begun, working = threading.Event(), threading.Event()

    class Slow:
        def rewards(self, talks: list[Any]) -> list[float]:
            calls.append(len(talks))
            working.set()
            begun.wait(5)
            if any(talk[-1]["content"] == "bad" for talk in talks):
                raise RuntimeError("out of order")
            return [float(talk[-1]["content"]) for talk in talks]

    async def work() -> Any:
        scorer = RewardScorer("slow", Slow())  # type: ignore[arg-type]
        first = asyncio.create_task(scorer.score(QUESTION, ["1"]))
        assert await asyncio.to_thread(working.wait, 5)
        later = [asyncio.create_task(scorer.score(QUESTION, [str(n), str(n + 10)])) for n in range(2, 5)]
        await asyncio.sleep(0)
        later[1].cancel()
        begun.set()
        found = await asyncio.gather(first, *later, return_exceptions=True)
        with pytest.raises(RuntimeError, match="out of order"):
            await scorer.score(QUESTION, ["bad"])
        await scorer.close()
        return found

    first, second, cancelled, third = asyncio.run(work())
    assert (first, second, third) == ([1.0], [2.0, 12.0], [4.0, 14.0])
    assert isinstance(cancelled, asyncio.CancelledError)
    assert calls == [1, 6, 1]


def test_a_judge_marks_through_the_journal(web: Callable[[Answer], Web], tmp_path: Path) -> None:
    def answer(request: Asked) -> Reply:
        if request.method == "GET":
            return 404, {}, b""
        said = request.json["messages"][0]["content"].split("--- answer ---\n")[1]
        if said.startswith("No idea."):
            return completion("hard to say")
        if said.startswith("So."):
            return completion("4.5" if "seed" in request.json else "a four")
        return completion("Score: 9/10")

    seen = web(answer)

    async def work(models: ChatModels) -> Any:
        scorer = await open_scorer("judge:test-model", models, base_url=seen.url)
        return await scorer.score(QUESTION, ANSWERS), scorer.name

    for requests in (7, 10):
        scores, name = with_models(tmp_path, work)
        assert (scores, name) == ([4.5, 9.0, NO_MARK, 9.0], "judge:test-model")
        # two good at once, one at the second try, one given up after the third and tried again the next time
        assert len([request for request in seen.asked if request.method == "POST"]) == requests


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ultralm-13b", "as the judge: judge:ultralm-13b"),
        ("ultrarm", "'ultrachat models ls'"),
        ("judge:", "unknown model ''"),
    ],
)
def test_names_that_are_no_scorers(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        with_models(tmp_path, lambda models: open_scorer(name, models))
    assert says in f"{found.value.message} {found.value.hint}"


def test_a_folder_that_is_no_reward_model_is_one_error(tmp_path: Path) -> None:
    folder = tiny.classifier(tmp_path / "rm", labels=2)
    with pytest.raises(UltraError, match="no reward model"):
        with_models(tmp_path, lambda models: open_scorer(str(folder), models, device="cpu"))


def test_kept_scores_stay_what_they_were(tmp_path: Path) -> None:
    class Changing:
        value = 1.5

        async def score(self, messages: Any, answers: Any) -> list[float]:
            self.value += 1
            return [self.value, -self.value / 3]

    async def work() -> Any:
        journal = Journal(tmp_path / "journal.sqlite")
        try:
            kept = KeptScores(Changing(), journal, "dialogue/1.0.scores")
            first = await kept.score(QUESTION, ANSWERS[:2])
            return first, await kept.score(QUESTION, ANSWERS[:2]), journal.totals()
        finally:
            journal.close()

    for _ in range(2):
        assert asyncio.run(work()) == ([2.5, -2.5 / 3], [2.5, -2.5 / 3], (0, 0, 0, 0.0))

"""What judges say is read as it is meant, or not at all."""

from __future__ import annotations

import math

import orjson
import pytest

from ultrachat_cli.evaluate import verdicts
from ultrachat_cli.records.completion import Completion


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1),
        ("[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]", 2),
        ("[\n    {'model': 'model_2', 'rank': 1},\n    {'model': 'model_1', 'rank': 2}\n]", 2),
        ('Here it is:\n```json\n[{"model": "model_2", "rank": 2}, {"model": "model_1", "rank": 1}]\n```', 1),
        ("[{'rank': 1, 'model': 'model_2'}", 2),
        ("[{'model': 'model_2', 'rank': 1", 2),
        ("[{'model': 'model_1', 'rank': '1'}]", 1),
        ("[{'model': 'model_1', 'rank': 3}, {'model': 'model_9', 'rank': 1}]", None),
        ("model_1 is better", None),
        ("", None),
        ("[" * 5000, None),
    ],
)
def test_rankings(text: str, preference: float | None) -> None:
    found = verdicts.ranking(Completion(text))
    assert (None if found is None else found.preference) == preference


@pytest.mark.parametrize(
    ("likeliest", "preference"),
    [
        ([["m", -0.1], ["M", -2.5], ["The", -9.0]], 2 - 1 / (1 + math.exp(-2.4))),
        ([["M", -0.017597131], ["m", -4.048847], ["Both", -14.9]], 2 - 1 / (1 + math.exp(-0.017597131 + 4.048847))),
        ([["m", -0.1], ["The", -3.0]], 1.0),
        ([["M", -800.0], ["The", -0.0]], 2.0),
        ([["m", -800.0], ["M", -800.0]], 1.5),
        ([[" m", -0.1], [" M", -0.1], ["\n", -3.0]], 1.5),
        ([["m", -0.1], [" M", -0.1]], 1.0),
        ([["The", -0.1], ["Both", -3.0]], None),
        ([], None),
    ],
)  # fmt: skip
def test_weighted_tokens(likeliest: list[list[object]], preference: float | None) -> None:
    """2 - P(m) / (P(m) + P(M)), a missing token having P 0."""
    found = verdicts.weighted(Completion("m", logprobs=orjson.dumps([likeliest]).decode()))
    assert (None if found is None else found.preference) == (preference and pytest.approx(preference, abs=1e-12))


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("m", 1),
        ("M", 2),
        (" M\n", 2),
        ("**m**", 1),
        ("Model M", 2),
        ("M is worse", None),
        ("Model M is better", None),
        ("both", None),
        ("", None),
    ],
)
def test_bare_tokens(text: str, preference: float | None) -> None:
    for read in (verdicts.token, verdicts.weighted):  # the second falls back to it
        found = read(Completion(text))
        assert (None if found is None else found.preference) == preference


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"answer_1": 8, "answer_2": 6, "reason": "The first is right."}', (8, 6)),
        ('```json\n{"answer_1": 3,\n "answer_2": 10}\n```', (3, 10)),
        ('{"answer_1": 8, "answer_2": 6, "reason": "cut sho', (8, 6)),
        ("8 6", (8, 6)),
        ("8, 6\nThe first is right in 3 of 4 points.", (8, 6)),
        ("7.5 7.5", (7.5, 7.5)),
        ("Answer 1: 8/10\nAnswer 2: 6/10", (8, 6)),
        ("Both are fine.\n\nScores: 9 and 9", (9, 9)),
        ("**Assistant A:** 4, **Assistant B:** 5", (4, 5)),
        ("Score of answer 1: 8. Score of answer 2: 6.", (8, 6)),
        ("11 6", None),
        ("0 5", None),
        ("8", None),
        ("8 6 7", None),
        ("The first answer has 2 faults and the second 3.", None),
        ("", None),
    ],
)
def test_pairs_of_scores(text: str, found: tuple[float, float] | None) -> None:
    verdict = verdicts.pair(Completion(text))
    assert (None if verdict is None else verdict.scores) == found
    if verdict is not None and found is not None:
        first, second = found
        assert verdict.preference == (1 if first > second else 2 if second > first else 1.5)


@pytest.mark.parametrize(
    ("text", "score"),
    [('{"score": 7, "reason": "Fine."}', 7), ("7/10", 7), ("Score: 8.5", 8.5), ('{"score": 12}', None), ("good", None)],
)
def test_single_scores(text: str, score: float | None) -> None:
    verdict = verdicts.single(Completion(text))
    assert (None if verdict is None or verdict.scores is None else verdict.scores[0]) == score


def test_a_huge_answer_is_read_in_no_time() -> None:
    for text in ("{" * 200_000, '{"answer_1": ' * 20_000, "1 " * 100_000, "model_1" * 50_000, "score " * 50_000):
        for read in (verdicts.ranking, verdicts.weighted, verdicts.pair, verdicts.single):
            read(Completion(text))

"""Win rates against published figures and alpaca_eval's own functions; intervals; scores; both orders."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from tests.evaluate import peer
from tests.evaluate.made import annotation, drawn, of
from ultrachat_cli.evaluate import intervals, orders
from ultrachat_cli.evaluate.metrics import summary
from ultrachat_cli.evaluate.scores import scores

KEYS = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate")


@pytest.mark.parametrize(
    ("wins", "losses", "draws", "rate", "error"),
    [  # AlpacaEval's leaderboard of June 2023
        (623, 181, 1, 77.45341614906832, 1.4724688847382623),
        (761, 32, 12, 95.27950310559004, 0.716281440286153),
        (112, 672, 20, 15.17412935323383, 1.235107892276849),
        (0, 0, 805, 50.0, 0.0),
    ],
)
def test_published_figures_are_reproduced(wins: int, losses: int, draws: int, rate: float, error: float) -> None:
    found = summary(of([2.0] * wins + [1.0] * losses + [1.5] * draws))
    assert found.win_rate == pytest.approx(rate, abs=1e-9)
    assert found.standard_error == pytest.approx(error, abs=1e-9)
    assert found.discrete_win_rate == pytest.approx(rate, abs=1e-9)
    assert (found.n_wins, found.n_losses, found.n_draws) == (wins, losses, draws)


@peer.needed
@pytest.mark.parametrize(("soft", "nulls", "seed"), [(False, False, 1), (True, False, 2), (True, True, 3)])
def test_figures_equal_those_of_alpaca_eval(tmp_path: Path, soft: bool, nulls: bool, seed: int) -> None:
    given = drawn(300, seed, soft=soft, nulls=nulls)
    assert any(one.preference is None for one in given) is nulls
    theirs, ours = peer.win_rate(given, tmp_path), summary(given)
    for key in KEYS:
        assert getattr(ours, key) == pytest.approx(theirs[key], abs=1e-9), key


def test_a_preference_of_nought_is_a_draw() -> None:
    assert summary(of([0, 2.0, 1.0])).n_draws == 1
    assert summary(of([0, 2.0, 1.0])).win_rate == 50


def test_verdicts_that_could_not_be_read_are_counted_apart() -> None:
    found = summary(of([2.0, None, 1.0, 2.0]))
    assert (found.n_total, found.n_null, found.null_share) == (3, 1, 0.25)
    assert found.win_rate == pytest.approx(200 / 3)


def test_without_verdicts_there_is_no_rate() -> None:
    found = summary(of([None, None]))
    assert math.isnan(found.win_rate)
    assert (found.n_total, found.null_share) == (0, 1)
    json.dumps(found.record())
    assert math.isnan(summary(of([2.0])).standard_error)


def test_a_soft_verdict_is_a_part_of_a_win_and_all_of_a_discrete_one() -> None:
    found = summary(of([1.6, 1.6, 1.4, 1.5]))
    assert found.win_rate == pytest.approx(52.5)
    assert (found.n_wins, found.n_wins_base, found.n_draws, found.discrete_win_rate) == (2, 1, 1, 62.5)


def test_the_mean_length_is_that_of_the_models_answers() -> None:
    given = [annotation(1, answer="abcdef"), annotation(2, answer="é")]
    assert summary(given).avg_length == 3  # 3.5, cut


def test_categories_have_rows_of_their_own() -> None:
    given = [annotation(n, 2.0, category="B") for n in range(3)] + [annotation(9, 1.0, dataset="A")]
    found = summary(given).by_category
    assert list(found) == ["B", "A"]
    assert [(part.n_total, part.win_rate) for part in found.values()] == [(3, 100), (1, 0)]
    assert not summary(given[:3]).by_category
    assert summary(given).record()["by_category"]["B"]["n_wins"] == 3


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),  # Newcombe 1998, table I, method 3
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilsons_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    found = intervals.wilson(hits / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_intervals_are_the_same_again_and_hold_the_truth() -> None:
    draw = random.Random(5)
    held = 0
    for _ in range(60):
        values = [float(draw.random() < 0.6) for _ in range(120)]
        found = intervals.of_shares(values, seed=1)
        assert found == intervals.of_shares(values, seed=1)
        assert found.method == intervals.BOOTSTRAP
        held += found.low <= 60 <= found.high
    assert held >= 53  # of 60, 57 are expected; fewer than 53 have a chance of 0.6%


def test_the_bootstrap_agrees_with_the_normal_interval_where_that_holds() -> None:
    draw = random.Random(6)
    values = [draw.gauss(7, 2) for _ in range(400)]
    found = intervals.of_mean(values)
    mean = sum(values) / 400
    half = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in values) / 399 / 400)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_few_values_have_honest_intervals() -> None:
    sure = intervals.of_shares([1.0] * 5)
    assert sure.method == intervals.WILSON
    assert sure.low == pytest.approx(56.55, abs=0.01)
    t = intervals.of_mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert t.method == intervals.STUDENT
    assert (t.low, t.high) == pytest.approx((3 - 1.9634, 3 + 1.9634), abs=1e-3)  # 2.7764 sqrt(2.5 / 5)
    assert math.isnan(intervals.of_mean([1.0]).low)


def test_the_quantiles_of_students_t_are_right() -> None:
    stats = pytest.importorskip("scipy.stats")
    theirs = [stats.t.ppf(0.975, df) for df in range(1, intervals.FEW - 1)]
    assert list(intervals.STUDENT_QUANTILES) == pytest.approx(theirs, abs=1e-4)


def test_two_orders_count_once_as_their_mean() -> None:
    given = [annotation(n, 2.0, switched=False) for n in range(2)]
    given += [annotation(0, 1.0, switched=True, raw="b"), annotation(1, None, switched=True)]
    found = orders.averaged(given)
    assert [one.preference for one in found] == [1.5, 2.0]
    assert summary(given).n_total == 2
    assert summary(given).win_rate == 75


def test_a_question_that_comes_twice_is_not_taken_for_two_orders() -> None:
    twice = [annotation(1, 2.0, switched=False, category="A"), annotation(1, 1.0, switched=True, category="B")]
    again = [annotation(1, 2.0, switched=False), annotation(1, 1.0, switched=False), annotation(1, 1.0)]
    assert orders.averaged(twice) == twice
    assert orders.averaged(again) == again


def test_consistency_tells_which_place_the_judge_prefers() -> None:
    given = [annotation(n, 1.0, switched=False) for n in range(6)]  # the reference is shown first, and wins
    given += [annotation(n, preference, switched=True) for n, preference in enumerate([1.0, 1.0, 2.0, 1.5, None])]
    given += [annotation(7, 2.0, switched=False), annotation(7, 1.0, switched=True)]
    found = orders.consistency(given)
    assert found is not None
    assert (found.n, found.same, found.first, found.second) == (5, 2, 1, 1)
    assert found.record()["interval"]["low"] == pytest.approx(11.76, abs=0.01)
    assert "40.0% of 5 verdicts" in str(found)
    assert orders.consistency(of([1.0, 2.0])) is None


def test_scores_make_the_papers_tables() -> None:
    given = [
        annotation(1, scores=(8, 9), category="Math"), annotation(2, scores=(8, 6), category="Math"),
        annotation(3, scores=(5, 5), category="Writing"), annotation(4, None, category="Writing"),
    ]  # fmt: skip
    found = scores(given)
    assert found is not None
    assert [(row.name, row.n, row.mean, row.reference_mean) for row in found.rows] == [
        ("Math", 2, 7.5, 8.0), ("Writing", 1, 5.0, 5.0),
    ]  # fmt: skip
    overall = found.overall
    assert overall.n_both == 3
    assert overall.standard_error == pytest.approx(math.sqrt(((9 - 20 / 3) ** 2 + (2 / 3) ** 2 + (5 / 3) ** 2) / 6))
    assert scores(of([1.0])) is None


def test_the_ratio_of_a_skill_is_of_sums_and_the_average_is_by_instruction() -> None:
    given = [annotation(n, scores=(10, 5), category="Math") for n in range(3)]
    given += [annotation(9, scores=(2, 4), category="Art")]
    found = scores(given)
    assert found is not None
    assert [row.ratio for row in found.rows] == [50, 200]
    assert found.overall.ratio == pytest.approx(100 * 19 / 32)  # neither 125, the mean of the bars, nor 87.5
    assert found.overall.ratio_interval is None


def test_intervals_of_scores_stay_on_the_judges_scale() -> None:
    def interval(*given: float) -> tuple[float, float]:
        found = scores([annotation(n, scores=(math.nan, score)) for n, score in enumerate(given)])
        assert found is not None
        return found.overall.interval.low, found.overall.interval.high

    assert interval(2, 9) == (1, 10)
    assert interval(50, 90)[1] > 90
    assert all(map(math.isnan, interval(5)))


def test_the_ratio_of_many_has_an_interval() -> None:
    draw = random.Random(3)
    found = scores([annotation(n, scores=(draw.randint(5, 9), draw.randint(5, 9))) for n in range(100)])
    assert found is not None
    assert found.overall.ratio_interval is not None
    assert found.overall.ratio_interval.low < found.overall.ratio < found.overall.ratio_interval.high


def test_scores_of_one_side_are_no_comparison() -> None:
    found = scores([annotation(n, scores=(math.nan, 7.0 + n)) for n in range(3)])
    assert found is not None
    assert found.overall.mean == 8
    assert not found.compared
    assert math.isnan(found.overall.ratio)
    assert math.isnan(found.overall.reference_mean)

"""Two runs on the same instructions; two judges on the same answers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from tests.evaluate.made import annotation, of
from ultrachat_cli.errors import UltraError
from ultrachat_cli.evaluate import intervals
from ultrachat_cli.evaluate.agreement import agreement
from ultrachat_cli.evaluate.compare import compare
from ultrachat_cli.evaluate.metrics import summary


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(8, 2, 2 * 56 / 1024), (2, 8, 2 * 56 / 1024), (0, 10, 2 / 1024), (5, 5, 1), (0, 0, 1), (1, 0, 1), (5, 4, 1)],
)
def test_the_sign_test_is_exact(better: int, worse: int, p: float) -> None:
    assert intervals.sign(better, worse) == p


def test_the_sign_test_takes_any_number() -> None:
    normal = math.erfc((2100 - 1900 - 1) / math.sqrt(4000) / math.sqrt(2))
    assert intervals.sign(2100, 1900) == pytest.approx(normal, rel=0.01)


def test_the_permutation_test_finds_known_values() -> None:
    assert intervals.permutation([]) == 1
    assert intervals.permutation([0.0] * 50) == 1
    assert intervals.permutation([0.5, -0.5]) == 1
    assert intervals.permutation([1.0] * 10) == pytest.approx(2 / 1024, abs=0.0015)
    uneven = [-1.0, 0.5, 2.0, 3.0, 2.0]
    assert intervals.permutation(uneven) == pytest.approx(exact(uneven), abs=0.015)
    assert intervals.permutation([1.0] * 10) == intervals.permutation([1.0] * 10)


def exact(differences: list[float]) -> float:
    """By all signs."""
    n, seen = len(differences), abs(sum(differences))
    sums = [sum(d if k >> i & 1 else -d for i, d in enumerate(differences)) for k in range(2**n)]
    return sum(abs(total) >= seen - 1e-9 for total in sums) / 2**n


def test_a_real_difference_is_found_and_one_by_chance_is_not() -> None:
    draw = random.Random(1)
    hard = [draw.random() for _ in range(400)]
    a = of([2.0 if h < 0.5 else 1.0 for h in hard])
    b = of([2.0 if h < 0.58 else 1.0 for h in hard])
    found = compare(a, b, "A", "B")
    assert found.significant
    assert found.overall.difference == pytest.approx(summary(b).win_rate - summary(a).win_rate)
    assert found.overall.interval.low > 0
    assert found.overall.worse == 0
    assert found.overall.p_sign == 2 / 2**found.overall.better
    noise = of([one.preference if draw.random() < 0.9 else draw.choice([1.0, 2.0]) for one in a])
    assert not compare(a, noise, "A", "noise").significant


def test_scores_are_compared_where_nothing_else_was() -> None:
    a = [annotation(n, None, scores=(math.nan, 5.0)) for n in range(40)]
    b = [annotation(n, None, scores=(math.nan, 5.0 + n % 2)) for n in range(41)]
    found = compare(a, [*b, annotation(0, None)], "a", "b")
    assert (found.measure, found.overall.n, found.overall.difference, found.overall.better) == ("score", 40, 0.5, 20)
    assert (found.significant, found.alone) == (True, 2)
    assert dict(found.rows())["B less A"].startswith("score +0.50 (0.3")
    with pytest.raises(UltraError, match="no instruction in common"):
        compare(a, [annotation(1, 2.0)], "a", "b")


def test_equal_runs_do_not_differ() -> None:
    a = of([2.0, 1.0] * 40)
    found = compare(a, a, "A", "A").overall
    assert (found.difference, found.better, found.worse, found.equal) == (0, 0, 0, 80)
    assert (found.p_permutation, found.p_sign) == (1, 1)


def test_exchanging_the_runs_turns_the_sign() -> None:
    draw = random.Random(2)
    a, b = (of([1 + draw.random() for _ in range(60)]) for _ in range(2))
    forth, back = compare(a, b, "A", "B").overall, compare(b, a, "B", "A").overall
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.interval.low == pytest.approx(-back.interval.high, abs=1)
    assert forth.p_permutation == back.p_permutation
    assert (forth.better, forth.worse) == (back.worse, back.better)


def test_only_instructions_judged_in_both_count_in_any_order() -> None:
    a = of([2.0, 1.0, None, 1.0, 1.0])
    b = [*reversed(of([2.0, 2.0, 2.0, None])), annotation(99, 1.0)]
    found = compare(a, b, "A", "B")
    assert (found.overall.n, found.overall.better, found.overall.worse) == (2, 1, 0)
    assert found.alone == 2
    assert found.notes == [
        "2 instructions are in one run only and were left out",
        "2 instructions lack a verdict in a run and were left out",
    ]
    with pytest.raises(UltraError, match="no instruction in common"):
        compare(of([1.0]), [annotation(5, 1.0)], "A", "B")


def test_categories_have_rows_and_unlike_judges_are_said() -> None:
    a = [annotation(n, 1.0, category="XY"[n % 2]) for n in range(40)]
    b = [replace(one, preference=2.0 if one.category == "X" else 1.0, annotator="other") for one in a]
    found = compare(a, b, "A", "B")
    assert [(row.name, row.n, row.difference) for row in found.by_category] == [("X", 20, 100), ("Y", 20, 0)]
    assert found.notes == ["not the same judge: judge and other"]
    said = dict(found.rows())
    assert said["X"].startswith("+100.0")
    assert "differ" in said["verdict"]
    assert found.record()["by_category"][1]["name"] == "Y"


def test_both_orders_are_averaged_and_their_consistency_is_told() -> None:
    a = [annotation(n, p, switched=s) for n in range(4) for s, p in ((False, 1.0), (True, 2.0))]
    b = [annotation(n, 2.0, switched=s) for n in range(4) for s in (False, True)]
    found = compare(a, b, "A", "B")
    assert (found.overall.n, found.overall.difference) == (4, 50)
    assert found.consistency_a is not None
    assert found.consistency_b is not None
    assert (found.consistency_a.first, found.consistency_a.same) == (4, 0)
    assert found.consistency_b.same == 4


def test_agreement_is_cohens() -> None:
    # Cohen's kappa of 20, 5, 10, 15: seen 0.7, by chance 0.5
    own = of([2.0] * 25 + [1.0] * 25)
    other = [replace(one, annotator="people") for one in of([2.0] * 20 + [1.0] * 5 + [2.0] * 10 + [1.0] * 15)]
    found = agreement(own, other)
    assert (found.n, found.same, found.kappa) == (50, 35, pytest.approx(0.4))
    assert found.counts[("loss", "win")] == 10
    assert str(found) == "70.0% (56.2 to 80.9) of 50 with people, kappa 0.40"


def test_agreement_is_on_the_same_answers() -> None:
    own = of([2.0, 1.0, 1.5])
    found = agreement(own, [*own[:2], replace(own[2], output_2="another")])
    assert (found.n, found.same, found.kappa) == (2, 2, 1)
    with pytest.raises(UltraError, match="no comparison"):
        agreement(own, [replace(one, output_1="another") for one in own])
    assert math.isnan(agreement(own[:1], own[:1]).kappa)

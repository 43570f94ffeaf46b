"""The length-controlled win rate: against alpaca_eval, against scikit-learn's own search, and what it is for."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate import peer
from tests.evaluate.made import annotation, drawn, of, write_gamed
from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.length_controlled import LengthControlled, length_controlled, read_gamed
from ultrachat_cli.evaluate.metrics import summary

pytest.importorskip("sklearn")


def controlled(annotations: list[Annotation], path: Path) -> LengthControlled:
    return length_controlled(annotations, read_gamed(path))


@peer.needed
@pytest.mark.parametrize(("soft", "nulls", "n"), [(False, False, 200), (True, True, 200), (True, False, 150)])
def test_it_equals_that_of_alpaca_eval(tmp_path: Path, soft: bool, nulls: bool, n: int) -> None:
    gamed = write_gamed(tmp_path / "df_gamed.csv", 200, seed=1)
    given = drawn(n, seed=7, soft=soft, nulls=nulls)
    theirs = peer.length_controlled(given, gamed, tmp_path)
    found = controlled(given, gamed)
    assert found.win_rate == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)
    assert found.standard_error == pytest.approx(theirs["lc_standard_error"], abs=1e-9)


@peer.needed
def test_the_reference_itself_gets_the_peers_50(tmp_path: Path) -> None:
    gamed = write_gamed(tmp_path / "df_gamed.csv", 50, seed=1)
    given = drawn(50, seed=3, soft=True, model="base")
    assert peer.length_controlled(given, gamed, tmp_path)["length_controlled_winrate"] == 50
    assert controlled(given, gamed).win_rate == 50


@pytest.mark.parametrize("soft", [False, True])
def test_the_search_is_that_of_scikit_learn(tmp_path: Path, soft: bool) -> None:
    path = write_gamed(tmp_path / "df_gamed.csv", 120, seed=2)
    given = drawn(120, seed=8, soft=soft)
    expected = by_scikit_learn(given, path)
    found = controlled(given, path)
    assert found.win_rate == pytest.approx(expected, abs=1e-9)


def by_scikit_learn(given: list[Annotation], path: Path) -> float:
    """The recipe with LogisticRegressionCV, written from its description."""
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    with path.open(encoding="utf-8") as file:
        rows = [{key: float(text) for key, text in row.items() if key in COLUMNS} for row in csv.DictReader(file)]
    n = len(given)
    delta = np.array([len(one.output_1) - len(one.output_2) for one in given], float)
    hard = np.array([row["instruction_difficulty"] for row in rows[:n]])
    x = np.array([[np.tanh(row["std_delta_len"]), row["instruction_difficulty"], 0] for row in rows])
    x = np.vstack([x, np.column_stack([np.tanh(delta / delta.std(ddof=1)), hard, np.ones(n)])])
    y = np.array([row["preference"] for row in rows] + [one.win for one in given], float)
    weight = np.array([0.1] * len(rows) + [1.0] * n)

    def loss(label: Any, chance: Any, truth: Any, weighed: Any) -> float:
        wanted = np.where(label == 1, truth, 1 - truth)
        return float(-np.mean(weighed * (wanted * np.log(chance) + (1 - wanted) * np.log(1 - chance))))

    x, label = np.vstack([x, x]), np.repeat([1, 0], len(y))
    truth, weighed = np.concatenate([y, 1 - y]), np.tile(weight, 2)
    scorer = make_scorer(loss, response_method="predict_proba", greater_is_better=False)
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegressionCV(
            Cs=10, cv=GroupKFold(5), l1_ratios=(1,), solver="liblinear", fit_intercept=False, random_state=123,
            scoring=scorer.set_score_request(truth=True, weighed=True),
        ).set_fit_request(sample_weight=True)  # fmt: skip
        groups = np.tile(np.arange(len(y)), 2)
        model.fit(x, label, sample_weight=truth * weighed, groups=groups, truth=truth, weighed=weighed)
    return float(100 * np.mean(model.predict_proba(np.column_stack([np.zeros(n), hard, np.ones(n)]))[:, 1]))


COLUMNS = ("preference", "std_delta_len", "instruction_difficulty")


def test_length_alone_wins_nothing(tmp_path: Path) -> None:
    """A judge that looks at length only: the raw rate says 80%, the controlled one much less."""
    path = write_gamed(tmp_path / "df_gamed.csv", 200, seed=1)
    given = drawn(200, seed=9, soft=False)
    given = [replace(one, preference=2.0 if len(one.output_2) > len(one.output_1) else 1.0) for one in given]
    raw, found = summary(given).win_rate, controlled(given, path)
    assert raw > 60
    assert abs(found.win_rate - 50) < 0.6 * (raw - 50)
    assert found.length_weight < -1  # the longer the reference, the less a win


def test_answers_all_as_long_as_the_references_change_little(tmp_path: Path) -> None:
    path = write_gamed(tmp_path / "df_gamed.csv", 100, seed=1)
    given = of([2.0] * 70 + [1.0] * 30)
    given = [replace(one, output_1="yes") for one in given]
    assert controlled(given, path).win_rate == pytest.approx(70, abs=3)


def test_two_orders_count_once(tmp_path: Path) -> None:
    path = write_gamed(tmp_path / "df_gamed.csv", 60, seed=1)
    given = drawn(60, seed=4, soft=False)
    both = [replace(one, switched=order) for one in given for order in (False, True)]
    assert controlled(both, path) == controlled(given, path)


def test_more_instructions_than_are_known_are_refused(tmp_path: Path) -> None:
    path = write_gamed(tmp_path / "df_gamed.csv", 10, seed=1)
    with pytest.raises(UltraError, match="11 instructions, but the difficulty is known of 10"):
        controlled(drawn(11, seed=4, soft=False), path)
    with pytest.raises(UltraError, match="no verdicts"):
        controlled([annotation(1, None)], path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("instruction_difficulty", "hardness", "no column instruction_difficulty"),
        ("\n1,", "\n1,x", r":3: preference 'x0\.\d+' is not a number"),
        ("\n1,", "\n0,", ":4: index 2 is new"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write_gamed(tmp_path / "df_gamed.csv", 5, seed=1)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        read_gamed(path)
    with pytest.raises(DataError, match="No such file"):
        read_gamed(tmp_path / "nowhere.csv")


def test_gamed_rows_without_a_verdict_still_tell_the_difficulty(tmp_path: Path) -> None:
    path = tmp_path / "df_gamed.csv"
    path.write_text("index,preference,std_delta_len,instruction_difficulty\n0,,1.0,0.5\n1,0.25,1.0,-0.5\n")
    found = read_gamed(path)
    assert found.difficulty.tolist() == [0.5, -0.5]
    assert found.wins.tolist() == [0.25]
    assert found.features.tolist() == [[pytest.approx(np.tanh(1.0)), -0.5, 0.0]]

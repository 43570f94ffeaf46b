"""AlpacaEval's length-controlled win rate: what the win rate would be, were all answers as long as the reference's.

Dubois et al. 2024 (arXiv:2404.04475), as alpaca_eval 0.6.6 computes it: a logistic regression of the verdict on

    w1 tanh(d / sd(d)) + w2 difficulty + w3,   d = len(reference's answer) - len(model's answer) in characters

is fitted to the verdicts and, at a tenth of the weight, to those of two models told to be wordy and terse ("gamed",
without w3); the win rate is then the mean of what it says with d = 0. The strength of its penalty is chosen as
scikit-learn's LogisticRegressionCV does; that class itself would need a process-wide switch (metadata routing).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ultrachat_cli.errors import DataError, MissingExtra, UltraError
from ultrachat_cli.evaluate import csv_files, orders
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.metrics import standard_error

GAMED = "alpaca_eval_gamed"
"""The verdicts on the gamed models, in datasets.yaml."""
_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")
_GAMED_WEIGHT = 0.2 * 1.0 / 2  # 0.2 for two models
_SEED, _FOLDS = 123, 5
_STRENGTHS = np.logspace(-4, 4, 10)  # what LogisticRegressionCV tries
_SMALLEST = 1e-15  # of a probability in the log loss


@dataclass(frozen=True)
class Gamed:
    """The gamed models' verdicts: wins (0 to 1), features [n, 3], and the difficulty of each instruction of the set."""

    wins: np.ndarray
    features: np.ndarray
    difficulty: np.ndarray


@dataclass(frozen=True)
class LengthControlled:
    """`win_rate` and the standard error of its mean over instructions, in percent; the three weights; `strength`: C."""

    win_rate: float
    standard_error: float
    length_weight: float
    difficulty_weight: float
    model_weight: float
    strength: float

    def record(self) -> dict[str, float]:
        """For `--json`."""
        return asdict(self)


def read_gamed(path: Path) -> Gamed:
    """Read `df_gamed.csv`: a row for each instruction and gamed model, all of the first model's in the set's order.

    As alpaca_eval does, the difficulty of the set's n-th instruction is taken from row n, whatever its `index` says;
    that only tells where the second model begins. `DataError` with the row for what is missing or no number.
    """
    wins, features, difficulty = [], [], []
    seen: set[float] = set()
    columns, rows = csv_files.read(path)
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise DataError(path, 0, f"no column {', '.join(missing)}", f"it is the file of {GAMED} in 'ultrachat data ls'")
    for line, row in enumerate(rows, start=2):  # as an editor counts, the first holds the columns
        index, win, delta, hard = (_number(path, line, row, column) for column in _COLUMNS)
        if index not in seen:
            if line != len(seen) + 2:
                raise DataError(path, line, f"index {index:g} is new: the first model's rows must come first")
            seen.add(index)
            difficulty.append(hard)
        if not math.isnan(win):
            wins.append(win)
            features.append((math.tanh(delta), hard, 0.0))
    if not wins:
        raise DataError(path, 0, "holds no verdicts")
    return Gamed(np.array(wins), np.array(features), np.array(difficulty))


def length_controlled(annotations: Sequence[Annotation], gamed: Gamed) -> LengthControlled:
    """The length-controlled win rate of one model; 50 for the reference itself, which is told by its name.

    Instructions are told apart by their place, so `annotations` must be all of the set, or its first part, in its
    order, with those that have no verdict left in. Both orders of a comparison count once, as their mean.
    `MissingExtra` without scikit-learn; `UltraError` without a verdict or for more instructions than the file knows.
    """
    rows = orders.averaged(annotations)
    if len(rows) > len(gamed.difficulty):
        raise UltraError(f"{len(rows)} instructions, but the difficulty is known of {len(gamed.difficulty)}")
    judged = np.array([row.win is not None for row in rows], np.bool_)
    if not judged.any():
        raise UltraError("no verdicts: there is no length-controlled win rate")
    if rows[0].generator_1 and {row.generator_2 for row in rows} == {rows[0].generator_1}:
        return LengthControlled(50.0, 0.0, 0.0, 0.0, 0.0, math.nan)
    deltas = np.array([len(row.output_1) - len(row.output_2) for row in rows], np.float64)
    spread = deltas.std(ddof=1) if len(rows) > 1 else 0.0
    lengths = np.tanh(deltas / spread) if spread else np.zeros(len(rows))
    difficulty = gamed.difficulty[: len(rows)]
    features = np.column_stack([lengths, difficulty, np.ones(len(rows))])[judged]
    wins = np.array([row.win for row in rows if row.win is not None])
    weights = np.concatenate([np.full(len(gamed.wins), _GAMED_WEIGHT), np.ones(len(wins))])
    found, strength = _fit(np.concatenate([gamed.features, features]), np.concatenate([gamed.wins, wins]), weights)
    predicted = _logistic(found[1] * difficulty + found[2])
    error = 100 * standard_error(predicted.tolist())
    length, hard, model = map(float, found)
    return LengthControlled(100 * float(predicted.mean()), error, length, hard, model, strength)


def _fit(features: np.ndarray, wins: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """(weights of the features, strength C with the least log loss in 5 folds).

    A soft label w is a row labelled 1 of weight w and the same row labelled 0 of weight 1 - w, in the same fold.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.model_selection import GroupKFold  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("the length-controlled win rate", "scikit-learn", "eval") from error
    rows, labels = np.concatenate([features, features]), np.repeat([1, 0], len(wins))
    soft, weight = np.tile(wins, 2), np.tile(weights, 2)
    shares = np.concatenate([wins, 1 - wins]) * weight

    def fitted(strength: float, of: np.ndarray) -> np.ndarray:
        model = LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=_SEED
        )
        found: np.ndarray = model.fit(rows[of], labels[of], sample_weight=shares[of]).coef_[0]
        return found

    def loss(found: np.ndarray, of: np.ndarray) -> float:
        chance = np.clip(_logistic(rows[of] @ found), _SMALLEST, 1 - _SMALLEST)
        return float(-np.mean(weight[of] * (soft[of] * np.log(chance) + (1 - soft[of]) * np.log(1 - chance))))

    folds = list(GroupKFold(_FOLDS).split(rows, labels, np.tile(np.arange(len(wins)), 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the published figures stop after 100 rounds too
        losses = [sum(loss(fitted(strength, train), test) for train, test in folds) for strength in _STRENGTHS]
        strength = float(_STRENGTHS[int(np.argmin(losses))])
        return fitted(strength, np.arange(len(rows))), strength


def _logistic(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.exp(-np.logaddexp(0, -x))
    return found


def _number(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    """nan where a verdict is missing."""
    text = row[column]
    try:
        return math.nan if column == "preference" and not text else float(text)
    except (TypeError, ValueError) as error:
        raise DataError(path, line, f"{column} '{text}' is not a number") from error

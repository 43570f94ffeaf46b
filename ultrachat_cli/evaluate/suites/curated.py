"""The curated set of the UltraChat paper: 385 rows in ten classes, 381 different questions.

Four questions stand in two classes; the paper's win/tie/lose counts sum to 381, so each is asked once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultrachat_cli.evaluate.fields import label
from ultrachat_cli.evaluate.suites.questions import Question, Suite


def question(row: Mapping[str, Any]) -> Question:
    """{class, data}; the file's classes have a space at either end."""
    return Question(str(row["data"]), label(row["class"]))


SUITE = Suite("curated", "the curated set of the UltraChat paper", "pairwise-score", lambda _: "ultra_eval", question)

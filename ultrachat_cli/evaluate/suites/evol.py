"""The Evol-Instruct test set of WizardLM: 218 instructions of 29 skills in ten degrees of difficulty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultrachat_cli.evaluate.fields import label
from ultrachat_cli.evaluate.suites.questions import Question, Suite


def question(row: Mapping[str, Any]) -> Question:
    """{idx, Skill, Difficulty, Instruction}; skills stay as the file spells them."""
    return Question(str(row["Instruction"]), label(row["Skill"]), label(row["Difficulty"]))


SUITE = Suite(
    "evol", "the Evol-Instruct test set of WizardLM", "pairwise-score", lambda _: "evol_instruct_eval", question
)

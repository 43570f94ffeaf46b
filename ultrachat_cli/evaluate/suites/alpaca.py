"""AlpacaEval: 805 instructions of five sets, against the answers of text_davinci_003 (1) or of GPT-4 Turbo (2).

The instructions are the same; each file (tatsu-lab/alpaca_eval) holds the answers of its baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultrachat_cli.evaluate.fields import label
from ultrachat_cli.evaluate.suites.questions import Question, Suite

FIRST, SECOND = "alpaca_eval", "alpaca_eval_2"


def entry(preset: str) -> str:
    """The file whose answers are the preset's baseline."""
    return FIRST if preset == "alpaca_eval_gpt4" else SECOND


def question(row: Mapping[str, Any]) -> Question:
    """{dataset, instruction, output, generator}; what is told by category is the part it comes from."""
    return Question(str(row["instruction"]), dataset=label(row["dataset"]))


SUITE = Suite("alpaca", "AlpacaEval 1 and 2", "weighted_alpaca_eval_gpt4_turbo", entry, question)

"""Annotations made up for tests: nothing here is from a published set."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from ultrachat_cli.evaluate.annotations import Annotation

WORDS = ["river", "lamp", "seven", "quiet", "bread", "orbit", "stone", "glad", "under", "window", "tin", "forest"]


def text(draw: random.Random, longest: int = 60) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))


def annotation(
    number: int, preference: float | None = 1.5, *, category: str = "", switched: bool | None = None,
    scores: tuple[float, float] | None = None, judge: str = "judge", answer: str = "yes", dataset: str = "",
    raw: str = "",
) -> Annotation:  # fmt: skip
    return Annotation(
        f"question {number}", "no", answer, "base", "ours", preference, judge, category=category, switched=switched,
        scores=scores, dataset=dataset, raw=raw,
    )  # fmt: skip


def of(preferences: Iterable[float | None]) -> list[Annotation]:
    return [annotation(number, preference) for number, preference in enumerate(preferences)]


def drawn(n: int, seed: int, *, soft: bool, nulls: bool = False, model: str = "ours") -> list[Annotation]:
    """Verdicts on answers of unlike lengths, the longer of which wins more often."""
    draw = random.Random(seed)
    found = []
    for number in range(n):
        reference, answer = text(draw), text(draw, 90)
        chance = 0.35 + 0.3 * (len(answer) > len(reference))
        if nulls and draw.random() < 0.03:
            preference = None
        elif soft:
            preference = 1 + min(1.0, max(0.0, draw.gauss(chance, 0.3)))
        else:
            preference = draw.choices([2.0, 1.0, 1.5], [chance, 1 - chance, 0.1])[0]
        dataset = draw.choice(["helpful", "short"])
        found.append(Annotation(f"question {number}", reference, answer, "base", model, preference, "judge", dataset))
    return found


def write_gamed(path: Path, n: int, seed: int, models: Sequence[str] = ("wordy", "terse")) -> Path:
    """A file in the columns of `df_gamed.csv`."""
    draw = random.Random(seed)
    difficulty = [draw.gauss(0, 1) for _ in range(n)]
    lines = ["index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    for model in models:
        for index, hard in enumerate(difficulty):
            delta = draw.gauss(1 if model == "terse" else -1, 0.5)
            win = min(1.0, max(0.0, draw.gauss(0.5 - 0.1 * delta + 0.05 * hard, 0.2)))
            lines.append(f"{index},{win!r},{delta!r},{hard!r},False,{model}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

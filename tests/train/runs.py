"""What the tests of whole training runs share: data, the command line, losses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    "river",
    "stone",
    "light",
    "garden",
    "music",
    "letter",
    "winter",
    "harbor",
    "engine",
    "paper",
    "silver",
    "forest",
]
_SMALL = {
    "format": "chatml", "max_length": 192, "batch": 8, "micro_batch": 1, "epochs": 3, "optimizer.lr": 1e-3,
    "compile": "off", "log.every": 1, "precision": "fp32", "launch.gpus": 0,
}  # fmt: skip


def dialogues(path: Path, count: int = 40, seed: int = 1) -> Path:
    """A file of small dialogues."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as out:
        for n in range(count):
            data = []
            for _ in range(draw.randint(1, 3)):
                data.append(f"Tell me about the {draw.choice(WORDS)} number {n}?")
                data.append(" ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 12))) + ".")
            out.write(json.dumps({"id": f"d{n}", "data": data}) + "\n")
    return path


def settings(data: Path | str, model: Path | str, output: Path, **more: Any) -> list[str]:
    """A run that is small enough for a test, as `key=value`; names in `more` have __ for a dot."""
    given = {name.replace("__", "."): value for name, value in more.items()}
    chosen = {"data": data, "model": model, "output": output, **_SMALL, **given}
    return [f"{key}={value}" for key, value in chosen.items()]


def command(data: Path | str, model: Path | str, output: Path, *more: str, **settings_: Any) -> list[str]:
    """The same as a command line."""
    return [
        "train",
        *(word for setting in settings(data, model, output, **settings_) for word in ("--set", setting)),
        *more,
    ]


def rows(output: Path) -> list[dict[str, Any]]:
    """All rows of metrics.jsonl."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> list[tuple[int, float, float]]:
    """(step, loss, norm of the gradient) of every step."""
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(output) if "loss" in row]

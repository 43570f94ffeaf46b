"""Training and validation sets: a dialogue falls on the same side whatever lies around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.ids import digest
from ultrachat_cli.records.one_pass import Report, one_pass

PARTS = ("train.jsonl", "validation.jsonl")


def run(
    inputs: Sequence[Path] | None, output: Path | None, validation: float = 0.05, seed: int = 0,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Write train.jsonl and validation.jsonl in the folder `output`.

    The side is a hash of seed and id (of the turns where there is no id), so it does not change when files are
    reordered, merged or extended. Chunks of one long dialogue stay together. The share is met on average.
    """
    if not 0 < validation < 1:
        raise ConfigError(f"--validation: {validation}: must be a share between 0 and 1, such as 0.05")
    with one_pass("split", inputs, output, progress, parts=PARTS) as job:
        job.report.counts.update({"train": 0, "validation": 0})
        for _, _, dialogue in job.dialogues():
            held_out = digest(str(seed), *_whole(dialogue)) < validation * 2**64
            job.report.counts["validation" if held_out else "train"] += 1
            job.put(dialogue, int(held_out))
    return job.report


def _whole(dialogue: Dialogue) -> list[str]:
    """What tells a dialogue from others; for a chunk, what tells the dialogue it was cut from."""
    if not dialogue.id:
        return dialogue.data
    part = dialogue.meta.get("part")
    return [dialogue.id if part is None else dialogue.id.removesuffix(f"_{part}")]

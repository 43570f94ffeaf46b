"""The dialogues of the map: all that can be read, or a random sample of them."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ultrachat_cli.errors import DataError
from ultrachat_cli.progress import Progress, say_bad_line
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import Dialogue

_STEP = 64  # dialogues between two moves of the progress bar


def as_text(path: Path) -> str:
    """A path that can be shown and stored, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Entry:
    """A dialogue and where it was found."""

    dialogue: Dialogue
    path: Path
    line: int

    @property
    def file(self) -> str:
        """Where it lies, as text."""
        return as_text(self.path)

    @property
    def id(self) -> str:
        """Its id, or file:line where it has none."""
        return self.dialogue.id or f"{self.file}:{self.line}"


@dataclass
class Sample:
    """What is drawn, and how much there was."""

    entries: list[Entry] = field(default_factory=list)
    read: int = 0
    bad_lines: int = 0


def read(inputs: Sequence[Path], limit: int, seed: int, progress: Progress) -> Sample:
    """At most `limit` dialogues, each as likely as any other, in the order of the input; a bad line is said."""
    sample = Sample()
    draw = random.Random(seed)
    kept: list[tuple[int, Entry]] = []  # (place in the input, dialogue): Vitter's algorithm R

    def bad(error: DataError) -> None:
        sample.bad_lines += 1
        say_bad_line(progress, error.message, sample.bad_lines)

    progress.stage("read", 0, "dialogues")
    for path in inputs:
        for line, dialogue in files.dialogues(path, bad):
            if not dialogue.data:
                bad(DataError(path, line, "a dialogue without turns"))
                continue
            place = sample.read
            sample.read += 1
            if len(kept) < limit:
                kept.append((place, Entry(dialogue, path, line)))
            elif (drawn := draw.randrange(sample.read)) < limit:
                kept[drawn] = (place, Entry(dialogue, path, line))
            if sample.read % _STEP == 0:
                progress.advance(_STEP)
    sample.entries = [entry for _, entry in sorted(kept, key=lambda one: one[0])]
    return sample

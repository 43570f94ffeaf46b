"""What a run counts while it goes, and what it reports when it ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.backends.limits import Usage


@dataclass
class Counts:
    """Live figures of one run; the display reads them, the run writes them."""

    planned: int = 0
    written: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    in_dialogue: int = 0
    resumed: int = 0
    warnings: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)
    newest: list[str] = field(default_factory=list)
    on_kept: Callable[[list[str]], None] | None = None
    """Called with the turns of each dialogue that is kept."""
    state: str = "starting"
    started: float = field(default_factory=time.monotonic)

    @property
    def settled(self) -> int:
        """Dialogues decided in this session."""
        return self.written - self.resumed + self.rejected.total()

    @property
    def seconds(self) -> float:
        """Since the start of this session."""
        return time.monotonic() - self.started


@dataclass(frozen=True)
class Report:
    """The end of a run. Requests, tokens and cost are of the whole run, earlier sessions included."""

    sector: str
    folder: Path
    planned: int
    written: int
    rejected: dict[str, int]
    cut: dict[str, int]
    failed: dict[str, int]
    duplicates: int
    requests: int
    retries: int
    repeated: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    unpriced: list[str]
    seconds: float
    warnings: dict[str, int]
    files: list[Path]
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Whether everything planned was written."""
        return not self.failed and not self.stopped

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        data = dict(vars(self))
        data["folder"], data["files"] = str(self.folder), [str(file) for file in self.files]
        data["dialogues_per_second"] = round(self.written / self.seconds, 3) if self.seconds else 0.0
        data["seconds"], data["cost"] = round(self.seconds, 3), round(self.cost, 6)
        return data

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        rate = self.written / self.seconds if self.seconds else 0.0
        yield "written", f"{self.written} of {self.planned} dialogues, {rate:.2f}/s, {self.seconds:.1f} s"
        yield "rejected", _counted(self.rejected)
        yield "cut short", _counted(self.cut)
        yield "near duplicates", f"{self.duplicates} openings dropped" if self.duplicates else ""
        yield "failed", _counted(self.failed)
        retries = f", {self.retries} retries" if self.retries else ""
        repeated = f", {self.repeated:,} answers from the journal" if self.repeated else ""
        yield "requests", f"{self.requests:,}{retries}{repeated}"
        yield "tokens", f"{self.prompt_tokens:,} in, {self.completion_tokens:,} out"
        yield "cost", f"unknown price: {', '.join(self.unpriced)}" if self.unpriced else f"${self.cost:.4f}"
        yield "notes", _counted(self.warnings)
        yield "stopped", self.stopped
        yield "files", "\n".join(str(file) for file in self.files)


def _counted(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    return f"{sum(reasons.values())} ({', '.join(f'{n} {reason}' for reason, n in reasons.items())})"

"""What every process of a job needs: sent to each once."""

from __future__ import annotations

from dataclasses import dataclass

from ultrachat_cli.dedupe.decontaminate import Benchmark
from ultrachat_cli.dedupe.settings import DedupeConfig


@dataclass(frozen=True)
class Job:
    """Settings, what is searched for, and where the lines are."""

    config: DedupeConfig
    benchmark: Benchmark | None
    plain: list[str]
    """The uncompressed file of each source."""

"""Finished runs, read again: to compare two, or to put many in one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.evaluate import leaderboard
from ultrachat_cli.evaluate.annotations import Annotation, names, read_annotations
from ultrachat_cli.evaluate.compare import Comparison, compare
from ultrachat_cli.evaluate.folder import ANNOTATIONS, METRICS
from ultrachat_cli.evaluate.leaderboard import Entry
from ultrachat_cli.evaluate.length_controlled import LengthControlled
from ultrachat_cli.evaluate.metrics import summary
from ultrachat_cli.evaluate.scores import scores
from ultrachat_cli.records import jsonl


@dataclass(frozen=True)
class Leaderboard:
    """Runs and lines of older tables, the best first. `files`: those written."""

    entries: list[Entry]
    files: list[Path]

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {"entries": [vars(entry) for entry in self.entries], "files": [str(path) for path in self.files]}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(headings, lines) for people."""
        return leaderboard.shown(self.entries)


def annotations_of(run: Path) -> list[Annotation]:
    """The verdicts of a run folder, or of a file. `ConfigError` where there are none."""
    path = run / ANNOTATIONS if run.is_dir() else run
    if not path.is_file():
        raise ConfigError(f"{run}: no {ANNOTATIONS} here", "name a folder that 'ultrachat eval' made, or such a file")
    return read_annotations(path)


def compared(a: Path, b: Path) -> Comparison:
    """Two runs on the same instructions. Raises `ConfigError`, `DataError`, `UltraError`."""
    sides = [annotations_of(run) for run in (a, b)]
    titles = [f"{names(side)[0]} ({run})" for side, run in zip(sides, (a, b), strict=True)]
    return compare(sides[0], sides[1], titles[0], titles[1])


def ranked(runs: Sequence[Path], output: Path | None = None) -> Leaderboard:
    """Run folders, verdict files and `leaderboard.csv` files in one table; `output`: .csv or .html to write it to.

    A model that comes twice is told apart by its folder. Raises `ConfigError`, `DataError`, `UltraError`.
    """
    if output is not None and output.suffix not in (".csv", ".html"):
        raise ConfigError(f"--output: {output}: .csv or .html is expected")
    if not runs:
        raise ConfigError("RUNS: name run folders, annotations.json or leaderboard.csv files")
    found = [(entry, run) for run in runs for entry in _entries(run)]
    taken = [entry.name for entry, _ in found]
    entries = leaderboard.ordered(
        entry if taken.count(entry.name) == 1 else replace(entry, name=f"{entry.name} ({run})") for entry, run in found
    )
    if output is not None and output.suffix == ".csv":
        leaderboard.write(output, entries)
    elif output is not None:
        with jsonl.replacing(output) as file:
            file.write(leaderboard.html(entries).encode())
    return Leaderboard(entries, [] if output is None else [output])


def _entries(run: Path) -> Iterator[Entry]:
    if run.suffix == ".csv":
        yield from leaderboard.read(run)
        return
    found = annotations_of(run)
    model, _, judge = names(found)
    scored = scores(found)
    score = None if scored is None else scored.overall.mean
    yield leaderboard.entry(model, summary(found), _controlled(run), judge, score)


def _controlled(run: Path) -> LengthControlled | None:
    """As it was computed with the run: that takes a file which need not be here any more."""
    path = (run if run.is_dir() else run.parent) / METRICS
    try:
        told = orjson.loads(path.read_bytes()).get("length_controlled")
        return None if told is None else LengthControlled(**told)
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError, TypeError, AttributeError) as error:
        hint = f"write it again: ultrachat eval SUITE --annotations {path.with_name(ANNOTATIONS)}"
        raise DataError(path, 0, f"not the figures of a run: {error}", hint) from error

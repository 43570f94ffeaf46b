"""Everything that is wrong with dialogue files, by file and line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import FIELDS, KEYS, Shape, parse, role, speaker
from ultrachat_cli.records.ids import Seen

_STEP = 64  # records between two moves of the progress bar
Fault = tuple[str, str]
"""(kind, detail)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    file: str
    line: int
    kind: str
    detail: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.kind.replace('_', ' ')}: {self.detail}"


@dataclass
class Report:
    """How much was read and how often each kind of problem was met."""

    files: int
    records: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether all is well."""
        return not self.problems

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "files": self.files, "records": self.records, "problems": dict(self.problems.most_common()),
            "seconds": round(self.seconds, 3),
        }  # fmt: skip

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "files", f"{self.files:,}"
        yield "records", f"{self.records:,}, {self.records / max(self.seconds, 1e-9):,.0f}/s, {self.seconds:.1f} s"
        for kind, count in self.problems.most_common():
            yield kind.replace("_", " "), f"{count:,}"
        if not self.problems:
            yield "problems", "none"


def run(
    inputs: Sequence[Path] | None, found: Callable[[Problem], object], limit: int | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Tell `found` every problem of every record, at most `limit` of each kind; all are counted.

    A file without problems can be read by every command. For duplicate ids, 80 bytes of memory an id are needed.
    """
    if not inputs:
        raise ConfigError("FILES: name files, folders, runs or patterns, or - for stdin")
    progress = progress or Silent()
    started = time.monotonic()
    sources = files.find(inputs, "FILES")
    report, seen = Report(len(sources)), Seen()

    def tell(path: Path, line: int, faults: Iterator[Fault]) -> None:
        for kind, detail in faults:
            report.problems[kind] += 1
            if limit is None or report.problems[kind] <= limit:
                found(Problem(str(path), line, kind, detail))

    def bad(error: DataError) -> None:
        report.records += 1
        tell(Path(error.path), error.line, iter([_unreadable(error)]))

    progress.stage("validate", 0, "records")
    for path in sources:
        try:
            for line, record in files.rows(path, bad):
                report.records += 1
                if report.records % _STEP == 0:
                    progress.advance(_STEP)
                tell(path, line, _faults(record, seen))
        except DataError as error:
            tell(path, error.line, iter([("unreadable", error.reason)]))
    report.seconds = time.monotonic() - started
    return report


def _unreadable(error: DataError) -> Fault:
    if "UTF-8" in error.reason:
        return "bad_utf8", f"at character {error.text.find(chr(0xFFFD)) + 1} of the line"
    return "not_json", error.reason.removeprefix("not JSON (").removesuffix(")")


def _faults(record: object, seen: Seen) -> Iterator[Fault]:
    found = list(faults(record))
    yield from found
    if isinstance(record, dict):
        identity = record.get("id") if record.get("id") is not None else record.get("prompt_id")
        if identity is not None and not seen.add(str(identity)):
            yield "duplicate_id", str(identity)
    if not found:
        try:
            parse(record)
        except ValueError as error:
            yield "refused", str(error)


def faults(record: object) -> Iterator[Fault]:
    """What is wrong with one record, taken alone."""
    if not isinstance(record, dict):
        yield "not_an_object", f"a JSON {type(record).__name__}"
        return
    if not isinstance(record.get("meta") or {}, dict):
        yield "bad_meta", "'meta' is not an object"
    shape = next((shape for shape, key in KEYS.items() if isinstance(record.get(key), list)), None)
    if shape is None:
        yield "no_turns", "no 'data', 'messages' or 'conversations' list"
        return
    said = _said(record[KEYS[shape]], shape)
    if not said:
        yield "no_turns", f"'{KEYS[shape]}' holds none"
        return
    for number, _, text in said:
        if not isinstance(text, str):
            yield "not_text", f"turn {number}"
        elif not text.strip():
            yield "empty_turn", f"turn {number}"
    yield from _order(said)


_Said = list[tuple[int, str, Any]]
"""(number from 1, speaker, text) of each turn; not the system message at the beginning."""


def _said(turns: list[Any], shape: Shape) -> _Said:
    if shape == "ultrachat":
        return [(n + 1, role(n), text) for n, text in enumerate(turns)]
    who, what = FIELDS[shape]
    said = []
    for n, turn in enumerate(turns):
        speaks = (speaker(turn, who) or f"'{turn.get(who)}'") if isinstance(turn, dict) else "nobody"
        if n or speaks != "system":
            said.append((n + 1, speaks, turn.get(what) if isinstance(turn, dict) else None))
    return said


def _order(said: _Said) -> Iterator[Fault]:
    expected = "user"
    for number, speaks, _ in said:
        if speaks != expected:
            yield "role_order", f"turn {number} is by {speaks} where {expected} should speak"
        expected = {"user": "assistant", "assistant": "user"}.get(speaks, expected)
    if said[-1][1] != "assistant":
        yield "odd_turns", "does not end with the assistant"

"""Several files become one, with ids that stay unique."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from ultrachat_cli.progress import Progress
from ultrachat_cli.records.ids import Seen, origin
from ultrachat_cli.records.one_pass import Report, one_pass


def run(
    inputs: Sequence[Path] | None, output: Path | None, tag_source: bool = False, progress: Progress | None = None
) -> Report:
    """Concatenate in the order given. An id met before becomes `<id>@<file>`, or `<id>@<file>:<line>` if that is taken.

    A dialogue without an id gets `<file>:<line>`. `<file>` is the name without suffixes, or the run's name.
    `tag_source`: meta.source names the file, where no earlier merge has put one.
    """
    seen = Seen()
    with one_pass("merge", inputs, output, progress) as job:
        for path, number, dialogue in job.dialogues():
            identity = next(name for name in _names(dialogue.id, origin(path), number) if seen.add(name))
            if identity != dialogue.id:
                job.report.counts["renamed" if dialogue.id else "named"] += 1
            dialogue.id = identity
            if tag_source:
                dialogue.meta = {"source": str(path)} | dialogue.meta
            job.put(dialogue)
    return job.report


def _names(identity: str, file: str, number: int) -> Iterator[str]:
    place = f"{file}:{number}"
    if identity:
        yield identity
        yield f"{identity}@{file}"
        place = f"{identity}@{place}"
    yield place
    yield from (f"{place}#{n}" for n in count(2))

"""What the file commands share: dialogues in one by one, dialogues out, bad lines set aside, a report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.progress import Progress, Silent, say_bad_line
from ultrachat_cli.records import files, jsonl
from ultrachat_cli.records.dialogue import Dialogue, Shape

_STEP = 64  # dialogues between two moves of the progress bar


@dataclass
class Report:
    """The end of a job. `counts` are the command's own figures, `group.name` or `name`."""

    read: int = 0
    written: int = 0
    bad_lines: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every line could be read."""
        return not self.bad_lines

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self)) | {"files": list(map(str, self.files)), "seconds": round(self.seconds, 3)}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "read", f"{self.read:,} dialogues, {self.read / max(self.seconds, 1e-9):,.0f}/s, {self.seconds:.1f} s"
        yield "written", f"{self.written:,}"
        for name, count in self.counts.items():
            if count:
                yield name.replace(".", ": ").replace("_", " "), f"{count:,}"
        if self.bad_lines:
            yield "bad lines", f"{self.bad_lines:,}"
        yield "files", "\n".join(map(str, self.files))


class Pass:
    """One pass over the inputs: read `dialogues`, `put` or `reject` each."""

    def __init__(
        self, inputs: Sequence[Path], puts: Sequence[Callable[[Dialogue], None]],
        keep: Callable[[bytes], Any] | None, progress: Progress,
    ) -> None:  # fmt: skip
        self.report = Report()
        self._inputs, self._puts, self._keep, self._progress = inputs, puts, keep, progress

    def dialogues(self) -> Iterator[tuple[Path, int, Dialogue]]:
        """(file, line, dialogue) of all that can be read; the rest is reported and set aside."""
        report = self.report
        for path in self._inputs:
            for number, dialogue in files.dialogues(path, self._bad):
                report.read += 1
                if report.read % _STEP == 0:
                    self._progress.advance(_STEP)
                yield path, number, dialogue

    def put(self, dialogue: Dialogue, output: int = 0) -> None:
        """Write to the output of this number."""
        self._puts[output](dialogue)
        self.report.written += 1

    def reject(self, dialogue: Dialogue, reason: str, turn: str | None = None) -> None:
        """Count it and keep it with the reason and the unfit turn, as `generate` does."""
        self.report.counts[f"rejected.{reason}"] += 1
        self._set_aside({**dialogue.record(None), "reason": reason} | ({} if turn is None else {"turn": turn}))

    def bad(self, path: Path, number: int, dialogue: Dialogue, reason: str) -> None:
        """Treat a dialogue that could be read as a bad line."""
        self.report.read -= 1
        self._bad(DataError(path, number, reason, text=dialogue.line(None).decode().rstrip("\n")))

    def _bad(self, error: DataError) -> None:
        self.report.bad_lines += 1
        if self._keep is None:  # nowhere else are they told
            self._progress.say(error.message)
        else:
            say_bad_line(self._progress, error.message, self.report.bad_lines)
        self._set_aside({"file": str(error.path), "line": error.line, "reason": error.reason, "text": error.text})

    def _set_aside(self, row: dict[str, Any]) -> None:
        if self._keep is not None:
            self._keep(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def one_pass(
    what: str, inputs: Sequence[Path] | None, output: Path | None, progress: Progress | None, *,
    shape: Shape | None = None, parts: Sequence[str] = (),
) -> Iterator[Pass]:  # fmt: skip
    """Opens the inputs, the output (or, where it is a folder, its `parts`) and the file of what is set aside.

    That file is `<output>.rejected.jsonl`; there is none beside stdout. All files appear at the end, or none does.
    Raises `ConfigError` for every fault of the arguments before anything is opened.
    """
    progress = progress or Silent()
    started = time.monotonic()
    sources, outputs, rejected = checked(inputs, output, parts)
    with ExitStack() as stack:
        for path in outputs:
            if path != files.STDIN:
                make_room(path.parent)
        puts = [stack.enter_context(files.writing(path, shape)) for path in outputs]
        kept = stack.enter_context(jsonl.replacing(rejected)) if rejected else None
        job = Pass(sources, puts, kept.write if kept else None, progress)
        progress.stage(what, 0, "dialogues")
        yield job
        nothing_aside = kept is None or kept.tell() == 0
    if rejected and nothing_aside:
        rejected.unlink()
    job.report.seconds = time.monotonic() - started
    job.report.files = [*outputs, *([] if nothing_aside or rejected is None else [rejected])]


def make_room(folder: Path) -> None:
    """Make the folder of an output; `UltraError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error


def checked(
    inputs: Sequence[Path] | None, output: Path | None, parts: Sequence[str] = ()
) -> tuple[list[Path], list[Path], Path | None]:
    """(inputs, outputs, file of what is set aside); `ConfigError` for every fault, before anything is opened."""
    faults: list[str] = []
    sources: list[Path] = []
    if not inputs:
        faults.append("FILES: name files, folders, runs or patterns, or - for stdin")
    try:
        sources = files.find(inputs or [], "FILES")
    except ConfigError as error:
        faults += error.faults
    if output is None:
        raise ConfigError([*faults, "--output: where to? name a file, a folder for parts of a split, or - for stdout"])
    if parts and (output == files.STDIN or output.name.endswith(files.SUFFIXES)):
        faults.append(f"--output: {output}: {' and '.join(parts)} need a folder")
    outputs = [output / part for part in parts] or [output]
    rejected = None if output == files.STDIN else files.beside(output, "rejected.jsonl")
    for path in outputs:
        try:
            files.check_writable(path)
        except ConfigError as error:
            faults += error.faults
    known = {path.resolve() for path in sources if path != files.STDIN}
    taken = [path for path in (*outputs, rejected) if path and path != files.STDIN and path.resolve() in known]
    faults += [f"--output: {path} is one of the inputs" for path in taken]
    if faults:
        raise ConfigError(faults)
    return sources, outputs, rejected

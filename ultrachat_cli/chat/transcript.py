"""Conversations in files: one a line, in the project's own format, so that every other command reads them too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import orjson

from ultrachat_cli.errors import UltraError
from ultrachat_cli.records import files, jsonl
from ultrachat_cli.records.dialogue import Dialogue, parse

LAST = "last"
"""The name of the conversation that was talked last."""
_TAIL = 16 << 20  # bytes: no line is longer
_KEPT = 100  # conversations kept without being asked to


def read(wanted: str) -> tuple[Dialogue, Path]:
    """The conversation `FILE`, `FILE#ID` or `FILE#NUMBER` (from 1; the last one where none is named), and its file.

    Any dialogue file will do, in any shape. Raises `UltraError`.
    """
    path, which = Path(wanted).expanduser(), ""
    if not path.exists() and "#" in wanted:
        name, _, which = wanted.rpartition("#")
        path = Path(name).expanduser()
    if not path.is_file():
        raise UltraError(f"{path}: no such file")
    found: Dialogue | None = None
    number = 0
    for number, found in files.dialogues(path, jsonl.never):
        if which and which in (found.id, str(number)):
            return _named(found, path, number), path
    if found is None:
        raise UltraError(f"{path}: holds no conversation")
    if which:
        raise UltraError(f"{path}: no conversation '{which}'", f"name one by its id or its number, like {path}#1")
    return _named(found, path, number), path


def _named(dialogue: Dialogue, path: Path, number: int) -> Dialogue:
    """With an id, so that it finds back to its line."""
    return dialogue if dialogue.id else replace(dialogue, id=f"{files.stem(path)}-{number}")


def target(name: str) -> Path:
    """The file a conversation is written to: `name`, with .jsonl where it has no ending. Raises `UltraError`."""
    path = Path(name).expanduser()
    if not path.suffix:
        path = path.with_name(path.name + ".jsonl")
    if path.suffix not in (".jsonl", ".ndjson"):
        raise UltraError(f"{path}: conversations are kept as JSON lines", f"name it {path.stem}.jsonl")
    if path.is_dir():
        raise UltraError(f"{path}: this is a folder", "name a file")
    return path


def save(path: Path, dialogue: Dialogue) -> None:
    """Write the line in place of the one with the same id; other lines stay as they are. Whole or not at all."""
    line = dialogue.line()
    with _writing(), jsonl.replacing(path) as file:
        for other in _others(path, dialogue.id):
            file.write(other or line)
            line = line if other else b""
        file.write(line)


def _others(path: Path, identity: str) -> Iterator[bytes]:
    """The file's lines; an empty one stands for that of `identity`."""
    for number, line in jsonl.lines(path) if path.exists() else ():
        try:
            same = parse(orjson.loads(line)).id == identity
        except ValueError:
            reason = f"{path}:{number}: this file holds something other than conversations, and is left as it is"
            raise UltraError(reason, "name another file") from None
        yield b"" if same else line if line.endswith(b"\n") else line + b"\n"


def export(path: Path, dialogue: Dialogue) -> None:
    """Add the line at the end of the file."""
    with _writing():
        _end_last_line(path)
        out = jsonl.Appender(path)
        try:
            out.append(dialogue.line())
        finally:
            out.close()


def _end_last_line(path: Path) -> None:
    """A last line that only lacks its newline is whole: the appender would take it for a torn one and cut it off."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        last = file.read().rpartition(b"\n")[2]
    if last:
        with suppress(orjson.JSONDecodeError):
            orjson.loads(last)
            with path.open("ab") as file:
                file.write(b"\n")


@contextmanager
def _writing() -> Iterator[None]:
    """The hint of an error is for somebody at a terminal."""
    try:
        yield
    except UltraError as error:
        raise UltraError(error.message, f"{jsonl.remedy(error.__cause__)}, or name another file") from None
    except OSError as error:
        raise UltraError(f"{error.filename}: cannot be written: {error.strerror}", "name another file") from None


class Kept:
    """Where conversations are kept without being asked to, each in a file of its own, none readable by others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """The file of a conversation."""
        return self.folder / f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in identity)[:100]}.jsonl"

    def keep(self, dialogue: Dialogue) -> Path:
        """Write the conversation; the oldest beyond a hundred go. Raises `UltraError`."""
        path = self.path(dialogue.id)
        with _writing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            line = dialogue.line()
            if path.is_file() and path.read_bytes() == line:
                path.touch()
                return path
            path.with_name(path.name + ".partial").touch(mode=0o600)
            with jsonl.replacing(path) as file:
                file.write(line)
        for old in self._by_age()[_KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def last(self, besides: Dialogue | None = None) -> Path:
        """The newest one that is not, word for word, `besides`. Raises `UltraError` when there is none."""
        known = None if besides is None else besides.line()
        found = next((path for path in self._by_age() if path.read_bytes() != known), None)
        if found is None:
            raise UltraError(f"no earlier conversation is kept in {self.folder}")
        return found

    def _by_age(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(self.folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True)

"""Where dialogues lie: JSONL (plain, .gz, .zst), JSON arrays, Parquet, folders, runs, globs; and writing them."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from ultrachat_cli.errors import ConfigError, DataError, MissingExtra
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.dialogue import Dialogue, Shape, parse

PLAIN = (".jsonl", ".json", ".ndjson")
SUFFIXES = (*(plain + packed for plain in PLAIN for packed in ("", ".gz", ".zst")), ".parquet")
RUN_FILE = "dialogues.jsonl"
STDIN = Path("-")
BESIDE = (".rejected.jsonl", ".report.jsonl", ".contamination.jsonl", ".manifest.json")
"""Endings of what lies beside an output and is not part of it."""
_BATCH = 1000
_EXTRA = "extra_fields"


def find(paths: Iterable[Path | str], what: str = "input", suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files behind files, folders, run folders and patterns, sorted within each, none twice.

    `ConfigError` lists everything that is missing or of an unknown kind; `what` names the setting. "-" is stdin.
    """
    found: dict[Path, None] = {}
    faults: list[str] = []
    for path in map(Path, paths):
        if path == STDIN or path.is_file():
            if path != STDIN and not path.name.endswith(suffixes):
                faults.append(f"{what}: {path}: unknown kind of file (use {', '.join(suffixes)})")
            inside = [path]
        elif path.is_dir():
            inside = _inside(path, suffixes)
            if not inside:
                faults.append(f"{what}: {path}: no {', '.join(suffixes)} file in this folder")
        else:
            inside = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
            if not inside:
                faults.append(f"{what}: {path}: no such file")
        found |= dict.fromkeys(inside)
    if faults:
        raise ConfigError(faults)
    return list(found)


def _inside(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if (folder / RUN_FILE).is_file():
        return [folder / RUN_FILE]
    runs = {run.parent for run in folder.rglob(RUN_FILE)}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name.endswith(suffixes)
        and not path.name.endswith(BESIDE)
        and (path.name == RUN_FILE or runs.isdisjoint(path.parents))
    ]


def rows(path: Path, on_bad: jsonl.OnBad) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of every record; a bad line goes to `on_bad` and reading goes on.

    `DataError` when the file as a whole cannot be read, `MissingExtra` for Parquet or zstd without their package.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _array_rows(path) if is_array(path) else jsonl.read(path, on_bad)


def dialogues(path: Path, on_bad: jsonl.OnBad) -> Iterator[tuple[int, Dialogue]]:
    """(number, dialogue) of every record that is one, in any of the three shapes."""
    for number, record in rows(path, on_bad):
        try:
            yield number, parse(record)
        except ValueError as error:
            on_bad(DataError(path, number, str(error), text=orjson.dumps(record, default=str).decode()))


def is_plain(path: Path) -> bool:
    """Whether a file is uncompressed JSONL, whose lines can be found again by their place."""
    return path != STDIN and path.name.endswith(PLAIN) and not is_array(path)


def is_array(path: Path) -> bool:
    """Whether the file is one JSON array; only files called .json can be."""
    if path == STDIN or not path.name.endswith((".json", ".json.gz", ".json.zst")):
        return False
    try:
        with jsonl.opened(path) as file:
            return file.read(256).lstrip().startswith(b"[")
    except jsonl.unreadable():
        return False  # whoever reads it says what is wrong


def _array_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with jsonl.opened(path) as file:
            yield from enumerate(orjson.loads(file.read()), start=1)
    except (OSError, EOFError, orjson.JSONDecodeError) as error:
        raise DataError(path, 0, f"not a JSON array: {error}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    parquet = pyarrow(f"reading {path}")
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=_BATCH):
            for record in batch.to_pylist():
                number += 1
                yield number, _unpacked(record)
    except (OSError, ValueError) as error:
        raise DataError(path, number, f"not readable as Parquet: {error}") from error


def _unpacked(record: dict[str, Any]) -> dict[str, Any]:
    """The row with what our own writer keeps as JSON text; text that is none stays as it is."""
    for column in ("meta", _EXTRA):
        with suppress(TypeError, orjson.JSONDecodeError):
            record[column] = orjson.loads(record.get(column) or "")
    if isinstance(record.get(_EXTRA), dict):
        record |= record.pop(_EXTRA)
    elif record.get(_EXTRA, "") is None:
        del record[_EXTRA]
    return record


def check_writable(path: Path) -> None:
    """`ConfigError` or `MissingExtra` before work begins rather than after it."""
    if path != STDIN and not path.name.endswith(SUFFIXES):
        raise ConfigError(f"output: {path}: unknown kind of file (use {', '.join(SUFFIXES)}, or - for stdout)")
    if path.suffix == ".parquet":
        pyarrow(f"writing {path}")
    if path.suffix == ".zst":
        jsonl.zstandard(path)


@contextmanager
def writing(
    path: Path, shape: Shape | None = "ultrachat", *, extra: bool = True
) -> Iterator[Callable[[Dialogue], None]]:
    """Takes dialogues one by one; the file (its kind is told by its name, "-" is stdout) appears when all are in.

    `shape` None: each stays in the shape it came in. Parquet always holds messages; `extra`: a column for fields that
    the dialogues may have beside id, turns and meta.
    """
    if path.suffix == ".parquet":
        with jsonl.replacing(path) as file, _parquet_writer(file, extra) as write:
            yield write
        return
    with writing_lines(path) as put:
        yield lambda dialogue: put(dialogue.line(shape))


@contextmanager
def writing_lines(path: Path) -> Iterator[Callable[[bytes], Any]]:
    """Takes whole lines; compressed as the name says."""
    if path == STDIN:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    with jsonl.replacing(path) as file, jsonl.packing(path, file) as packed:
        yield packed.write


@contextmanager
def _parquet_writer(file: IO[bytes], extra: bool) -> Iterator[Callable[[Dialogue], None]]:
    """Columns: id (text), messages (list of {role, content}), meta (JSON text), extra_fields (JSON text or null)."""
    parquet = pyarrow("writing Parquet")
    import pyarrow as pa  # type: ignore[import-untyped]

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    columns = [("id", pa.string()), ("messages", pa.list_(message)), ("meta", pa.string())]
    schema = pa.schema([*columns, (_EXTRA, pa.string())] if extra else columns)
    waiting: list[dict[str, object]] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def put(dialogue: Dialogue) -> None:
            more = _json(dialogue.extra) if dialogue.extra else None
            meta = _json(dialogue.meta_beside_messages())
            waiting.append({"id": dialogue.id, "messages": dialogue.messages, "meta": meta, _EXTRA: more})
            if len(waiting) == _BATCH:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
            waiting.clear()

        yield put
        flush()


def _json(value: dict[str, Any]) -> str:
    return orjson.dumps(value, default=str).decode()


def pyarrow(what: str) -> Any:
    """pyarrow.parquet; `MissingExtra` saying `what` needs it."""
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra(what, "pyarrow", "parquet") from error
    return parquet


def stem(path: Path) -> str:
    """`data/clean.jsonl.gz` -> `clean`."""
    return next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), path.name)


def beside(output: Path, word: str) -> Path:
    """`clean.jsonl.gz` -> `clean.<word>`: where what belongs to an output is kept."""
    return output.with_name(f"{stem(output)}.{word}")

"""The input as blocks of whole lines that any process can read alone, and lines found again by their place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from ultrachat_cli.errors import DataError
from ultrachat_cli.records import files, jsonl

BLOCK = 32 << 20  # bytes


@dataclass(frozen=True)
class Source:
    """An input file, and its uncompressed JSONL (the file itself where it is that)."""

    path: Path
    plain: Path


@dataclass(frozen=True)
class Block:
    """Bytes [start, end) of a source's plain file: whole lines."""

    number: int
    source: int
    plain: Path
    start: int
    end: int

    def read(self) -> bytes:
        """All of it; `DataError` when the file has gone or shrunk."""
        try:
            with self.plain.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.end - self.start)
        except OSError as error:
            raise DataError(self.plain, 0, f"cannot be read: {error.strerror or error}") from error
        if len(data) < self.end - self.start:
            raise DataError(self.plain, 0, "has become shorter while it was read", "run the same command again")
        return data


def unpack(path: Path, target: Path) -> None:
    """A compressed file, JSON array or Parquet as JSONL; line numbers stay what they were."""
    with jsonl.replacing(target) as out:
        if path.suffix == ".parquet" or files.is_array(path):
            for _, record in files.rows(path, jsonl.never):
                out.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        else:
            for _, line in jsonl.lines(path):
                out.write(line)


def cut(sources: list[Source], size: int = BLOCK) -> list[Block]:
    """Blocks of about `size` bytes, in order, none across two files; one empty block where there is nothing."""
    found: list[Block] = []
    for number, source in enumerate(sources):
        length = source.plain.stat().st_size
        start = 0
        with source.plain.open("rb") as file:
            while start < length:
                end = min(length, start + size)
                if end < length:
                    file.seek(end)
                    file.readline()
                    end = file.tell()
                found.append(Block(len(found), number, source.plain, start, end))
                start = end
    return found or [Block(0, 0, sources[0].plain, 0, 0)]


class Lines:
    """Lines by place. Keeps its files open."""

    def __init__(self, sources: list[str]) -> None:
        self._sources = sources
        self._open: dict[int, int] = {}

    def __call__(self, source: int, start: int, length: int) -> bytes:
        """The bytes of one line."""
        if source not in self._open:
            self._open[source] = os.open(self._sources[source], os.O_RDONLY)
        return os.pread(self._open[source], length, start)

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._open.values():
            os.close(descriptor)


def copy(path: Path, spans: list[tuple[int, int]], chunk: int = 4 << 20) -> Iterator[bytes]:
    """The bytes of `spans` (start, end) of a file, in order; a last line without its newline gets one."""
    data = b"\n"
    with path.open("rb") as file:
        for start, end in spans:
            file.seek(start)
            while start < end:
                data = file.read(min(chunk, end - start))
                start += len(data)
                yield data
    if not data.endswith(b"\n"):
        yield b"\n"

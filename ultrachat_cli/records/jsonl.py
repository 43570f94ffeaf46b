"""Lines that are whole or absent: reading with bad lines reported by number, appending, atomic files."""

from __future__ import annotations

import errno
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import orjson

from ultrachat_cli.errors import DataError, MissingExtra, UltraError

OnBad = Callable[[DataError], None]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def zstandard(path: Path) -> Any:
    """The zstandard package; `MissingExtra` where it is not installed."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra(f"{path}", "zstandard", "zstd") from error
    return zstandard


def opened(path: Path) -> IO[bytes]:
    """A file's plain bytes, whether .gz, .zst or neither; "-" is stdin."""
    if path == Path("-"):
        return sys.stdin.buffer
    if path.suffix == ".zst":
        return cast(IO[bytes], io.BufferedReader(zstandard(path).open(path, "rb"), 1 << 20))
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def packing(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Compresses what is written to `file`, as the name of `path` says. Equal input gives equal bytes."""
    if path.suffix == ".gz":
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    elif path.suffix == ".zst":
        with zstandard(path).ZstdCompressor().stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of a text file, packed or not; `DataError` when it cannot be read on."""
    number = 0
    try:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except unreadable() as error:
        raise DataError(path, number, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def never(error: DataError) -> NoReturn:
    """The `OnBad` of files in which no line may be bad."""
    raise error


def unreadable() -> tuple[type[Exception], ...]:
    """What reading a file can raise, of all packings that are loaded."""
    packed = sys.modules.get("zstandard")
    return (OSError, EOFError, zlib.error, *([packed.ZstdError] if packed else []))


def read(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every good line; a bad one goes to `on_bad` and reading goes on."""
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            text = line.decode("utf-8", "replace").rstrip("\n")
            on_bad(DataError(path, number, f"not JSON ({error.msg})", text=text))


class Appender:
    """Appends whole lines to a file. Opening cuts a torn last line, as a killed process leaves one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise unwritable(path, error) from error
        self.size = os.fstat(self._fd).st_size
        self.cut = self._cut_torn_line()

    def _cut_torn_line(self) -> int:
        """Bytes after the last newline, now gone."""
        end = self.size
        while end > 0:
            start = max(0, end - 65536)
            at = os.pread(self._fd, end - start, start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        torn, self.size = self.size - end, end
        if torn:
            os.ftruncate(self._fd, end)
        return torn

    def append(self, data: bytes) -> None:
        """Write whole lines in one go; when the disk is full the part that went out is taken back."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            raise unwritable(self.path, error) from error
        self.size += len(data)

    def since(self, offset: int) -> Iterator[bytes]:
        """The lines that begin at or after this byte."""
        with self.path.open("rb") as file:
            file.seek(offset)
            yield from file

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> UltraError:
    """The error for a full disk, a read-only folder and their like."""
    return UltraError(
        f"{path}: cannot be written: {error.strerror or error}",
        f"{remedy(error)}, or choose another --output; what was answered so far is kept",
    )


def remedy(error: BaseException | None) -> str:
    """What to do about a file that cannot be written."""
    full = isinstance(error, OSError) and error.errno in _FULL
    return "free some space" if full else "check the folder and its permissions"

from __future__ import annotations

import gzip
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.jsonl import Appender, replacing

LINES = [b'{"n": %d}\n' % n for n in range(5)]


def read(path: Path) -> tuple[list[tuple[int, object]], list[str]]:
    bad: list[DataError] = []
    good = list(jsonl.read(path, bad.append))
    return good, [str(error) for error in bad]


@contextmanager
def appending(path: Path) -> Iterator[Appender]:
    appender = Appender(path)
    try:
        yield appender
    finally:
        appender.close()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file can grow past `size`: what a full disk looks like to one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_bad_lines_are_told_by_number_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n[2]\n\xff\xfe\n   \n"last, without a newline"')
    good, bad = read(path)
    assert good == [(1, {"a": 1}), (4, [2]), (7, "last, without a newline")]
    assert [fault.partition(": not JSON")[0] for fault in bad] == [f"{path}:3", f"{path}:5"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_plain_and_packed_files_read_alike(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = b"".join(LINES)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read(path) == ([(n + 1, {"n": n}) for n in range(5)], [])


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read: No such file"):
        read(tmp_path / "none.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


def _noise() -> bytes:
    draw = random.Random(3)
    return b"".join(b'{"n": "%x"}\n' % draw.getrandbits(256) for _ in range(4000))


def test_a_torn_packed_file_gives_its_lines_and_then_tells_where(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(_noise())[:-5000])
    numbers: list[int] = []
    with pytest.raises(DataError) as caught:
        numbers.extend(number for number, _ in jsonl.lines(path))
    assert len(numbers) > 100
    assert caught.value.line == len(numbers)


def test_a_packed_file_that_is_none_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(b"".join(LINES))
    with pytest.raises(DataError, match=r"[Nn]ot a gzipped file"):
        read(path)


def test_damage_inside_a_packed_file_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    packed = gzip.compress(_noise())
    other: list[str] = []
    for at in range(100, len(packed) - 100, len(packed) // 40):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 255]) + packed[at + 1 :])
        try:
            list(jsonl.lines(path))
        except DataError:
            continue
        except Exception as error:
            other.append(f"{at}: {error!r}")
    assert not other


@pytest.mark.parametrize("torn", [0, 1, 100, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("whole", [0, 1, 5])
def test_opening_cuts_a_torn_last_line(tmp_path: Path, whole: int, torn: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(LINES[:whole]) + b"x" * torn)
    with appending(path) as appender:
        assert appender.cut == torn
        assert appender.size == path.stat().st_size
        appender.append(b'"next"\n')
    assert path.read_bytes() == b"".join(LINES[:whole]) + b'"next"\n'


def test_appending_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with appending(path) as appender:
        assert (appender.cut, appender.size) == (0, 0)
        appender.append(LINES[0] + LINES[1])
    with appending(path) as appender:
        start = appender.size
        appender.append(LINES[2])
        assert list(appender.since(start)) == [LINES[2]]
        assert list(appender.since(0)) == LINES[:3]
        assert appender.size == path.stat().st_size


def test_a_full_disk_takes_back_the_part_that_went_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with appending(path) as appender:
        appender.append(LINES[0])
        with file_size_limit(4096), pytest.raises(UltraError, match=r"x\.jsonl: cannot be written") as caught:
            appender.append(b"y" * 10_000 + b"\n")
        assert caught.value.hint.startswith("free some space")
        assert path.read_bytes() == LINES[0]
        appender.append(LINES[1])
    assert path.read_bytes() == LINES[0] + LINES[1]


def test_a_folder_that_is_not_there_cannot_be_appended_to(tmp_path: Path) -> None:
    with pytest.raises(UltraError, match="cannot be written: No such file") as caught:
        Appender(tmp_path / "none" / "x.jsonl")
    assert caught.value.hint.startswith("check the folder and its permissions")


def test_a_replaced_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), UltraError("ours")])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_while_writing_leaves_things_as_they_were(
    tmp_path: Path, old: bytes | None, error: BaseException
) -> None:
    path = tmp_path / "x.json"
    if old is not None:
        path.write_bytes(old)

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("x.json", old)] if old is not None else [])


def test_a_full_disk_while_replacing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with file_size_limit(4096), pytest.raises(UltraError, match="cannot be written"), replacing(path) as file:
        file.write(b"y" * 100_000)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.json", b"old")]

"""`ultrachat dedupe` as users run it: resumed after kills, refused where it must be, quiet where it should be."""

from __future__ import annotations

import random
import resource
import signal
import time
from pathlib import Path

import orjson
import pytest

from tests.commands.checks import refused, rows, when
from tests.conftest import Ultrachat

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "rk", "sto", "lim")]


def dialogues(path: Path, count: int, seed: int = 0, words: int = 40) -> Path:
    """Strangers, and every fourth a copy with a word more."""
    draw = random.Random(seed)
    lines = []
    data: list[str] = []
    for n in range(count):
        if n % 4 != 3:
            data = [" ".join(draw.choices(WORDS, k=words)) for _ in range(2)]
        else:
            data = [data[0], data[1] + " indeed"]
        lines.append(orjson.dumps({"id": f"d{n:06}", "data": data}))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB: several blocks, several seconds."""
    folder = tmp_path_factory.mktemp("large")
    small = dialogues(folder / "part.jsonl", 1000, words=600).read_bytes()
    path = folder / "large.jsonl"
    with path.open("wb") as out:
        for n in range(16):  # other words each time, by other letters
            other = _shifted(n)
            shifted = small.translate(other)
            for key in (b'"id":', b'"data":'):
                shifted = shifted.replace(key.translate(other), key)
            out.write(shifted.replace(b"d0".translate(other), b"d%02d" % n))
    return path


def _shifted(n: int) -> bytes:
    letters = b"abdefgiklmnoprstu"
    return bytes.maketrans(letters, letters[n:] + letters[:n])


def test_dedupe_reports_and_writes(ultrachat: Ultrachat) -> None:
    dialogues(ultrachat.folder / "in.jsonl", 40)
    result = ultrachat("dedupe", "in.jsonl", "-o", "out/clean.jsonl", "--json")
    assert result.code == 0, result
    report = result.json
    assert (report["read"], report["written"], report["removed"]["near"]) == (40, 30, 10)
    assert len(rows(ultrachat.folder / "out/clean.jsonl")) == 30
    assert len(rows(ultrachat.folder / "out/clean.report.jsonl")) == 10
    manifest = orjson.loads((ultrachat.folder / "out/clean.manifest.json").read_bytes())
    assert manifest["config"]["threshold"] == 0.8
    text = ultrachat("dedupe", "in.jsonl", "-o", "again.jsonl", "-q")
    assert "30" in text.stdout
    assert text.stderr == ""


def test_runs_folders_and_patterns_are_inputs(ultrachat: Ultrachat) -> None:
    for name in ("runs/a", "runs/b"):
        (ultrachat.folder / name).mkdir(parents=True)
        dialogues(ultrachat.folder / name / "dialogues.jsonl", 8, seed=len(name))
        (ultrachat.folder / name / "rejected.jsonl").write_text("no dialogue\n")
    dialogues(ultrachat.folder / "x1.jsonl", 4, seed=5)
    for inputs, count in ((("runs",), 6), (("runs/a", "runs/b"), 6), (("x*.jsonl",), 3), (("runs/a", "x?.jsonl"), 9)):
        result = ultrachat("dedupe", *inputs, "-o", "out.jsonl", "--json")
        assert (result.code, result.json["written"]) == (0, count), inputs


def test_several_benchmarks_after_one_flag(ultrachat: Ultrachat) -> None:
    source = dialogues(ultrachat.folder / "in.jsonl", 12)
    first, second = (row["data"][0] for row in rows(source)[:2])
    for name, text in (("a.json", first), ("b.json", second)):
        (ultrachat.folder / name).write_bytes(orjson.dumps([{"instruction": text}]))
    for command in (
        ("in.jsonl", "--against", "a.json", "b.json", "-o", "out.jsonl", "--json"),
        ("--against", "a.json", "--against", "b.json", "--json", "-o", "out.jsonl", "in.jsonl"),
    ):
        report = ultrachat("dedupe", *command).json
        assert (report["items"], report["items_found"], report["removed"]["contamination"]) == (2, 2, 2)


def test_stdin_is_an_input(ultrachat: Ultrachat) -> None:
    source = dialogues(ultrachat.folder / "in.jsonl", 20)
    result = ultrachat("dedupe", "-", "-o", "out.jsonl", "--json", stdin=source)
    assert (result.code, result.json["written"]) == (0, 15)


def test_bad_lines_end_with_3(ultrachat: Ultrachat) -> None:
    source = dialogues(ultrachat.folder / "in.jsonl", 8)
    source.write_bytes(source.read_bytes() + b'{"data": ["torn\n')
    result = ultrachat("dedupe", "in.jsonl", "-o", "out.jsonl", "--json")
    assert (result.code, result.json["rejected"], result.json["written"]) == (3, 1, 6)
    (bad,) = rows(ultrachat.folder / "out.rejected.jsonl")
    assert (bad["file"], bad["line"]) == ("in.jsonl", 9)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("-o", "out.jsonl"), 2, ("inputs: no files given",)),
        (("in.jsonl",), 2, ("output: no file given",)),
        (("missing.jsonl", "-o", "out.jsonl"), 2, ("missing.jsonl", "no such file")),
        (("in.txt", "-o", "out.jsonl"), 2, ("unknown kind of file",)),
        (("empty", "-o", "out.jsonl"), 2, ("in this folder",)),
        (("in.jsonl", "-o", "in.jsonl"), 2, ("one of the inputs",)),
        (("in.jsonl", "-o", "out.csv"), 2, ("out.csv", "unknown kind of file")),
        (("in.jsonl", "-o", "-"), 2, ("--output", "a folder")),
        (("in.jsonl", "-o", "out.jsonl", "--threshold", "1.5"), 2, ("threshold",)),
        (("in.jsonl", "-o", "out.jsonl", "--method", "exakt"), 2, ("method", "exact")),
        (("in.jsonl", "-o", "out.jsonl", "--set", "treshold=0.7"), 2, ("did you mean 'threshold'",)),
        (("in.jsonl", "-o", "out.jsonl", "--against", "none.json"), 2, ("none.json",)),
        (("broken.jsonl.gz", "-o", "out.jsonl"), 1, ("broken.jsonl.gz",)),
        (("broken.parquet", "-o", "out.jsonl"), 1, ("broken.parquet",)),
    ],
)
def test_bad_input_is_one_clear_error(
    ultrachat: Ultrachat, arguments: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    dialogues(ultrachat.folder / "in.jsonl", 4)
    (ultrachat.folder / "in.txt").write_text("text")
    (ultrachat.folder / "empty").mkdir()
    for name in ("broken.jsonl.gz", "broken.parquet"):
        (ultrachat.folder / name).write_bytes(b"\x1f\x8b nothing of the kind")
    refused(ultrachat("dedupe", *arguments), code, *says)
    assert not (ultrachat.folder / "out.jsonl").exists()


def test_a_folder_that_cannot_be_written(ultrachat: Ultrachat) -> None:
    dialogues(ultrachat.folder / "in.jsonl", 4)
    (ultrachat.folder / "file").write_text("")
    refused(ultrachat("dedupe", "in.jsonl", "-o", "file/out.jsonl"), 1, "cannot be written")


def test_a_full_disk(ultrachat: Ultrachat) -> None:
    source = dialogues(ultrachat.folder / "in.jsonl", 400)

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    refused(ultrachat("dedupe", source, "-o", "out.jsonl", preexec=little_room), 1, "cannot be written")
    assert not (ultrachat.folder / "out.jsonl").exists()
    assert ultrachat("dedupe", source, "-o", "out.jsonl", "--json").json["written"] == 300


@pytest.mark.slow
def test_kill_9_at_any_stage_and_again(ultrachat: Ultrachat, large: Path) -> None:
    work = ultrachat.folder / "out.jsonl.work"
    command = ("dedupe", large, "-o", "out.jsonl", "-q", "--processes", "2")
    assert ultrachat("dedupe", large, "-o", "whole.jsonl", "-q").code == 0
    for stage in ("scan-*.npz", "sketches.u8", "near.npy"):
        started = ultrachat.start(*command)
        assert when(lambda stage=stage: bool(list(work.glob(stage))), started), stage  # type: ignore[misc]
        workers = [int(pid) for pid in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()]
        kept = {path: path.stat().st_mtime_ns for path in work.glob("scan-*.npz")}
        started.kill()
        assert not (ultrachat.folder / "out.jsonl").exists()
        end = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < end, "a worker outlived its parent"
            time.sleep(0.05)
    assert ultrachat(*command).code == 0
    assert kept
    for end in (".jsonl", ".report.jsonl"):
        assert (ultrachat.folder / f"out{end}").read_bytes() == (ultrachat.folder / f"whole{end}").read_bytes()
    assert not work.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_at_once(ultrachat: Ultrachat, large: Path, number: int) -> None:
    started = ultrachat.start("dedupe", large, "-o", "out.jsonl", "--processes", "2")
    assert when((ultrachat.folder / "out.jsonl.work").exists, started)
    time.sleep(0.7)
    result, took = started.send(number)
    refused(result, 130, "interrupted")
    assert took < 3
    assert not (ultrachat.folder / "out.jsonl").exists()


@pytest.mark.slow
def test_the_second_of_two_processes_is_refused(ultrachat: Ultrachat, large: Path) -> None:
    command = ("dedupe", large, "-o", "out.jsonl", "-q")
    started = ultrachat.start(*command)
    assert when((ultrachat.folder / "out.jsonl.work" / "key.json").exists, started)
    refused(ultrachat(*command), 1, f"pid {started.pid} ")
    assert started.wait().code == 0


def test_other_settings_or_inputs_begin_anew(ultrachat: Ultrachat) -> None:
    source = dialogues(ultrachat.folder / "in.jsonl", 40)
    work = ultrachat.folder / "out.jsonl.work"
    work.mkdir()
    (work / "key.json").write_text("[]")
    (work / "scan-000000.npz").write_bytes(b"of another job")
    assert ultrachat("dedupe", source, "-o", "out.jsonl", "--json").json["written"] == 30


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dialogues(ultrachat: Ultrachat, large: Path) -> None:
    """A worker holds a block, not the file; the parent some bytes a dialogue."""
    started = ultrachat.start("dedupe", large, "-o", "out.jsonl", "-q", "--processes", "1")
    peak = 0
    while started.alive:  # not what the kernel reports at the end: that begins with the size of this process
        try:
            status = Path(f"/proc/{started.pid}/status").read_text().splitlines()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
        time.sleep(0.02)
    assert started.wait().code == 0
    assert 0 < peak / 1024 < 600

"""`ultrachat data` as it is typed: files, folders, stdin and stdout, bad lines, exit codes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import refused, rows
from tests.conftest import Ultrachat

ASK, SAY = "How do bees find their way home?", "They remember the sun and the landmarks around the hive."
GOOD = [{"id": str(n), "data": [f"{ASK} ({n})", SAY], "meta": {"sector": "world"}} for n in range(20)]
BAD = [b"{torn", b'{"id": "x", "data": ["a", 1]}', b'{"id": "\xff"}']
WRITERS = {
    "filter": (), "convert": (), "merge": (), "sample": ("-n", "100"),
    "split": ("--max-tokens", "100", "--tokenizer", "words"),
}  # fmt: skip
"""The commands with one output, told to let everything through."""


def write(path: Path, records: list[Any], bad: list[bytes] | None = None) -> Path:
    lines = [*(bad or []), *map(orjson.dumps, records)]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_files_folders_runs_and_patterns_are_inputs(ultrachat: Ultrachat) -> None:
    folder = ultrachat.folder
    (folder / "runs" / "world").mkdir(parents=True)
    (folder / "more").mkdir()
    write(folder / "runs" / "world" / "dialogues.jsonl", GOOD[:2])
    write(folder / "runs" / "world" / "rejected.jsonl", GOOD[2:4])
    (folder / "more" / "a.jsonl.gz").write_bytes(gzip.compress(orjson.dumps(GOOD[4]) + b"\n"))
    write(folder / "p1.jsonl", GOOD[5:6])
    write(folder / "p2.jsonl", GOOD[6:7])
    result = ultrachat("data", "convert", "runs", "more", "p*.jsonl", "-o", "new/out.jsonl", "--json")
    assert result.code == 0, result
    assert result.json["written"] == 5
    assert rows(folder / "new" / "out.jsonl") == [*GOOD[:2], *GOOD[4:7]]


@pytest.mark.parametrize("command", WRITERS)
def test_stdin_to_stdout_with_the_report_on_stderr(ultrachat: Ultrachat, command: str) -> None:
    source = write(ultrachat.folder / "in.jsonl", GOOD)
    result = ultrachat("data", command, "-", "-o", "-", *WRITERS[command], stdin=source)
    assert result.code == 0, result
    assert [orjson.loads(line) for line in result.stdout.splitlines()] == GOOD
    assert "20 dialogues" in result.stderr
    quiet = ultrachat("data", command, "-", "-o", "-", "-q", *WRITERS[command], stdin=source)
    assert (quiet.stdout, quiet.stderr) == (result.stdout, "")
    assert [path.name for path in ultrachat.folder.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("command", WRITERS)
def test_bad_lines_are_told_and_set_aside(ultrachat: Ultrachat, command: str) -> None:
    write(ultrachat.folder / "in.jsonl", GOOD, BAD)
    result = ultrachat("data", command, "in.jsonl", "-o", "out.jsonl.gz", *WRITERS[command], "--json")
    assert result.code == 3, result
    assert (result.json["read"], result.json["written"], result.json["bad_lines"]) == (20, 20, 3)
    assert result.json["files"] == ["out.jsonl.gz", "out.rejected.jsonl"]
    assert "in.jsonl:1: not JSON" in result.stderr
    assert "in.jsonl:2: 'data' holds something other than text" in result.stderr
    rejected = rows(ultrachat.folder / "out.rejected.jsonl")
    assert [(row["file"], row["line"]) for row in rejected] == [("in.jsonl", n) for n in (1, 2, 3)]
    assert rejected[0]["text"] == "{torn"
    found = gzip.decompress((ultrachat.folder / "out.jsonl.gz").read_bytes()).splitlines()
    assert [orjson.loads(line) for line in found] == GOOD
    write(ultrachat.folder / "in.jsonl", GOOD)  # mended: nothing is left of the earlier failure
    assert ultrachat("data", command, "in.jsonl", "-o", "out.jsonl.gz", *WRITERS[command]).code == 0
    assert not (ultrachat.folder / "out.rejected.jsonl").exists()


def test_bad_lines_on_stdin_are_all_told_where_no_file_takes_them(ultrachat: Ultrachat) -> None:
    source = write(ultrachat.folder / "in.jsonl", GOOD[:1], BAD * 10)
    result = ultrachat("data", "convert", "-", "-o", "-", stdin=source)
    assert result.code == 3
    told = [line.split(": ")[0] for line in result.stderr.splitlines() if line.startswith("-:")]
    assert told == [f"-:{n}" for n in range(1, 31)]
    assert orjson.loads(result.stdout) == GOOD[0]


def test_many_bad_lines_do_not_flood_the_screen(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "in.jsonl", [], BAD * 50)
    result = ultrachat("data", "convert", "in.jsonl", "-o", "out.jsonl")
    assert result.stderr.count("in.jsonl:") == 20
    assert "more bad lines follow" in result.stderr
    assert len(rows(ultrachat.folder / "out.rejected.jsonl")) == 150


def test_all_that_is_wrong_with_the_arguments_is_said_at_once(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "in.jsonl", GOOD)
    nothing, missing, onto, kind, folder = ultrachat.many(
        ("data", "merge"),
        ("data", "merge", "none.jsonl", "no*.gz", "in.jsonl", "-o", "out.txt"),
        ("data", "filter", ".", "-o", "./in.jsonl"),
        ("data", "split", "in.jsonl", "-o", "out.jsonl"),
        ("data", "validate"),
    )
    refused(nothing, 2, "FILES: name files", "--output: where to?")
    refused(missing, 2, "none.jsonl: no such file", "no*.gz: no such file", "out.txt: unknown kind of file")
    refused(onto, 2, "in.jsonl is one of the inputs")
    refused(kind, 2, "train.jsonl and validation.jsonl need a folder")
    refused(folder, 2, "FILES: name files")
    assert rows(ultrachat.folder / "in.jsonl") == GOOD
    assert [path.name for path in ultrachat.folder.iterdir()] == ["in.jsonl"]


def test_what_an_earlier_job_set_aside_can_be_read_but_not_written_over(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "out.rejected.jsonl", GOOD)
    result = ultrachat("data", "filter", "out.rejected.jsonl", "-o", "out.jsonl")
    refused(result, 2, "out.rejected.jsonl is one of the inputs")


def test_a_file_that_breaks_off_leaves_the_old_output(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "out.jsonl", GOOD[:1])
    (ultrachat.folder / "in.jsonl.gz").write_bytes(gzip.compress(orjson.dumps(GOOD[1]))[:-6])
    refused(ultrachat("data", "convert", "in.jsonl.gz", "-o", "out.jsonl"), 1, "in.jsonl.gz: cannot be read")
    assert sorted(path.name for path in ultrachat.folder.iterdir()) == ["in.jsonl.gz", "out.jsonl"]
    assert rows(ultrachat.folder / "out.jsonl") == GOOD[:1]


def test_validate_names_problems_on_stdout(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "good.jsonl", GOOD)
    source = write(ultrachat.folder / "bad.jsonl", [{"data": ["a"]}, {"data": ["a", ""]}, {"data": ["b"]}], BAD)
    good, bad, quiet, json = ultrachat.many(
        ("data", "validate", "good.jsonl"), ("data", "validate", "bad.jsonl", "--limit", "1"),
        ("data", "validate", "bad.jsonl", "-q"), ("data", "validate", "bad.jsonl", "--json"),
    )  # fmt: skip
    assert (good.code, bad.code, quiet.code, json.code) == (0, 3, 3, 3)
    assert "20" in good.stdout
    assert "bad.jsonl:5: empty turn: turn 2\n" in bad.stdout
    assert "bad.jsonl:6" not in bad.stdout
    assert [line.split(": ")[0] for line in quiet.stdout.splitlines()] == [f"bad.jsonl:{n}" for n in range(1, 7)]
    assert json.json["problems"] == {"odd_turns": 2, "not_json": 1, "not_text": 1, "bad_utf8": 1, "empty_turn": 1}
    assert json.json["found"][4] == {"file": "bad.jsonl", "line": 5, "kind": "empty_turn", "detail": "turn 2"}
    piped = ultrachat("data", "validate", "-", "-q", stdin=source)
    assert piped.stdout == quiet.stdout.replace("bad.jsonl:", "-:")


def test_filter_options_reach_the_filters(ultrachat: Ultrachat) -> None:
    long = [
        f"{ASK} Tell me all about it.",
        SAY,
        "And the wasps, how do they do it?",
        "Much the same, as far as I know.",
    ]
    records = [
        {"id": "kept", "data": [each.lower() for each in long], "meta": {"sector": "writing"}},
        {"id": "short", "data": long[:2], "meta": {"sector": "writing"}},
        {"id": "other", "data": long, "meta": {"sector": "materials"}},
        {"id": "refusal", "data": [*long[:3], "I'm sorry, but I cannot help with that."], "meta": {"sector": "world"}},
    ]
    write(ultrachat.folder / "in.jsonl", records)
    result = ultrachat(
        "data", "filter", "in.jsonl", "-o", "out.jsonl", "--min-rounds", "2", "--max-rounds", "2", "--min-chars", "10",
        "--max-chars", "500", "--sector", "world,writing", "--language", "en", "--truecase", "--json",
    )  # fmt: skip
    assert result.code == 0, result
    counts = {name: count for name, count in result.json["counts"].items() if count}
    assert counts == {"truecased": 1, "rejected.rounds": 1, "rejected.sector": 1, "rejected.refusal": 1}
    assert rows(ultrachat.folder / "out.jsonl") == [records[0] | {"data": long}]
    kept_too = ultrachat(
        "data", "filter", "in.jsonl", "-o", "-", "--refusals", "keep", "--allow", "loop, repeated", "-q"
    )
    assert len(kept_too.stdout.splitlines()) == 4
    refused(ultrachat("data", "filter", "in.jsonl", "-o", "x.jsonl", "--refusals", "no"), 2, "use drop or keep")


def test_split_has_two_jobs(ultrachat: Ultrachat) -> None:
    write(
        ultrachat.folder / "in.jsonl", [{"id": str(n), "data": ["one two three", "four five"] * 5} for n in range(50)]
    )
    cut = ("data", "split", "in.jsonl", "-o", "long.jsonl", "--max-tokens", "22", "--overhead", "1")
    sides, chunks, unnamed, both, alone = ultrachat.many(
        ("data", "split", "in.jsonl", "-o", "out", "--validation", "0.3", "--seed", "4", "--json"),
        (*cut, "--tokenizer", "words", "--context", "--json"), cut,
        (*cut, "--validation", "0.1"), ("data", "split", "in.jsonl", "-o", "out", "--context"),
    )  # fmt: skip
    assert sides.code == 0, sides
    found = {side: len(rows(ultrachat.folder / "out" / f"{side}.jsonl")) for side in ("train", "validation")}
    assert sides.json["counts"] == found
    assert 5 < found["validation"] < 25
    assert chunks.code == 0, chunks
    first, second = rows(ultrachat.folder / "long.jsonl")[:2]
    assert (first["id"], first["meta"], len(first["data"])) == ("0_0", {"part": 0, "context_rounds": 0}, 6)
    assert (second["id"], second["meta"], len(second["data"])) == ("0_1", {"part": 1, "context_rounds": 1}, 6)
    refused(unnamed, 2, "--tokenizer: whose tokens?", "words")
    refused(both, 2, "two jobs")
    refused(alone, 2, "go with --max-tokens")


def test_convert_and_back(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "in.jsonl", GOOD)
    names = ["in.jsonl", "a.jsonl.zst", "b.parquet", "c.jsonl.gz", "d.jsonl"]
    for source, target, to in zip(
        names[:-1], names[1:], ("messages", "ultrachat", "sharegpt", "ultrachat"), strict=True
    ):
        result = ultrachat("data", "convert", source, "-o", target, "--to", to)
        assert result.code == 0, result
    assert rows(ultrachat.folder / "d.jsonl") == GOOD


def test_sample_and_merge(ultrachat: Ultrachat) -> None:
    other = [{**record, "meta": {"sector": "writing"}} for record in GOOD[:5]]
    write(ultrachat.folder / "a.jsonl", GOOD)
    write(ultrachat.folder / "b.jsonl", other)
    merged = ultrachat("data", "merge", "a.jsonl", "b.jsonl", "-o", "ab.jsonl", "--tag-source")
    assert merged.code == 0, merged
    found = rows(ultrachat.folder / "ab.jsonl")
    assert [row["id"] for row in found] == [*map(str, range(20)), *(f"{n}@b" for n in range(5))]
    assert {row["meta"]["source"] for row in found} == {"a.jsonl", "b.jsonl"}
    drawn = ultrachat(
        "data", "sample", "ab.jsonl", "-n", "8", "--by", "sector", "--seed", "3", "-o", "s.jsonl", "--json"
    )
    assert drawn.json["counts"] == {"sector.world": 4, "sector.writing": 4}
    assert [row for row in found if row in rows(ultrachat.folder / "s.jsonl")] == rows(ultrachat.folder / "s.jsonl")
    refused(ultrachat("data", "sample", "ab.jsonl", "-o", "s.jsonl"), 2, "-n: how many")


def test_an_interrupted_job_leaves_nothing(ultrachat: Ultrachat) -> None:
    import os
    import signal

    from tests.commands.checks import when

    pipe = ultrachat.folder / "in.jsonl"
    os.mkfifo(pipe)
    feed = os.open(pipe, os.O_RDWR)
    try:
        os.write(feed, orjson.dumps(GOOD[0]) + b"\n")
        started = ultrachat.start("data", "convert", "-", "-o", "out.jsonl", stdin=pipe)
        assert when((ultrachat.folder / "out.jsonl.partial").exists, started)
        result, _ = started.send(signal.SIGINT)
    finally:
        os.close(feed)
    refused(result, 130, "interrupted; no file was written")
    assert [path.name for path in ultrachat.folder.iterdir()] == ["in.jsonl"]


def test_a_tokenizer_without_its_package_is_told_with_the_way_to_get_it(ultrachat: Ultrachat) -> None:
    write(ultrachat.folder / "in.jsonl", GOOD)
    write(ultrachat.folder / "tokenizer.json", [])
    (ultrachat.folder / "no").mkdir()
    (ultrachat.folder / "no" / "tokenizers.py").write_text("raise ImportError('not installed')\n")
    command = ("data", "split", "in.jsonl", "-o", "out.jsonl", "--max-tokens", "9", "--tokenizer", "tokenizer.json")
    result = ultrachat(*command, env={"PYTHONPATH": str(ultrachat.folder / "no")})
    refused(result, 1, "--tokenizer needs tokenizers", "pip install 'ultrachat-cli[data]'")
    assert not (ultrachat.folder / "out.jsonl").exists()

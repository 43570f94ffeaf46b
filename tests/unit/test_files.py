from __future__ import annotations

import gzip
import sys
from pathlib import Path

import orjson
import pytest

from ultrachat_cli.errors import ConfigError, DataError, MissingExtra
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import Dialogue

DIALOGUES = [Dialogue(f"d{n}", [f"question {n}?", "answer — ü\n"], {"n": n}) for n in range(2500)]


def names(paths: list[Path], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in paths]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    data = ("b.jsonl", "a.jsonl.gz", "deep/c.parquet", "deep/notes.txt", "run/dialogues.jsonl", "run/rejected.jsonl")
    beside = ("run/manifest.json", "b.report.jsonl", "b.rejected.jsonl", "b.contamination.jsonl", "b.manifest.json")
    for name in data + beside:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_holds_its_data_files_and_of_a_run_the_dialogues(tree: Path) -> None:
    assert names(files.find([tree]), tree) == ["a.jsonl.gz", "b.jsonl", "deep/c.parquet", "run/dialogues.jsonl"]


def test_files_come_once_in_the_order_given(tree: Path) -> None:
    found = files.find([tree / "run", tree / "b.jsonl", tree / "run/dialogues.jsonl", str(tree / "*.jsonl*")])
    assert names(found, tree)[:3] == ["run/dialogues.jsonl", "b.jsonl", "a.jsonl.gz"]
    assert len(found) == len(set(found))


def test_a_file_named_outright_is_taken_whatever_it_is_called(tree: Path) -> None:
    assert names(files.find([tree / "b.report.jsonl"]), tree) == ["b.report.jsonl"]


def test_everything_wrong_is_said_at_once(tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        files.find([tree / "x.jsonl", tree / "deep/notes.txt", tree / "empty", tree / "*.csv"], "inputs")
    assert len(error.value.faults) == 4
    assert all(fault.startswith("inputs: ") for fault in error.value.faults)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.json.gz", "a.ndjson"])
@pytest.mark.parametrize("shape", ["ultrachat", "messages", "sharegpt"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str, shape: str) -> None:
    with files.writing(tmp_path / name, shape) as put:  # type: ignore[arg-type]
        for dialogue in DIALOGUES:
            put(dialogue)
        assert not (tmp_path / name).exists(), "it appears when it is complete"
    assert [(n, d.id, d.data, d.meta) for n, d in files.dialogues(tmp_path / name, pytest.fail)] == [
        (n, d.id, d.data, d.meta) for n, d in enumerate(DIALOGUES, start=1)
    ]


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with files.writing(path) as put:
        put(DIALOGUES[0])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), files.writing(path) as put:
        put(Dialogue("torn", ["a", "b"], {"n": 1 // 0}))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl.zst"]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_json_array_is_a_file_of_records(tmp_path: Path, name: str) -> None:
    data = b" \n" + orjson.dumps([{"data": ["a", "b"]}, {"data": ["c", "d"]}], option=orjson.OPT_INDENT_2)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert [n for n, _ in files.rows(tmp_path / name, pytest.fail)] == [1, 2]
    assert not files.is_plain(tmp_path / name)


def test_bad_lines_are_told_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"data": ["a", "b"]}\n{torn\n\n{"data": 1}\n{"data": ["c", "d"]}\n')
    bad: list[DataError] = []
    assert [n for n, _ in files.dialogues(tmp_path / "a.jsonl", bad.append)] == [1, 5]
    assert [error.line for error in bad] == [2, 4]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.json", "a.json.gz"])
def test_a_file_that_is_not_what_it_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"[nothing of the kind")
    with pytest.raises(DataError, match=name):
        list(files.dialogues(tmp_path / name, pytest.fail))


@pytest.mark.parametrize(("name", "package"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_a_missing_package_is_named_before_the_work(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    for module in [package, *(known for known in sys.modules if known.startswith(package + "."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=package):
        files.check_writable(Path(name))


def test_outputs_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"out\.csv"):
        files.check_writable(Path("out.csv"))
    files.check_writable(files.STDIN)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("x/clean.jsonl", "x/clean.report.jsonl"),
        ("clean.v2.jsonl.gz", "clean.v2.report.jsonl"),
        ("c.parquet", "c.report.jsonl"),
    ],
)
def test_names_beside(output: str, expected: str) -> None:
    assert files.beside(Path(output), "report.jsonl") == Path(expected)

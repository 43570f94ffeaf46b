from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.generate import pieces, setup, shipped
from ultrachat_cli.generate.pieces import Piece
from ultrachat_cli.generate.settings import GenerateConfig, Materials
from ultrachat_cli.records.dialogue import Dialogue

TEXT = "The mill stood by the river. It ground the corn of three villages. One day the wheel stopped."


class Read:
    """Everything that came of reading materials."""

    def __init__(self, *paths: Path, **settings: Any) -> None:
        bad: list[DataError] = []
        self.skipped: Counter[str] = Counter()
        told = Materials.model_validate({"paths": paths, "min_chars": 10, **settings})
        self.pieces: list[Piece] = list(pieces.read(told, bad.append, self.skipped))
        self.bad = [str(error) for error in bad]

    @property
    def texts(self) -> list[str]:
        return [piece.text for piece in self.pieces]

    @property
    def kinds(self) -> list[str | None]:
        return [piece.kind and piece.kind.name for piece in self.pieces]


def jsonl(path: Path, records: Iterable[object]) -> Path:
    data = b"".join(orjson.dumps(record) + b"\n" for record in records)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


C4 = [
    {"text": TEXT, "timestamp": "2019-04-24T02:17:53Z", "url": "https://www.allrecipes.com/recipe/1/corn-soup"},
    {"text": TEXT + " Again.", "timestamp": "2019-04-25T02:17:53Z", "url": "https://example.com/a/b"},
]


@pytest.mark.parametrize("name", ["c4.jsonl", "c4.json", "c4-train.00000-of-01024.json.gz", "c4.jsonl.gz"])
def test_c4_is_read_packed_or_not(tmp_path: Path, name: str) -> None:
    found = Read(jsonl(tmp_path / name, C4))
    assert found.texts == [TEXT, TEXT + " Again."]
    assert [piece.source for piece in found.pieces] == [record["url"] for record in C4]
    assert [piece.number for piece in found.pieces] == [0, 1]
    assert found.kinds == ["Recipes and Cooking Instructions", None]
    assert (found.bad, found.skipped) == ([], {})


def test_parquet_is_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"{TEXT} {n}", "url": None} for n in range(600)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = Read(tmp_path / "x.parquet")
    assert found.texts == [row["text"] for row in rows]
    assert found.pieces[599].source == "x.parquet:600"


def test_broken_parquet_is_told_and_passed_over(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    jsonl(tmp_path / "b.jsonl", C4)
    found = Read(tmp_path)
    assert len(found.pieces) == 2
    assert len(found.bad) == 1
    assert "a.parquet: not readable as Parquet" in found.bad[0]


def test_a_folder_of_texts_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.md", "a.txt", "sub/c.text", "picture.png", "sub/.hidden"):
        (tmp_path / name).write_text(f"{name}: {TEXT}\n")
    found = Read(tmp_path)
    assert found.texts == [f"{name}: {TEXT}" for name in ("a.txt", "b.md", "sub/c.text")]
    assert found.pieces[0].source == str(tmp_path / "a.txt")


def test_a_text_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 20)
    (tmp_path / "b.txt").write_text(TEXT)
    found = Read(tmp_path)
    assert found.texts == [TEXT]
    assert "a.txt: cannot be read" in found.bad[0]


RUN = [
    Dialogue("d1", ["Write a poem", "short one", "Longer", TEXT], {"sector": "writing", "type": "Poems"}),
    Dialogue("d2", ["Why?", TEXT + " Because."], {"sector": "world"}),
]


def test_an_earlier_run_is_a_source(tmp_path: Path) -> None:
    """The longest answer of each dialogue is the text; what was rejected is not read."""
    jsonl(tmp_path / "dialogues.jsonl", [dialogue.record() for dialogue in RUN])
    jsonl(tmp_path / "rejected.jsonl", [{**RUN[0].record(), "reason": "loop"}])
    (tmp_path / "manifest.json").write_text("{}")
    found = Read(tmp_path)
    assert found.texts == [TEXT, TEXT + " Because."]
    assert found.kinds == ["Poems", None]
    assert [piece.source for piece in found.pieces] == ["dialogue d1", "dialogue d2"]
    assert found.bad == []


@pytest.mark.parametrize("shape", ["messages", "sharegpt"])
def test_dialogues_of_other_shapes_are_a_source_too(tmp_path: Path, shape: Any) -> None:
    path = jsonl(tmp_path / "x.jsonl", [dialogue.record(shape) for dialogue in RUN])
    assert Read(path).texts == [TEXT, TEXT + " Because."]


def test_in_a_folder_of_runs_only_their_dialogues_are_read(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "writing"
    run.mkdir(parents=True)
    jsonl(run / "dialogues.jsonl", [RUN[0].record()])
    jsonl(run / "rejected.jsonl", [{**RUN[1].record(), "reason": "loop"}])
    (run / "manifest.json").write_text("{}")
    assert pieces.files([tmp_path / "runs"]) == [run / "dialogues.jsonl"]


def test_bad_lines_are_told_by_number_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = orjson.dumps(C4[0]).decode()
    lines = [good, "{torn", '{"url": "x"}', "[1]", '{"text": 5}', '{"data": ["no answer"]}', '{"data": [1]}', "", good]
    path.write_text("\n".join(lines) + "\n")
    found = Read(path)
    assert len(found.pieces) == 2
    assert [piece.number for piece in found.pieces] == [0, 1]
    assert [fault.removeprefix(f"{path}:").partition(":")[0] for fault in found.bad] == ["2", "3", "4", "5", "6", "7"]


def test_a_torn_packed_file_gives_what_it_holds(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", C4)
    path = jsonl(tmp_path / "b.jsonl.gz", C4 * 5000)
    path.write_bytes(path.read_bytes()[:-20])
    found = Read(tmp_path)
    assert len(found.pieces) > 1000
    assert "b.jsonl.gz" in found.bad[0]


def test_a_missing_file_type_or_text_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.docx").touch()
    with pytest.raises(ConfigError) as caught:
        pieces.files([tmp_path / "none.txt", tmp_path / "empty", tmp_path / "x.docx"])
    assert len(caught.value.faults) == 3
    for fault, what in zip(
        caught.value.faults, ("none.txt: no such file", "empty: no .jsonl", "unknown kind of file"), strict=True
    ):
        assert what in fault


def test_several_sources_are_read_one_after_the_other(tmp_path: Path) -> None:
    first, second = jsonl(tmp_path / "z.jsonl", C4[:1]), jsonl(tmp_path / "a.jsonl", C4[1:])
    assert pieces.files([first, second]) == [first, second]
    assert Read(first, second).texts == [TEXT, TEXT + " Again."]


def test_without_paths_there_are_the_shipped_passages() -> None:
    found = list(pieces.read(Materials(), pytest.fail, Counter()))
    assert len(found) >= 50
    assert {piece.kind.name for piece in found if piece.kind} == {kind.name for kind in shipped.material_types()}


def test_short_pieces_are_counted_and_skipped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"text": "x" * n} for n in (9, 10, 11)] + [{"text": " " * 50}])
    found = Read(path)
    assert [len(text) for text in found.texts] == [10, 11]
    assert found.skipped == {"shorter than min_chars": 2}


def test_only_classified_pieces_may_be_wanted(tmp_path: Path) -> None:
    found = Read(jsonl(tmp_path / "x.jsonl", C4), classified_only=True)
    assert found.kinds == ["Recipes and Cooking Instructions"]
    assert found.skipped == {"type unknown": 1}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"type": "Poems"}, "Poems"),
        ({"type": "poems"}, "Poems"),
        ({"type": "Poems", "url": "https://x.com/recipes/soup"}, "Poems"),
        ({"type": "Riddles", "url": "https://x.com/recipes/soup"}, "Recipes and Cooking Instructions"),
        ({"type": None, "url": None}, None),
    ],
)
def test_the_type_is_what_the_record_says_or_else_what_the_url_tells(
    tmp_path: Path, record: dict[str, object], kind: str | None
) -> None:
    assert Read(jsonl(tmp_path / "x.jsonl", [{"text": TEXT, **record}])).kinds == [kind]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", None),
        ("https://example.com/", None),
        ("https://www.example.com/recipes/2012/apple-cake", "Recipes and Cooking Instructions"),
        ("HTTPS://WWW.EXAMPLE.COM/RECIPES/", "Recipes and Cooking Instructions"),
        ("https://www.azlyrics.com/lyrics/x/y.html", "Song Lyrics"),
        ("https://github.com/x/y/blob/main/z.py", "Programs/Code"),
        ("https://arxiv.org/abs/2305.14233", "Scientific Papers and Summaries"),
        ("https://x.com/precipes", None),
        ("https://recipes.example.com/poem/cake-and-soup", "Recipes and Cooking Instructions"),
    ],
)
def test_the_words_of_a_url_tell_the_type(url: str, kind: str | None) -> None:
    found = pieces.classify(url, shipped.material_types())
    assert (found and found.name) == kind


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("Short.", 10, "Short."),
        ("Short.", 6, "Short."),
        ("One two. Three four five", 20, "One two. Three four"),
        ("One two three. Four five", 20, "One two three."),
        ("One. two three four five six", 20, "One. two three four"),
        ("x" * 50, 20, "x" * 20),
        ("One two three four five", 13, "One two"),
    ],
)
def test_a_long_text_is_cut_at_a_sentence_or_a_word(text: str, limit: int, kept: str) -> None:
    assert pieces.cut(text, limit) == kept
    assert len(kept) <= limit


def test_long_pieces_are_cut(tmp_path: Path) -> None:
    found = Read(jsonl(tmp_path / "x.jsonl", C4[:1]), max_chars=70)
    assert found.texts == ["The mill stood by the river. It ground the corn of three villages."]


def test_a_long_text_that_is_cut_is_not_short(tmp_path: Path) -> None:
    found = Read(jsonl(tmp_path / "x.jsonl", C4[:1]), min_chars=70, max_chars=70)
    assert len(found.pieces) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the files are empty"),
        ('{"text": "too short"}\n' * 3, "3 shorter than min_chars"),
        ("not json\n", "x.jsonl:1: not JSON"),
        ('{"texts": 1}\n', "no 'text' in this line"),
    ],
)
def test_materials_without_a_usable_text_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match="no usable text") as caught:
        pieces.check_not_empty(Materials(paths=[path]))
    assert reason in caught.value.message
    assert "min_chars" in caught.value.hint


def test_one_usable_text_is_enough(tmp_path: Path) -> None:
    pieces.check_not_empty(Materials(paths=[jsonl(tmp_path / "x.jsonl", [1, 2, C4[0]])], min_chars=10))


def test_a_file_name_that_is_not_utf8_is_read_and_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    name = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")
    Path(name).write_text("Rivers shape the valleys they run through. " * 9)
    config = GenerateConfig.model_validate({"sector": "materials", "materials": {"paths": [str(folder)]}})
    parts = setup.prepare(config, pytest.fail)
    assert orjson.dumps(parts.identity)

"""`data split`: sides that depend on nothing but the dialogue, and chunks that together are the whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import rows
from ultrachat_cli.data import chunks, split, tokens
from ultrachat_cli.data.chunks import Limit, pack
from ultrachat_cli.errors import ConfigError

Record = dict[str, Any]


def write(path: Path, records: list[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def sides(folder: Path) -> tuple[list[Record], list[Record]]:
    return rows(folder / "train.jsonl"), rows(folder / "validation.jsonl")


NUMBERED = [{"id": str(n), "data": [f"q{n}", f"a{n}"]} for n in range(1000)]
NAMELESS = [{"data": [f"q{n}", f"a{n}"]} for n in range(1000)]


@pytest.mark.parametrize("records", [NUMBERED, NAMELESS])
def test_sides_do_not_depend_on_files_or_order(tmp_path: Path, records: list[Record]) -> None:
    split.run([write(tmp_path / "all.jsonl", records)], tmp_path / "one", 0.2, seed=3)
    shuffled = random.Random(1).sample(records, len(records))
    parts = [write(tmp_path / f"part{n}.jsonl", shuffled[n::3]) for n in range(3)]
    split.run(parts[::-1], tmp_path / "three", 0.2, seed=3)
    for one, three in zip(sides(tmp_path / "one"), sides(tmp_path / "three"), strict=True):
        assert sorted(row["data"] for row in one) == sorted(row["data"] for row in three)
    train, validation = sides(tmp_path / "one")
    assert sorted(row["data"] for row in train + validation) == sorted(row["data"] for row in records)
    assert 150 < len(validation) < 250


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", NUMBERED)
    reports = [split.run([source], tmp_path / str(seed), 0.1, seed) for seed in (0, 1)]
    found = [{row["id"] for row in sides(tmp_path / str(seed))[1]} for seed in (0, 1)]
    assert found[0] != found[1]
    assert [report.counts["validation"] for report in reports] == [len(ids) for ids in found]


def test_a_higher_share_only_adds(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", NUMBERED)
    for share in (0.1, 0.3):
        split.run([source], tmp_path / str(share), share)
    assert {row["id"] for row in sides(tmp_path / "0.1")[1]} < {row["id"] for row in sides(tmp_path / "0.3")[1]}


def test_chunks_of_one_dialogue_stay_together(tmp_path: Path) -> None:
    long = [{"id": f"d{n}", "data": ["a b c", "d e f"] * 6} for n in range(100)]
    chunks.run([write(tmp_path / "in.jsonl", long)], tmp_path / "chunks.jsonl", Limit(30), "words")
    split.run([tmp_path / "chunks.jsonl"], tmp_path / "out", 0.5)
    train, validation = ({row["id"].split("_")[0] for row in side} for side in sides(tmp_path / "out"))
    assert len(train) > 20
    assert len(validation) > 20
    assert not train & validation


@pytest.mark.parametrize("share", [0, 1, 2, -0.1])
def test_the_share_is_one(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="must be a share between 0 and 1"):
        split.run([write(tmp_path / "in.jsonl", [])], tmp_path / "out", share)


@pytest.mark.parametrize("name", ["out.jsonl", "-", "x.parquet"])
def test_two_files_need_a_folder(tmp_path: Path, name: str) -> None:
    output = Path("-") if name == "-" else tmp_path / name
    with pytest.raises(ConfigError, match="need a folder"):
        split.run([write(tmp_path / "in.jsonl", [])], output)


@pytest.mark.parametrize("context", [False, True])
def test_packing_is_greedy_and_loses_nothing(context: bool) -> None:
    draw = random.Random(5)
    for _ in range(2000):
        limit = draw.randrange(1, 40)
        costs = [draw.randrange(1, draw.choice([8, 60])) for _ in range(draw.randrange(1, 12))]
        packed = pack(costs, limit, context)
        assert [n for _, start, end in packed for n in range(start, end)] == list(range(len(costs)))
        for first, start, end in packed:
            before, own = sum(costs[first:start]), sum(costs[start:end])
            assert own > 0
            assert before + own <= limit or (before == 0 and end == start + 1)
            assert end == len(costs) or before + own + costs[end] > limit  # no room for one more
            assert before <= limit // 2 if context else first == start
            if context and first > 0:  # nor for more of what went before
                more = before + costs[first - 1]
                assert more > limit // 2 or more + costs[start] > limit


def long_dialogues(seed: int) -> list[Record]:
    draw = random.Random(seed)
    records: list[Record] = []
    for n in range(60):
        data = [
            " ".join(draw.choices("abcdef", k=draw.randrange(1, draw.choice([6, 40]))))
            for _ in range(draw.randrange(13))
        ]
        record: Record = {"id": f"d{n}", "data": data}
        if n % 3 == 0:
            record["meta"] = {
                "sector": "world",
                "system": "be brief",
                "turn_fields": {str(i): {"n": i} for i in range(len(data))},
            }
        if n % 4 == 0:
            record["score"] = n
        records.append(record)
    return records


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("limit", [1, 25, 60, 10_000])
def test_chunks_less_context_are_the_original(tmp_path: Path, limit: int, context: bool) -> None:
    records = long_dialogues(limit)
    source = write(tmp_path / "in.jsonl", records)
    report = chunks.run([source], tmp_path / "out.jsonl", Limit(limit, 2, context), "words")
    whole: dict[str, Record] = {}
    parts: dict[str, list[int]] = {}
    for row in rows(tmp_path / "out.jsonl"):
        meta = row.get("meta", {})
        if "part" not in meta:
            whole[row["id"]] = row
            continue
        identity, part = row["id"].split("_")
        assert part == str(meta["part"])
        parts.setdefault(identity, []).append(meta.pop("part"))
        skip = 2 * meta.pop("context_rounds") if context else 0
        fields = meta.pop("turn_fields", {})
        so_far = whole.setdefault(identity, row | {"id": identity, "data": []})
        if skip:
            assert row["data"][:skip] == so_far["data"][-skip:]
        at = len(so_far["data"]) - skip
        assert fields == ({str(i): {"n": i + at} for i in range(len(row["data"]))} if "system" in meta else {})
        if fields:
            so_far["meta"].setdefault("turn_fields", {}).update({str(int(i) + at): f for i, f in fields.items()})
        so_far["data"] = so_far["data"] + row["data"][skip:]
        cost = sum(len(turn.split()) + 2 for turn in row["data"]) + (4 if "system" in meta else 0)
        assert cost <= limit or len(row["data"]) - skip <= 2
    for row in (*records, *whole.values()):
        if not row.get("meta", {"": 0}):
            del row["meta"]
        if row.get("meta", {}).get("turn_fields") == {}:
            del row["meta"]["turn_fields"]
    assert sorted(whole.values(), key=lambda row: row["id"]) == sorted(records, key=lambda row: row["id"])
    assert all(numbers == list(range(len(numbers))) and len(numbers) > 1 for numbers in parts.values())
    assert report.counts["long_dialogues"] == len(parts)
    assert report.counts["chunks"] == sum(map(len, parts.values()))
    assert (not parts) == (limit == 10_000)


def test_a_last_round_that_is_too_long_is_not_lost_nor_a_first_one(tmp_path: Path) -> None:
    """The two bugs of the original's split."""
    short, long = ["a b", "c d"], ["a b c", "d " * 50]
    records = [
        {"id": "last", "data": short + long},
        {"id": "first", "data": long + short},
        {"id": "only", "data": long},
    ]
    report = chunks.run([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", Limit(20, 0), "words")
    assert [(row["id"], row["data"]) for row in rows(tmp_path / "out.jsonl")] == [
        ("last_0", short), ("last_1", long), ("first_0", long), ("first_1", short), ("only", long),
    ]  # fmt: skip
    assert report.counts["too_long_rounds"] == 3


def test_a_chunk_without_a_name_gets_one(tmp_path: Path) -> None:
    source = write(tmp_path / "talk.jsonl", [{"data": ["a"]}, {"data": ["a b c", "d"] * 2}])
    chunks.run([source], tmp_path / "out.jsonl", Limit(5, 0), "words")
    assert [row.get("id") for row in rows(tmp_path / "out.jsonl")] == [None, "talk:2_0", "talk:2_1"]


def test_words_are_words_marks_and_han_characters() -> None:
    texts = ["Don't stop, now!", "你好。", "", "ab12_c  \n d", "カタ kana"]
    assert tokens.counter("words")(texts) == [7, 3, 0, 2, 3]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Letters and spaces are tokens; it would truncate, pad and add special tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])  # type: ignore[assignment]
    made.enable_truncation(4)
    made.enable_padding(length=9)
    (tmp_path / "model").mkdir()
    made.save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model" / "tokenizer.json"


def test_a_tokenizer_counts_bare_texts(tokenizer: Path) -> None:
    for name in (tokenizer, tokenizer.parent):
        assert tokens.counter(str(name))(["abcdefgh", "a b", ""]) == [8, 3, 0]


def test_a_tokenizer_decides_where_to_split(tmp_path: Path, tokenizer: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": "x", "data": ["ab", "cd", "efgh", "ij", "k", "l"]}])
    chunks.run([source], tmp_path / "out.jsonl", Limit(10, 1), str(tokenizer.parent))
    assert [row["data"] for row in rows(tmp_path / "out.jsonl")] == [["ab", "cd"], ["efgh", "ij"], ["k", "l"]]


@pytest.mark.parametrize(
    ("name", "says"),
    [(None, "whose tokens"), ("gpt2", "no such file"), ("empty", "no such file"), ("bad.json", "not a tokenizer")],
)
def test_a_tokenizer_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"model": 1}')
    with pytest.raises(ConfigError, match=says) as caught:
        tokens.counter(name)
    assert "words" in caught.value.hint

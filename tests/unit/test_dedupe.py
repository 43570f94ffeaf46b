"""`dedupe` as a whole, against the definition computed the slow way."""

from __future__ import annotations

import gzip
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.test_dedupe_kernel import WORDS, jaccard
from ultrachat_cli import config, workers
from ultrachat_cli.dedupe import near, run
from ultrachat_cli.dedupe.outcome import Report
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.records import blocks, files

Record = dict[str, Any]


def dedupe(inputs: Sequence[Path], output: Path, **settings: Any) -> Report:
    flags = {key.replace("__", "."): (key, value) for key, value in settings.items()}
    flags |= {"inputs": ("FILES", list(inputs)), "output": ("--output", output)}
    return run.run(config.load(DedupeConfig, "dedupe", flags=flags))


def write(path: Path, records: Sequence[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def rows(path: Path) -> list[Record]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows(path)]


def invented(count: int, seed: int) -> list[Record]:
    """Dialogues in families: copies, copies in other letters, edited copies, and strangers."""
    draw = random.Random(seed)
    records: list[Record] = []
    while len(records) < count:
        data = [" ".join(draw.choices(WORDS, k=draw.choice((8, 30, 60)))) for _ in range(4)]
        records.append({"id": "", "data": data})
        while draw.random() < 0.4:
            kind = draw.choice(("same", "letters", "edited", "edited"))
            copy = list(records[-1]["data"])
            if kind == "letters":
                copy = [turn.upper().replace(" ", ", ") for turn in copy]
            if kind == "edited":
                rate = draw.uniform(0, 0.06)
                copy = [" ".join(draw.choice(WORDS) if draw.random() < rate else w for w in t.split()) for t in copy]
            records.append({"id": "", "data": copy})
    records = records[:count]
    draw.shuffle(records)
    for n, record in enumerate(records):
        record["id"] = f"d{n:04}"
    return records


def expected_clusters(records: Sequence[Record], threshold: float) -> list[set[str]]:
    """Connected components of exact similarity, pair by pair."""
    texts = {record["id"]: "\n".join(record["data"]) for record in records}
    cluster = {identity: {identity} for identity in texts}
    for a, b in itertools.combinations(texts, 2):
        if cluster[a] is not cluster[b] and jaccard(texts[a], texts[b]) >= threshold:
            cluster[a] |= cluster[b]
            for member in cluster[b]:
                cluster[member] = cluster[a]
    return list({id(found): found for found in cluster.values()}.values())


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_one_of_each_cluster_stays(tmp_path: Path, threshold: float) -> None:
    records = invented(160, seed=int(threshold * 10))
    source = write(tmp_path / "in.jsonl", records)
    report = dedupe([source], tmp_path / "out.jsonl", threshold=threshold)
    clusters = expected_clusters(records, threshold)
    assert sorted(ids(tmp_path / "out.jsonl")) == sorted(min(cluster) for cluster in clusters)
    assert report.written == len(clusters)
    sizes = [len(cluster) for cluster in clusters if len(cluster) > 1]
    assert report.clusters == {size: sizes.count(size) for size in set(sizes)}
    removed = rows(tmp_path / "out.report.jsonl")
    assert {row["id"] for row in removed} | set(ids(tmp_path / "out.jsonl")) == {r["id"] for r in records}
    texts = {record["id"]: "\n".join(record["data"]) for record in records}
    for row in removed:
        assert any({row["id"], row["kept"]} <= cluster for cluster in clusters)
        assert row["similarity"] == pytest.approx(
            jaccard(texts[row["id"]], texts[row.get("via", row["kept"])]), abs=1e-4
        )


def test_the_result_does_not_depend_on_files_order_blocks_or_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = invented(150, seed=4)
    parts = [write(tmp_path / f"part-{n}.jsonl", records[n::3]) for n in range(3)]
    outputs = []
    for n, (order, size, processes, task) in enumerate(
        [((0, 1, 2), 1 << 20, 1, 2000), ((2, 0, 1), 3000, 1, 3), ((1, 2, 0), 20_000, 2, 10)]
    ):
        with monkeypatch.context() as patch:
            cut, tasks = blocks.cut, near.tasks
            patch.setattr(blocks, "cut", lambda sources, size=size, cut=cut: cut(sources, size))
            patch.setattr(near, "tasks", lambda *args, task=task, tasks=tasks: tasks(*args, task))
            patch.setattr(run, "_SMALL", 0)
            dedupe([parts[i] for i in order], tmp_path / f"out-{n}.jsonl", processes=processes)
        outputs.append([(tmp_path / f"out-{n}{end}").read_bytes() for end in (".jsonl", ".report.jsonl")])
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("keep", ["first", "longest", "best"])
def test_the_survivor_is_chosen_by_rule(tmp_path: Path, keep: str) -> None:
    text = " ".join(WORDS[:60])
    records = [
        {"id": "a", "data": [text, "Yes, indeed."], "meta": {"score": 3}},
        {"id": "b", "data": [text, "Yes, indeed. " + "- " * 9], "meta": {"score": 2}},
        {"id": "c", "data": [text, "YES indeed"], "meta": {"score": 9}},
        {"id": "d", "data": [text, "yes indeed"]},
    ]
    dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", keep=keep)
    assert ids(tmp_path / "out.jsonl") == [{"first": "a", "longest": "b", "best": "c"}[keep]]


def test_the_best_is_told_by_rewards_where_there_are_any(tmp_path: Path) -> None:
    text = " ".join(WORDS[:60])
    records = [
        {"id": "a", "data": [text, "Yes, indeed."], "meta": {"reward": 3.5, "score": 1}, "votes": 7},
        {"id": "b", "data": [text, "YES indeed"], "meta": {"reward": 2, "score": 9}, "votes": 8},
    ]
    source = write(tmp_path / "in.jsonl", records)
    for score, best in ((None, "a"), ("meta.score", "b"), (["none", "votes"], "b")):
        dedupe([source], tmp_path / "out.jsonl", keep="best", **({} if score is None else {"score": score}))
        assert ids(tmp_path / "out.jsonl") == [best]


def test_scopes(tmp_path: Path) -> None:
    opening, answer = "tell me about " + " ".join(WORDS[:15]), " ".join(WORDS[20:60])
    records = [
        {"id": "a", "data": [opening, " ".join(WORDS[90:120])]},
        {"id": "b", "data": [opening, answer]},
        {"id": "c", "data": ["something else entirely here", answer]},
        {"id": "d", "data": ["hello", "thanks"]},
        {"id": "e", "data": ["hello", "thanks a lot"]},
    ]
    source = write(tmp_path / "in.jsonl", records)
    kept = {}
    for scope in ("dialogue", "opening", "turn"):
        dedupe([source], tmp_path / f"{scope}.jsonl", scope=scope)
        kept[scope] = "".join(ids(tmp_path / f"{scope}.jsonl"))
    assert kept == {"dialogue": "abcde", "opening": "acd", "turn": "ade"}  # short turns say nothing


def test_methods(tmp_path: Path) -> None:
    text = WORDS[:50]
    records = [{"id": "a", "data": [" ".join(text), "x"]}, {"id": "b", "data": [" ".join(text).title(), "X!"]},
               {"id": "c", "data": [" ".join([*text[:-1], "other"]), "x"]}]  # fmt: skip
    source = write(tmp_path / "in.jsonl", records)
    for method, kept in (("exact", "ac"), ("near", "a"), ("exact,near", "a")):
        dedupe([source], tmp_path / "out.jsonl", method=method.split(","), threshold=0.7)
        assert "".join(ids(tmp_path / "out.jsonl")) == kept, method


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst", "in.json", "in.parquet", "in.jsonl"])
@pytest.mark.parametrize("target", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet", "folder"])
def test_every_kind_of_file_in_and_out(tmp_path: Path, name: str, target: str) -> None:
    records = invented(30, seed=9)
    source = tmp_path / name
    if name == "in.json":
        source.write_bytes(orjson.dumps(records))
    else:
        from ultrachat_cli.records.dialogue import parse

        with files.writing(source) as put:
            for record in records:
                put(parse(record))
    dedupe([source], tmp_path / target)
    expected = sorted(min(cluster) for cluster in expected_clusters(records, 0.8))
    output = tmp_path / target / "dialogues.jsonl" if target == "folder" else tmp_path / target
    found = [dialogue for _, dialogue in files.dialogues(output, pytest.fail)]
    assert [dialogue.id for dialogue in found] == expected
    texts = {record["id"]: record["data"] for record in records}
    assert all(dialogue.data == texts[dialogue.id] for dialogue in found)


def test_lines_that_stay_are_copied_as_they_are(tmp_path: Path) -> None:
    lines = [
        b'{ "data": ["a  b", "c"],  "extra": [1, 2.50], "id": "x" }',
        b'{"messages":[{"role":"user","content":"\\u00e9"},{"role":"assistant","content":"y"}]}',
        b'{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"r"}]}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))  # the last one without a newline
    dedupe([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b"\n".join(lines) + b"\n"


def test_bad_lines_are_set_aside_and_the_rest_is_handled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [orjson.dumps(record) for record in invented(30, seed=2)]
    bad = [b"{torn", b'"text"', b'{"data": ["a", 1]}', b'{"data": []}', b"\xff\xfe", b'{"nothing": 1}']
    lines = list(itertools.chain.from_iterable(itertools.zip_longest(good, bad, fillvalue=b"")))
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    cut = blocks.cut
    monkeypatch.setattr(blocks, "cut", lambda sources: cut(sources, 1000))
    report = dedupe([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert (report.rejected, report.complete, report.read) == (6, False, 30)
    rejected = rows(tmp_path / "out.rejected.jsonl")
    assert [row["line"] for row in rejected] == [2, 4, 6, 8, 10, 12]
    assert all(row["reason"] and row["file"].endswith("in.jsonl") for row in rejected)
    assert rejected[0]["text"] == "{torn"


def test_nothing_but_punctuation_is_equal_only_to_itself(tmp_path: Path) -> None:
    records = [{"id": n, "data": [turn, turn]} for n, turn in zip("abcd", ("...", "!!!", "...", "?"), strict=True)]
    dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl")
    assert "".join(ids(tmp_path / "out.jsonl")) == "abd"


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    report = dedupe([write(tmp_path / "in.jsonl", [])], tmp_path / "out.jsonl")
    assert (report.read, (tmp_path / "out.jsonl").read_bytes()) == (0, b"")


def test_compressed_output_is_the_same_every_time(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", invented(40, seed=3))
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        dedupe([source], tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).count(b"\n") > 10


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", invented(20, seed=1))
    dedupe([source], tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "out.manifest.json", "out.report.jsonl",
    ]  # fmt: skip


def test_the_output_may_not_be_an_input(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", invented(5, seed=1))
    with pytest.raises(ConfigError, match="one of the inputs"):
        dedupe([tmp_path], source)
    assert len(rows(source)) == 5


def divide(task: int, job: int) -> float:
    return job / task


def test_a_process_that_fails_fails_the_job() -> None:
    with pytest.raises(ZeroDivisionError), workers.pool(2, 6, "tests.unit.test_dedupe") as spread:
        list(spread(divide, [1, 0, 2]))


def test_processes_share_the_work() -> None:
    with workers.pool(2, 60, "tests.unit.test_dedupe") as spread:
        assert sorted(spread(divide, range(1, 7))) == [10, 12, 15, 20, 30, 60]

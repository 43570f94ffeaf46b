"""`data sample` and `data merge`, against what they are defined to be."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import rows
from ultrachat_cli.data import merge, sample
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.records import ids

Record = dict[str, Any]


def write(path: Path, records: list[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


RECORDS = [{"id": str(n), "data": [f"q{n}", f"a{n}"]} for n in range(40)]


def test_a_sample_is_part_of_the_file_in_its_order(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", RECORDS)
    for size in (1, 7, 40, 100):
        report = sample.run([source], tmp_path / "out.jsonl", size)
        found = rows(tmp_path / "out.jsonl")
        assert len(found) == report.written == min(size, 40)
        assert found == [record for record in RECORDS if record in found]


def test_a_sample_depends_on_the_seed_and_not_on_order(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", RECORDS)
    other = write(tmp_path / "other.jsonl", RECORDS[::-1])
    drawn = {}
    for name, path, seed in (("a", source, 0), ("b", source, 0), ("c", other, 0), ("d", source, 1)):
        sample.run([path], tmp_path / f"{name}-out.jsonl", 10, seed)
        drawn[name] = [row["id"] for row in rows(tmp_path / f"{name}-out.jsonl")]
    assert drawn["a"] == drawn["b"] == drawn["c"][::-1]
    assert drawn["a"] != drawn["d"]


def test_every_dialogue_is_as_likely_as_any_other(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", RECORDS[:20])
    seen: Counter[str] = Counter()
    for seed in range(400):
        sample.run([source], tmp_path / "out.jsonl", 5, seed)
        seen.update(row["id"] for row in rows(tmp_path / "out.jsonl"))
    assert len(seen) == 20
    assert all(abs(count - 100) < 5 * (400 * 0.25 * 0.75) ** 0.5 for count in seen.values())


def shares(sizes: dict[str, int], wanted: int) -> dict[str, int]:
    """One for each group in turn, until there are enough or all are used up; the last by name first."""
    given = dict.fromkeys(sizes, 0)
    while sum(given.values()) < min(wanted, sum(sizes.values())):
        for name in sorted(sizes, reverse=True):
            if given[name] < sizes[name] and sum(given.values()) < wanted:
                given[name] += 1
    return given


@pytest.mark.parametrize("seed", range(30))
def test_groups_get_equal_shares_and_small_ones_leave_theirs(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = [f"g{n}" for n in range(draw.randrange(1, 6))]
    weights = [draw.choice((1, 5, 30)) for _ in names]
    records = [
        {"id": str(n), "data": [], "meta": {"sector": draw.choices(names, weights)[0]}}
        for n in range(draw.randrange(1, 120))
    ]
    size = draw.randrange(1, 60)
    report = sample.run([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", size, seed, "sector")
    found = rows(tmp_path / "out.jsonl")
    sizes = Counter(record["meta"]["sector"] for record in records)
    wanted = {name: count for name, count in shares(sizes, size).items() if count}
    assert Counter(row["meta"]["sector"] for row in found) == wanted
    assert {name.removeprefix("sector."): count for name, count in report.counts.items()} == wanted
    for name, count in wanted.items():  # within a group, it is the sample of the group alone
        group = [record for record in records if record["meta"]["sector"] == name]
        sample.run([write(tmp_path / "group.jsonl", group)], tmp_path / "alone.jsonl", count, seed)
        assert [row for row in found if row["meta"]["sector"] == name] == rows(tmp_path / "alone.jsonl")


def test_a_group_without_a_name_is_one(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [*RECORDS, {"id": "x", "data": [], "meta": {"sector": "world"}}])
    report = sample.run([source], tmp_path / "out.jsonl", 10, by="sector")
    assert report.counts == {"sector.(none)": 9, "sector.world": 1}


def test_memory_does_not_grow_with_what_is_not_drawn() -> None:
    from ultrachat_cli.records.dialogue import Dialogue

    groups = sample.Groups(10)
    for n in range(20_000):
        groups.offer(str(n % 3), (-ids.digest(str(n)), -n, Dialogue(str(n), [])))
    assert sum(map(len, groups._heaps.values())) == 10
    assert len(groups._largest) < 1100


@pytest.mark.parametrize("size", [None, 0, -1])
def test_a_sample_has_a_size(tmp_path: Path, size: int | None) -> None:
    with pytest.raises(ConfigError, match="how many dialogues"):
        sample.run([write(tmp_path / "in.jsonl", RECORDS)], tmp_path / "out.jsonl", size)


def test_digests_keep_their_parts_apart_and_never_change() -> None:
    assert len({ids.digest("ab", "c"), ids.digest("a", "bc"), ids.digest("abc"), ids.digest("abc", "")}) == 4
    assert ids.digest("a", b"b") == ids.digest("a", "b") == 5666916665733659087


def test_merged_ids_are_unique_and_the_first_keeps_its_own(tmp_path: Path) -> None:
    turns = ["q", "a"]
    first = write(tmp_path / "a.jsonl", [{"id": "1", "data": turns}, {"data": turns}, {"id": "2@b", "data": turns}])
    (tmp_path / "runs" / "b").mkdir(parents=True)
    named = ["1", "1", "1", "2", "2", "b:7", "b:8"]
    second = [*({"id": name, "data": turns} for name in named), {"data": turns}]
    write(tmp_path / "runs" / "b" / "dialogues.jsonl", second)
    report = merge.run([first, tmp_path / "runs" / "b"], tmp_path / "out.jsonl")
    found = [row["id"] for row in rows(tmp_path / "out.jsonl")]
    assert found == ["1", "a:2", "2@b", "1@b", "1@b:2", "1@b:3", "2", "2@b:5", "b:7", "b:8", "b:8#2"]
    assert (report.counts["renamed"], report.counts["named"]) == (4, 2)


def test_sources_are_named_and_earlier_names_stay(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{name}.jsonl", [{"id": name, "data": [], "meta": {"k": 1}}]) for name in "ab"]
    merge.run(parts, tmp_path / "ab.jsonl", tag_source=True)
    more = write(tmp_path / "c.jsonl", [{"id": "c", "data": []}])
    merge.run([tmp_path / "ab.jsonl", more], tmp_path / "abc.jsonl", tag_source=True)
    found = {row["id"]: row["meta"] for row in rows(tmp_path / "abc.jsonl")}
    assert found == {
        "a": {"source": str(parts[0]), "k": 1}, "b": {"source": str(parts[1]), "k": 1}, "c": {"source": str(more)},
    }  # fmt: skip


def test_records_stay_in_the_shape_they_came_in(tmp_path: Path) -> None:
    records: list[Record] = [
        {"id": "u", "data": ["q", "a"], "score": 1},
        {"id": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "w": 0}]},
        {"id": "s", "conversations": [{"from": "human", "value": "q"}], "meta": {"n": 1}},
    ]
    merge.run([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl") == records

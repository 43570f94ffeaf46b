"""Overlap with benchmarks: what is planted is found, what is not there is not."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests.unit.test_dedupe import dedupe, ids, rows, write
from tests.unit.test_dedupe_kernel import WORDS, jaccard
from ultrachat_cli.dedupe import decontaminate, kernel, words
from ultrachat_cli.dedupe.decontaminate import Benchmark, Item
from ultrachat_cli.dedupe.settings import Against
from ultrachat_cli.errors import ConfigError


def invented(count: int, length: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(count)]


def covered(item: str, turns: list[str], n: int) -> float:
    """Share of the item's words in n-grams that some turn holds too: the definition, word by word."""
    known = {tuple(w[i : i + n]) for turn in turns for w in [words.split(turn)] for i in range(len(w) - n + 1)}
    own = words.split(item)
    if len(own) < n:
        return 0.0
    marks = [False] * len(own)
    for i in range(len(own) - n + 1):
        if tuple(own[i : i + n]) in known:
            marks[i : i + n] = [True] * n
    return sum(marks) / len(own)


def search(benchmark: Benchmark, dialogues: list[list[str]]) -> np.ndarray:
    turns = [turn.encode() for data in dialogues for turn in data]
    text = np.frombuffer(b"".join(turns), np.uint8)
    word, ends = kernel.hashed(text, np.cumsum([len(turn) for turn in turns]), *words.tables())
    speaker = np.array([n % 2 for data in dialogues for n in range(len(data))])
    owner = np.repeat(np.arange(len(dialogues)), [len(data) for data in dialogues])
    return benchmark.search(word, ends, speaker, owner)


def test_kept_tables_find_the_same_in_another_process(tmp_path: Path) -> None:
    """They are sent as a path, so that processes share them."""
    items = [Item(f"i{k}", text) for k, text in enumerate(invented(200, 40, seed=1))]
    dialogues = [invented(4, 30, seed=n) for n in range(20)]
    for n, data in enumerate(dialogues):
        data[n % 4] += items[n].text
    benchmark = Benchmark(items, Against())
    before, size = search(benchmark, dialogues), len(pickle.dumps(benchmark))
    benchmark.keep(tmp_path)
    sent = pickle.dumps(benchmark)
    assert len(sent) < size / 2
    assert len(before) >= 20
    assert np.array_equal(search(pickle.loads(sent), dialogues), before)


@pytest.mark.parametrize("n", [3, 8, 13])
@pytest.mark.parametrize("who", ["user", "assistant", "both"])
def test_search_agrees_with_the_definition(n: int, who: str) -> None:
    draw = random.Random(n)
    items = [Item(f"i{k}", text) for k, text in enumerate(invented(60, 22, seed=1) + invented(10, 4, seed=2) + [""])]
    dialogues = []
    for _ in range(20):
        data = invented(4, 30, seed=draw.randrange(10**6))
        for _ in range(draw.randrange(3)):  # a stretch of an item, somewhere
            item = draw.choice(items).text.split()
            start = draw.randrange(max(1, len(item) - 5))
            at = draw.randrange(4)
            data[at] = f"{data[at]} {' '.join(item[start : start + draw.randrange(4, 22)]).title()}, {data[at]}"
        if draw.random() < 0.3:
            data[draw.randrange(4)] = draw.choice(items).text.upper()
        dialogues.append(data)
    benchmark = Benchmark(items, Against(ngram=n, turns=who, similar=0.6))  # type: ignore[arg-type]
    found = {(int(d), int(i)): (c, s) for d, i, c, s in search(benchmark, dialogues)}
    for number, data in enumerate(dialogues):
        turns = {"user": data[::2], "assistant": data[1::2], "both": data}[who]
        for k, item in enumerate(items):
            share = covered(item.text, turns, n)
            nearest = max((jaccard(t, item.text) for t in turns if item.text and t), default=0.0)
            nearest = nearest if nearest >= 0.6 else 0.0
            c, s = found.get((number, k), (0.0, 0.0))
            assert (c, s) == (pytest.approx(share), pytest.approx(nearest)), (number, k)


@pytest.mark.parametrize("rule", ["coverage", "any"])
@pytest.mark.parametrize("seed", range(3))
def test_every_planted_item_is_found(tmp_path: Path, rule: str, seed: int) -> None:
    draw = random.Random(seed)
    items = invented(80, 15, seed) + [" ".join(w) for w in zip(WORDS[:40], WORDS[40:80], WORDS[-40:], strict=False)]
    bench = write(tmp_path / "bench.jsonl", [{"instruction": item} for item in items])
    records: list[dict[str, Any]] = []
    planted: dict[str, str] = {}
    for n in range(200):
        data = invented(4, 40, seed=10**6 + n + 1000 * seed)
        if n < len(items):
            at = draw.randrange(4)
            short = len(items[n].split()) < 13
            dressed = items[n].upper().replace(" ", draw.choice((", ", "  ", " - "))) + "!"
            data[at] = dressed if short else f"{data[at]} {dressed} {data[at]}"
            planted[f"d{n}"] = f"bench.jsonl:{n + 1}"
        records.append({"id": f"d{n}", "data": data})
    draw.shuffle(records)
    report = dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", against__files=[bench],
                    against__rule=rule)  # fmt: skip
    assert set(ids(tmp_path / "out.jsonl")) == {f"d{n}" for n in range(200)} - set(planted)
    removed = {row["id"]: row["items"] for row in rows(tmp_path / "out.report.jsonl")}
    assert removed.keys() == planted.keys()
    assert all(planted[identity] in names for identity, names in removed.items())
    assert (report.items_found, report.items, report.removed["contamination"]) == (len(items), len(items), len(items))
    by_item = {row["item"]: row for row in rows(tmp_path / "out.contamination.jsonl")}
    assert len(by_item) == len(items)
    for identity, item in planted.items():
        assert by_item[item]["best"] == identity
        assert max(by_item[item]["covered"], by_item[item]["similarity"]) == 1.0


def test_half_of_an_item_is_enough_and_less_is_not(tmp_path: Path) -> None:
    item = invented(1, 40, seed=5)[0].split()
    bench = write(tmp_path / "bench.json", [])
    bench.write_bytes(orjson.dumps([{"instruction": " ".join(item)}]))
    records = [
        {"id": f"{n}", "data": [" ".join(item[:n]) + " and then quite other words follow", "answer " * 9]}
        for n in (19, 20, 30)
    ]
    source = write(tmp_path / "in.jsonl", records)
    dedupe([source], tmp_path / "out.jsonl", against__files=[bench])
    assert ids(tmp_path / "out.jsonl") == ["19"]
    assert rows(tmp_path / "out.contamination.jsonl")[0] | {"text": ""} == {
        "item": "bench.json:1", "text": "", "dialogues": 2, "best": "30", "covered": 0.75, "similarity": 0.0,
    }  # fmt: skip


def test_flagged_dialogues_stay_and_say_why(tmp_path: Path) -> None:
    item = invented(1, 20, seed=6)[0]
    bench = write(tmp_path / "bench.jsonl", [{"turns": ["what is this", item]}])
    records = [{"id": "a", "data": ["hello there", item], "meta": {"sector": "world"}}, {"id": "b", "data": ["x", "y"]}]
    report = dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", against__files=[bench],
                    against__action="flag")  # fmt: skip
    found = rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == ["a", "b"]
    assert found[0]["meta"] == {"sector": "world", "contaminated": ["bench.jsonl:1"]}
    assert (report.flagged, report.removed["contamination"]) == (1, 0)


def test_a_contaminated_dialogue_takes_no_clean_one_with_it(tmp_path: Path) -> None:
    item, text = invented(1, 9, seed=7)[0], invented(1, 300, seed=8)[0]
    bench = write(tmp_path / "bench.jsonl", [{"prompt": item}])
    records = [{"id": "a", "data": [f"{text} {item}", "yes"]}, {"id": "b", "data": [text, "yes"]}]
    dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", against__files=[bench])
    assert ids(tmp_path / "out.jsonl") == ["b"]


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"instruction": "a", "output": "b"}, ["a"]),
        ({"prompt": "a"}, ["a"]),
        ({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}, ["a"]),
        ({"question_id": 1, "turns": ["a", "b"]}, ["a", "b"]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, ["a"]),
        ({"conversations": [{"from": "human", "value": "a"}]}, ["a"]),
        ({"data": ["a", "b", "c", "d"]}, ["a", "c"]),
        ("a", ["a"]),
    ],
)
def test_benchmarks_come_in_many_shapes(tmp_path: Path, record: Any, texts: list[str]) -> None:
    (tmp_path / "b.json").write_bytes(orjson.dumps([record]))
    assert [item.text for item in decontaminate.load([tmp_path / "b.json"])] == texts


@pytest.mark.parametrize("content", ['{"a": 1}\n', "", "{torn\n", "[]"])
def test_a_benchmark_without_texts_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(ConfigError, match=r"against\.files"):
        decontaminate.load([tmp_path / "b.json"])

"""Duplicates by meaning, against all pairs compared the slow way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_bert
from tests.unit.test_dedupe import dedupe, ids, rows, write
from ultrachat_cli.dedupe import semantic
from ultrachat_cli.errors import MissingExtra
from ultrachat_cli.models import embeddings
from ultrachat_cli.progress import Silent


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))


def invented(count: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    words = [word for word in tiny_bert.WORDS if not word.startswith("#")]
    return [
        {"id": f"d{n:03}", "data": [" ".join(draw.choice(words, 6)), f"answer {n}"], "meta": {}} for n in range(count)
    ]


def staying(vectors: np.ndarray, threshold: float) -> list[int]:
    """By the definition: one after another, whoever is not like one that stays."""
    stay: list[int] = []
    for n in range(len(vectors)):
        if all(vectors[n] @ vectors[other] < threshold for other in stay):
            stay.append(n)
    return stay


def settings(model: str | Path, threshold: float) -> dict[str, Any]:
    return {
        "method": ["exact", "semantic"], "scope": "opening", "semantic__model": str(model),
        "semantic__threshold": threshold,
    }  # fmt: skip


@pytest.mark.parametrize("block", [2048, 7])
def test_what_is_like_one_that_stays_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", block)
    folder = tiny_bert.make(tmp_path / "tiny")
    records = invented(120, 1)
    source = write(tmp_path / "in.jsonl", records)
    vectors = embeddings.open(str(folder)).embed([record["data"][0] for record in records])
    vectors = vectors.astype(np.float16).astype(np.float32)  # as they are kept
    threshold = float(np.sort((vectors @ vectors.T)[np.triu_indices(120, 1)])[-36:-34].mean())
    expected = staying(vectors, threshold)
    dedupe([source], tmp_path / "out.jsonl", **settings(folder, threshold))
    assert 60 < len(expected) < 115
    assert ids(tmp_path / "out.jsonl") == [f"d{n:03}" for n in expected]
    for row in rows(tmp_path / "out.report.jsonl"):
        kept, gone = int(row["kept"][1:]), int(row["id"][1:])
        assert (row["stage"], kept in expected, kept < gone) == ("semantic", True, True)
        assert row["similarity"] == pytest.approx(float(vectors[kept] @ vectors[gone]), abs=1e-4)
        assert row["similarity"] >= max(float(vectors[gone] @ vectors[n]) for n in expected if n < gone) - 1e-4


def test_a_killed_job_embeds_no_text_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_bert.make(tmp_path / "tiny")
    source = write(tmp_path / "in.jsonl", invented(50, 2))
    monkeypatch.setattr(semantic, "_PIECE", 20)
    whole = tmp_path / "whole.jsonl"
    dedupe([source], whole, **settings(folder, 0.97))
    embedded: list[int] = []

    class Killed(Exception):
        pass

    class Counting:
        name, dimension = "tiny", 16

        def __init__(self, model: embeddings.Embedder, stop: int) -> None:
            self._model, self._stop = model, stop

        def embed(self, texts: list[str]) -> np.ndarray:
            if len(embedded) == self._stop:
                raise Killed
            embedded.append(len(texts))
            return self._model.embed(texts)

    opened = embeddings.open
    for stop in (2, 99):
        monkeypatch.setattr(embeddings, "open", lambda name, say, stop=stop: Counting(opened(name, say), stop))
        try:
            dedupe([source], tmp_path / "out.jsonl", **settings(folder, 0.97))
        except Killed:
            assert (tmp_path / "out.jsonl.work" / "vectors-000001.npy").exists()
    assert embedded[:2] == [20, 20]
    assert len(embedded) == 3
    assert (tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()


def test_lists_find_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(3000, 32)).astype(np.float32)
    vectors[draw.integers(0, 3000, 600)] = vectors[:600] + draw.normal(0, 0.15, (600, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    exact, cosine = semantic.leaders(vectors, 0.9, Silent())
    monkeypatch.setattr(semantic, "EXACT", 0)
    listed, again = (semantic.leaders(vectors, 0.9, Silent())[0] for _ in range(2))
    gone = exact != np.arange(3000)
    assert gone.sum() > 400
    assert cosine[gone].min() >= 0.9
    assert np.mean(listed == exact) > 0.999
    assert np.array_equal(listed, again)


def test_no_chains() -> None:
    angles = np.arange(6) * 0.3
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float16)
    leader, _ = semantic.leaders(vectors, 0.9, Silent())
    assert leader.tolist() == [0, 0, 2, 2, 4, 4]


def test_texts_without_words_stay(tmp_path: Path) -> None:
    folder = tiny_bert.make(tmp_path / "tiny")
    records = [{"id": str(n), "data": [text, "x"]} for n, text in enumerate(["?", "!", "...", "the dog"])]
    dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", **settings(folder, 0.1))
    assert ids(tmp_path / "out.jsonl") == ["0", "1", "2", "3"]


def test_a_missing_index_is_named_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultrachat_cli.dedupe.settings import DedupeConfig

    monkeypatch.setitem(sys.modules, "faiss", None)
    folder = tiny_bert.make(tmp_path / "tiny")
    config = DedupeConfig.model_validate(
        {"inputs": ["x.jsonl"], "output": "y.jsonl", "semantic": {"model": str(folder)}}
    )
    with pytest.raises(MissingExtra, match="method semantic needs faiss-cpu"):
        semantic.require(config)


@pytest.mark.slow
def test_minilm_joins_paraphrases_and_nothing_else(tmp_path: Path) -> None:
    openings = [
        "What is the best way to learn a new language?", "What's the best way of learning a new language?",
        "Who invented the telephone?", "How does a telephone work?",
    ]  # fmt: skip
    records = [{"id": str(n), "data": [text, f"answer {n}"]} for n, text in enumerate(openings)]
    dedupe([write(tmp_path / "in.jsonl", records)], tmp_path / "out.jsonl", **settings("minilm", 0.85))
    assert ids(tmp_path / "out.jsonl") == ["0", "2", "3"]

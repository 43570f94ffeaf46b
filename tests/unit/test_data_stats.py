"""The figures of `data stats`, against their definitions and the package the paper used."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests import tiny_bert
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.data import report, stats
from ultrachat_cli.data.judge import JudgeSettings
from ultrachat_cli.data.mtld import mtld, words
from ultrachat_cli.errors import ConfigError, MissingExtra
from ultrachat_cli.models import gguf_tokenizer, specs, weights

TEXTS = (
    "the cat sat on the mat and the dog sat on the log while the cat and the dog slept",
    "Every word differs here", "same same same same same", "It's 2023 - a well-known year; isn't it?",
    "Über straße ÉCOLE",
    "a b a b c d e f g a b c " * 9,
)  # fmt: skip
MTLD = (12.454954954954957, 4.0, 2.5, 17.92, 3.0, 7.753846153846155)
"""lexicalrichness 0.5.1: LexicalRichness(text).mtld()."""


def test_mtld_is_that_of_the_paper() -> None:
    assert [mtld(text) for text in TEXTS] == list(MTLD)
    assert mtld("1 2 ... --") is None
    assert words("Well-known, 3rd (AND) last!") == ["wellknown", "rd", "and", "last"]


def test_mtld_against_the_package() -> None:
    package = pytest.importorskip("lexicalrichness")
    draw = np.random.default_rng(0)
    for size in (2, 10, 200):
        for length in draw.integers(1, 400, 25):
            text = " ".join(f"w{'x' * n}" for n in draw.integers(0, size, length))
            assert mtld(text) == package.LexicalRichness(text).mtld()


def test_similarity_is_the_mean_over_all_pairs() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [float(a @ b) for a, b in itertools.combinations(vectors, 2)]
    assert report.similarity(vectors, np.ones(40)) == pytest.approx(np.mean(pairs), abs=1e-6)
    weight = draw.uniform(1, 5, 40)
    weighted = [
        (weight[a] * weight[b], float(vectors[a] @ vectors[b])) for a, b in itertools.combinations(range(40), 2)
    ]
    total = sum(share for share, _ in weighted)
    expected = sum(share * cosine for share, cosine in weighted) / total
    assert report.similarity(vectors, weight) == pytest.approx(expected, abs=1e-6)
    assert report.similarity(vectors[:1], np.ones(1)) is None


def write(path: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else orjson.dumps(row).decode()) + "\n" for row in rows))
    return path


def dialogues(count: int, sector: str, turns: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": f"{sector}{n}", "data": list(turns), "meta": {"sector": sector}} for n in range(count)]


def measured(path: Path, **wanted: Any) -> report.Report:
    return stats.run([path], stats.Wanted(**{"tokenizer": "words", "embedding": "none"} | wanted), {})


def test_rows_by_sector_and_over_all(tmp_path: Path) -> None:
    world = dialogues(30, "world", ["one two three", "four five", "six", "seven eight nine ten"])
    writing = dialogues(10, "writing", ["a b c d e f", "g h"])
    path = write(tmp_path / "in.jsonl", [*world, *writing, "not json", {"data": [1]}])
    found = measured(path)
    assert found.bad_lines == 2
    assert not found.complete
    rows = {row.sector: row for row in found.rows_by_sector}
    assert list(rows) == ["all", "world", "writing"]
    assert (rows["world"].dialogues, rows["world"].rounds, rows["world"].sampled) == (30, 2.0, 30)
    assert (rows["world"].tokens_per_dialogue, rows["world"].tokens_per_utterance) == (10, 2.5)
    assert (rows["writing"].tokens_per_dialogue, rows["writing"].tokens_per_utterance) == (8, 4)
    assert rows["all"].rounds == pytest.approx(70 / 40)
    assert rows["all"].tokens_per_dialogue == pytest.approx(380 / 40)
    assert rows["all"].tokens_per_utterance == pytest.approx(380 / 140)
    assert rows["world"].mtld == pytest.approx((3 + 2 + 1 + 4) / 4)
    assert rows["all"].mtld == pytest.approx((30 * 10 + 10 * 8) / 140)


def test_a_sample_stands_for_all(tmp_path: Path) -> None:
    world = dialogues(900, "world", ["one two three four", "five six"])
    writing = dialogues(100, "writing", ["a b", "c d", "e f", "g h i j k l"])
    path = write(tmp_path / "in.jsonl", [*world, *writing])
    found = measured(path, sample=40)
    rows = {row.sector: row for row in found.rows_by_sector}
    assert [rows[name].sampled for name in ("all", "world", "writing")] == [40, 20, 20]
    assert rows["all"].tokens_per_dialogue == pytest.approx((900 * 6 + 100 * 12) / 1000)
    assert rows["all"].tokens_per_utterance == pytest.approx(6600 / 2200)
    assert "40 of 1,000 dialogues" in found.method["sample"]
    rounds = next(histogram for histogram in found.histograms if histogram.title == "rounds")
    assert rounds.counts == pytest.approx([0, 900, 100])
    assert measured(path, sample=0).rows_by_sector[0].sampled == 1000


def test_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))
    folder = tiny_bert.make(tmp_path / "tiny")
    path = write(tmp_path / "in.jsonl", dialogues(5, "world", ["the red dog", "runs"]))
    found = measured(path, embedding=str(folder))
    assert found.rows_by_sector[0].topic_similarity == pytest.approx(1, abs=1e-5)
    assert str(folder) in found.method["topic similarity"]


def test_without_the_package_topics_are_left_out_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    path = write(tmp_path / "in.jsonl", dialogues(3, "world", ["a", "b"]))
    found = measured(path, embedding=None)
    assert found.rows_by_sector[0].topic_similarity is None
    assert "ultrachat-cli[semantic]" in found.method["topic similarity"]
    with pytest.raises(MissingExtra):
        measured(path, embedding="minilm-static")


def test_without_the_weights_words_are_counted_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "locate", lambda spec: None)
    found = measured(write(tmp_path / "in.jsonl", dialogues(2, "world", ["one two, three", "x"])), tokenizer=None)
    assert found.rows_by_sector[0].tokens_per_dialogue == 5
    assert found.method["tokens"].startswith(
        "words and punctuation marks, fewer than tokens (smollm2-135m is not here)"
    )


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a<b>.jsonl", dialogues(5, "world", ["one two", "three"]))
    measured(path, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "a&lt;b&gt;.jsonl" in page
    assert page.count("<svg") == page.count("</svg>") == 4
    assert not any(mark in page for mark in ("http:", "https:", "<script", "@import", "url("))


def _judge(tmp_path: Path, rules: Sequence[dict[str, str]]) -> JudgeSettings:
    write(tmp_path / "rules.jsonl", rules)
    endpoint = Endpoint(f"scripted:{tmp_path / 'rules.jsonl'}")
    return JudgeSettings(endpoint, tmp_path / "judge.sqlite", LimitSettings())


def test_a_judge_marks_a_sample_once(tmp_path: Path) -> None:
    rules = [{"match": "how coherent", "reply": "9"}, {"match": "good day", "reply": "6"}, {"match": "", "reply": "4"}]
    data = [*dialogues(30, "world", ["good day", "hello"]), *dialogues(10, "writing", ["write", "no"])]
    for n, row in enumerate(data):
        row["data"][1] += f" {n}"
    path = write(tmp_path / "in.jsonl", data)
    wanted = {"judge": _judge(tmp_path, rules), "judge_sample": 8}
    found = measured(path, **wanted)
    rows = {row.sector: row for row in found.rows_by_sector}
    assert [rows[name].coherence for name in ("all", "world", "writing")] == [9, 9, 9]
    assert (rows["world"].helpfulness, rows["writing"].helpfulness) == (6, 4)
    assert rows["all"].helpfulness == pytest.approx(0.75 * 6 + 0.25 * 4)
    assert "8 dialogues, 1-10; 16 requests" in found.method["judge"]
    again = measured(path, **wanted)
    assert "0 requests, 16 answers from" in again.method["judge"]
    assert again.rows_by_sector == found.rows_by_sector


def test_an_answer_without_a_mark_is_asked_for_again_and_then_counted(tmp_path: Path) -> None:
    rules = [{"match": "how coherent", "reply": "9"}, {"match": "", "reply": "I would rather not"}]
    path = write(tmp_path / "in.jsonl", dialogues(1, "world", ["a", "b"]))
    found = measured(path, judge=_judge(tmp_path, rules))
    assert found.rows_by_sector[0].helpfulness is None
    assert "4 requests" in found.method["judge"]
    assert "1 answers without a mark" in found.method["judge"]
    assert found.complete


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FILES"):
        stats.run([], stats.Wanted(), {})
    empty = measured(write(tmp_path / "empty.jsonl", []))
    assert (empty.rows_by_sector[0].dialogues, empty.rows_by_sector[0].mtld) == (0, None)
    assert empty.complete


@pytest.mark.embedded
@pytest.mark.slow
def test_tokens_are_those_of_the_model() -> None:
    """Against llama.cpp's own tokenizer on the same file."""
    import urllib.request

    from ultrachat_cli.backends.llamacpp import LlamaServer

    path = weights.locate(specs.known()["smollm2-135m"])
    if path is None:
        pytest.skip("the weights are not here")
    tokenizer = gguf_tokenizer.load(path)
    texts = [
        *TEXTS,
        "def f(x):\n    return x ** 2  # café\n\n\n",
        "1234567 naïve 東京 🙂🙂",
        "  two  spaces ",
        "it'll WE'RE",
    ]
    with LlamaServer(path, slots=1, context=512) as server:
        for text in texts:
            body = orjson.dumps({"content": text, "add_special": False})
            request = urllib.request.Request(server.url.removesuffix("/v1") + "/tokenize", body)
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request) as answer:
                expected = orjson.loads(answer.read())["tokens"]
            assert tokenizer.encode(text, add_special_tokens=False).ids == expected, text

"""The compiled kernel against the same rules in plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from ultrachat_cli.dedupe import kernel, pairs, words
from ultrachat_cli.dedupe.bands import Bands

KINDS, CODES = words.tables()
WORDS = [f"{a}{b}{c}" for a in "bdgkmn" for b in "aeiou" for c in ("", "r", "ng", "shi", "tor")]


def shingles(text: str, n: int = 5) -> np.ndarray:
    return kernel.shingles(np.frombuffer(text.encode() or b" ", np.uint8), n, KINDS, CODES)


@cache
def plain_shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    found = words.split(text)
    size = min(n, len(found))
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)} if found else set()


def jaccard(a: str, b: str, n: int = 5) -> float:
    one, other = plain_shingles(a, n), plain_shingles(b, n)
    return len(one & other) / len(one | other)


def described(texts: list[str], n: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = [text.encode() for text in texts]
    sketches = np.empty((len(texts), kernel.BINS), np.uint8)
    digests, sizes = np.empty((len(texts), 2), np.uint64), np.empty(len(texts), np.int32)
    text = np.frombuffer(b"".join(data) or b" ", np.uint8)
    word, ends = kernel.hashed(text, np.cumsum([len(d) for d in data]), KINDS, CODES)
    kernel.describe(word, np.append(0, ends[:-1]), ends, n, sketches, digests, sizes)
    return sketches, digests, sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("...!? -- \n", []),
        ("Hello, World!", ["hello", "world"]),
        ("don't stop", ["don", "t", "stop"]),
        ("GPT-4 has 1,000 uses", ["gpt", "4", "has", "1", "000", "uses"]),
        ("ÄÖÜ Straße ÉCOLE", ["äöü", "straße", "école"]),
        ("ПРИВЕТ мир, ΓΕΙΆ", ["привет", "мир", "γειά"]),
        ("“quoted” – dash…", ["quoted", "dash"]),
        ("机器学习 is 好", ["机", "器", "学", "习", "is", "好"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("no\u00a0break\u2003space", ["no", "break", "space"]),
        ("hi 🙂🙂!", ["hi", "🙂", "🙂"]),
        ("한국어 문장", ["한국어", "문장"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    expected = [word if len(word) > 1 or ord(word) < 0x10000 else chr(ord(word)) for word in expected]
    assert words.split(text) == expected
    _, _, sizes = described([text])
    assert sizes[0] == len(expected)


ALPHABET = "abcXYZ 019,.'-\nßÄéñžЖλ你好ไทย한국🙂𝒳\u0301\u200d\u00a0“”"


@pytest.mark.parametrize("seed", range(20))
def test_random_texts_have_the_n_grams_of_their_words(seed: int) -> None:
    draw = random.Random(seed)
    texts = ["".join(draw.choices(ALPHABET, k=draw.randrange(120))) for _ in range(40)]
    known: dict[int, tuple[str, ...]] = {}
    for text in texts:
        for n in (1, 2, 5):
            in_order = [tuple(words.split(text)[i : i + n]) for i in range(max(1, len(words.split(text)) - n + 1))]
            hashed = shingles(text, n)
            assert len(hashed) == (len(in_order) if words.split(text) else 0)
            for value, gram in zip(hashed.tolist(), in_order, strict=False):
                assert known.setdefault(value, gram) == gram, "two n-grams, one hash"
    assert len(set(known.values())) == len(known), "one n-gram, two hashes"


def test_texts_that_differ_in_case_and_punctuation_only_have_one_digest() -> None:
    _, digests, _ = described(["Hello, World! It is.", "hello world it is", "hello world is it", "hello world it"])
    assert (digests[0] == digests[1]).all()
    assert len({tuple(d) for d in digests.tolist()}) == 3


def test_a_text_in_a_batch_is_as_it_is_alone() -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice((0, 1, 3, 5, 40, 900)))) for _ in range(60)]
    together = described(texts)
    for i, text in enumerate(texts):
        alone = described([text])
        assert all((a[0] == b[i]).all() for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("size", [8, 25, 120, 1000])
def test_sketches_estimate_the_similarity_of_short_and_long_texts(size: int) -> None:
    draw = random.Random(size)
    errors = []
    for _ in range(150):
        one = draw.choices(WORDS, k=size)
        other = [draw.choice(WORDS) if draw.random() < 0.04 else word for word in one]
        sketches, _, _ = described([" ".join(one), " ".join(other)])
        errors.append(pairs.agreeing(sketches[0], sketches[1]) / kernel.BINS - jaccard(" ".join(one), " ".join(other)))
    assert abs(np.mean(errors)) < 0.012  # unbiased, but for one chance agreement in 256
    assert np.std(errors) < 0.045


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_what_lies_at_the_threshold(threshold: float) -> None:
    bands = Bands.of(threshold)
    assert bands.found(threshold) >= 0.999
    assert len(bands.starts) * bands.rows <= kernel.BINS
    assert bands.found(threshold / 2) < 0.99 or threshold < 0.5


def test_higher_thresholds_make_longer_bands() -> None:
    rows = [Bands.of(threshold).rows for threshold in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)]
    assert rows == sorted(rows)
    assert rows[0] < rows[-1]


def similar_pairs(threshold: float, count: int) -> list[tuple[str, str]]:
    """Pairs just above the threshold, where they are hardest to find."""
    draw, found = random.Random(17), []
    while len(found) < count:
        one = draw.choices(WORDS, k=draw.choice((30, 100, 400)))
        other = [draw.choice(WORDS) if draw.random() < (1 - threshold) / 8 else word for word in one]
        if threshold <= jaccard(" ".join(one), " ".join(other)) < threshold + 0.04:
            found.append((" ".join(one), " ".join(other)))
    return found


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_recall_at_the_threshold(threshold: float) -> None:
    bands = Bands.of(threshold)
    missed = 0
    for one, other in similar_pairs(threshold, 300):
        a, b = described([one, other])[0]
        missed += not (pairs.meet(a, b, bands.rows) and pairs.agreeing(a, b) >= bands.least)
    assert missed <= 1


@pytest.mark.parametrize(
    "measure", [lambda a, b: pairs.common(a, b) / (len(a) + len(b) - pairs.common(a, b))], ids=["common"]
)
def test_similarity_is_exact(measure: Callable[[np.ndarray, np.ndarray], float]) -> None:
    for one, other in similar_pairs(0.6, 60):
        a, b = np.unique(shingles(one)), np.unique(shingles(other))
        assert measure(a, b) == pytest.approx(jaccard(one, other))


def test_forest_does_not_depend_on_the_order_of_unions() -> None:
    draw = random.Random(5)
    edges = [(draw.randrange(200), draw.randrange(200)) for _ in range(150)]
    forests = []
    for _ in range(5):
        draw.shuffle(edges)
        parent = np.arange(200)
        for a, b in edges:
            pairs.unite(parent, a, b)
        forests.append(pairs.roots(parent, np.arange(200)).tolist())
    assert all(forest == forests[0] for forest in forests)

"""Dialogues to measure dedupe with: about 7 KB each, families of near duplicates planted, the truth known.

`python tests/bench/corpus.py OUT.jsonl N` writes them; `OUT.truth.npz` holds the pairs of the families with their exact
word 5-gram Jaccard similarity.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TURNS = (25, 240) * 4  # words
WORDS = 40_000
_WINDOW = 20_000  # families are scattered over so many lines


def vocabulary(draw: np.random.Generator) -> np.ndarray:
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "ar", "en", "is")]
    made: dict[str, None] = {}
    while len(made) < WORDS:
        made["".join(draw.choice(syllables, draw.integers(1, 4)))] = None
    return np.array(list(made), dtype=object)


def families(count: int, seed: int = 1) -> Iterator[list[np.ndarray]]:
    """Word numbers of dialogues that stem from one: most alone, a fifth with up to three edited copies."""
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(10, WORDS + 10)
    weights /= weights.sum()
    edges = np.cumsum(weights)
    made = 0
    while made < count:
        length = int(sum(TURNS) * draw.uniform(0.6, 1.4))
        first = np.searchsorted(edges, draw.random(length)).astype(np.int64)
        family = [first]
        if draw.random() < 0.2:
            for _ in range(draw.integers(1, 4)):
                copy = first.copy()
                edited = draw.random(length) < draw.choice([0.0, draw.uniform(0, 0.08)], p=[0.1, 0.9])
                copy[edited] = np.searchsorted(edges, draw.random(int(edited.sum())))
                family.append(copy)
        yield family[: count - made]
        made += len(family)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    one, other = (set(map(tuple, np.lib.stride_tricks.sliding_window_view(words, 5).tolist())) for words in (a, b))
    return len(one & other) / len(one | other)


def turns(words: np.ndarray, names: np.ndarray) -> list[str]:
    cuts = np.cumsum([int(len(words) * share / sum(TURNS)) for share in TURNS])[:-1]
    return [" ".join(part).capitalize() + "." for part in np.split(names[words], cuts)]


def write(path: Path, count: int, seed: int = 1) -> None:
    names = vocabulary(np.random.default_rng(seed))
    rows: list[tuple[int, int, float]] = []
    shuffle = np.random.default_rng(seed + 1)
    number = 0
    parts: dict[int, bytes] = {}
    windows = range(0, count, _WINDOW)
    order = np.concatenate([start + shuffle.permutation(min(_WINDOW, count - start)) for start in windows])
    with path.open("wb") as out:
        ready = 0
        for family in families(count, seed):
            places = [int(order[number + i]) for i in range(len(family))]
            for place, words in zip(places, family, strict=True):
                record = {"id": f"d{place:08}", "data": turns(words, names)}
                parts[place] = json.dumps(record).encode() + b"\n"
            for i in range(len(family)):
                for j in range(i):
                    rows.append((places[i], places[j], jaccard(family[i], family[j])))
            number += len(family)
            while ready in parts:
                out.write(parts.pop(ready))
                ready += 1
    assert not parts
    pairs = np.array(rows).reshape(len(rows), 3)
    np.savez(path.with_suffix(".truth.npz"), pairs=pairs[:, :2].astype(np.int64), similarity=pairs[:, 2])


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))

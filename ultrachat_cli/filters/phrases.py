"""What gives an unfit turn away: thanks, assistants' phrases in the user's place, refusals, our own prompts."""

from __future__ import annotations

import re


def _any(*phrases: str) -> str:
    return "(?:" + "|".join(phrases) + ")"


def _compile(pattern: str) -> re.Pattern[str]:
    """Any case, any apostrophe."""
    return re.compile(pattern.replace("'", "['\u2019]"), re.IGNORECASE)


class Hinted:
    """A pattern that is tried only on texts with one of the words it needs: looking for those is far cheaper."""

    def __init__(self, pattern: re.Pattern[str], *hints: str) -> None:
        self._pattern, self._hints = pattern, hints

    def search(self, text: str) -> re.Match[str] | None:
        """As `re.Pattern.search`."""
        folded = text.casefold()
        return self._pattern.search(text) if any(hint in folded for hint in self._hints) else None


TEMPLATE_TOKENS = re.compile(
    r"<\|?(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|/?s|INST)\|?>|\[/?INST\]"
    r"|<\|(?:user|assistant|system|end)\|>|</?think>|<(?:start|end)_of_turn>"
)
"""Tokens of chat templates that a model wrote out."""

_LEAKS = (
    "everything above is a conversation",
    "put yourself in the user's place",
    "write only the user's message",
    "write what the user says next",
    "do not answer the question yourself",
    "these are taken already",
)
PROMPT_LEAKS = Hinted(_compile(_any(*_LEAKS)), *(leak.partition("'")[0] for leak in _LEAKS))
"""Sentences of our prompts."""

_GIVEN = "(?:help|time|information|assistance|explanation|answer|advice|insights?|support)"
_NAME = r"(?:,? (?-i:[A-Z])[a-z]+(?=\W*$))?"

POLITE = _compile(
    r"\b"
    + _any(
        "thank(?:s| you)?(?: (?:so|very) much| a (?:lot|million|ton))?" + _NAME,
        "much appreciated",
        rf"(?:i )?(?:really )?appreciate (?:it|that|this|your (?:\w+ )?{_GIVEN}(?: and (?:your )?{_GIVEN})?)",
        "you(?:'re| are| were|'ve been| have been)? (?:very |so |really )?(?:welcome|helpful|great|awesome|amazing)",
        "that(?:'s| is| was)?(?: a)? (?:very |really |so )?"
        f"(?:helpful|great|perfect|awesome|useful|interesting|wonderful)(?: {_GIVEN})?",
        "(?:it|this) (?:was|is) (?:very )?helpful",
        "(?:that|this|it) (?:all )?(?:makes (?:perfect |more )?sense|clears (?:it|that|things|everything) up)",
        "sounds (?:good|great|perfect)|will do",
        rf"for (?:all )?(?:everything|(?:your|the) (?:\w+ )?{_GIVEN}(?: and (?:your )?{_GIVEN})?)",
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

_AI = (
    r"an? (?:(?:large )?language model"
    r"|(?:ai|artificial intelligence)(?: language)?(?: model| assistant| system| chatbot)?)"
    r"(?=\s*[,.;:!?)\"]|\s*$|\s+(?:i|it|my|and|but|so|that|who|which|without|by|with|created|made|trained|developed)\b)"
)
"""A model's name for itself: one that goes on with a noun (an AI researcher) is somebody else's."""

ANSWERING = _compile(
    r"^\W*"
    + _any(
        r"(?:sure|certainly|absolutely|of course)[,!.:]"
        r"(?!\s*(?:but|and|so|yet|what|how|why|when|where|who|can|could|would|is|are|do|does|did)\b)",
        r"here(?:'s| is| are) (?:a|an|the|some|your)\b",
        f"as {_AI}",
        f"i(?:'m| am) (?:(?:just |only |merely )?{_AI}|glad (?:you|i could|to)|happy to help|here to help)",
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
        "let me know if you (?:have any|need (?:any|(?:more |further )?(?:help|assistance|information)))",
        "is there anything else (?:i can|you)",
        "how (?:can|may) i (?:help|assist) you",
    )
)
"""What an assistant offers, not a user."""

OTHER_SPEAKER = Hinted(_compile(r"^\s*(?:user|human)\s*:|\n\s*(?:user|human)\s*:"), "user", "human")
"""A label of the user in an assistant's turn."""

LIST_ROW = re.compile(r"^\s*(?:\d+[.)]|[-*\u2022])\s+\S", re.MULTILINE)

_OF_ITSELF = _compile(
    _any(
        rf"\b(?:(?<!such )as|i(?:'m| am)(?: just| only| merely)?) {_AI}",
        r"\bas a (?:virtual assistant|machine), i (?:can(?:not|'t)|am (?:not|unable)|do(?: not|n't)|have no|lack)\b",
        r"\bi (?:do not|don't) have (?:feelings|emotions"
        "|personal (?:experiences?|opinions?|beliefs|feelings|preferences))",
        r"\bmy (?:knowledge|training) cut-?off\b|\bbased on my training data\b",
        r"\bmy training data (?:only )?(?:goes|extends|ends|stops|cuts off|was last)\b",
    )
)
AS_AN_AI = Hinted(
    _OF_ITSELF,
    *(" ai", "artificial intelligence", "language model", "virtual assistant", "as a machine", "have feelings"),
    *("have emotions", "have personal", "training data", "my knowledge", "my training"),
)
"""A model talking of itself."""

REFUSAL = _compile(
    r"^\W*"
    r"(?:(?:i(?:'m| am) (?:very |really |so )?sorry|sorry|apologies|i apologi[sz]e|unfortunately)\b[^.!?\n]{0,40}?)?"
    r",?\s*(?:but )?"
    r"i(?:'m| am)? ?(?:can(?:no|')t|unable to|not able to|won't|will not|must decline to)\b"
    r"(?! (?:help (?:but|\w+ing)|wait)\b)[^.!?\n]{0,30}"
    r"\b(?:help|assist|provide|fulfil|comply|answer|do that|create|write|generate|support|discuss|engage)"
)
"""An answer that begins by declining."""

SENTENCE_END = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09]*|```\s*$"
)

BARE_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d{1,3}\.$")
"""The number of a list row without the row."""

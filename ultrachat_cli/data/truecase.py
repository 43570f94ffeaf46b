"""Capitals where sentences begin, for texts typed without them."""

from __future__ import annotations

import re

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_WORD = r"([^\W\d_][\w']*+)(?!\.\w|[@/(\[{=]|:[\w/])"
"""A word that does not go on as an address, a path or code."""
_FIRST = re.compile(rf"\A(\W*){_WORD}")
_NEXT = re.compile(rf"([.!?]\)?\s+[\"'\u201c\u2018(]?){_WORD}")
"""Not after a closing quotation mark: "Why?" she asked."""
_I = re.compile(r"(?<![\w.'\u2019/-])i(?=(?:['\u2019](?:m|d|ll|ve))?(?:[\s,;:!?]|\Z|\.(?:\s|\Z)))")
_SHORT = frozenset(("e.g", "i.e", "etc", "vs", "cf", "approx", "fig", "dr", "mr", "mrs", "ms", "st", "al", "ca"))
_LONGEST = 12  # characters before a full stop that can be an abbreviation


def truecase(text: str) -> str:
    """Every sentence begins with a capital; in texts that have none at all, the first word too, and "i" becomes "I".

    ultrachat_200k's authors say that they truecased ("Hello. how are you?"); how is not published. Left as they are:
    code, words with capitals or digits inside, addresses (iPhone, example.com), what follows an abbreviation (vs.),
    a single letter or dots (...). Names are not found: "paris" stays.
    """
    bare = text == text.lower()
    parts = _CODE.split(text)
    for n in range(0, len(parts), 2):  # the odd ones are code
        part = _FIRST.sub(_first, parts[n]) if n == 0 and bare else parts[n]
        part = _NEXT.sub(_next, part)
        parts[n] = _I.sub("I", part) if bare else part
    return "".join(parts)


def _first(found: re.Match[str]) -> str:
    return found[1] + _capital(found[2])


def _next(found: re.Match[str]) -> str:
    before = found.string[max(0, found.start() - _LONGEST) : found.start()]
    word = before.split()[-1].lstrip("(\"'\u201c\u2018").casefold() if before and not before[-1].isspace() else ""
    ends = word not in _SHORT and not word.endswith(".") and (len(word) != 1 or not word.isalpha() or word == "i")
    return found[1] + _capital(found[2]) if ends or found[1][0] != "." else found[0]


def _capital(word: str) -> str:
    return word[0].upper() + word[1:] if word.islower() and word.replace("'", "").isalpha() else word

"""Texts cut into words whose ids are looked up: the tokenizer's own ids, several times as fast.

BPE joins nothing across the pieces a pre-tokenizer makes, nor two characters that stand side by side in none of its
merges. Where a tokenizer.json says which these are, `re` cuts there, and each new word is tokenized once. A text that
cannot be cut with certainty is left to the tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, groupby, islice
from typing import Any

import orjson

_KEPT = 3_000_000  # characters of the words kept in mind, which take less than 100 MB
_SPACE = "\u2581"  # SentencePiece's
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WHITE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000-\u3000"
_PARTS = re.compile(r"\\p\{([A-Z][a-z]?)\}|\\(.)|(\[\^?\]?|\(\?(?:i?:|[!=])|\}\+|&&|.)", re.DOTALL)
_OTHERWISE = {False: ("(", "^", "$", ".", "}+", "[]", "[^]"), True: ("[", "[^", "&&", "[]", "[^]")}
"""Parts of a pattern, outside and inside of brackets, that mean something else in `re`, or might."""
_FOLDED = "\u017f\u212a"  # letters that are `s` and `k` where case does not matter

Cut = Callable[[str], list[str] | None]
Ask = Callable[[list[str]], list[bytes]]


class Words:
    """The words of a tokenizer: `cut` makes them of a text, or None; `told` is a tokenizer.json that cuts nothing."""

    def __init__(self, cut: Cut, told: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._cut = cut
        self._tokenizer = Tokenizer.from_str(orjson.dumps({**told, "added_tokens": []}).decode())
        self._known: dict[str, bytes] = {}
        self._size = 0

    def ids(self, texts: Sequence[str], ask: Ask, *, space: bool = False) -> list[bytes]:
        """int32[n] of each text, as bytes; `ask` is called for those that cannot be cut.

        `space`: a space is put before each. Kinds differ where there is one, or nothing: such texts are asked for.
        """
        if space:
            cut = [self._cut(f" {text}") if text and text[0] != " " else None for text in texts]
        else:
            cut = [self._cut(text) for text in texts]
        words = list(chain.from_iterable(own for own in cut if own))
        try:
            found = iter(list(map(self._known.__getitem__, words)))
        except KeyError:
            found = map(self._with_new(set(words)).__getitem__, words)
        asked = iter(ask([text for text, own in zip(texts, cut, strict=True) if own is None]))
        return [next(asked) if own is None else b"".join(islice(found, len(own))) for own in cut]

    def _with_new(self, words: set[str]) -> dict[str, bytes]:
        """What is known, these words among it; it never shrinks in another thread's hands."""
        if self._size > _KEPT:
            self._known, self._size = {}, 0
        known = self._known
        new = list(words - known.keys())
        encoded = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        known.update((word, packed(own.ids)) for word, own in zip(new, encoded, strict=True))
        self._size += sum(map(len, new))
        return known


def packed(ids: Sequence[int]) -> bytes:
    """int32[n]."""
    return array("i", ids).tobytes()


def of(told: Mapping[str, Any]) -> Words | None:
    """The words of a tokenizer.json that puts no space before a text, and to which special tokens are text.

    None for a kind whose words are not known here.
    """
    try:
        model, steps, changes = told["model"], _steps(told["pre_tokenizer"]), _steps(told["normalizer"])
        if model["type"] != "BPE" or model.get("dropout"):
            return None
        if steps and steps[-1]["type"] == "ByteLevel":
            cut = _at_pieces(steps, [step["type"] for step in changes])
            told = {**told, "normalizer": None, "pre_tokenizer": steps[-1] | {"use_regex": False}}
        else:
            cut = _at_spaces(model, steps, changes)
    except (KeyError, ValueError, re.error):
        return None
    return Words(_apart_from(told["added_tokens"], cut), told)


def _steps(step: Mapping[str, Any] | None) -> list[Any]:
    """A normalizer or pre-tokenizer as a list of simple ones."""
    if step is None:
        return []
    inner = step.get("normalizers", step.get("pretokenizers"))
    return [step] if inner is None else list(chain.from_iterable(map(_steps, inner)))


def _apart_from(added: Sequence[Mapping[str, Any]], cut: Cut) -> Cut:
    """Not for texts in which the tokenizer finds an added token."""
    plain = [str(token["content"]) for token in added if not token["special"]]
    if not plain:
        return cut
    ways = (str, lambda text: text.replace(_SPACE, " "), lambda text: unicodedata.normalize("NFC", text))
    there = re.compile("|".join(re.escape(way(text)) for text in plain for way in ways)).search
    return lambda text: None if there(text) else cut(text)


def _at_pieces(steps: list[Any], changes: list[str]) -> Cut:
    """Byte-level BPE: where its pre-tokenizer cuts."""
    if changes not in ([], ["NFC"]):
        raise ValueError(changes)
    stages = [re.compile(_python(pattern)).findall for step in steps for pattern in _patterns(step)]
    unsure = re.compile(f"[{_ranges('')}{_FOLDED}\U00010000-\U0010ffff]").search

    def cut(text: str) -> list[str] | None:
        if not text.isascii() and (unsure(text) or (changes and not unicodedata.is_normalized("NFC", text))):
            return None
        words = [text]
        for stage in stages:
            words = list(chain.from_iterable(map(stage, words)))
        return words if sum(map(len, words)) == len(text) else None

    return cut


def _patterns(step: Mapping[str, Any]) -> Iterator[str]:
    """What a pre-tokenizer takes as pieces."""
    if step["type"] == "ByteLevel":
        if step["use_regex"]:
            yield _GPT2
    elif step["type"] == "Digits":
        yield r"\p{N}|[^\p{N}]+" if step["individual_digits"] else r"\p{N}+|[^\p{N}]+"
    elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        yield step["pattern"]["Regex"]
    else:
        raise ValueError(step["type"])


def _python(pattern: str) -> str:
    """An Oniguruma pattern for `re`; `ValueError` for one that may mean something else there."""
    found, inside = "", False
    for category, escaped, part in _PARTS.findall(pattern):
        if category or escaped == "s":
            ranges = _ranges(category) if category else _WHITE
            found += ranges if inside else f"[{ranges}]"
        elif escaped == "S" and not inside:
            found += f"[^{_WHITE}]"
        elif (escaped.isalnum() and escaped not in "nrt") or part in _OTHERWISE[inside]:
            raise ValueError(pattern)
        else:
            found += f"\\{escaped}" if escaped else part
            inside = part != "]" and (inside or part.startswith("["))
    return found


@cache
def _categories() -> list[str]:
    """Of each character up to U+FFFF; none where versions of Unicode differ, or may yet."""
    then, now = unicodedata.ucd_3_2_0.category, unicodedata.category
    letters = map(chr, range(1 << 16))
    return [found if (found := now(x)) == then(x) and found not in ("Cn", "Co", "Cs") else "" for x in letters]


def _ranges(category: str) -> str:
    """The characters of a category ("": of none), for use in brackets."""
    belongs = [found.startswith(category) if category else not found for found in _categories()]
    runs = [list(run) for inside, run in groupby(range(1 << 16), belongs.__getitem__) if inside]
    return "".join(f"\\u{run[0]:04x}-\\u{run[-1]:04x}" for run in runs)


def _at_spaces(model: Mapping[str, Any], steps: list[Any], changes: list[Any]) -> Cut:
    """SentencePiece's kind, which has no pieces: before spaces, and around characters that are in no merge."""
    replaced = [one for one in changes if one == {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    spaced = [one for one in steps if one["type"] == "Metaspace" and one["replacement"] == _SPACE and not one["split"]]
    if replaced != changes or spaced != steps or not (replaced or spaced):
        raise ValueError(changes, steps)
    if any(model.get(name) for name in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")):
        raise ValueError(model["type"])
    vocabulary = model["vocab"]
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    pairs = {(left[-1], right[0]) for left, right in merges}
    if _SPACE not in vocabulary or any(right == _SPACE != left for left, right in pairs):
        raise ValueError(_SPACE)
    names = {chr(n): f"<0x{n:02X}>" if model["byte_fallback"] else chr(n) for n in range(128)}
    known = {letter for letter, byte in names.items() if letter in vocabulary or byte in vocabulary}
    alone = re.escape("".join(known - {" ", *chain.from_iterable(pairs)}))
    words = re.compile(f"[{alone}]| *[^ {alone}]+| +" if alone else " *[^ ]+| +").findall
    return lambda text: None if _SPACE in text else words(text)

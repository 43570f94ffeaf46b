"""Words looked up give the tokenizer's own ids: for every kind of pre-tokenizer, every character, every odd text."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from ultrachat_cli.models import text_tokens, words
from ultrachat_cli.models.text_tokens import Run, TextTokenizer
from ultrachat_cli.models.words import Words, of

SENTENCES = [
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 2,024 and we'll see.",
    "def main():\n    return {'a': 1, \"b\": [2.5, 3]}  # done\n\n\n\tprint(x)\r\nend",
    "Über-straße «naïve» café — “quoted” ‘text’… 東京都は人口が多い。 Привет, мир! مرحبا ١٢٣ x² ½ Ⅷ",
    "  spaces   before and   after  \u00a0 \u3000 \u2009thin",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])


def _learned(pre_tokenizer: Any, normalizer: Any = None, **options: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if "byte_fallback" not in options else []
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def _sentencepiece(*, metaspace: bool) -> Tokenizer:
    """Merges as SentencePiece makes them, within words; bytes for letters that were not there."""
    tokenizer = _learned(pre_tokenizers.Metaspace(split=True), byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    told = orjson.loads(tokenizer.to_str())
    vocabulary = told["model"]["vocab"]
    for name in ("<unk>", *(f"<0x{byte:02X}>" for byte in range(256))):
        vocabulary[name] = len(vocabulary)
    tokenizer = Tokenizer.from_str(orjson.dumps(told).decode())
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        told = orjson.loads(tokenizer.to_str()) | {"pre_tokenizer": None}
        tokenizer = Tokenizer.from_str(orjson.dumps(told).decode())
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt-2": lambda: _learned(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm2": lambda: _learned(
        pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
        ])
    ),
    "digits together": lambda: _learned(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "llama-3": lambda: _learned(_split(LLAMA3), ignore_merges=True),
    "qwen": lambda: _learned(_split(QWEN), normalizers.NFC()),
    "o200k": lambda: _learned(_split(O200K)),
    "space first": lambda: _learned(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "sentencepiece": lambda: _sentencepiece(metaspace=False),
    "metaspace": lambda: _sentencepiece(metaspace=True),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def _bare(tokenizer: Tokenizer) -> dict[str, Any]:
    told: dict[str, Any] = TextTokenizer(tokenizer, "")._told(bare=True)
    return told


def _ours(tokenizer: Tokenizer, texts: Iterable[str], *, opens: bool) -> tuple[list[list[int]], int]:
    """(ids of each, how many texts the tokenizer was asked for)."""
    found = words.of(_bare(tokenizer))
    assert found is not None
    asked = 0

    def ask(some: list[str]) -> list[bytes]:
        nonlocal asked
        asked += len(some)
        return [words.packed(ids) for ids in _own(tokenizer, some, opens=opens)]

    space = opens and TextTokenizer(tokenizer, "").adds_space
    ids = [memoryview(one).cast("i").tolist() for one in found.ids(list(texts), ask, space=space)]
    return ids, asked


def _own(tokenizer: Tokenizer, texts: Iterable[str], *, opens: bool) -> list[list[int]]:
    twin = Tokenizer.from_str(tokenizer.to_str() if opens else orjson.dumps(_bare(tokenizer)).decode())
    twin.encode_special_tokens = True
    return [one.ids for one in twin.encode_batch(list(texts), add_special_tokens=False)]


def _check(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    """Both ways; returns how many were asked for."""
    counts = []
    for opens in (False, True):
        ids, asked = _ours(tokenizer, texts, opens=opens)
        for text, ours, own in zip(texts, ids, _own(tokenizer, texts, opens=opens), strict=True):
            assert ours == own, repr(text)
        counts.append(asked)
    return counts


def test_ordinary_texts_are_looked_up(tokenizer: Tokenizer) -> None:
    texts = [text.strip() for text in SENTENCES]
    assert _check(tokenizer, [*texts, *texts, *"ab1'.\n\té東"]) == [0, 0]
    _check(tokenizer, ["", " ", "  ", " a", "  a", "   1"])


def test_every_character_in_every_place(tokenizer: Tokenizer) -> None:
    """Up to U+30FF all, of Han, Hangul and symbols beyond every 16th and those where classes change."""
    numbers = (*range(0xD800), *range(0xE000, 0x10000), *range(0x1F300, 0x1F700))
    changes = {n for n in numbers if unicodedata.category(chr(n)) != unicodedata.category(chr(max(0, n - 1)))}
    letters = [chr(n) for n in numbers if n < 0x3100 or n % 16 == 0 or n in changes]
    texts = [f"a{x}b {x}1 {x}{x}'s{x} \n{x}" for x in letters]
    looked_up, _ = _check(tokenizer, texts)
    assert looked_up < 0.6 * len(texts)


def test_odd_texts(tokenizer: Tokenizer) -> None:
    alphabet = [
        *"ab SstT'lLdmrevé1٣²½Ⅷ .,!?(){}-_/\\\"", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x0c", "\x1c", "\x1f", "\x85",
        "\u00a0", "\u200b", "\u2028", "\u3000", "\u180e", "\u0301", "e\u0301", "\ufb01", "\u2581", "\U0001f600",
        "\u017f", "\u212a", "東", "ñ", "'s", "'LL", "\x00", "\ufeff", "\u200d", "\ufffd",
    ]  # fmt: skip
    chance = random.Random(0)
    texts = ["".join(chance.choices(alphabet, k=chance.randint(1, 24))) for _ in range(6000)]
    texts += ["".join(chance.choices(alphabet[:36], k=chance.randint(1, 60))) for _ in range(3000)]
    _check(tokenizer, texts)


def test_no_word_is_kept_for_ever(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_KEPT", 40)
    found = words.of(_bare(tokenizer))
    assert found is not None
    texts = [text.strip() for text in SENTENCES]
    for _ in range(3):
        for text, own in zip(texts, _own(tokenizer, texts, opens=False), strict=True):
            (ids,) = found.ids([text], lambda some: [pytest.fail("asked") for _ in some])
            assert memoryview(ids).cast("i").tolist() == own
            assert len(found._known) <= len(set(text)) * 4


def test_added_tokens_in_a_text_are_found_as_before() -> None:
    """Those that are not special are found even in what people say."""
    for kind in ("qwen", "sentencepiece"):
        tokenizer = KINDS[kind]()
        tokenizer.add_special_tokens(["<|end|>"])
        tokenizer.add_tokens(
            ["<tool>", *(AddedToken(text, normalized=True) for text in ("Cafe\u0301", "two words", "a\u2581b"))]
        )
        texts = [
            "c a b",
            "say <tool> now",
            "<|end|> is text",
            "a Cafe\u0301",
            "Café",
            "or two words",
            "or two  words",
            "<tool",
        ]
        _check(tokenizer, texts)
        _, asked = _ours(tokenizer, ["say <tool> now", "<|end|> is text", "or two  words"], opens=False)
        assert asked == 1


def _changed(kind: str, **model: Any) -> dict[str, Any]:
    told = _bare(KINDS[kind]())
    return told | {"model": told["model"] | model}


def test_kinds_whose_words_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is guessed: such a tokenizer is asked for every text."""
    gpt2 = _bare(KINDS["gpt-2"]())
    pieces = gpt2["pre_tokenizer"]
    crossing = _learned(pre_tokenizers.Metaspace(split=False), byte_fallback=True, unk_token="<unk>")
    crossing.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    for told in (
        _changed("gpt-2", dropout=0.1),
        _changed("sentencepiece", ignore_merges=True),
        gpt2 | {"normalizer": {"type": "Lowercase"}},
        gpt2 | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, pieces]}},
        gpt2 | {"pre_tokenizer": None},
        _bare(_learned(_split(r"(?<=a)b|\s+|\S+"))),
        _bare(_learned(_split(r"(a)|[^a]+"))),
        _bare(_learned(_split(r"\p{Han}+|.+"))),
        _bare(_learned(_split(r"\w+|\W+"))),
        _bare(_learned(_split(r"[a&&\p{L}]+|."))),
        orjson.loads(crossing.to_str()),
        orjson.loads(Tokenizer(models.WordPiece({"a": 0}, unk_token="a")).to_str()),
        orjson.loads(Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], 0)).to_str()),
    ):  # fmt: skip
        assert words.of(told) is None
    monkeypatch.setattr(text_tokens, "_MANY", 0)
    texts = TextTokenizer(crossing, "")
    (ids,) = texts.ids([Run("The quick brown", False, False, False)])
    assert memoryview(ids).cast("i").tolist() == crossing.encode("The quick brown", add_special_tokens=False).ids


def test_words_are_looked_up_once_there_are_many(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single prompt is not kept waiting for what pays in a file; its ids are the same."""
    monkeypatch.setattr(text_tokens, "_MANY", 600)
    known: list[Words | None] = []
    monkeypatch.setattr(words, "of", lambda told: known.append(of(told)) or known[-1])
    texts = TextTokenizer(tokenizer, "")
    runs = [Run(text, False, opens, False) for text in SENTENCES for opens in (False, True)]
    few, many = texts.ids(runs[:1]), texts.ids(runs)
    assert len(known) == 1
    assert known[0] is not None
    assert known[0]._known
    assert few == many[:1]
    own = [_own(tokenizer, SENTENCES, opens=opens) for opens in (False, True)]
    wanted = [ids for both in zip(*own, strict=True) for ids in both]
    assert [memoryview(ids).cast("i").tolist() for ids in many] == wanted


def test_a_pattern_that_leaves_something_out_is_not_trusted() -> None:
    tokenizer = _learned(_split(r"\p{L}+"))
    ids, asked = _ours(tokenizer, ["letters", "let ters 1"], opens=False)
    assert (ids, asked) == (_own(tokenizer, ["letters", "let ters 1"], opens=False), 1)


def test_characters_newer_than_python_are_not_classified() -> None:
    """Another version of Unicode than Python's may call them letters."""
    unknown = next(chr(n) for n in range(0x800, 0x10000) if unicodedata.category(chr(n)) == "Cn")
    assert sys.maxunicode == 0x10FFFF
    _, asked = _ours(KINDS["gpt-2"](), [unknown, f"a{unknown}", "\ua7ae", "a"], opens=False)
    assert asked == 3

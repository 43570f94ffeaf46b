"""Ids become text as they come, and all pieces together are the text of all ids."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from tests.train import tiny
from ultrachat_cli.models import text_tokens
from ultrachat_cli.models.text_stream import TextStream

TEXTS = [
    "Plain words, one by one.",
    "naïve café — 100 € für Übung",
    "日本語のテキスト",
    "🎉👩\u200d👩\u200d👧 done 🇳🇴",
    "  two  spaces \n\n\tlines ",
    "a\ufffdb",
    "",
]


@pytest.fixture(scope="module")
def by_bytes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Byte-level: every byte a token, so every character of several bytes comes torn."""
    folder = tmp_path_factory.mktemp("bytes")
    tiny.tokenizer(folder)
    return text_tokens.load(folder)


@pytest.fixture(scope="module")
def pieces() -> Any:
    """As SentencePiece in LLaMA of 2023: spaces at the beginning of pieces, other characters as bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", *(f"▁{c}" for c in "abcdefgh")]
    words += [*"abcdefghijklmnopqrstuvwxyz,.ABCDE", "▁▁"]
    vocabulary = {word: n for n, word in enumerate(words)}
    merges = [("▁", letter) for letter in "abcdefgh▁"]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


@pytest.fixture(params=["by_bytes", "pieces"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_the_whole_is_the_text(backend: Any, text: str) -> None:
    ids = backend.encode(text, add_special_tokens=False).ids
    stream = TextStream(backend, frozenset())
    came = [stream.push(token) for token in ids]
    assert "".join(came) + stream.finish() == backend.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(came)
        assert stream.finish() == ""


def test_text_comes_as_soon_as_it_is_certain(by_bytes: Any) -> None:
    stream = TextStream(by_bytes, frozenset())
    came = [stream.push(token) for token in by_bytes.encode("a€b").ids]
    assert came == ["a", "", "", "€", "b"]


def test_bytes_that_are_no_text_are_shown_as_such_in_the_end(backend: Any) -> None:
    ids = backend.encode("ab€").ids[:-1]
    stream = TextStream(backend, frozenset())
    came = "".join(stream.push(token) for token in ids)
    assert came == "ab"
    assert came + stream.finish() == backend.decode(ids)


def test_any_bytes_at_all(by_bytes: Any) -> None:
    draw = random.Random(3)
    for _ in range(30):
        ids = [draw.randrange(3, 259) for _ in range(60)]
        stream = TextStream(by_bytes, frozenset())
        assert "".join(stream.push(token) for token in ids) + stream.finish() == by_bytes.decode(ids)


def test_hidden_tokens_are_not_shown(by_bytes: Any) -> None:
    a, b = by_bytes.encode("ab").ids
    stream = TextStream(by_bytes, frozenset({0, 1, 2}))
    assert "".join(stream.push(token) for token in (1, a, 0, b, 2)) == "ab"


@pytest.mark.parametrize(
    ("text", "stops", "shown", "stopped"),
    [
        ("one\nUser: two", ["\nUser:"], "one", True),
        ("one\nUs and them", ["\nUser:"], "one\nUs and them", False),
        ("one\nUser", ["\nUser:"], "one\nUser", False),
        ("abcabd", ["abd"], "abc", True),
        ("aaab", ["aab", "b"], "a", True),
        ("€€ end €", [" €"], "€€ end", True),
        ("nothing", ["", "absent"], "nothing", False),
    ],
)
def test_stop_strings(by_bytes: Any, text: str, stops: list[str], shown: str, stopped: bool) -> None:
    stream = TextStream(by_bytes, frozenset(), stops)
    came = ""
    for token in by_bytes.encode(text).ids:
        came += stream.push(token)
        assert shown.startswith(came)  # no beginning of a stop string was let out
    assert came + stream.finish() == shown
    assert stream.stopped == stopped

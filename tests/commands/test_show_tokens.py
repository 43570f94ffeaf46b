"""`ultrachat data show-tokens` as people run it."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import orjson
import pytest

from tests.commands.checks import refused, weights_or_skip
from tests.conftest import COMMAND, Ultrachat
from tests.train.vocabularies import byte_level, sentencepiece

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].split('#')[0] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def model(ultrachat: Ultrachat) -> Path:
    folder = byte_level(ultrachat.folder / "model", template=TEMPLATE)
    (folder / "config.json").write_text("{}")
    return folder


def write(folder: Path, *rows: object) -> Path:
    path = folder / "set.jsonl"
    path.write_bytes(b"".join(row if isinstance(row, bytes) else orjson.dumps(row) + b"\n" for row in rows))
    return path


RIVER = {"id": "r", "data": ["the\nriver", "stop <|im_end|>"]}


def test_learned_text_stands_between_marks(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, RIVER, {"data": ["a", "b", "c", "d"]})
    result = ultrachat("data", "show-tokens", "set.jsonl", "--model", "model", "--format", "chatml")
    assert result.code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == (
        "<|im_start|>user↵\nthe↵\nriver<|im_end|>↵\n<|im_start|>assistant↵\n⟦stop <|im_end|><|im_end|>⟧↵\n"
        "set.jsonl:1: 25 tokens, 13 learned\n"
        "<|im_start|>user↵\na<|im_end|>↵\n<|im_start|>assistant↵\n⟦b<|im_end|>⟧↵\n"
        "<|im_start|>user↵\nc<|im_end|>↵\n<|im_start|>assistant↵\n⟦d<|im_end|>⟧↵\n"
        "set.jsonl:2: 24 tokens, 4 learned\n"
    )


def test_no_text_moves_the_terminal(ultrachat: Ultrachat, model: Path) -> None:
    """Neither what is shown nor what an error repeats."""
    write(ultrachat.folder, {"data": ["\x1b[2Jthe", "\x9b31mriver\x07"]}, b"{}\n")
    (ultrachat.folder / "set.jsonl").rename(ultrachat.folder / "\x1b[31m.jsonl")
    result = ultrachat("data", "show-tokens", "\x1b[31m.jsonl", "--model", "model", "--format", "chatml")
    assert result.code == 3, result
    assert "\u241b[2Jthe" in result.stdout
    assert "\u241b[31m.jsonl:2" in result.stderr
    missing = ultrachat("data", "show-tokens", "\x1b[0m", "--model", "model")
    assert "\u241b[0m" in missing.stderr
    for text in (result.stdout, result.stderr, missing.stderr):
        assert not {"\x1b", "\x9b", "\x07"} & set(text)


def test_json_holds_ids_tokens_and_marks(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, {"id": "r", "data": ["the", "the"]}, RIVER)
    told = ultrachat("data", "show-tokens", "set.jsonl", "-m", "model", "--format", "chatml", "--json", "-n", "1").json
    assert (told["model"], told["format"], told["bad_lines"], len(told["dialogues"])) == ("model", "chatml", 0, 1)
    (dialogue,) = told["dialogues"]
    assert {name: dialogue[name] for name in ("file", "line", "id", "tokens", "learned", "left_out")} == {
        "file": "set.jsonl", "line": 1, "id": "r", "tokens": 12, "learned": 2, "left_out": {},
    }  # fmt: skip
    (example,) = dialogue["examples"]
    assert example["tokens"] == [
        "<|im_start|>", "user", "Ċ", "the", "<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ", "the", "<|im_end|>",
        "Ċ",
    ]  # fmt: skip
    assert [n for n, learn in enumerate(example["learn"]) if learn] == [9, 10]
    assert len(example["ids"]) == 12


def test_long_dialogues_are_shown_as_they_are_split(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, {"data": ["the river", "the river"] * 3})
    show = ("data", "show-tokens", "set.jsonl", "-m", "model", "--format", "chatml", "--max-length", "28")
    result = ultrachat(*show)
    assert result.stdout.count("-- 2 of 2 --") == 1
    assert result.stdout.splitlines()[-1] == "set.jsonl:1: 42 tokens, 9 learned, 2 examples, 1 split"
    cut = ultrachat(*show, "--overlong", "drop")
    assert cut.stdout == "set.jsonl:1: 0 tokens, 0 learned, 0 examples, 1 dropped: too long\n"


def test_limit_says_how_many(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, *[RIVER] * 5)
    for limit, shown in ((), 3), (("--limit", "1"), 1), (("-n", "0"), 5):
        result = ultrachat("data", "show-tokens", "set.jsonl", "-m", "model", "--format", "chatml", *limit)
        assert result.stdout.count("learned\n") == shown


def test_lines_that_cannot_be_learned_from_are_named(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, b"{bad\n", {"data": []}, {"data": ["a # b", "c"]}, RIVER)
    result = ultrachat("data", "show-tokens", "set.jsonl", "-m", "model")
    assert result.code == 3
    told = result.stderr.splitlines()
    assert told[0].startswith("set.jsonl:1: not JSON")
    assert told[1:] == [
        "set.jsonl:2: no turns",
        "set.jsonl:3: the chat template alters what is said; name a format instead",
    ]
    assert result.stdout.count("learned\n") == 1
    assert ultrachat("data", "show-tokens", "set.jsonl", "-m", "model", "-q").stderr == ""


def test_the_spaces_of_sentencepiece_are_seen(ultrachat: Ultrachat) -> None:
    (sentencepiece(ultrachat.folder / "model") / "config.json").write_text("{}")
    write(ultrachat.folder, {"data": ["Hi", "Hi"]})
    result = ultrachat("data", "show-tokens", "set.jsonl", "-m", "model", "--format", "ultralm")
    assert result.stdout.splitlines()[:2] == ["<s> User: Hi</s> ↵", "Assistant: ⟦ Hi</s>⟧"]


def test_on_a_terminal_colours_tell(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, RIVER)
    ours, theirs = pty.openpty()
    command = [str(COMMAND), "data", "show-tokens", "set.jsonl", "-m", "model", "--format", "chatml"]
    env = {**ultrachat.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ultrachat.folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            if not (more := os.read(ours, 1 << 16)):
                break
        except OSError:  # the other side is closed
            break
        shown += more
    assert process.wait(30) == 0
    os.close(ours)
    text = shown.decode()
    assert "\x1b[32mstop <|im_end|>\x1b[0m\x1b[1;32m<|im_end|>\x1b[0m\x1b[2m↵" in text
    assert "\x1b[1;36m<|im_start|>\x1b[0m\x1b[2muser↵" in text
    assert "⟦" not in text


def test_faults_are_told_before_anything_is_read(ultrachat: Ultrachat, model: Path) -> None:
    write(ultrachat.folder, RIVER)
    show = ("data", "show-tokens")
    refused(ultrachat(*show), 2, "FILES")
    refused(ultrachat(*show, "none.jsonl"), 2, "none.jsonl: no such file")
    refused(ultrachat(*show, "set.jsonl", "-m", "smolm2-135m"), 2, "did you mean 'smollm2-135m'")
    refused(ultrachat(*show, "set.jsonl", "-m", "model", "--format", "vicuna"), 2, "unknown chat format 'vicuna'")
    refused(ultrachat(*show, "set.jsonl", "-m", "model", "--format", "ultralm"), 2, "</s>")
    refused(ultrachat(*show, "set.jsonl", "-m", "model", "--overlong", "cut"), 2, "split, truncate, drop")
    refused(ultrachat(*show, "set.jsonl", "-m", "openai:gpt-4o"), 1, "no weights that can be loaded here")


@pytest.mark.embedded
def test_the_default_model_needs_no_weights_rewritten(ultrachat: Ultrachat) -> None:
    weights_or_skip()
    write(ultrachat.folder, RIVER)
    result = ultrachat("data", "show-tokens", "set.jsonl", env={"ULTRACHAT_CACHE": str(ultrachat.folder / "cache")})
    assert result.code == 0, result.stderr
    assert "tokenizer out of SmolLM2" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "⟦stop <|im_end|><|im_end|>⟧↵" in result.stdout
    assert not list((ultrachat.folder / "cache").rglob("*.safetensors"))

"""Two rounds with the real SmolLM2, which llama.cpp runs inside the process."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.chat.terminal import Terminal
from tests.commands.checks import weights_or_skip
from tests.conftest import Ultrachat

pytestmark = [pytest.mark.embedded, pytest.mark.slow, pytest.mark.usefixtures("one_core")]


def test_two_rounds_in_one_go(ultrachat: Ultrachat) -> None:
    weights_or_skip()
    messages = ("--message", "Name one animal that lives in the sea.", "--message", "What does it eat?")
    result = ultrachat("chat", *messages, "--json", "--max-tokens", "60", "--seed", "1", timeout=300)
    assert result.code == 0, result
    first, second = (orjson.loads(line) for line in result.stdout.splitlines())
    assert first["model"] == "smollm2-135m"
    assert first["reply"].strip()
    assert second["reply"].strip()
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["cached_tokens"] >= first["usage"]["prompt_tokens"], "the first round is not read again"


def test_trimming_counts_to_the_token(ultrachat: Ultrachat) -> None:
    """A context that is full: the answer that follows is asked for with what fits, and the server never refuses."""
    weights_or_skip()
    messages = [part for n in range(6) for part in ("--message", f"Tell me something about the number {n}.")]
    options = ("--context", "256", "--max-tokens", "60", "--json", "-v")
    result = ultrachat("chat", *messages, *options, timeout=300)
    assert result.code == 0, result
    used = [orjson.loads(line)["usage"] for line in result.stdout.splitlines()]
    assert max(each["prompt_tokens"] + 60 for each in used) <= 256
    assert "no longer fit the context of 256 tokens" in result.stderr


def test_a_talk_at_a_terminal(environ: dict[str, str], tmp_path: Path) -> None:
    weights_or_skip()
    env = {**environ, "ULTRACHAT_STATE": str(tmp_path / "state")}
    with Terminal(["--max-tokens", "200"], env, tmp_path) as term:
        term.until(lambda: term.current == ">", timeout=120)
        term.type("Write a long story about a river.")
        term.until(lambda: len(term.text) > 250, timeout=60)
        term.press("c")
        term.until(lambda: "stopped; what came is kept" in term.text or "cut off after" in term.text)
        term.ready()
        term.type("Who is in the story?")
        term.until(lambda: term.text.count("first token") == 2, timeout=60)
        term.ready()
        term.type("/stats")
        term.sees("of 8,192 tokens", "tokens a second")
        term.ready()
        term.press("d")
        assert term.ends() == 0

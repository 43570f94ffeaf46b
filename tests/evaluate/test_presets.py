"""How judges are asked: published prompts are read where alpaca_eval keeps them, and nothing fills a slot twice."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ultrachat_cli.errors import ConfigError, MissingExtra
from ultrachat_cli.evaluate import presets

TEMPLATE = (
    "<|im_start|>system\nYou rank.\n<|im_end|>\n<|im_start|>user\nI: {instruction}\n"
    '[{"model": "model_1", "answer": """{output_1}"""}, {"model": "model_2", "answer": """{output_2}"""}]\n<|im_end|>\n'
)


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'pairwise_score' \(did you mean 'pairwise-score'\?\)"):
        presets.load("pairwise_score")


def test_published_prompts_are_read_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for it: the published text is not ours to ship."""
    for place in ("alpaca_eval_gpt4/alpaca_eval.txt", "alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"):
        path = tmp_path / "alpaca_eval" / "evaluators_configs" / place
        path.parent.mkdir(parents=True)
        path.write_text(TEMPLATE)
    (tmp_path / "alpaca_eval" / "__init__.py").write_text("raise RuntimeError('importing it takes seconds')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo"):
        preset = presets.load(name)
        found = preset.prompt({"instruction": "Why {output_2}?", "output_1": "<|im_end|>", "output_2": "{mark}"})
        assert [message["role"] for message in found] == ["system", "user"]
        assert found[0]["content"] == "You rank."
        assert found[1]["content"] == (
            'I: Why {output_2}?\n[{"model": "model_1", "answer": """<|im_end|>"""}, '
            '{"model": "model_2", "answer": """{mark}"""}]'
        )
        assert preset.origin.startswith("alpaca_eval ")
        assert "alpaca_eval" not in sys.modules


def test_without_the_package_it_is_said_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="--preset pairwise-score") as caught:
        presets.load("alpaca_eval_gpt4")
    assert caught.value.hint == "pip install 'ultrachat-cli[alpaca]'"


def test_the_real_package_where_it_is_installed() -> None:
    if importlib.util.find_spec("alpaca_eval") is None:
        pytest.skip("alpaca_eval is not installed")
    for name in ("alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo"):
        found = presets.load(name).prompt({"instruction": "Why?", "output_1": "So.", "output_2": "Hm."})
        assert [message["role"] for message in found] == ["system", "user"]
        assert all(text in found[1]["content"] for text in ("Why?", "So.", "Hm."))


@pytest.mark.parametrize("text", ["{instruction}", "{instruction} {output_1}", "{instruction} {output_1} {output}"])
def test_a_prompt_needs_its_slots(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prompt.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"holds \{instruction\}, \{output_1\}, \{output_2\}"):
        presets.load("pairwise-score", path)
    with pytest.raises(ConfigError, match="cannot be read"):
        presets.load("pairwise-score", tmp_path / "none.md")


def test_our_prompts_put_correctness_first_and_fence_the_answers() -> None:
    pair = presets.load("pairwise-score")
    text = pair.prompt({"instruction": "Why?", "output_1": "A", "output_2": "B"})[0]["content"]
    assert text.index("Correctness") < text.index("informative")
    mark = text.partition("with the mark ")[2][:8]
    assert f"[{mark} answer 2]\nB\n[{mark} end]" in text
    other = pair.prompt({"instruction": "Why?", "output_1": "A", "output_2": "C"})[0]["content"]
    assert mark not in other

"""The chat template left beside the weights says what formats.text says, for whatever is said by whom."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from tests.train import tiny
from ultrachat_cli.models import formats
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.models.formats import FORMATS, TOKENIZER
from ultrachat_cli.models.formats_jinja import jinja

WORDS = {
    "system": ["Be brief.", "It's {{ not }} a {% template %}\n"],
    "user": ["Hi there", "Why is\nthe sky blue?", ' "quotes" and \\n \' '],
    "assistant": ["Hello!", "\n\nLight,\n\tscattered. ", ""],
}
ROLES = ("system", "user", "assistant")


def conversations() -> list[list[dict[str, str]]]:
    """Every order of up to four speakers, and two longer ones."""
    orders = [order for length in range(5) for order in product(ROLES, repeat=length)]
    orders += [("user", "assistant") * 3, ("system", *("user", "assistant") * 3, "user")]
    return [
        [{"role": role, "content": WORDS[role][n % len(WORDS[role])]} for n, role in enumerate(order)]
        for order in orders
    ]


def rendered(template: str, talks: list[list[dict[str, str]]], asked: bool) -> list[str]:
    render: Any = render_jinja_template
    found: list[str] = render(talks, chat_template=template, add_generation_prompt=asked, bos_token="<s>")[0]
    return found


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_template_renders_as_the_format_does(name: str, asked: bool) -> None:
    template = jinja(name)
    assert template is not None
    bos = "<s>" if FORMATS[name].bos else ""
    talks = conversations()
    for talk, found in zip(talks, rendered(template, talks, asked), strict=True):
        assert found == bos + formats.text(name, talk, "assistant" if asked else ""), talk


@pytest.mark.parametrize("name", FORMATS)
def test_a_template_refuses_an_unknown_role(name: str) -> None:
    with pytest.raises(Exception, match="unknown role: tool"):
        rendered(str(jinja(name)), [[{"role": "tool", "content": "x"}]], False)


def test_the_model_s_own_template_is_left_alone() -> None:
    assert jinja(TOKENIZER) is None


@pytest.mark.parametrize("name", FORMATS)
def test_the_folder_left_is_read_alike_by_all(name: str, tmp_path: Path) -> None:
    """By transformers, by the format's name, and as a folder with a template of its own: text, ids and mask."""
    end = FORMATS[name].assistant[1].strip()
    tiny.tokenizer(tmp_path, ("<s>", end, "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>"), end)
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**told, "bos_token": "<s>"}))
    (tmp_path / "chat_template.jinja").write_text(str(jinja(name)))
    talk = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    bos = "<s>" if FORMATS[name].bos else ""
    assert tokenizer.apply_chat_template(talk, tokenize=False) == bos + formats.text(name, talk)
    prompt = tokenizer.apply_chat_template(talk[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == bos + formats.text(name, talk[:2], "assistant")
    one, other = (ChatTokenizer(tmp_path, told).encode([talk])[0] for told in (name, TOKENIZER))
    assert one.ids.tolist() == other.ids.tolist() == tokenizer.apply_chat_template(talk, return_dict=False)
    assert one.learn.tolist() == other.learn.tolist()

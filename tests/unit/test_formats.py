from __future__ import annotations

import pytest

from ultrachat_cli.models import formats

TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why is\nthe sky blue?"},
    {"role": "assistant", "content": "Scattering."},
]
SYSTEM = {"role": "system", "content": "Be brief."}
ENDS = {
    "chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "llama-2": " </s>", "gptj-legacy": "<|endoftext|>",
    "ultralm": "</s>", "ultralm-65b": "</s>",
}  # fmt: skip
LEADS = {"llama-2": " ", "gptj-legacy": " "}
"""What the assistant itself says before its text."""
LAST_ONLY = "gptj-legacy"
"""Writes answers before the last one as mere context, otherwise than the last: there was one example for each."""

GOLDEN = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nWhy is\nthe sky blue?<|im_end|>\n<|im_start|>assistant\nScattering.<|im_end|>\n",
        {"user": "<|im_start|>user\n", "assistant": "<|im_start|>assistant\n"},
    ),
    "llama-3": (
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy is\nthe sky blue?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nScattering.<|eot_id|>",
        {
            "user": "<|start_header_id|>user<|end_header_id|>\n\n",
            "assistant": "<|start_header_id|>assistant<|end_header_id|>\n\n",
        },
    ),
    "llama-2": (
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n",
        "[INST] Hi there [/INST] Hello! </s><s>[INST] Why is\nthe sky blue? [/INST] Scattering. </s>",
        {"user": "<s>[INST] ", "assistant": ""},
    ),
    "gptj-legacy": (
        "Be brief.\n\n",
        "User: Hi there\n\nAssistant: Hello!\n\nUser: Why is\nthe sky blue?\nAssistant: Scattering.<|endoftext|>",
        {"user": "\n\nUser: ", "assistant": "\nAssistant:"},
    ),
    "ultralm": (
        "User: Be brief.</s>\n",
        "User: Hi there</s>\nAssistant: Hello!</s>\nUser: Why is\nthe sky blue?</s>\nAssistant: Scattering.</s>",
        {"user": "\nUser: ", "assistant": "\nAssistant: "},
    ),
    "ultralm-65b": (
        "User: Be brief.\n",
        "User: Hi there\nAssistant: Hello!</s>\nUser: Why is\nthe sky blue?\nAssistant: Scattering.</s>",
        {"user": "\nUser: ", "assistant": "\nAssistant: "},
    ),
}


def test_every_format_has_a_golden_text() -> None:
    assert set(GOLDEN) == set(ENDS) == set(formats.FORMATS)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_dialogue_of_two_rounds(name: str) -> None:
    assert formats.text(name, TALK) == GOLDEN[name][1]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_system_line_comes_first(name: str) -> None:
    after = GOLDEN[name][1].removeprefix("[INST] ")  # LLaMA 2's system text stands inside the first user turn
    assert formats.text(name, [SYSTEM, *TALK]) == GOLDEN[name][0] + after


@pytest.mark.parametrize("open_role", ["user", "assistant"])
@pytest.mark.parametrize("name", GOLDEN)
def test_an_open_turn_ends_where_its_speaker_begins(name: str, open_role: str) -> None:
    assert formats.text(name, TALK, open_role) == GOLDEN[name][1] + GOLDEN[name][2][open_role]


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_model_is_asked_to_continue_is_how_training_text_begins(name: str) -> None:
    """A prompt for round 2 must be the very text that stood before the answer when the model learned it."""
    prompt = formats.text(name, [SYSTEM, *TALK[:3]], "assistant")
    assert formats.text(name, [SYSTEM, *TALK]).startswith(prompt + LEADS.get(name, "") + "Scattering.")


@pytest.mark.parametrize("name", GOLDEN)
def test_a_turn_opened_in_an_empty_conversation_has_no_break_before_it(name: str) -> None:
    assert formats.text(name, [], "user") == GOLDEN[name][2]["user"].lstrip("\n").removeprefix("<s>")


@pytest.mark.parametrize("name", GOLDEN)
def test_learned_is_what_the_assistant_says_and_its_end(name: str) -> None:
    learned = [piece for piece, learn in formats.render(name, [SYSTEM, *TALK], "assistant") if learn]
    answers = ["Scattering."] if name == LAST_ONLY else ["Hello!", "Scattering."]
    assert learned == [f"{LEADS.get(name, '')}{answer}{ENDS[name]}" for answer in answers]


@pytest.mark.parametrize("name", GOLDEN)
def test_nothing_is_learned_of_a_dialogue_without_an_answer(name: str) -> None:
    assert not any(learn for _, learn in formats.render(name, [SYSTEM, TALK[0]], "assistant"))


def test_ultralm_is_cut_into_the_pieces_that_its_training_tokenized_one_by_one() -> None:
    assert formats.render("ultralm", TALK) == [
        ("User: Hi there</s>", False),
        ("\nAssistant: ", False),
        ("Hello!</s>", True),
        ("\nUser: Why is\nthe sky blue?</s>", False),
        ("\nAssistant: ", False),
        ("Scattering.</s>", True),
    ]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_raw_completion_stops_at_the_end_token_and_at_the_other_speaker(name: str) -> None:
    stops = formats.stop(name)
    assert stops[0] == ENDS[name].strip()
    assert len(set(stops)) == len(stops)
    for role in ("user", "assistant"):
        assert any(stop in GOLDEN[name][2][role] for stop in stops) or not GOLDEN[name][2][role]


def test_the_legacy_format_renders_an_open_turn_after_an_answer_as_if_it_were_the_last() -> None:
    """An answer becomes context only when another message is there: that is how its training examples were made."""
    assert formats.render(LAST_ONLY, TALK[:2]) == [
        ("User: Hi there", False),
        ("\nAssistant:", False),
        (" Hello!<|endoftext|>", True),
    ]
    assert formats.text(LAST_ONLY, TALK[:3], "assistant") == (
        "User: Hi there\n\nAssistant: Hello!\n\nUser: Why is\nthe sky blue?\nAssistant:"
    )


def test_llama_2_without_a_system_text_opens_the_user_turn_itself() -> None:
    assert formats.text("llama-2", [SYSTEM], "user") == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n"
    assert formats.text("llama-2", [SYSTEM, TALK[0]]) == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST]"


@pytest.mark.parametrize("name", GOLDEN)
def test_the_skeleton_is_all_that_stands_around_texts(name: str) -> None:
    skeleton = formats.skeleton(name)
    for affix in (ENDS[name], GOLDEN[name][2]["user"], GOLDEN[name][2]["assistant"]):
        assert affix in skeleton


@pytest.mark.parametrize("text", ["", "  spaced  ", "<|im_end|>", "{braces} %s \\n"])
@pytest.mark.parametrize("name", GOLDEN)
def test_the_text_of_a_turn_is_kept_as_it_is(name: str, text: str) -> None:
    whole = formats.text(name, [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}])
    assert text in whole
    assert len(whole) == len(formats.text(name, [{"role": "user", "content": ""}, TALK[1] | {"content": "a"}])) + len(
        text
    )


def test_an_unknown_format_gets_the_near_name() -> None:
    with pytest.raises(ValueError, match=r"unknown chat format 'ultralm-13b'.*did you mean 'ultralm"):
        formats.render("ultralm-13b", TALK)


@pytest.mark.parametrize("role", ["tool", "human", "User", ""])
def test_an_unknown_role_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match=f"unknown role '{role}'"):
        formats.render("chatml", [{"role": role, "content": "x"}])
    if role:
        with pytest.raises(ValueError, match=f"unknown role '{role}'"):
            formats.render("chatml", TALK, role)

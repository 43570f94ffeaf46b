"""Chat formats: how messages become the one text a model sees, and which parts of it are learned.

Used alike by training, chat, evaluation and local generation, so they cannot disagree. Learned is what the assistant
says and the token that ends its turn, nothing else (UltraChat paper, section 5: loss on responses only).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ultrachat_cli.registry import did_you_mean

Segment = tuple[str, bool]
"""A piece of text and whether it is learned. Pieces are tokenized one by one where a format asks for it."""


@dataclass(frozen=True)
class Format:
    """What stands before and after each role's text. `between` joins turns but does not precede the first."""

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    between: str = ""
    after_end: str = ""
    """Text after the token that ends an assistant turn; not learned."""
    lead: str = ""
    """What the assistant itself says before its text; learned."""
    bos: bool = False
    """Whether a conversation begins with the tokenizer's BOS token (which is no part of the text)."""
    later_user: str | None = None
    """What stands before a user's text from the second round on, where that differs."""
    system_opens_user: bool = False
    """Whether the system text stands inside the first user turn, in place of what opens it."""
    past_assistant: tuple[str, str] | None = None
    """What stands around every answer but the last, where that differs: such answers are not learned."""
    piecewise: bool = False
    """Whether every segment is tokenized on its own, as the model's training did."""


@dataclass(frozen=True)
class Part:
    """One message in its place: only `content` is anybody's words. Learned are lead, content and end of an answer."""

    before: str
    lead: str
    content: str
    after: str
    tail: str
    learn: bool


FORMATS = {
    "chatml": Format(
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>"),
        after_end="\n",
    ),
    "llama-3": Format(
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        bos=True,
    ),
    # Meta's llama repository, llama/generation.py (2023): each round begins with BOS and ends with EOS.
    "llama-2": Format(
        system=("[INST] <<SYS>>\n", "\n<</SYS>>\n\n"),
        user=("[INST] ", " [/INST]"),
        assistant=("", " </s>"),
        lead=" ",
        later_user="<s>[INST] ",
        system_opens_user=True,
        bos=True,
    ),
    # UltraChat's first recipe, for GPT-J: lines of context, then the answer; one example for each assistant turn.
    "gptj-legacy": Format(
        system=("", "\n\n"),
        user=("User: ", ""),
        later_user="\n\nUser: ",
        assistant=("\nAssistant:", "<|endoftext|>"),
        past_assistant=("\n\nAssistant: ", ""),
        lead=" ",
    ),
    # UltraChat train/ultrachat_dataset.py and UltraLM/inference_cli.py: the system line is itself a user line.
    "ultralm": Format(
        system=("User: ", "</s>"),
        user=("User: ", "</s>"),
        assistant=("Assistant: ", "</s>"),
        between="\n",
        bos=True,
        piecewise=True,
    ),
    # The authors' evaluation prompt for 65B: the end token after the assistant only.
    "ultralm-65b": Format(
        system=("User: ", ""),
        user=("User: ", ""),
        assistant=("Assistant: ", "</s>"),
        between="\n",
        bos=True,
        piecewise=True,
    ),
}
TOKENIZER = "tokenizer"
"""The format name that means: the template shipped with the weights."""


def parts(name: str, messages: Sequence[Mapping[str, str]]) -> list[Part]:
    """Every message with what the format puts around it. Raises `ValueError` for an unknown format or role."""
    if name not in FORMATS:
        raise ValueError(f"unknown chat format '{name}'{did_you_mean(name, FORMATS)}")
    chat_format = FORMATS[name]
    found: list[Part] = []
    asked = opened = False
    for n, message in enumerate(messages):
        role = message["role"]
        before, after = _affixes(chat_format, role)
        if role == "user":
            before = "" if opened else _user_before(chat_format, asked)
            asked = True
        opened = role == "system" and chat_format.system_opens_user
        before = (chat_format.between if n else "") + before
        answer = role == "assistant"
        if answer and chat_format.past_assistant is not None and n + 1 < len(messages):
            answer = False
            before, after = chat_format.past_assistant
        lead, tail = (chat_format.lead, chat_format.after_end) if answer else ("", "")
        found.append(Part(before, lead, message["content"], after, tail, answer))
    return found


def render(name: str, messages: Sequence[Mapping[str, str]], open_role: str = "") -> list[Segment]:
    """Segments of a conversation in format `name`; `open_role` adds the beginning of that role's next turn.

    Raises `ValueError` for an unknown format or role.
    """
    segments: list[Segment] = []
    for part in parts(name, messages):
        if part.learn:
            segments += [(part.before, False), (part.lead + part.content + part.after, True), (part.tail, False)]
        else:
            segments.append((part.before + part.content + part.after, False))
    if open_role:
        chat_format = FORMATS[name]
        before = _affixes(chat_format, open_role)[0]
        if open_role == "user":
            system_last = bool(messages) and messages[-1]["role"] == "system" and chat_format.system_opens_user
            before = "" if system_last else _user_before(chat_format, any(m["role"] == "user" for m in messages))
        segments.append(((chat_format.between if messages else "") + before, False))
    return [segment for segment in segments if segment[0]]


def text(name: str, messages: Sequence[Mapping[str, str]], open_role: str = "") -> str:
    """`render` as one string: the prompt of a raw completion."""
    return "".join(piece for piece, _ in render(name, messages, open_role))


def skeleton(name: str) -> str:
    """All that a format puts around texts."""
    roles = ("system", "user", "assistant", "user", "assistant")
    return text(name, [{"role": role, "content": ""} for role in roles])


def stop(name: str) -> list[str]:
    """Where a raw completion in this format ends: the end token, and a turn of the other side."""
    chat_format = FORMATS[name]
    ends = [chat_format.assistant[1].strip(), chat_format.user[0].strip(), chat_format.assistant[0].strip()]
    return [end for end in dict.fromkeys(ends) if end]


def _affixes(chat_format: Format, role: str) -> tuple[str, str]:
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"unknown role '{role}': a message is by system, user or assistant")
    affixes: tuple[str, str] = getattr(chat_format, role)
    return affixes


def _user_before(chat_format: Format, asked: bool) -> str:
    return chat_format.later_user if asked and chat_format.later_user is not None else chat_format.user[0]

"""Chat formats: how messages become the one text a model sees, and which parts of it are learned.

Used alike by training, chat, evaluation and local generation, so they cannot disagree. Learned is what the assistant
says and the token that ends its turn, nothing else (UltraChat paper, section 5: loss on responses only).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ),
    # UltraChat train/ultrachat_dataset.py and UltraLM/inference_cli.py: the system line is itself a user line.
    "ultralm": Format(
        system=("User: ", "</s>"), user=("User: ", "</s>"), assistant=("Assistant: ", "</s>"), between="\n"
    ),
    # The authors' evaluation prompt for 65B: the end token after the assistant only.
    "ultralm-65b": Format(system=("User: ", ""), user=("User: ", ""), assistant=("Assistant: ", "</s>"), between="\n"),
}
TOKENIZER = "tokenizer"
"""The format name that means: the template shipped with the weights."""


def render(name: str, messages: Sequence[dict[str, str]], open_role: str = "") -> list[Segment]:
    """Segments of a conversation in format `name`; `open_role` adds the beginning of that role's next turn.

    Raises `ValueError` for an unknown format or role.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown chat format '{name}'{did_you_mean(name, FORMATS)}")
    chat_format = FORMATS[name]
    segments: list[Segment] = []
    for n, message in enumerate(messages):
        before, after = _affixes(chat_format, message["role"])
        before = (chat_format.between if n else "") + before
        if message["role"] == "assistant":
            segments += [(before, False), (message["content"] + after, True)]
            if chat_format.after_end:
                segments.append((chat_format.after_end, False))
        else:
            segments.append((before + message["content"] + after, False))
    if open_role:
        before = _affixes(chat_format, open_role)[0]
        segments.append(((chat_format.between if messages else "") + before, False))
    return segments


def text(name: str, messages: Sequence[dict[str, str]], open_role: str = "") -> str:
    """`render` as one string: the prompt of a raw completion."""
    return "".join(piece for piece, _ in render(name, messages, open_role))


def stop(name: str) -> list[str]:
    """Where a raw completion in this format ends: the end token, and a turn of the other side."""
    chat_format = FORMATS[name]
    ends = [chat_format.assistant[1], chat_format.user[0].strip(), chat_format.assistant[0].strip()]
    return [end for end in dict.fromkeys(ends) if end]


def _affixes(chat_format: Format, role: str) -> tuple[str, str]:
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"unknown role '{role}': a message is by system, user or assistant")
    affixes: tuple[str, str] = getattr(chat_format, role)
    return affixes

"""The chat template shipped with the weights (Jinja), taken apart at what anybody says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.models.formats import Part

Messages = Sequence[Mapping[str, str]]
_FILE = "chat_template.jinja"
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, the tokens that special_tokens_map.json names, and the template's text."""
    told: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        try:
            told |= orjson.loads(path.read_bytes()) if path.is_file() else {}
        except (orjson.JSONDecodeError, TypeError) as error:
            raise UltraError(f"{path}: not a JSON object: {error}") from error
    for name in _NAMED:
        if isinstance(token := told.get(name), dict):
            told[name] = token.get("content")
    if (folder / _FILE).is_file():
        told["chat_template"] = (folder / _FILE).read_text(encoding="utf-8")
    elif isinstance(found := told.get("chat_template"), list):
        told["chat_template"] = next((one["template"] for one in found if one.get("name") == "default"), None)
    return told


class _Frame(NamedTuple):
    """What a template writes around the texts of messages by certain roles."""

    between: list[str]
    """Before the first text, between each two, after the last."""
    leads: list[int]
    """Characters at the end of what stands before an answer that the assistant itself says."""


class ChatTemplate:
    """Renders messages and tells what in the result is whose. `MissingExtra` without transformers.

    What stands around the texts is found once for each sequence of roles, with a mark in the place of every text;
    each conversation is then rendered once and must be exactly that with its own texts in it.
    """

    def __init__(self, told: Mapping[str, Any], special: re.Pattern[str]) -> None:
        self._text = str(told["chat_template"])
        self._tokens = {name: told[name] for name in _NAMED if told.get(name)}
        self._special = special
        self._frames: dict[tuple[tuple[str, ...], bool], _Frame] = {}
        self.end = ""
        """The token that ends an answer, if any does."""
        last = self._frame(("user", "assistant"), False).between[-1]
        if found := special.match(last.lstrip()):
            self.end = found.group().strip()

    def parts(self, messages: Messages, open_end: bool) -> list[Part]:
        """Parts of which the last may be nobody's. `open_end`: the last message only opens its turn.

        `ValueError` where the template refuses the messages, or writes another text than was said.
        """
        spoken = messages[:-1] if open_end else messages
        frame = self._frame(tuple(message["role"] for message in spoken), open_end)
        texts = self._texts(self._rendered(spoken, open_end), [message["content"] for message in spoken], frame)
        found: list[Part] = []
        before = frame.between[0]
        for message, text, lead, after in zip(spoken, texts, frame.leads, frame.between[1:], strict=True):
            if message["role"] != "assistant":
                found.append(Part(before, "", text, "", "", False))
                before = after
                continue
            stop = self._special.match(after, len(after) - len(after.lstrip()))
            end = stop.end() if stop and stop.group().strip() == self.end else 0
            cut = len(before) - lead
            found.append(Part(before[:cut], before[cut:], text, after[:end], "", True))
            before = after[end:]
        return [*found, Part(before, "", "", "", "", False)] if before else found

    @staticmethod
    def _texts(whole: str, said: list[str], frame: _Frame) -> list[str]:
        """What the template made of the texts: white space at their ends may be gone, nothing else."""
        found: list[str] = []
        at = len(frame.between[0])
        same = whole.startswith(frame.between[0])
        for text, after in zip(said, frame.between[1:], strict=True):
            kept = (text, text.strip(), text.strip("\n"), text.rstrip(), text.lstrip())
            here = next((one for one in kept if whole.startswith(one + after, at)), None)
            if here is None:
                same = False
                break
            found.append(here)
            at += len(here) + len(after)
        if not same or at != len(whole):
            raise ValueError("the chat template alters what is said; name a format instead")
        return found

    def _frame(self, roles: tuple[str, ...], opened: bool) -> _Frame:
        if (kept := self._frames.get((roles, opened))) is not None:
            return kept
        marks = [f"\ue000{n}\ue001" for n in range(len(roles))]  # private characters: no template knows them
        marked = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        whole = rest = self._rendered(marked, opened)
        between: list[str] = []
        leads: list[int] = []
        for n, mark in enumerate(marks):
            before, there, rest = rest.partition(mark)
            if not there or mark in rest:
                raise ValueError("the chat template does not say once what each message says; name a format instead")
            between.append(before)
            leads.append(0)
            if roles[n] == "assistant":
                asked = self._rendered(marked[:n], True)
                leads[n] = whole.index(mark) - len(asked)
                if not whole.startswith(asked) or not 0 <= leads[n] <= len(before):
                    raise ValueError("the chat template rewrites earlier turns; name a format instead")
        self._frames[roles, opened] = _Frame([*between, rest], leads)
        return self._frames[roles, opened]

    def _rendered(self, messages: Messages, open_role: bool) -> str:
        try:
            from jinja2 import TemplateError
            from transformers.utils.chat_template_utils import render_jinja_template
        except ImportError as error:
            raise MissingExtra("the chat template shipped with the weights", "transformers, jinja2", "train") from error
        render: Any = render_jinja_template
        try:
            found, _ = render(
                [list(messages)], chat_template=self._text, add_generation_prompt=open_role, **self._tokens
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"the chat template refuses it: {error}") from error
        return str(found[0])

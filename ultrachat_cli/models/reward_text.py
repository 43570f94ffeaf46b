"""What a reward model reads: a conversation that ends with the answer to be scored, as token ids within its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import chat_templates, text_tokens
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.models.specs import FACTS

Messages = Sequence[Mapping[str, str]]
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one conversation; `cut`: its beginning was left out to fit the context."""

    ids: list[int]
    cut: bool = False


def ultrarm(messages: Messages, separator: int = 2) -> str:
    """UltraRM's input: `Human: ...` and `Assistant: ...`, joined by `separator` newlines, within rounds and between.

    Two are the template of the card (openbmb/UltraRM-13b) and of HH-RLHF, a part of its training data; the card's own
    examples have one. There is no system prompt: system messages are left out.
    """
    spoken = [m for m in messages if m["role"] != "system"]
    return ("\n" * separator).join(f"{_SPEAKERS[m['role']]}: {m['content']}" for m in spoken)


class RewardText:
    """Conversations as ids, in UltraRM's text (`format` None) or in a chat format, as `ChatTokenizer` knows them.

    `context`: tokens that fit, 0 for any number. Raises `UltraError` for a folder without tokenizer, `ConfigError`.
    """

    def __init__(self, folder: Path, format: str | None, context: int, *, separator: int = 2, bos: int | None = None):
        """`bos`: what config.json says, for a tokenizer that names no BOS token itself."""
        self.folder, self.context, self._separator, self._told_bos = folder, context, separator, bos
        try:
            self._chat = None if format is None else ChatTokenizer(folder, format)
        except ConfigError as error:
            hint = f'name the format it was trained with: {{"role": "reward", "format": "chatml"}} in {folder}/{FACTS}'
            raise ConfigError(error.faults, hint) from error

    def encode(self, messages: Messages) -> Encoded:
        """Ids of a conversation. What is too long loses whole rounds at its beginning; a single round, its first words.

        `ValueError` for messages that do not end with the assistant, or that the format cannot hold.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("no answer at the end: nothing to score")
        system = [m for m in messages if m["role"] == "system"]
        spoken = [m for m in messages if m["role"] != "system"]
        whole = ids = self._ids([*system, *spoken])
        while self.context and len(ids) > self.context and len(spoken) > 2:
            spoken = spoken[2:]
            ids = self._ids([*system, *spoken])
        if self.context and len(ids) > self.context:
            head = [self._bos] if self._chat is None else []
            ids = head + ids[len(ids) - self.context + len(head) :]
        return Encoded(ids, len(ids) < len(whole))

    def _ids(self, messages: Messages) -> list[int]:
        if self._chat is not None:
            ids: list[int] = self._chat.encode([messages])[0].ids.tolist()
            return ids
        text = ultrarm(messages, self._separator)
        return [self._bos, *self._tokenizer.encode(text, add_special_tokens=False).ids]

    @cached_property
    def _tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, to which a special token that is spelled out in an answer is mere text."""
        loaded = text_tokens.load(self.folder)
        loaded.encode_special_tokens = True
        return loaded

    @cached_property
    def _bos(self) -> int:
        """The token that LLaMA's tokenizer puts first. No token ends the text: UltraRM was trained so."""
        name = chat_templates.settings(self.folder).get("bos_token")
        found = self._tokenizer.token_to_id(name) if name else self._told_bos
        if found is None:
            raise ConfigError(f"{self.folder}: neither tokenizer_config.json nor config.json names a BOS token")
        return int(found)

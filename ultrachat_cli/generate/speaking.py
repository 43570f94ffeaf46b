"""Generation settings of a role: the config's word, then the registry's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.generate.settings import GenerateConfig, Speaker

ANSWER, QUESTION = 1024, 256
"""Longest turns in tokens, of the assistant and of the user, where neither config nor registry says."""


def recommended(model: ChatModel, speaker: str) -> dict[str, Any]:
    """Request fields the registry recommends for this model in this role."""
    fields = {"max_tokens": ANSWER, **model.spec.sampling}
    if speaker == "user":
        fields |= {"max_tokens": QUESTION, **model.spec.user_sampling}
    return fields


def longest(model: ChatModel, settings: Speaker, speaker: str) -> int:
    """Longest turn, tokens."""
    return settings.max_tokens or int(recommended(model, speaker)["max_tokens"])


def sampling(fields: Mapping[str, Any], settings: Speaker, seed: int, stop: tuple[str, ...] = ()) -> Sampling:
    """`fields` with what the config sets laid over them."""
    rest = dict(fields)
    named = {name: rest.pop(name, None) for name in ("max_tokens", "temperature", "top_p")}
    chosen = {
        name: value if getattr(settings, name) is None else getattr(settings, name) for name, value in named.items()
    }
    return Sampling(**chosen, seed=seed if settings.send_seed else None, stop=stop, extra={**rest, **settings.extra})


def strategy(model: ChatModel, config: GenerateConfig) -> str:
    """How this model plays the user: `instruct` or `continue`."""
    return model.spec.user if config.user.strategy == "auto" else config.user.strategy

"""The configuration of `ultrachat chat`, and what of it can be changed while talking."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from ultrachat_cli import yaml_lines
from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.models.specs import FormatName, ModelSpec, Price, resolve
from ultrachat_cli.registry import did_you_mean

LONGEST = 2000
"""Tokens of an answer by a model that runs here and whose registry entry sets no limit (UltraLM's own default)."""
ALIASES = {"max_tokens": "max_new_tokens", "repeat_penalty": "repetition_penalty"}
"""Other names by which settings are known."""


class ChatSampling(Frozen):
    """How answers are drawn. Unset values come from the registry entry of the model, or are left to the server."""

    temperature: float | None = Field(default=None, ge=0, le=5)
    """Sampling temperature; 0 = always the likeliest token."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling."""
    top_k: int | None = Field(default=None, ge=0)
    """Only the k likeliest tokens; 0 = all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Only tokens at least this likely, relative to the likeliest."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    """Above 1: repeating costs."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, tokens; lowered where the context holds fewer. none = the registry's, else 2,000 here."""
    seed: int | None = None
    """The same seed, the same answer, where the backend keeps that promise; none = a new one each time."""


class ChatLimits(LimitSettings):
    """How an endpoint is asked; patience for somebody who waits at a terminal."""

    attempts: int = Field(default=3, ge=1)
    """Tries for one answer while nothing of it has come."""
    max_wait: float = Field(default=10, gt=0)
    """Longest wait between tries, seconds; also caps a server's Retry-After."""
    timeout: float = Field(default=600, gt=0)
    """Seconds for one answer."""
    breaker_failures: int = Field(default=1_000_000, ge=1)
    """Failures in a row that stop the endpoint: a person decides that better."""


class ChatConfig(Frozen):
    """Everything `ultrachat chat` can be told."""

    model: str = "smollm2-135m"
    """Registry name, folder, .gguf file, hf:org/name, openai:NAME, scripted:FILE."""
    base_url: str | None = None
    """URL of an OpenAI-compatible server, up to and with /v1."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key (never the key itself)."""
    system: str | None = None
    """System prompt; empty = none at all; unset = the registry entry's."""
    sampling: ChatSampling = ChatSampling()
    """How answers are drawn."""
    best_of: int = Field(default=1, ge=1, le=256)
    """Answers drawn for each question, of which the best by `reward_model` is shown."""
    reward_model: str | None = None
    """What tells the best answer: a reward model, or judge:MODEL for a chat model that marks answers."""
    reward_base_url: str | None = None
    """URL of the server of the model in judge:MODEL; unset = `base_url` for a MODEL that is no name known here."""
    reward_api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key of that server."""
    context: int | None = Field(default=None, ge=64)
    """Tokens of context; unset = what the model is known to hold (8,192 at most for one that runs here)."""
    engine: Literal["auto", "llamacpp", "transformers"] = "auto"
    """What runs local weights: auto = llama.cpp for .gguf files, transformers for the rest."""
    format: FormatName | None = None
    """Chat format of a model that runs here (chatml, ultralm, ...); unset = the one its entry or its files name."""
    local: LocalSettings = LocalSettings()
    """How transformers loads weights."""
    plain: bool = False
    """Print answers as they come instead of as markdown."""
    save: Path | None = None
    """File that the conversation is kept in, whole after every answer."""
    keep: bool = True
    """Keep lines and conversations for the next time, in a folder that only you can read (~/.local/state/ultrachat)."""
    limits: ChatLimits = ChatLimits()
    """Rates, retries, budget of an endpoint."""
    prices: dict[str, Price] = {}
    """US dollars for a million tokens by model name: {input: , output: }."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the model is to be found."""
        return Endpoint(self.model, self.base_url, self.api_key_env, self.engine, self.format or "")

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if not model:
            raise ValueError("a model is needed: a registry name, a folder, a .gguf file, openai:NAME, ...")
        return model


def limits_for(limits: LimitSettings, endpoint: Endpoint, best_of: int) -> LimitSettings:
    """A model that runs here works out as many answers at once as are drawn: each of them takes memory."""
    if endpoint.base_url is not None or resolve(endpoint.model).scheme in ("openai", "scripted"):
        return limits
    return limits.model_copy(update={"concurrency": best_of})


def changed(sampling: ChatSampling, name: str, text: str) -> ChatSampling:
    """With `name` set to what `text` says (`none`: unset again). `UltraError` for what it cannot be."""
    name = ALIASES.get(name, name)
    if name not in ChatSampling.model_fields:
        near = did_you_mean(name, [*ChatSampling.model_fields, *ALIASES])
        raise UltraError(f"unknown setting '{name}'{near}", f"settings: {', '.join(ChatSampling.model_fields)}")
    try:
        value = None if text.lower() in ("none", "default", "") else yaml_lines.scalar(text)
        return ChatSampling.model_validate({**sampling.model_dump(), name: value})
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UltraError(f"{name} {text}: {problem[0].lower()}{problem[1:]}") from None
    except ConfigError as error:
        raise UltraError(f"{name}: {error.message}") from None


def effective(sampling: ChatSampling, spec: ModelSpec) -> dict[str, Any]:
    """Every setting with its value: the one set, else the registry's, else None."""
    known = {ALIASES.get(name, name): value for name, value in spec.sampling.items()}
    return {name: known.get(name) if value is None else value for name, value in sampling.model_dump().items()}


def longest(sampling: ChatSampling, spec: ModelSpec, served: bool) -> int | None:
    """Tokens an answer may have; None = the server decides."""
    wanted = effective(sampling, spec)["max_new_tokens"]
    return int(wanted) if wanted is not None else None if served else LONGEST


def request(sampling: ChatSampling, spec: ModelSpec, served: bool, max_tokens: int | None) -> Sampling:
    """The settings of one request, under the names that the model's kind of server knows."""
    values = {name: value for name, value in effective(sampling, spec).items() if value is not None}
    values.pop("max_new_tokens", None)
    named = {name: values.pop(name) for name in ("temperature", "top_p", "seed") if name in values}
    more = {
        key: value for key, value in spec.sampling.items() if ALIASES.get(key, key) not in ChatSampling.model_fields
    }
    if not served and "repetition_penalty" in values:  # llama.cpp's name; other servers follow transformers
        values["repeat_penalty"] = values.pop("repetition_penalty")
    return Sampling(max_tokens=max_tokens, **named, extra={**more, **values})

"""The configuration of `ultrachat serve`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.config import Frozen
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.models.specs import FormatName, Price


class ServeLimits(LimitSettings):
    """How an endpoint behind this one is asked."""

    attempts: int = Field(default=3, ge=1)
    """Tries for one answer while nothing of it has come."""
    max_wait: float = Field(default=10, gt=0)
    """Longest wait between tries, seconds; also caps a server's Retry-After."""
    timeout: float = Field(default=600, gt=0)
    """Seconds for one answer."""


class ServeConfig(Frozen):
    """What is served, and where."""

    model: str = Field(default="smollm2-135m", min_length=1)
    """Registry name, folder, .gguf file, hf:org/name, openai:NAME."""
    base_url: str | None = None
    """URL of an OpenAI-compatible server that has the model, up to and with /v1."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the key of that server."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen at; 0.0.0.0 = all of this machine's."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port; 0 = any free one."""
    client_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the key that clients must send; none = anybody who reaches the port may ask."""
    engine: Literal["auto", "llamacpp", "transformers"] = "auto"
    """What runs local weights: auto = llama.cpp for .gguf files, transformers for the rest."""
    format: FormatName | None = None
    """Chat format of a model that runs here (chatml, ultralm, ...); unset = the one its entry or its files name."""
    local: LocalSettings = LocalSettings()
    """How transformers loads weights."""
    context: int = Field(default=4096, ge=64)
    """Tokens of context of a model that llama.cpp runs, for each request."""
    max_body: int = Field(default=8_000_000, ge=1000)
    """Bytes of a request at most."""
    limits: ServeLimits = ServeLimits()
    """Rates, retries, budget of an endpoint; `concurrency` is for all models."""
    prices: dict[str, Price] = {}
    """US dollars for a million tokens by model name: {input: , output: }."""

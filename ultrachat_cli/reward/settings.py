"""The configurations of `ultrachat score` and `ultrachat critique`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models.placement import Device, Dtype
from ultrachat_cli.models.specs import Price

Turns = Literal["final", "all"]


class Judging(Frozen):
    """What both commands can be told of files, answers and a model that is asked."""

    inputs: list[Path] = []
    """Files, folders, runs or patterns: .jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet."""
    output: Path | None = None
    """Where the dialogues go, with what was found in meta; its name tells the kind of file."""
    turns: Turns = "final"
    """Which answers: the last of a dialogue, or all."""
    model: str | None = None
    """The model."""
    judge: str | None = None
    """A chat model in its place: a registry name, openai:NAME, a folder, a .gguf file."""
    base_url: str | None = None
    """URL of an OpenAI-compatible server, up to and with /v1."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key (never the key itself)."""
    journal: Path | None = None
    """Where the judge's answers are kept; none = beside the output."""
    embedded_context: int = Field(default=4096, ge=512)
    """Tokens of context for each slot of an embedded model."""
    limits: LimitSettings = LimitSettings()
    """Concurrency, rates, retries, budget."""
    prices: dict[str, Price] = {}
    """US dollars for a million tokens by model name: {input: , output: }."""

    def check_given(self) -> None:
        """`ConfigError` unless there is something to read, and one model."""
        faults = [] if self.inputs else ["FILES: name files, folders, runs or patterns, or - for stdin"]
        faults += [] if self.output else ["--output: where to? name a file, or - for stdout"]
        if bool(self.model) == bool(self.judge):
            faults.append("--model or --judge: one of them")
        if faults:
            raise ConfigError(faults)

    @property
    def endpoint(self) -> Endpoint:
        """Who is asked."""
        return Endpoint(self.judge or self.model or "", self.base_url, self.api_key_env)


class ScoreConfig(Judging):
    """Everything `ultrachat score` can be told."""

    model: str | None = None
    """Reward model: a registry name, a folder, hf:org/name."""
    separator: Literal[1, 2] = 2
    """Newlines between the turns in UltraRM's text: two as in the card's template, one as in the card's examples."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a batch, padding included; none = 16384 on a GPU, 4096 on a CPU."""
    device: Device = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda, cuda:1, ..."""
    dtype: Dtype = "auto"
    """Numbers to compute in; auto = bfloat16 on a GPU, float32 on a CPU. Rewards differ in the second decimal."""

    def check_given(self) -> None:
        """Also: nobody asks a reward model over a network."""
        super().check_given()
        if self.model and (self.base_url or self.api_key_env):
            raise ConfigError("--base-url and --api-key-env go with --judge: a reward model runs on this machine")


class CritiqueConfig(Judging):
    """Everything `ultrachat critique` can be told."""

    model: str | None = None
    """Critique model (ultracm-13b), or any chat model."""
    prompt: Path | None = None
    """File with {instruction} and {completion} that replaces the shipped prompt, such as the text of UltraCM's card."""

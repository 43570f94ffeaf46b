"""The configuration of `ultrachat eval alpaca`, `evol` and `curated`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ultrachat_cli.backends import scorers
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import specs
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.models.specs import Price

_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
SuiteName = Literal["alpaca", "evol", "curated"]


class AnswerSettings(Frozen):
    """How models answer. Unset values come from the model's registry entry, as it was evaluated when published."""

    system: str | None = None
    """System prompt; empty = none at all; unset = the registry entry's."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; lowered where the context holds fewer. none = the registry's, else 2,048."""
    temperature: float | None = Field(default=None, ge=0, le=5)
    """Sampling temperature."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling."""
    seed: int = 0
    """Of the first sample; further ones of the same question count up from it."""
    extra: dict[str, Any] = {}
    """More request fields (top_k, repeat_penalty, ...)."""


class EvalConfig(Frozen):
    """Everything an evaluation can be told."""

    suite: SuiteName = "alpaca"
    """Which questions, and how they are judged by default."""
    dataset: str | None = None
    """File of questions, `demo`, or a name of `data ls`; none = the suite's own set, fetched once."""
    limit: int | None = Field(default=None, ge=1)
    """Ask this many questions only, evenly spread over the set."""
    model: str | None = None
    """Who is evaluated: a registry name, openai:NAME, a folder, a .gguf file, hf:org/name."""
    outputs: Path | None = None
    """Its answers, where they are made already: alpaca_eval's model_outputs.json."""
    base_url: str | None = None
    """URL of the OpenAI-compatible server of the model, up to and with /v1."""
    api_key_env: str | None = Field(default=None, pattern=_VARIABLE)
    """Name of the environment variable that holds its key (never the key itself)."""
    reference: str | None = None
    """Whom it is compared with: a file of answers or a model; none = the answers in the set, where there are any."""
    reference_base_url: str | None = None
    """URL of the reference model's server; none = that of the model, where the name alone does not tell."""
    reference_api_key_env: str | None = Field(default=None, pattern=_VARIABLE)
    """Variable with its key."""
    judge: str | None = None
    """Who judges: any chat model."""
    judge_base_url: str | None = None
    """URL of the judge's server."""
    judge_api_key_env: str | None = Field(default=None, pattern=_VARIABLE)
    """Variable with its key."""
    preset: str | None = None
    """alpaca_eval_gpt4, weighted_alpaca_eval_gpt4_turbo, pairwise-score or single-score; none = the suite's."""
    prompt: Path | None = None
    """File that replaces the preset's prompt, with {instruction} and {output_1}, {output_2} or {output}."""
    both_orders: bool = False
    """Ask for each comparison twice, with the answers exchanged."""
    allow_missing: bool = False
    """Leave out what only one side has an answer to."""
    max_unreadable: float = Field(default=0.05, ge=0, le=1)
    """A greater share of verdicts that cannot be read is a failure."""
    best_of: int = Field(default=1, ge=1, le=256)
    """Answers drawn for each question, of which the best by `reward_model` counts."""
    reward_model: str | None = None
    """What tells the best answer: a reward model, or judge:MODEL."""
    reward_base_url: str | None = None
    """URL of the server of the model in judge:MODEL."""
    reward_api_key_env: str | None = Field(default=None, pattern=_VARIABLE)
    """Variable with its key."""
    answers: AnswerSettings = AnswerSettings()
    """How the model and a reference model answer."""
    length_controlled: bool = False
    """Also the length-controlled win rate of AlpacaEval 2."""
    gamed_file: Path | None = None
    """df_gamed.csv for it; none = fetched from the hub once."""
    annotations: Path | None = None
    """Stored verdicts: everything is computed from them, nobody is asked."""
    agreement: Path | None = None
    """Verdicts of another judge on the same answers: how often both agree."""
    output: Path | None = None
    """Run folder; none = runs/eval-SUITE-MODEL."""
    embedded_context: int = Field(default=4096, ge=512)
    """Tokens of context for each slot of an embedded model."""
    local: LocalSettings = LocalSettings()
    """How transformers loads weights."""
    limits: LimitSettings = LimitSettings()
    """Concurrency, rates, retries, budget, for each endpoint."""
    prices: dict[str, Price] = {}
    """US dollars for a million tokens by model name: {input: , output: }."""

    def check_given(self) -> None:
        """`ConfigError` unless it is plain whose answers are judged, and by whom."""
        faults = []
        if self.annotations is not None:
            asking = ("model", "outputs", "reference", "dataset", "limit", "judge", "preset", "prompt", "reward_model")
            given = [name for name in asking if getattr(self, name) is not None]
            if given:
                flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                faults.append(f"--annotations: the verdicts are there, nobody is asked; leave out {flags}")
        else:
            if (self.model is None) == (self.outputs is None):
                faults.append("--model or --outputs: one of them, whose answers are judged")
            if self.judge is None:
                faults.append("--judge: who judges? any chat model, such as openai:gpt-4.1-mini")
        for flag, path in (("outputs", self.outputs), ("annotations", self.annotations), ("agreement", self.agreement)):
            if path is not None and not path.is_file():
                faults.append(
                    f"--{flag}: {path}: " + ("a folder; name a file in it" if path.is_dir() else "no such file")
                )
        if self.best_of > 1 and self.reward_model is None:
            faults.append("--best-of needs --reward-model: something must tell the best answer")
        if self.best_of == 1 and self.reward_model is not None:
            faults.append("--reward-model goes with --best-of: of how many answers does it tell the best?")
        if self.gamed_file is not None and not self.length_controlled:
            faults.append("--gamed-file goes with --length-controlled")
        if self.best_of > 1 and self.outputs is not None:
            faults.append("--best-of goes with --model: the answers of --outputs are made already")
        if faults:
            raise ConfigError(faults)

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        if self.output is not None:
            return self.output
        of = self.model or str(self.outputs or self.annotations)
        if self.model is None:  # model_outputs.json says nothing; the folder it lies in does
            path = Path(of)
            of = path.parent.name if path.stem in ("model_outputs", "annotations") and path.parent.name else path.stem
        name = re.sub(r"[^\w.-]+", "-", of.removeprefix("openai:").removeprefix("hf:")).strip("-.")
        best = f"-best-of-{self.best_of}" if self.best_of > 1 else ""
        return Path("runs", f"eval-{self.suite}-{name}{best}")

    @property
    def of_model(self) -> Endpoint:
        """Where the model is."""
        return Endpoint(self.model or "", self.base_url, self.api_key_env)

    @property
    def of_reference(self) -> Endpoint:
        """Where the reference model is: at the model's place, unless its name or settings say otherwise."""
        name = self.reference or ""
        spec = specs.known().get(name)
        told = spec is not None or ":" in name or name.endswith(".gguf") or Path(name).is_dir()
        url = self.reference_base_url or (None if told else self.base_url)
        return Endpoint(name, url, self.reference_api_key_env or (self.api_key_env if url == self.base_url else None))

    @property
    def of_judge(self) -> Endpoint:
        """Where the judge is."""
        return Endpoint(self.judge or "", self.judge_base_url, self.judge_api_key_env)

    @property
    def reward(self) -> tuple[str, Endpoint | None]:
        """The scorer's name, and where it is if it is a chat model."""
        name = self.reward_model or ""
        if not name.startswith(scorers.JUDGE):
            return name, None
        return name, Endpoint(name.removeprefix(scorers.JUDGE), self.reward_base_url, self.reward_api_key_env)

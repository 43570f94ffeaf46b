"""The configuration of `ultrachat generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.config import Frozen, Range, Span
from ultrachat_cli.filters.settings import TurnFilters
from ultrachat_cli.models.specs import Price

Sector = Literal["world", "writing", "materials"]
SECTORS: tuple[Sector, ...] = ("world", "writing", "materials")
Share = Field(ge=0, le=1)


class Speaker(Frozen):
    """One of the models of a run. Unset values come from the registry entry of the model."""

    model: str | None = None
    """Registry name, .gguf file, hf:org/name/file.gguf, openai:NAME, scripted:FILE; none = the assistant's."""
    base_url: str | None = None
    """URL of an OpenAI-compatible server, up to and with /v1."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key (never the key itself)."""
    temperature: float | None = Field(default=None, ge=0, le=5)
    """Sampling temperature."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, tokens; none = the registry entry's, or 1024 for the assistant and lists, 256 for the user."""
    send_seed: bool = True
    """Send a seed with each request; switch it off for servers that refuse the field."""
    extra: dict[str, Any] = {}
    """More request fields, sent as they are (top_k, repeat_penalty, reasoning_effort, ...)."""


class Assistant(Speaker):
    """The model that answers."""

    model: str | None = "smollm2-135m"
    """Registry name, .gguf file, hf:org/name/file.gguf, openai:NAME, scripted:FILE."""
    system: str | None = None
    """System prompt of the assistant; none = the registry entry's (usually none at all)."""
    best_of: int = Field(default=1, ge=1, le=64)
    """Answers asked for at each turn; of several, the one that `reward_model` scores highest stays."""
    reward_model: str | None = None
    """What scores them: a reward model (registry name, folder, hf:org/name), or judge:NAME for any chat model."""

    @field_validator("model")
    @classmethod
    def _named(cls, model: str | None) -> str:
        if not model:
            raise ValueError("a model is needed: a registry name, a .gguf file, openai:NAME, ...")
        return model

    @model_validator(mode="after")
    def _scored(self) -> Assistant:
        if (self.best_of > 1) != bool(self.reward_model):
            raise ValueError("best_of (more than 1) and reward_model go together: --best-of 4 --reward-model NAME")
        return self


class User(Speaker):
    """The model that plays the user."""

    strategy: Literal["auto", "instruct", "continue"] = "auto"
    """`instruct`: history, then an instruction; `continue`: raw continuation of the user's turn; auto = registry."""
    personas: Path | None = None
    """YAML list of {name, style}; none = the shipped 32."""


class Opener(Speaker):
    """The model that makes lists (subtopics, questions, instructions) and expands instructions."""

    list_retries: int = Field(default=2, ge=0)
    """How often a list that came back short is asked for again before it is taken as it is."""
    per_request: int | None = Field(default=None, ge=1, le=100)
    """Items asked for in one request; none = 10, or 5 from a small model."""


class WorldMix(Frozen):
    """Weights of the four kinds of openings. The original: 120k topic, 50k meta, 200k specific, 250k general."""

    topic: float = Field(default=12, ge=0)
    """Questions from topics and subtopics, and their related questions."""
    meta: float = Field(default=5, ge=0)
    """Meta questions about an entity."""
    specific: float = Field(default=20, ge=0)
    """Specific questions from a meta question."""
    general: float = Field(default=25, ge=0)
    """Related but general questions from a meta question."""

    @model_validator(mode="after")
    def _some(self) -> WorldMix:
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0: nothing could be generated")
        return self


class World(Frozen):
    """Questions about the world (sector 1). Fan-outs as published."""

    topics: Path | None = None
    """YAML list of meta topics; none = the published 30."""
    subtopics: Range = Span(low=30, high=50)
    """Subtopics of a meta topic."""
    questions: int = Field(default=10, ge=1)
    """Questions of a subtopic."""
    related: int = Field(default=10, ge=0)
    """Related questions of a question."""
    entities: Path | None = None
    """Text file, one entity a line; none = the shipped list."""
    meta_questions: int = Field(default=5, ge=1)
    """Meta questions of an entity."""
    specific: int = Field(default=10, ge=1)
    """Specific questions of a meta question."""
    general: int = Field(default=20, ge=1)
    """Related but general questions of a meta question."""
    mix: WorldMix = WorldMix()
    """Proportions of the kinds of openings."""
    breadth: int = Field(default=128, ge=1)
    """Entities that are open at once: openings go round among them."""


class Writing(Frozen):
    """Creation and writing (sector 2)."""

    instructions: int | None = Field(default=None, ge=1)
    """Most instructions of each of the 20 material types (the original: 200); none = as many as the limit needs."""
    expand: float = Field(default=0.8, ge=0, le=1)
    """Share of the instructions that are expanded with detail."""


class Materials(Frozen):
    """Assistance on existing materials (sector 3)."""

    paths: list[Path] = []
    """JSONL, JSONL.gz, Parquet or text files, folders of them, or writing runs; empty = the shipped passages."""
    instructions: int = Field(default=5, ge=1)
    """Instructions for each piece of text."""
    min_chars: int = Field(default=200, ge=1)
    """Shorter pieces are skipped."""
    max_chars: int = Field(default=6000, ge=1)
    """Longer pieces are cut at the last sentence end before this."""
    classified_only: bool = False
    """Skip pieces whose type neither the file nor a keyword in the URL tells."""
    templates: Path | None = None
    """YAML with `text_first` and `text_last` lists; none = the shipped ten."""
    breadth: int = Field(default=64, ge=1)
    """Pieces that are open at once: openings go round among them."""

    @model_validator(mode="after")
    def _order(self) -> Materials:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}")
        return self


class Filters(TurnFilters):
    """What makes a turn unfit. A bad turn is asked for again, then the dialogue is cut before it."""

    retries: int = Field(default=2, ge=0)
    """How often a bad turn is asked for again."""
    give_up: float = Field(default=4, gt=0)
    """Stop when rejected dialogues outnumber the limit this many times: the models cannot do it."""
    near_duplicate: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity (character 5-grams) from which an opening is a near duplicate of an earlier one; 1 = exact."""


class GenerateConfig(Frozen):
    """Everything `ultrachat generate` can be told."""

    sector: Literal["world", "writing", "materials", "all"] = "world"
    """World questions, creation and writing, assistance on existing materials, or all three in equal parts."""
    limit: int = Field(default=20, ge=1)
    """Dialogues to make. Raising it later extends a finished run."""
    rounds: Range | None = None
    """Rounds of a dialogue (user turn + assistant turn), N or MIN-MAX, drawn evenly; none = 3-7 for world, else 2-4."""
    min_rounds: int = Field(default=2, ge=1)
    """A dialogue cut by a filter is kept if this many rounds remain (or all it was to have)."""
    seed: int = 0
    """Of everything that is drawn: order, rounds, personas, requests."""
    output: Path | None = None
    """Run folder; none = runs/<sector>."""
    format: Literal["ultrachat", "messages", "sharegpt", "parquet"] = "ultrachat"
    """dialogues.jsonl is always written in UltraChat's shape; another format is written beside it at the end."""
    assistant: Assistant = Assistant()
    """The model that answers."""
    user: User = User()
    """The model that plays the user."""
    opening: Opener = Opener()
    """The model that makes the openings."""
    embedded_context: int = Field(default=4096, ge=512)
    """Tokens of context for each slot of an embedded model."""
    limits: LimitSettings = LimitSettings()
    """Concurrency, rates, retries, budget."""
    world: World = World()
    """Questions about the world."""
    writing: Writing = Writing()
    """Creation and writing."""
    materials: Materials = Materials()
    """Assistance on existing materials."""
    filters: Filters = Filters()
    """What makes a turn unfit."""
    prompts: Path | None = None
    """Folder of prompt files that replace the shipped ones of the same name."""
    prices: dict[str, Price] = {}
    """US dollars for a million tokens by model name: {input: , output: }."""

    @property
    def sectors(self) -> tuple[Sector, ...]:
        """The sectors of this run."""
        return SECTORS if self.sector == "all" else (self.sector,)

    def rounds_of(self, sector: Sector) -> Span:
        """The range of rounds of a sector (README of UltraChat: 3-7; 2-4)."""
        return self.rounds or (Span(low=3, high=7) if sector == "world" else Span(low=2, high=4))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output or Path("runs") / self.sector

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: everything but how much, how fast, at what price and where to."""
        unused = set(SECTORS) - set(self.sectors)
        data = self.model_dump(mode="json", exclude={"limit", "output", "format", "limits", "prices", *unused})
        for role in ("assistant", "user", "opening"):
            for key in ("base_url", "api_key_env"):
                del data[role][key]
        if self.assistant.best_of == 1:  # runs begun before there was a choice go on
            del data["assistant"]["best_of"], data["assistant"]["reward_model"]
        return data

"""The configuration of `ultrachat dedupe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.records import files

Method = Literal["exact", "near", "semantic"]
Scope = Literal["dialogue", "opening", "turn"]


class Against(Frozen):
    """Decontamination: what to do with dialogues that overlap with benchmarks."""

    files: list[Path] = []
    """Benchmark files: JSON or JSONL with an instruction, prompt, question, turns or text each."""
    rule: Literal["coverage", "any"] = "coverage"
    """`coverage`: enough of an item's words lie in n-grams shared with one dialogue (Tulu 3); `any`: one is enough."""
    ngram: int | None = Field(default=None, ge=2, le=64)
    """Words of an n-gram; none = 8 for `coverage`, 13 for `any` (GPT-3)."""
    coverage: float = Field(default=0.5, gt=0, le=1)
    """Share of an item's words from which a dialogue counts as contaminated."""
    similar: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity (word 5-grams) of a single turn and an item from which the dialogue counts as contaminated."""
    turns: Literal["user", "assistant", "both"] = "both"
    """Whose turns are searched."""
    action: Literal["drop", "flag"] = "drop"
    """Leave contaminated dialogues out, or keep them with meta.contaminated naming the items."""

    @property
    def size(self) -> int:
        """Words of an n-gram."""
        return self.ngram or (8 if self.rule == "coverage" else 13)


class Semantic(Frozen):
    """Duplicates by meaning."""

    model: str = "minilm"
    """Embedding model: a registry name or a local folder."""
    threshold: float = Field(default=0.9, gt=0, le=1)
    """Cosine similarity from which two texts count as duplicates."""


class Spark(Frozen):
    """The cluster engine."""

    master: str = "local[*]"
    """Spark master: local[N] or spark://host:port."""
    conf: dict[str, str] = {}
    """More Spark settings, such as spark.executor.memory: 8g."""


class DedupeConfig(Frozen):
    """What is compared, when two count as the same, and which one stays."""

    inputs: list[Path] = []
    """Files, folders, runs or patterns: .jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet."""
    output: Path | None = None
    """Where the survivors go; its name tells the kind of file, a folder gets a `dialogues.jsonl`."""
    method: list[Method] = ["exact", "near"]
    """Stages: equal but for case and punctuation; near (n-gram Jaccard); semantic (embedding cosine)."""
    threshold: float = Field(default=0.8, ge=0.3, le=1)
    """Jaccard similarity of word n-grams from which two texts count as near duplicates."""
    scope: Scope = "dialogue"
    """What is compared: whole dialogues, their opening lines, or single turns (one shared turn joins two dialogues)."""
    keep: Literal["first", "longest", "best"] = "first"
    """Which of a cluster stays: first in (file name, line), most text, or highest score; ties go to the first."""
    score: list[str] = ["meta.reward", "meta.score"]
    """Where the score for keep=best is found in a record: at the first of these keys that holds a number."""
    ngram: int = Field(default=5, ge=1, le=32)
    """Words of a shingle."""
    min_words: int | None = Field(default=None, ge=1)
    """Shorter texts are compared for exact equality only; none = 1, or 10 for single turns (then not compared)."""
    against: Against = Against()
    semantic: Semantic = Semantic()
    engine: Literal["local", "spark"] = "local"
    """This machine, or a Spark cluster with the same result."""
    spark: Spark = Spark()
    processes: int | None = Field(default=None, ge=1)
    """Worker processes; none = one a core."""

    @field_validator("score", mode="before")
    @classmethod
    def _one_or_several(cls, score: Any) -> Any:
        return score.split(",") if isinstance(score, str) else score

    @field_validator("output")
    @classmethod
    def _file_or_folder(cls, output: Path | None) -> Path | None:
        other = output and output.suffix and not output.is_dir() and not output.name.endswith(files.SUFFIXES)
        if other or output == files.STDIN:
            raise ValueError(f"unknown kind of file {output} (use {', '.join(files.SUFFIXES)}, or a folder)")
        return output

    @property
    def target(self) -> Path:
        """The output file."""
        assert self.output is not None
        return self.output if self.output.name.endswith(files.SUFFIXES) else self.output / files.RUN_FILE

    def check_given(self) -> None:
        """`ConfigError` when there is nothing to read or nowhere to write."""
        faults = ["inputs: no files given"] if not self.inputs else []
        faults += ["output: no file given"] if self.output is None else []
        if faults:
            raise ConfigError(faults, "ultrachat dedupe FILES... --output clean.jsonl")

    def identity(self) -> dict[str, Any]:
        """What must be equal for finished stages to be used again."""
        return self.model_dump(mode="json", exclude={"processes", "inputs", "output"})

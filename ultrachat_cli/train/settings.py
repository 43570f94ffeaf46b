"""The settings of `ultrachat train`; the string under a field is its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError

EngineName = Literal["auto", "fsdp", "bmtrain", "accelerate"]


class Source(Frozen):
    """Files that are drawn from alike."""

    files: list[str]
    """Files, folders, runs or patterns."""
    weight: float = Field(default=1.0, gt=0)
    """How often each dialogue is seen in an epoch: 0.5 is every other one, 2 is twice."""


def _sources(value: Any) -> Any:
    """`a.jsonl`, [`a.jsonl`, `b.jsonl`] and [{files: ..., weight: ...}] are all meant."""
    given = value if isinstance(value, list) else [value]
    plain = [one for one in given if isinstance(one, str)]
    found: list[Any] = [{"files": plain}] if plain else []
    for one in given:
        if isinstance(one, dict) and isinstance(one.get("files"), str):
            found.append({**one, "files": [one["files"]]})
        elif not isinstance(one, str):
            found.append(one)
    return found


class Optimizer(Frozen):
    """AdamW and its schedule."""

    lr: float = Field(default=2e-5, gt=0)
    """Highest learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup: float = Field(default=0.03, ge=0)
    """Below 1: share of all steps; otherwise steps."""
    lowest: float = Field(default=0.0, ge=0, le=1)
    """What is left of the rate at the end, as a share."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled; on matrices only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the moments."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0: any."""


class Lora(Frozen):
    """Low-rank adapters by `peft` in place of all weights (fsdp only)."""

    rank: int = Field(default=0, ge=0)
    """0: train all weights."""
    alpha: float = Field(default=16.0, gt=0)
    """Scale of the adapters."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the adapters' input."""
    targets: list[str] = ["all-linear"]
    """Names of the layers that get adapters."""


class Save(Frozen):
    """Checkpoints."""

    every: int = Field(default=500, ge=0)
    """Steps between two; 0: only when stopped."""
    keep: int = Field(default=2, ge=1)
    """The newest so many stay."""


class Evaluate(Frozen):
    """Loss on held-out dialogues."""

    validation: float | list[str] = 0.0
    """A share of the data to hold out (by id, as `data split`), or files."""
    every: int = Field(default=0, ge=0)
    """Steps between two; 0: before the first step and after the last."""
    samples: int = Field(default=0, ge=0)
    """Answers to show to the first so many held-out openings."""
    sample_tokens: int = Field(default=96, ge=1)
    """Longest such answer, in tokens."""

    @model_validator(mode="after")
    def _possible(self) -> Evaluate:
        if isinstance(self.validation, float) and not 0 <= self.validation < 1:
            raise ValueError("must be a share below 1, or files")
        return self


class Log(Frozen):
    """Where metrics go, besides metrics.jsonl."""

    every: int = Field(default=10, ge=1)
    """Steps between two lines."""
    tensorboard: str = ""
    """Folder for TensorBoard."""
    wandb: str = ""
    """Project at Weights & Biases (WANDB_MODE=offline works)."""
    trackio: str = ""
    """Project in trackio."""


class Launch(Frozen):
    """The processes of a run."""

    gpus: int | None = Field(default=None, ge=0)
    """GPUs of this node, a process each; 0: the CPU; unset: all there are."""
    processes: int | None = Field(default=None, ge=1)
    """Processes of this node on the CPU."""
    nodes: int = Field(default=1, ge=1)
    """Nodes that take part."""
    node_rank: int = Field(default=0, ge=0)
    """Which of them this is."""
    rdzv_endpoint: str = ""
    """host:port of node 0, needed with more than one node."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds after which a rank that no longer answers ends the run."""


class TrainConfig(Frozen):
    """A training run."""

    data: Annotated[list[Source], BeforeValidator(_sources)] = []
    """Dialogue files; [{files: ..., weight: ...}] mixes sets."""
    model: str = "smollm2-135m"
    """What to start from: registry name, folder, hf:org/name."""
    output: str = ""
    """Folder for checkpoints, metrics and, at the end, the model."""
    format: str = ""
    """Chat format; empty: the model's own in the registry."""
    system: str = ""
    """System message for dialogues that have none."""
    engine: EngineName = "auto"
    """auto: bmtrain where `bmtrain` is true, installed and there is a GPU, else fsdp."""
    bmtrain: bool = False
    """Whether `auto` may take BMTrain."""
    examples: Literal["dialogue", "turn"] = "dialogue"
    """A dialogue is one example, or (the legacy recipe) every assistant turn with what came before."""
    max_length: int = Field(default=2048, ge=16)
    """Longest example, in tokens."""
    overlong: Literal["split", "truncate", "drop"] = "split"
    """Longer dialogues are split by rounds, cut at the end (as the original did), or left out."""
    packing: bool = True
    """Fill rows of max_length with whole examples, each of which sees only itself."""
    batch: int = Field(default=16, ge=1)
    """Rows a step, over all processes and accumulation."""
    micro_batch: int = Field(default=1, ge=1)
    """Rows a process computes at once."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the data."""
    steps: int = Field(default=0, ge=0)
    """Stop after so many steps; 0: after the epochs."""
    seed: int = 0
    """Of order and new weights."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Of the computation; weights are kept in fp32 by fsdp, in this by bmtrain."""
    activation_checkpointing: bool = False
    """Compute activations again instead of keeping them: less memory, a third more work."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile (not bmtrain); auto: fsdp on a GPU, and on a CPU with a C++ compiler beyond half an hour."""
    offload: bool = True
    """bmtrain: keep the optimizer in the host's memory (fp16 only)."""
    pad_token: str = ""
    """Added to the vocabulary where the tokenizer has no such token, as the original did with <pad>."""
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    save: Save = Save()
    evaluate: Evaluate = Evaluate()
    log: Log = Log()
    launch: Launch = Launch()

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.lora.rank and self.engine in ("bmtrain", "accelerate"):
            raise ValueError(f"lora works with engine fsdp, not {self.engine}")
        if self.launch.nodes > 1 and not self.launch.rdzv_endpoint:
            raise ValueError("launch.rdzv_endpoint: host:port of node 0 is needed with more than one node")
        if self.launch.node_rank >= self.launch.nodes:
            raise ValueError(f"launch.node_rank: nodes count from 0 to {self.launch.nodes - 1}")
        return self

    def check_given(self) -> None:
        """`ConfigError` when there is nothing to train on, or nowhere to put it."""
        faults = [] if self.data else ["--data: name dialogue files, folders, runs or patterns"]
        if not self.output:
            faults.append("--output: name a folder for the run")
        if faults:
            raise ConfigError(faults)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.output)

"""What a run would take, before it takes it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ultrachat_cli.machine import cores
from ultrachat_cli.train import cpu_attention, loss, processes
from ultrachat_cli.train.batches import Plan
from ultrachat_cli.train.flops import Cost, inner_size
from ultrachat_cli.train.prepare import Prepared, summary
from ultrachat_cli.train.settings import TrainConfig

_GPU, _GPU_RATE = "H100", 0.45 * 989e12
_CPU_SHARE = 0.55  # of the rate of a plain matrix product


@dataclass(frozen=True)
class Estimate:
    """Of a run: work, memory of each process in GiB, time in seconds on `machine`."""

    engine: str
    processes: int
    data: dict[str, Any]
    tokens: int
    packed_rows: int
    fill: float
    steps: int
    accumulation: int
    weights: int
    memory: dict[str, float]
    seconds: float
    machine: str

    @classmethod
    def of(cls, config: TrainConfig, prepared: Prepared, plan: Plan, cost: Cost, engine: str) -> Estimate:
        """From the plan; the rate of a CPU is measured for a fraction of a second."""
        on_gpu = engine == "bmtrain" or config.bmtrain or processes.gpus_wanted(config.launch)
        rate, machine = (_GPU_RATE, f"{_GPU} at 45% of its peak") if on_gpu else (_cpu_rate(), "this machine's CPU")
        world = plan.world
        again = 4 / 3 if config.activation_checkpointing else 1.0
        share = world if on_gpu else 1
        return cls(
            engine=engine, processes=world, data=summary(prepared), tokens=plan.tokens, packed_rows=plan.rows,
            fill=round(plan.fill, 4), steps=plan.steps, accumulation=plan.accumulation, weights=cost.weights,
            memory=memory(config, prepared, cost, world, engine, on_gpu=on_gpu),
            seconds=cost.least(plan.all_tokens) * again / (rate * share), machine=machine,
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        left_out = ", ".join(f"{n:,} {name}" for name, n in self.data["left_out"].items())
        yield (
            "data",
            f"{self.data['dialogues']:,} dialogues, {self.data['examples']:,} examples"
            + (f" ({left_out})" if left_out else ""),
        )
        yield "tokens", f"{self.tokens:,} an epoch in {self.packed_rows:,} rows, {self.fill:.1%} full"
        yield "steps", f"{self.steps:,}, {self.accumulation} micro-batches each on {self.processes} process(es)"
        yield "weights", f"{self.weights / 1e6:,.0f} million, engine {self.engine}"
        parts = ", ".join(f"{name} {size:.1f}" for name, size in self.memory.items() if name != "total")
        yield "memory", f"{self.memory['total']:.1f} GiB a process ({parts})"
        yield "time", f"about {_span(self.seconds)} on {self.machine}"


def memory(
    config: TrainConfig, prepared: Prepared, cost: Cost, world: int, engine: str, *, on_gpu: bool
) -> dict[str, float]:
    """GiB a process, by kind; activations of a layer counted from the tensors that autograd keeps."""
    from transformers import AutoConfig

    told = AutoConfig.from_pretrained(prepared.folder)
    hidden, layers = told.hidden_size, told.num_hidden_layers
    inner = inner_size(told)
    tied = bool(getattr(told, "tie_word_embeddings", False))
    weights = cost.inner + cost.head * (1 if tied else 2)
    width = 2 if config.precision != "fp32" else 4
    # in, two norms (input and fp32 copy), q k v and their rotated copies, attention, three of the MLP, residuals
    layer = hidden * (12 * width + 8) + 4 * inner * width
    on_cpu = engine == "fsdp" and not on_gpu and width < 4
    if on_cpu:  # and the weights of attention (cpu_attention)
        layer += width * told.num_attention_heads * min(config.max_length, cpu_attention.KEPT) // 2
    tokens = config.micro_batch * config.max_length
    kept = tokens * (layers * hidden * width + layer) if config.activation_checkpointing else tokens * layers * layer
    gathered: float = width * (2 * cost.inner / layers + cost.head * (1 if tied else 2))
    logits = min(loss.CHUNK, tokens) * told.vocab_size * (width + 4 * on_gpu) + 8 * cost.head
    if engine == "accelerate" or (on_cpu and world == 1):  # all in each process, and a copy to compute with
        world, gathered = 1, width * weights if width < 4 else 0
    if engine == "bmtrain":
        state, gradients = (2 if config.offload else 14), 2
    else:
        state, gradients = 12, 4
    parts = {
        "weights and optimizer": state * weights / world, "gradients": gradients * weights / world,
        "gathered": gathered, "activations": float(kept), "logits": float(logits),
    }  # fmt: skip
    sizes = {name: round(size / 2**30, 3) for name, size in parts.items()}
    return {**sizes, "total": round(sum(sizes.values()), 3)}


def _cpu_rate() -> float:
    """Operations a second that training gets out of all cores, from a matrix product."""
    torch.set_num_threads(cores())
    a = torch.randn(1024, 576, dtype=torch.bfloat16)
    b = torch.randn(576, 1536, dtype=torch.bfloat16)
    a @ b
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        times.append((time.perf_counter() - started) / 4)
    return _CPU_SHARE * 2 * 1024 * 576 * 1536 / sorted(times)[2]


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"

"""Arithmetic of a step, for MFU and estimates.

Counted are the multiplications that the mathematics needs: 2 operations a weight and token forward, twice that
backward; the LM head at learned tokens only; attention causal within each document (PaLM, arXiv:2204.02311, appendix B,
counts it over the whole row and the head everywhere: that would flatter us). Recomputed activations are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ultrachat_cli.train.batches import Batch
from ultrachat_cli.train.processes import Place

_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "3090": 71e12}
"""Dense bf16 operations a second, from NVIDIA's data sheets."""


@dataclass(frozen=True)
class Cost:
    """Of one model: weights in layers' matrices and in the LM head; layers x heads x head size."""

    inner: int
    head: int
    attended: int

    @classmethod
    def of(cls, config: Any) -> Cost:
        """From a transformers config; as of the LLaMA family (a gated MLP) where it names `intermediate_size`."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        size = getattr(config, "head_dim", None) or hidden // heads
        grouped = getattr(config, "num_key_value_heads", None) or heads
        layers = config.num_hidden_layers
        inner = inner_size(config)
        gated = 3 if hasattr(config, "intermediate_size") else 2
        layer = hidden * size * (2 * heads + 2 * grouped) + gated * hidden * inner
        return cls(layers * layer, hidden * config.vocab_size, layers * heads * size)

    @property
    def weights(self) -> int:
        """All weights, the embedding (as large as the head) once."""
        return self.inner + self.head

    def least(self, tokens: int) -> float:
        """Forward and backward of so many tokens, all of them learned, without attention."""
        return 6.0 * self.weights * tokens

    def flops(self, batch: Batch) -> float:
        """Forward and backward of a micro-batch."""
        sizes = [int(b) - int(a) for a, b in zip([0, *batch.ends[:-1]], batch.ends, strict=True)]
        pairs = sum(size * (size + 1) / 2 for size in sizes)
        return 6 * (self.inner * len(batch.ids) + self.head * batch.learned + 2 * self.attended * pairs)

    def utilisation(self, flops: float, seconds: float, place: Place) -> float | None:
        """Share of the GPUs' peak; None on a CPU or an unknown GPU."""
        peak = peak_of(place.device)
        return flops / seconds / (peak * place.world) if peak else None


def inner_size(config: Any) -> int:
    """Width of a layer's MLP; GPT-2 and GPT-J name it n_inner, or not at all where it is 4 times the model's."""
    return int(
        getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * int(config.hidden_size)
    )


def peak_of(device: torch.device) -> float | None:
    """Operations a second of a known GPU in bf16."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)

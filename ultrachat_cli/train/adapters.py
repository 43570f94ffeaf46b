"""LoRA by `peft`: adapters in a model whose weights are sharded and read from disk afterwards."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ultrachat_cli.errors import ConfigError, MissingExtra
from ultrachat_cli.train.settings import Lora

_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer"


def add(model: Any, settings: Lora) -> Any:
    """The model with adapters, everything else frozen. `MissingExtra`; `ConfigError` for names it does not have."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtra("lora", "peft", "lora") from error
    targets = "all-linear" if settings.targets == ["all-linear"] else settings.targets
    if targets == "all-linear":
        head = model.get_output_embeddings()
        found = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
        targets = sorted(found)
    chosen = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    try:
        with torch.device("meta"):
            return inject_adapter_in_model(chosen, model)
    except ValueError as error:
        raise ConfigError(f"lora.targets: {str(error).splitlines()[0]}") from error


def plain_name(name: str) -> str | None:
    """The name without adapters; None for an adapter's own weight."""
    return None if name.endswith((_A, _B)) else name.replace(_BASE, "")


def initial(name: str, shape: torch.Size) -> torch.Tensor:
    """An adapter's first weights, the same on every process: A uniform as peft's, B zero."""
    if name.endswith(_B):
        return torch.zeros(shape)
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little") ^ torch.initial_seed()
    draw = torch.Generator().manual_seed(seed % 2**63)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=draw)


def merged(learner: nn.Module, name: str, weight: torch.Tensor, whole: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """A base weight with its adapters added, if it has any."""
    if _BASE not in name:
        return weight
    layer: Any = learner.get_submodule(name.removesuffix(".weight").removesuffix(_BASE))
    low, high = whole(layer.lora_A["default"].weight), whole(layer.lora_B["default"].weight)
    found: torch.Tensor = weight + (high.float() @ low.float()) * layer.scaling["default"]
    return found

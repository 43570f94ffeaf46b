"""A causal language model as training needs it: loss of the learned tokens from packed documents.

Weights are read from safetensors (or .bin through `weights_only`) one tensor at a time, so that no process ever holds
more than its own part and one whole tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ultrachat_cli.errors import UltraError
from ultrachat_cli.models import tensor_files
from ultrachat_cli.train import attention, loss
from ultrachat_cli.train.batches import Batch

_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models that do more to their logits than multiply (Gemma 2, Cohere, Granite)."""


class Learner(nn.Module):
    """A transformers model whose forward is the summed loss of a batch; `model` keeps the names of its weights.

    With `computed_in` bf16, matrix products and attention are in bf16 while embedding, residual stream, norms and loss
    are in fp32, as under autocast: in bf16 the residual costs accuracy, and a norm's weight of 1 would not move before
    its fp32 copy has moved by 1/256.
    """

    def __init__(self, model: Any, computed_in: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self._computed_in = computed_in
        if computed_in is not None:
            for layer in model.get_decoder().layers:
                for norm in norms(layer):  # cast once, not by every product that reads it
                    norm.register_forward_hook(lambda _, __, out: out.to(computed_in))

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor | None, documents: torch.Tensor,
        longest: int,
    ) -> torch.Tensor:  # fmt: skip
        """ids, positions, labels int64[t], documents int32[d + 1] -> loss, float32 scalar; logits [v] of what follows
        the last token where there are no labels.
        """
        embedded = self.model.get_input_embeddings()(ids[None])
        with torch.autocast(ids.device.type, self._computed_in, enabled=self._computed_in is not None):
            out = self.model.get_decoder()(
                inputs_embeds=embedded.float(), position_ids=positions[None], use_cache=False,
                documents=documents, longest=longest,
            )  # fmt: skip
        head: torch.Tensor = self.model.get_output_embeddings().weight
        hidden: torch.Tensor = out.last_hidden_state[0].to(self._computed_in or head.dtype)
        return hidden[-1].to(head.dtype) @ head.T if labels is None else loss.summed(hidden, head, labels)

    def answer(self, ids: torch.Tensor, longest: int, end: int | None) -> list[int]:
        """A greedy continuation of a prompt, ids int64[t], up to and with the token `end`."""
        asked = len(ids)
        for _ in range(longest):
            size = len(ids)
            bounds = torch.tensor([0, size], dtype=torch.int32, device=ids.device)
            places = torch.arange(size, device=ids.device)
            follows = self(ids=ids, positions=places, labels=None, documents=bounds, longest=size).argmax()
            ids = torch.cat([ids, follows[None]])
            if int(follows) == end:
                break
        return [int(token) for token in ids[asked:]]


def norms(layer: nn.Module) -> list[nn.Module]:
    """The norms of a decoder layer whose output matrices read."""
    return [module for name, module in layer.named_children() if "norm" in name]


def on_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """The arguments of `Learner.forward`."""
    bounds = [0, *batch.ends.tolist()]
    return {
        "ids": torch.from_numpy(batch.ids).to(device, non_blocking=True),
        "positions": torch.from_numpy(batch.positions).to(device, non_blocking=True),
        "labels": torch.from_numpy(batch.labels).to(device, non_blocking=True),
        "documents": torch.tensor(bounds, dtype=torch.int32, device=device),
        "longest": max(b - a for a, b in pairwise(bounds)),
    }


def empty(folder: Path, vocabulary: int) -> Any:
    """The model of a folder without its weights (parameters on the meta device, buffers real).

    `vocabulary`: rows of the embedding, if more than the folder's. `UltraError` for a folder that is no model, or one
    whose attention cannot be replaced.
    """
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UltraError(f"{folder}: not a model: {str(error).splitlines()[0]}") from error
    config.vocab_size = max(config.vocab_size, vocabulary)
    config.use_cache = False
    try:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=attention.register(), dtype=torch.float32
            )
    except (ValueError, ImportError) as error:
        raise UltraError(
            f"{folder}: model type {config.model_type} cannot be trained by this engine: {str(error).splitlines()[0]}",
            "LLaMA-family models can; for others use --engine accelerate",
        ) from error
    model.tie_weights()
    head = model.get_output_embeddings()
    scaled = [name for name in _SCALED if getattr(config, name, None) not in (None, 1, 1.0)]
    if scaled or head is None or getattr(head, "bias", None) is not None or not hasattr(model.get_decoder(), "layers"):
        raise UltraError(
            f"{folder}: the logits of model type {config.model_type} are not its head times its last hidden state",
            "--engine accelerate trains any causal model",
        )
    return model


class Stored:
    """The tensors of a model folder by name, read when asked for. Raises as `tensor_files.read`."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: tensor.file for name, tensor in tensor_files.read(folder).items()}
        self._bin: tuple[Path, dict[str, torch.Tensor]] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> torch.Tensor:
        path = self._files[name]
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
        if self._bin is None or self._bin[0] != path:  # mapped, not read
            self._bin = path, torch.load(path, "cpu", mmap=True, weights_only=True)
        return self._bin[1][name]

    def rows(self, name: str, start: int, end: int) -> torch.Tensor:
        """Rows [start, end) only."""
        path = self._files[name]
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                found: torch.Tensor = file.get_slice(name)[start:end]
                return found
        return self[name][start:end]


def parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter once (tied ones under the first name)."""
    yield from model.named_parameters(remove_duplicate=True)


def rows_for(stored: Stored, name: str, shape: torch.Size, start: int, end: int) -> torch.Tensor:
    """Rows [start, end) of a stored parameter of this shape; rows that are not stored are the mean of those that are.

    New tokens so begin as the average token, as the original did for <pad>. `UltraError`: missing or misshapen.
    """
    if name not in stored:
        raise UltraError(f"weights: {name} is missing", "the folder is incomplete, or not of this kind of model")
    if not shape:
        return stored[name]
    found = stored.rows(name, start, end)
    if found.shape[1:] != shape[1:]:
        raise UltraError(f"weights: {name} has shape {[..., *found.shape[1:]]}, the config says {list(shape)}")
    missing = end - start - len(found)
    if missing > 0:
        mean = stored[name].float().mean(0, keepdim=True).to(found.dtype)
        found = torch.cat([found, mean.expand(missing, *mean.shape[1:])])
    return found

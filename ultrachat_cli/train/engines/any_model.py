"""Any causal model of transformers, loaded whole, and the loss of its learned tokens from rows padded at their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.functional import cross_entropy

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train.batches import IGNORED, Batch
from ultrachat_cli.train.loss import summed

_PROBE = 8  # tokens


class Learner(nn.Module):
    """A transformers model whose forward is the summed loss of a padded batch, its head applied where one learns."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._plain = _plain(model)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """ids, mask, labels int64[rows, longest] -> loss, float32 scalar; logits [v] of what follows the first row
        where there are no labels.
        """
        if labels is None:
            last: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits[0, -1]
            return last
        learned = labels != IGNORED
        goals = labels[learned]
        if not self._plain:
            logits = self.model(input_ids=ids, attention_mask=mask).logits[learned]
            return cross_entropy(logits.float(), goals, reduction="sum")
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[learned]
        head, device = self.model.get_output_embeddings(), ids.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
        with torch.autocast(device, enabled=False):
            return summed(hidden.to(kind), head.weight.to(kind), goals, bias=head.bias)


@torch.no_grad()
def _plain(model: Any) -> bool:
    """Whether logits are the head's product with the last hidden states; some models cap or scale them besides."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    model.eval()
    ids = torch.arange(min(_PROBE, head.out_features), device=model.device)[None]
    hidden = getattr(model.base_model(input_ids=ids), "last_hidden_state", None)
    if hidden is None or hidden.shape[-1] != head.in_features:
        return False
    return torch.equal(head(hidden), model(input_ids=ids).logits)


def padded(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """The arguments of `Learner.forward`: a row for each document."""
    sizes = np.diff(batch.ends, prepend=0)
    shape = len(sizes), int(sizes.max())
    places = np.repeat(np.arange(len(sizes)), sizes), batch.positions
    ids, mask, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    ids[places], mask[places], labels[places] = batch.ids, 1, batch.labels
    arrays = {"ids": ids, "mask": mask, "labels": labels}
    return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in arrays.items()}


def loaded(folder: Path, vocabulary: int) -> Any:
    """The model of a folder, in fp32, with `vocabulary` rows if it has fewer.

    `UltraError` for a folder that is no model, or not a whole one.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    auto: Any = transformers.AutoModelForCausalLM
    try:
        model, found = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UltraError(f"{folder}: not a model: {str(error).splitlines()[0]}") from error
    if faults := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise UltraError(
            f"weights: {faults[0]} is missing or has another shape",
            "the folder is incomplete, or not of this kind of model",
        )
    model.config.use_cache = False
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < vocabulary:
        _grow(model, rows, vocabulary)
    return model


@torch.no_grad()
def _grow(model: Any, rows: int, vocabulary: int) -> None:
    """New tokens begin as the average one."""
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for weight in (module.weight, getattr(module, "bias", None)):
            if weight is not None:
                weight[rows:] = weight[:rows].mean(0)


def recompute(model: Any) -> None:
    """Activations are computed again instead of kept. `ConfigError` for a model that cannot."""
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"activation_checkpointing: {error}") from error

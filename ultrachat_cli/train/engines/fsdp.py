"""torch FSDP2: weights, gradients and AdamW sharded over all processes; on a CPU alone they stay whole.

Weights are kept and updated in fp32, computed with in bf16 (each layer's are gathered as it runs), gradients are
summed over processes in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train import adapters, model
from ultrachat_cli.train.batches import Batch
from ultrachat_cli.train.processes import Place
from ultrachat_cli.train.settings import TrainConfig

_TYPES = {"bf16": torch.bfloat16, "fp32": None}


class Fsdp:
    """See `Engine`."""

    name = "fsdp"

    def __init__(self, folder: Path, vocabulary: int, config: TrainConfig, place: Place, *, compiled: bool) -> None:
        if config.precision not in _TYPES:
            raise ConfigError(
                f"precision: {config.precision} needs engine bmtrain or accelerate; fsdp has bf16 and fp32"
            )
        self.place = place
        torch.manual_seed(config.seed)
        whole = model.empty(folder, vocabulary)
        if config.lora.rank:
            whole = adapters.add(whole, config.lora)
        if config.activation_checkpointing:
            whole.gradient_checkpointing_enable({"use_reentrant": False})
        self.learner = model.Learner(whole, _TYPES[config.precision]).train()
        if place.world > 1 or place.device.type != "cpu":  # else its copies cost a tenth of a step
            self._shard(_TYPES[config.precision])
        elif whole.get_input_embeddings().weight is whole.get_output_embeddings().weight:
            whole.get_input_embeddings().sparse = True  # rows added to the head's gradient, not a matrix of zeros more
        self._fill(model.Stored(folder))
        if compiled:
            _compile(self.learner.model.get_decoder(), place.device)
        self._weights = [p for p in self.learner.parameters() if p.requires_grad]
        optim = config.optimizer
        groups = [
            {"params": [p for p in self._weights if p.ndim >= 2], "weight_decay": optim.weight_decay},
            {"params": [p for p in self._weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], optim.lr, optim.betas, optim.eps, fused=True
        )

    def _shard(self, computed_in: torch.dtype | None) -> None:
        mesh = init_device_mesh(self.place.device.type, (self.place.world,))
        policy = MixedPrecisionPolicy(param_dtype=computed_in, reduce_dtype=torch.float32, cast_forward_inputs=False)
        exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in self.learner.model.get_decoder().layers:
            for norm in model.norms(layer):
                fully_shard(norm, mesh=mesh, mp_policy=exact)
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.learner, mesh=mesh, mp_policy=exact)  # embedding, last norm and head

    def _fill(self, stored: model.Stored) -> None:
        """Weights from disk, only the rows that are this process's."""
        buffers = {name: buffer.clone() for name, buffer in self.learner.named_buffers()}
        self.learner.to_empty(device=self.place.device)
        self.learner.model.tie_weights()
        for name, buffer in self.learner.named_buffers():
            buffer.copy_(buffers[name])
        with torch.no_grad():
            for name, weight in model.parameters(self.learner):
                share = -(-weight.shape[0] // self.place.world)
                start = min(self.place.rank * share, weight.shape[0])
                end = min(start + share, weight.shape[0])
                plain = adapters.plain_name(name.removeprefix("model."))
                local = weight.to_local() if isinstance(weight, DTensor) else weight.detach()
                if plain is None:
                    local.copy_(adapters.initial(name, weight.shape)[start:end])
                else:
                    local.copy_(model.rows_for(stored, plain, weight.shape, start, end))

    def forward_backward(self, batch: Batch, learned: int) -> torch.Tensor:
        """See `Engine`; gradients are averaged over processes, hence the factor."""
        loss: torch.Tensor = self.learner(**model.on_device(batch, self.place.device))
        (loss * (self.place.world / max(1, learned))).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.no_grad()
    def loss(self, batch: Batch) -> torch.Tensor:
        """See `Engine`."""
        found: torch.Tensor = self.learner(**model.on_device(batch, self.place.device))
        return found

    def clip(self, largest: float) -> float:
        """See `Engine`."""
        norm = nn.utils.get_total_norm([p.grad for p in self._weights if p.grad is not None], foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if 0 < largest < norm:  # dividing by one would read and write all gradients too
            nn.utils.clip_grads_with_norm_(self._weights, largest, norm, foreach=True)
        return float(norm)

    def step(self, rate: float) -> bool:
        """See `Engine`; never skips."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return True

    def save(self, folder: Path) -> None:
        """A torch distributed checkpoint, which any number of processes can load."""
        weights, optimizer = get_state_dict(self.learner, self.optimizer)
        try:
            save({"model": weights, "optimizer": optimizer}, checkpoint_id=folder)
        except CheckpointException as error:  # not an Exception: it gathers those of all processes
            raise next(inner for inner, _ in error.failures.values()) from None

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        weights, optimizer = get_state_dict(self.learner, self.optimizer)
        state: dict[str, Any] = {"model": weights, "optimizer": optimizer}
        try:
            load(state, checkpoint_id=folder)
        except (OSError, RuntimeError, ValueError, CheckpointException) as error:
            raise UltraError(
                f"{folder}: not a checkpoint of this model: {str(error).splitlines()[0]}",
                "remove it to go on from the one before, or begin anew in another --output",
            ) from error
        set_state_dict(
            self.learner, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        named = dict(model.parameters(self.learner))
        for name, weight in named.items():
            plain = adapters.plain_name(name.removeprefix("model."))
            if plain is None:
                continue
            with torch.no_grad():
                whole = adapters.merged(self.learner, name, _whole(weight), lambda p: _whole(p))
            yield plain, whole.cpu() if self.place.first else torch.empty(0)

    @torch.no_grad()
    def answer(self, prompt: list[int], longest: int, end: int | None) -> list[int]:
        """See `Engine`."""
        return self.learner.answer(torch.tensor(prompt, device=self.place.device), longest, end)


def _whole(weight: torch.Tensor) -> torch.Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight.detach()


def _compile(decoder: Any, device: torch.device) -> None:
    """Each layer; all have the same code, which is compiled once. On a CPU attention stays out of it."""
    for layer in (*decoder.layers, decoder.norm):
        layer.compile(dynamic=device.type == "cpu" or None)

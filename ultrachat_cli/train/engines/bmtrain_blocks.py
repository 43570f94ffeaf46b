"""A transformers model cut up for BMTrain: chained `Block`s for its layers, distributed parameters for the rest.

A `Block` gathers a layer's weights while the layer before it still computes, and scatters gradients the same way.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.distributed_c10d import Store, _get_default_store
from torch.distributed.rendezvous import register_rendezvous_handler

from ultrachat_cli.errors import UltraError
from ultrachat_cli.train import model

_SCHEME = "ultrachat"


@contextmanager
def quiet() -> Iterator[None]:
    """BMTrain prints to stdout, where the report belongs."""
    with redirect_stdout(io.StringIO()):
        yield


def library() -> Any:
    """The package `bmtrain`. `UltraError` where it is not installed, or not for this machine."""
    warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # it lives on them
    try:
        with quiet():  # its printing functions keep the stdout they were imported with
            return importlib.import_module("bmtrain")
    except (ImportError, OSError) as error:
        raise UltraError(
            f"engine bmtrain needs BMTrain: {str(error).splitlines()[0]}",
            "make bmtrain builds it for the CUDA of this machine (without a checkout: "
            "python -m ultrachat_cli.train.install_bmtrain)",
        ) from error


def join(bmt: Any, seed: int, patience: timedelta) -> None:
    """Make BMTrain's NCCL communicator, once.

    BMTrain would meet the others at MASTER_PORT by itself: a fixed port where there is no launcher, a second server on
    the launcher's otherwise. The processes have met already, so it gets the store of torch's group. That group moves
    numbers between CPUs only; on the GPUs there is BMTrain's communicator alone, as it demands.
    """
    if bmt.config["initialized"]:
        return
    with suppress(RuntimeError):  # registered before
        register_rendezvous_handler(_SCHEME, _met)  # type: ignore[no-untyped-call]
    with quiet():
        bmt.init_distributed(init_method=f"{_SCHEME}://", seed=seed)
    _get_default_store().set_timeout(patience)  # BMTrain set half an hour


def _met(_: str, **__: Any) -> Iterator[tuple[Store, int, int]]:
    yield _get_default_store(), dist.get_rank(), dist.get_world_size()


class _Layer(nn.Module):
    """A decoder layer whose keywords come as one positional argument: a `Block` drops keywords."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor, keywords: dict[str, Any]) -> Any:
        """What autograd keeps of the gathered weights is where in them it was, or they would all stay until the
        backward pass, and nothing be saved; they are gathered anew, in the same layout, when that comes.
        """
        weight = next(self.layer.parameters())  # a gathered block is one storage
        gathered = weight.untyped_storage().data_ptr()

        def aside(tensor: torch.Tensor) -> Any:
            if tensor.untyped_storage().data_ptr() != gathered or tensor.dtype != weight.dtype:
                return tensor
            return tensor.size(), tensor.stride(), tensor.storage_offset()

        def back(kept: Any) -> torch.Tensor:
            return kept if isinstance(kept, torch.Tensor) else weight.data.as_strided(*kept)

        with saved_tensors_hooks(aside, back):
            return self.layer(hidden, **keywords)


def _as_one(_: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    return (*positional, keywords), {}


def cut(
    bmt: Any, learner: model.Learner, precision: torch.dtype, device: torch.device, *, recompute: bool
) -> tuple[dict[str, Any], list[Any]]:
    """Make the parameters of a model on the meta device distributed ones, in place: their values are still zero.

    The parameters by transformers' names, tied ones once, and the blocks. `recompute`: activation checkpointing.
    """
    made: dict[nn.Parameter, Any] = {}  # tied ones stay tied
    for module in learner.modules():
        for key, weight in module._parameters.items():
            if weight is not None and weight not in made:
                blank = torch.zeros((), dtype=precision).expand(weight.shape)  # takes no memory
                made[weight] = bmt.DistributedParameter(blank)
            if weight is not None:
                module._parameters[key] = made[weight]
        for key, buffer in module._buffers.items():
            module._buffers[key] = None if buffer is None else buffer.to(device)
    named = {name.removeprefix("model."): weight for name, weight in model.parameters(learner)}
    decoder = learner.model.get_decoder()
    layers = [bmt.Block(_Layer(layer), use_checkpoint=recompute, zero_level=3) for layer in decoder.layers]
    blocks = list(bmt.TransformerBlockList(layers))  # which chains them
    for block in blocks:
        block.register_forward_pre_hook(_as_one, with_kwargs=True)
    decoder.layers = nn.ModuleList(blocks)
    for module in list(learner.modules()):
        if any(isinstance(p, bmt.DistributedParameter) and not p._in_block for p in module._parameters.values()):
            bmt.BMTrainModelWrapper(module)  # gathers its weights whenever they are looked at
    return named, blocks


def fill(named: dict[str, Any], stored: model.Stored) -> None:
    """Weights from disk: of each only the rows in which this process's part lies."""
    for name, weight in named.items():
        start, end = weight._start_partition or 0, weight._end_partition
        here = weight.data.numel()
        shape = weight._original_shape
        width = shape[1:].numel()
        first, last = (start // width, -(-end // width)) if here else (0, 0)
        rows = model.rows_for(stored, name, shape, first, last).reshape(-1)
        weight.data.copy_(rows[start - first * width :][:here] if here else rows[:0])


def whole(bmt: Any, named: dict[str, Any], blocks: list[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters, gathered; of blocks one at a time."""
    home = {info["parameter"]: block for block in blocks for info in block._param_info}
    open_block, context = None, None
    for name, weight in named.items():
        block = home.get(weight)
        if block is not open_block:
            if context:
                context.exit()
            context = bmt.block_layer.ZeroContext(block, {}) if block else None
            if context:
                context.enter()
            open_block = block
        yield name, (weight if block else weight.gather()).detach()
    if context:
        context.exit()

"""BMTrain's ZeRO-3: weights, gradients and Adam sharded over all GPUs, Adam on the CPU if wanted; fp16 as in 2023.

Weights are computed with and kept in the run's precision; Adam keeps its own in fp32. The weights a layer needs are
gathered while the one before it computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train import model
from ultrachat_cli.train.batches import Batch
from ultrachat_cli.train.engines import bmtrain_blocks as blocks
from ultrachat_cli.train.processes import Place
from ultrachat_cli.train.settings import TrainConfig

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_SCALE = 2.0**15  # of the loss in fp16, to begin with: halved on overflow, doubled after so many good steps
_SCALE_STEPS = 1024
_ADAM = ("exp_avg", "exp_avg_sq", "_param_fp32")  # what BMTrain's optimizers know of a weight


class BMTrain:
    """See `Engine`."""

    name = "bmtrain"

    def __init__(self, folder: Path, vocabulary: int, config: TrainConfig, place: Place, *, compiled: bool) -> None:
        if compiled:
            raise ConfigError("compile: BMTrain exchanges the weights under compiled code", "--compile off")
        self.place = place
        self._bmt = blocks.library()
        blocks.join(self._bmt, config.seed, timedelta(seconds=config.launch.timeout))
        precision = _TYPES[config.precision]
        computed_in = None if config.precision == "fp32" else precision
        learner = model.Learner(model.empty(folder, vocabulary), computed_in).train()
        self._named, self._blocks = blocks.cut(
            self._bmt, learner, precision, place.device, recompute=config.activation_checkpointing
        )
        self.learner = learner
        blocks.fill(self._named, model.Stored(folder))
        self._settle()
        self.optimizer, self._decay = self._adam(config)
        self.manager = self._bmt.optim.OptimManager(
            loss_scale=_SCALE if config.precision == "fp16" else None, loss_scale_steps=_SCALE_STEPS
        )
        self.manager.add_optimizer(self.optimizer)
        self._kind = f"{config.precision}, {type(self.optimizer).__name__}"

    def _adam(self, config: TrainConfig) -> tuple[Any, float]:
        """The optimizer, and the weight decay that is not done by it.

        `AdamOffloadOptimizer` rounds to fp16 but truncates to bf16, which shrinks all weights: it is for fp16 only.
        In fp32 BMTrain adds decay to the gradient, where it is no longer decoupled: that is done by `step`.
        """
        optim = config.optimizer
        fp32 = config.precision == "fp32"
        matrices = [p for p in self._named.values() if len(p._original_shape) >= 2]
        others = [p for p in self._named.values() if len(p._original_shape) < 2]
        groups = [
            {"params": matrices, "weight_decay": 0.0 if fp32 else optim.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        offload = config.offload and config.precision == "fp16"
        make = self._bmt.optim.AdamOffloadOptimizer if offload else self._bmt.optim.AdamOptimizer
        made = make([group for group in groups if group["params"]], lr=optim.lr, betas=optim.betas, eps=optim.eps)
        return made, optim.weight_decay if fp32 else 0.0

    def _settle(self) -> None:
        """Gathering, which has a stream of its own, waits for weights that were just written."""
        self._bmt.config["load_stream"].wait_stream(self._bmt.config["calc_stream"])

    def forward_backward(self, batch: Batch, learned: int) -> torch.Tensor:
        """See `Engine`; `OptimManager.backward` divides by the number of processes, hence the factor."""
        loss: torch.Tensor = self.learner(**model.on_device(batch, self.place.device))
        self.manager.backward(loss * (self.place.world / max(1, learned)))
        return loss.detach()

    @torch.no_grad()
    def loss(self, batch: Batch) -> torch.Tensor:
        """See `Engine`."""
        found: torch.Tensor = self.learner(**model.on_device(batch, self.place.device))
        return found

    def clip(self, largest: float) -> float:
        """See `Engine`."""
        return float(self.manager.clip_grad_norm(self.optimizer.param_groups, largest or float("inf")))

    @torch.no_grad()
    def step(self, rate: float) -> bool:
        """See `Engine`; BMTrain tells of a skipped step by its loss scale only."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self._decay:
            for weight in self.optimizer.param_groups[0]["params"]:
                weight.mul_(1 - rate * self._decay)
        scale, steps = self.manager.loss_scale, self.manager.steps_since_last_scale
        with blocks.quiet():
            self.manager.step()
        self.manager.zero_grad()
        grown = self.manager.loss_scale > scale or self.manager.steps_since_last_scale == steps + 1
        return not self.manager.loss_scale_enabled or grown

    def save(self, folder: Path) -> None:
        """This process's shards of weights and moments, for the same number of processes."""
        tensors = {f"weight/{name}": weight.detach().to("cpu", copy=True) for name, weight in self._named.items()}
        steps: dict[str, int] = {}
        for name, weight in self._named.items():
            state = self.optimizer.state.get(weight, {})
            if state:
                steps[name] = int(state["step"])
                tensors |= {f"{key}/{name}": state[key].cpu() for key in _ADAM if key in state}
        scale = [self.manager.loss_scale, self.manager.steps_since_last_scale]
        told = {"world": self.place.world, "kind": self._kind, "scale": scale, "steps": steps}
        save_file(tensors, _file(folder, self.place.rank), {"told": json.dumps(told)})

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        try:
            with safe_open(_file(folder, 0), "pt") as file:
                self._check(folder, json.loads(file.metadata()["told"]))
            with safe_open(_file(folder, self.place.rank), "pt") as file:
                self._restore(file, json.loads(file.metadata()["told"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UltraError(
                f"{folder}: not a checkpoint of this model: {str(error).splitlines()[0]}",
                "remove it to go on from the one before, or begin anew in another --output",
            ) from error

    def _check(self, folder: Path, told: dict[str, Any]) -> None:
        if told["world"] != self.place.world:
            raise UltraError(
                f"{folder}: was made by {told['world']} processes, these are {self.place.world}",
                "BMTrain goes on with as many processes as before; for another number begin with the exported model",
            )
        if told["kind"] != self._kind:
            raise UltraError(
                f"{folder}: was made with {told['kind']}, this is {self._kind}",
                "set precision and offload as they were",
            )

    def _restore(self, file: Any, told: dict[str, Any]) -> None:
        names = set(file.keys())
        state: dict[int, dict[str, Any]] = {}
        saved = self.optimizer.state_dict()
        numbers = [n for group in saved["param_groups"] for n in group["params"]]
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        number = dict(zip(weights, numbers, strict=True))
        for name, weight in self._named.items():
            found = file.get_tensor(f"weight/{name}")
            if found.shape != weight.shape:
                raise ValueError(f"{name} has another size")
            weight.data.copy_(found)
            if name in told["steps"]:
                state[number[weight]] = {"step": told["steps"][name]} | {
                    key: file.get_tensor(f"{key}/{name}") for key in _ADAM if f"{key}/{name}" in names
                }
        self.optimizer.load_state_dict(_Kept(state=state, param_groups=saved["param_groups"], is_whole=False))
        self.manager.loss_scale, self.manager.steps_since_last_scale = told["scale"]
        self._settle()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        for name, weight in blocks.whole(self._bmt, self._named, self._blocks):
            yield name, weight.to("cpu", copy=True) if self.place.first else torch.empty(0)

    @torch.no_grad()
    def answer(self, prompt: list[int], longest: int, end: int | None) -> list[int]:
        """See `Engine`."""
        return self.learner.answer(torch.tensor(prompt, device=self.place.device), longest, end)


class _Kept(dict[str, Any]):
    """`load_state_dict` copies what it gets, which would take the optimizer's memory twice."""

    def __deepcopy__(self, _: dict[int, Any]) -> _Kept:
        return self


def _file(folder: Path, rank: int) -> Path:
    return folder / f"bmtrain-{rank:05}.safetensors"

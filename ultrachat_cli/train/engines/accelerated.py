"""Hugging Face's accelerate: any causal model of transformers, whole on every process, gradients averaged by DDP.

Weights are kept and updated in fp32 and computed with under autocast; fp16 has its gradient scaler. A document is a
row, padded at its end: as models are causal, and count positions from 0 in each row, padding changes nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train.batches import Batch
from ultrachat_cli.train.engines import any_model
from ultrachat_cli.train.processes import Place
from ultrachat_cli.train.settings import TrainConfig

_WEIGHTS, _REST = "weights.safetensors", "optimizer.pt"


class Accelerated:
    """See `Engine`."""

    name = "accelerate"

    def __init__(self, folder: Path, vocabulary: int, config: TrainConfig, place: Place, *, compiled: bool) -> None:
        if config.precision == "fp16" and place.device.type != "cuda":
            raise ConfigError("precision: fp16 needs a GPU", "--set precision=bf16")
        from accelerate import Accelerator, DistributedDataParallelKwargs  # type: ignore[import-untyped]

        self.place = place
        self._seed = config.seed
        self._accumulation = config.batch // (config.micro_batch * place.world)
        self._done = self._micro = 0  # steps, and micro-batches of the one under way
        self.accelerator = Accelerator(
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            cpu=place.device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        model = any_model.loaded(folder, vocabulary)
        if config.activation_checkpointing:
            any_model.recompute(model)
        self.learner = any_model.Learner(model.to(place.device)).train()
        self._spread = self.accelerator.prepare_model(self.learner)
        if compiled:
            model.base_model.compile(dynamic=True)
        self._weights = [weight for weight in self.learner.parameters() if weight.requires_grad]
        optim = config.optimizer
        groups = [
            {"params": [w for w in self._weights if w.ndim >= 2], "weight_decay": optim.weight_decay},
            {"params": [w for w in self._weights if w.ndim < 2], "weight_decay": 0.0},
        ]
        # a fused step is made even on overflow, with nothing in it: accelerate would not see that it was skipped
        self.optimizer = self.accelerator.prepare_optimizer(
            torch.optim.AdamW(
                [group for group in groups if group["params"]], optim.lr, optim.betas, optim.eps,
                fused=config.precision != "fp16",
            )
        )  # fmt: skip

    def forward_backward(self, batch: Batch, learned: int) -> torch.Tensor:
        """See `Engine`. Gradients are averaged over processes, hence the factor, with a step's last micro-batch.

        Dropout is drawn by the number of the micro-batch, so neither a restart nor the number of processes changes it.
        """
        number = (self._done * self._accumulation + self._micro) * self.place.world + self.place.rank
        torch.manual_seed(self._seed + number)
        self._micro += 1
        last = self._micro == self._accumulation
        with nullcontext() if last else self.accelerator.no_sync(self._spread):
            loss: torch.Tensor = self._spread(**any_model.padded(batch, self.place.device))
            self.accelerator.backward(loss * (self.place.world / max(1, learned)))
        return loss.detach()

    @torch.no_grad()
    def loss(self, batch: Batch) -> torch.Tensor:
        """See `Engine`."""
        self.learner.eval()
        found: torch.Tensor = self.learner(**any_model.padded(batch, self.place.device))
        self.learner.train()
        return found

    def clip(self, largest: float) -> float:
        """See `Engine`."""
        if self._micro < self._accumulation and self.place.world > 1:  # the last step of a run can be a short one
            for weight in self._weights:
                if weight.grad is not None:
                    dist.all_reduce(weight.grad)
                    weight.grad /= self.place.world
        return float(self.accelerator.clip_grad_norm_(self._weights, largest or float("inf")))

    def step(self, rate: float) -> bool:
        """See `Engine`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._done += 1
        self._micro = 0
        return not self.optimizer.step_was_skipped

    def save(self, folder: Path) -> None:
        """Everything by the first process, for any number of them."""
        if not self.place.first:
            return
        save_file({name: weight.detach().contiguous() for name, weight in self._named()}, folder / _WEIGHTS)
        scaler = self.accelerator.scaler
        rest = {
            "optimizer": self.optimizer.state_dict()["state"], "scaler": scaler.state_dict() if scaler else {},
            "done": self._done,
        }  # fmt: skip
        torch.save(rest, folder / _REST)

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        try:
            found = load_file(folder / _WEIGHTS)
            with torch.no_grad():
                for name, weight in self._named():
                    if found[name].shape != weight.shape:
                        raise ValueError(f"{name} has another size")
                    weight.copy_(found[name])
            del found
            rest = torch.load(folder / _REST, "cpu", mmap=True, weights_only=True)
            self.optimizer.load_state_dict(
                {"state": rest["optimizer"], "param_groups": self.optimizer.state_dict()["param_groups"]}
            )
            if self.accelerator.scaler and rest["scaler"]:
                self.accelerator.scaler.load_state_dict(rest["scaler"])
            self._done = rest["done"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, EOFError) as error:
            raise UltraError(
                f"{folder}: not a checkpoint of this model: {str(error).splitlines()[0]}",
                "remove it to go on from the one before, or begin anew in another --output",
            ) from error

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights and other state, as transformers names it; tied weights once, by their first name."""
        seen: set[int] = set()
        for name, tensor in self.learner.model.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        for name, tensor in self._named():
            yield name, tensor.detach().cpu() if self.place.first else torch.empty(0)

    @torch.no_grad()
    def answer(self, prompt: list[int], longest: int, end: int | None) -> list[int]:
        """See `Engine`."""
        self.learner.eval()
        ids = torch.tensor([prompt], device=self.place.device)
        for _ in range(longest):
            follows = self.learner(ids=ids, mask=torch.ones_like(ids), labels=None).argmax()
            ids = torch.cat([ids, follows[None, None]], 1)
            if int(follows) == end:
                break
        self.learner.train()
        return [int(token) for token in ids[0, len(prompt) :]]

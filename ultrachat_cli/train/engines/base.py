"""What an engine does for the loop, and what engines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from ultrachat_cli.train.batches import Batch
    from ultrachat_cli.train.processes import Place


class Engine(Protocol):
    """A model spread over processes, its gradients and its optimizer.

    Every method is called by all processes alike. The gradient of a step is that of the loss summed over all learned
    tokens of all processes and micro-batches, divided by their number.
    """

    name: str
    place: Place

    def forward_backward(self, batch: Batch, learned: int) -> torch.Tensor:
        """Add a micro-batch's gradient; its summed loss (scalar). `learned`: tokens learned in the whole step."""

    def loss(self, batch: Batch) -> torch.Tensor:
        """The summed loss of a micro-batch (scalar), no gradient."""

    def clip(self, largest: float) -> float:
        """The norm of the step's gradient, which is scaled down to `largest` (0: left alone)."""

    def step(self, rate: float) -> bool:
        """Update the weights and drop the gradient; False when the step was skipped for overflow in fp16."""

    def save(self, folder: Path) -> None:
        """This process's part of weights and optimizer."""

    def load(self, folder: Path) -> None:
        """What `save` wrote. `UltraError` where that was another shape or, if it matters, number of processes."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights, whole, on the CPU, under the names that transformers uses; empty tensors on ranks but 0."""

    def answer(self, prompt: list[int], longest: int, end: int | None) -> list[int]:
        """A greedy continuation of a prompt."""

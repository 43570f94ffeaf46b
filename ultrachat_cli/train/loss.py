"""Cross-entropy of the learned tokens only, straight from hidden states: the full logits never exist.

The gradient is worked out with the loss, a chunk of tokens at a time (the idea of Liger's fused linear cross-entropy,
arXiv:2410.10989), so each chunk's logits are made once and dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ultrachat_cli.train.batches import IGNORED

CHUNK = 512
"""Tokens whose logits are in memory at once."""
_ROWS = {"cpu": 32}  # tokens whose logits are in fp32 at once: as many as stay in the cache


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:  # fmt: skip
        kind = weight.dtype
        weight = weight.to(hidden.dtype)
        learns_bias = bias is not None and bias.requires_grad
        learns_weight = ctx.needs_input_grad[1]
        wanted = hidden.requires_grad or learns_weight or learns_bias
        grad_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
        grad_weight: torch.Tensor | None = None
        grad_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if learns_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunk = min(chunk, len(labels))
        size = min(chunk, _ROWS.get(hidden.device.type, chunk))
        # filled again for each chunk: memory that was just used is faster than fresh memory
        all_logits = hidden.new_empty(chunk, len(weight))
        slopes = hidden.new_empty(size, len(weight), dtype=torch.float32)
        product = torch.empty_like(weight) if learns_weight else None
        for start in range(0, len(labels), chunk or 1):
            part, goals = hidden[start : start + chunk], labels[start : start + chunk, None]
            logits = torch.mm(part, weight.T, out=all_logits[: len(part)])
            for rows, goal in zip(torch.split(logits, size), torch.split(goals, size), strict=True):
                raw = rows if bias is None else rows + bias.float()
                largest = raw.amax(1, keepdim=True)
                slope = torch.softmax(raw, 1, torch.float32, out=slopes[: len(raw)])
                # the sum of exp(logit - largest) is what the largest was divided by
                total += (largest.float() - slope.amax(1, keepdim=True).log() - raw.gather(1, goal).float()).sum()
                if not wanted:
                    continue
                slope.scatter_add_(1, goal, torch.full_like(slope[:, :1], -1.0))
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
                rows.copy_(slope)  # logits are not needed again: their gradient takes their place
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[start : start + chunk])
            if product is not None:
                torch.mm(logits.T, part, out=product)
                grad_weight = _added(grad_weight, product)
        if learns_weight and grad_weight is None:
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.weight_type, ctx.bias_type = kind, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * upstream.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(upstream).to(ctx.weight_type)  # the largest gradient of all: no copy of it
        if grad_bias is not None:
            grad_bias = (grad_bias * upstream).to(ctx.bias_type)
        return grad_hidden, grad_weight, grad_bias, None, None


def _added(total: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    """In place. A CPU would first make all of `more` fp32: so in parts, there."""
    if total is None:
        return more.to(torch.float32, copy=True)
    size = 1024 if total.is_cpu else len(total)
    for some, part in zip(torch.split(total, size), torch.split(more, size), strict=True):
        some.add_(part)
    return total


def summed(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = CHUNK, *,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """The summed loss, float32 scalar: hidden [t, d], weight [v, d] and bias [v] (the LM head), labels int64[t] (-100:
    not learned).

    Products are in the type of `hidden`, sums and the gradient of a fp32 `weight` in fp32. Differentiable once; zero
    where nothing is learned.
    """
    if not torch.is_grad_enabled():  # a Function is not told, and would work out gradients nobody asks for
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    learned = (labels != IGNORED).nonzero()[:, 0]
    found: torch.Tensor = _Summed.apply(hidden[learned], weight, bias, labels[learned], chunk)  # type: ignore
    return found

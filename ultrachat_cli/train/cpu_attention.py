"""Causal attention of one document on a CPU, for training: by blocks of queries, at the speed of matrix products.

torch's own kernel spends most of its backward pass beside its products. Here the weights of a block are a product, a
softmax and a cast; of documents up to KEPT tokens they are kept for the backward pass (2 bytes for each head and each
pair of tokens that see each other), of longer ones they are worked out again. Scores and softmax are in fp32.
"""

from __future__ import annotations

from functools import cached_property
from math import gcd
from typing import Any

import torch
from torch.autograd.function import once_differentiable

ROWS = 128
"""Queries of a block: few enough for the cache, and little is computed that causality hides."""
KEPT = 1024
"""Tokens of the longest document whose weights are kept."""


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        blocks = _Blocks(query, key, scale)
        out = torch.empty_like(query)
        kept = []
        for start, end in blocks.bounds:
            weights = blocks.weights(start, end)
            blocks.rows(out, start, end).copy_(blocks.grouped(torch.bmm(weights, value[:, :end])))
            if query.shape[1] <= KEPT:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        blocks = _Blocks(query, key, ctx.scale)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=torch.float32) for _ in range(2))
        turned = value.transpose(1, 2)
        for n, (start, end) in enumerate(blocks.bounds):
            weights = kept[n] if kept else blocks.weights(start, end)
            slope = blocks.flat(upstream, start, end)
            grad_value[:, :end] += torch.bmm(weights.transpose(1, 2), slope)
            slope = torch.bmm(slope, turned[:, :, :end])
            slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
            blocks.rows(grad_query, start, end).copy_(blocks.grouped(torch.bmm(slope, key[:, :end]).mul_(ctx.scale)))
            grad_key[:, :end] += torch.bmm(slope.transpose(1, 2), blocks.flat(query, start, end)).mul_(ctx.scale)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


_memory = torch.empty(0)


def _scratch(count: int) -> torch.Tensor:
    """float32[count], the same memory each time: fresh memory costs as much as the softmax."""
    global _memory
    if len(_memory) < count:
        _memory = torch.empty(count)
    return _memory[:count]


class _Blocks:
    """Rows of queries, those of the heads that share a key side by side: [kv, h / kv * rows, d]."""

    def __init__(self, query: torch.Tensor, key: torch.Tensor, scale: float) -> None:
        self._query, self._key, self._scale, self._shared = query, key, scale, len(key)
        size = query.shape[1]
        self.bounds = [(start, min(start + ROWS, size)) for start in range(0, size, ROWS)]

    @cached_property
    def _keys(self) -> torch.Tensor:
        return self._key.float().transpose(1, 2).repeat_interleave(self._parts, 0)

    @cached_property
    def _parts(self) -> int:
        """Into how many the rows of a key are cut: each thread takes whole matrices of a product in fp32."""
        threads = torch.get_num_threads()
        return threads // gcd(threads, self._shared)

    @cached_property
    def _hidden(self) -> torch.Tensor:
        size = self.bounds[0][1]
        return torch.ones(size, size, dtype=torch.bool).triu(1)

    def rows(self, tensor: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """[h, t, d] -> [kv, h / kv, end - start, d], the same memory."""
        return tensor.view(self._shared, -1, *tensor.shape[1:])[:, :, start:end]

    def flat(self, tensor: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """[h, t, d] -> [kv, h / kv * (end - start), d], a copy."""
        return self.rows(tensor, start, end).flatten(1, 2)

    def grouped(self, tensor: torch.Tensor) -> torch.Tensor:
        """[kv, h / kv * rows, d] -> [kv, h / kv, rows, d]."""
        return tensor.view(self._shared, len(self._query) // self._shared, -1, tensor.shape[2])

    def weights(self, start: int, end: int) -> torch.Tensor:
        """What the rows pay to the tokens up to `end`: [kv, h / kv * rows, end]."""
        rows = self.flat(self._query, start, end).float().mul_(self._scale)
        scores = _scratch(rows.shape[0] * rows.shape[1] * end).view(*rows.shape[:2], end)
        keys = self._keys if rows.shape[1] % self._parts == 0 else self._keys[:: self._parts]
        torch.bmm(rows.view(len(keys), -1, rows.shape[2]), keys[:, :, :end], out=scores.view(len(keys), -1, end))
        size = end - start
        self.grouped(scores)[..., start:].masked_fill_(self._hidden[:size, :size], -torch.inf)
        return torch.softmax(scores, -1, out=scores).to(self._query.dtype)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """query [h, t, d], key and value [kv, t, d] of one document -> [h, t, d]. Differentiable once."""
    found: torch.Tensor = _Attention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return found

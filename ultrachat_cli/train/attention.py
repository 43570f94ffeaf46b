"""Causal attention in which every document of a long row sees only itself.

Registered with transformers as "documents"; the bounds travel as keyword arguments through the model's forward:
`documents`, int32[d + 1] (0, then where each document ends), and `longest`, the longest of them in tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ultrachat_cli.train import cpu_attention

NAME = "documents"


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    documents: torch.Tensor, longest: int, scaling: float | None = None, dropout: float = 0.0, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """query [1, h, t, d], key and value [1, kv, t, d] -> [1, t, h, d].

    On a GPU one variable-length flash kernel; elsewhere document by document.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary factors may have made them fp32
    if query.is_cuda and value.dtype in (torch.bfloat16, torch.float16):  # flash knows no other
        from torch.nn.attention.varlen import varlen_attn

        flat = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        bounds, grouped = (documents, documents, longest, longest), query.shape[1] != key.shape[1]
        out: torch.Tensor = varlen_attn(*flat, *bounds, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)  # type: ignore
        return out[None], None
    return _each(query, key, value, documents, scaling, dropout).transpose(1, 2), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _each(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: torch.Tensor, scaling: float | None,
    dropout: float,
) -> torch.Tensor:  # fmt: skip
    """One document after the other: [1, h, t, d]."""
    sizes = documents.diff().tolist()
    parts = zip(*(tensor.split_with_sizes(sizes, 2) for tensor in (query, key, value)), strict=True)
    if value.is_cpu and value.dtype == torch.bfloat16 and not dropout and torch.is_grad_enabled():
        scale = scaling or query.shape[-1] ** -0.5
        return torch.cat([cpu_attention.attend(q[0], k[0], v[0], scale) for q, k, v in parts], 1)[None]
    grouped = query.shape[1] != key.shape[1]
    how: dict[str, Any] = {"dropout_p": dropout, "is_causal": True, "scale": scaling, "enable_gqa": grouped}
    return torch.cat([scaled_dot_product_attention(*part, **how) for part in parts], 2)


def register() -> str:
    """Make it known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME

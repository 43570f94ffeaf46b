"""Causal attention in which every document of a long row sees only itself.

Registered with transformers as "documents"; the bounds travel as keyword arguments through the model's forward:
`documents`, int32[d + 1] (0, then where each document ends), and `longest`, the longest of them in tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "documents"


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    documents: torch.Tensor, longest: int, scaling: float | None = None, dropout: float = 0.0, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """query [1, h, t, d], key and value [1, kv, t, d] -> [1, t, h, d].

    On a GPU one variable-length flash kernel; elsewhere a call of scaled_dot_product_attention a document.
    """
    grouped = query.shape[1] != key.shape[1]
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary factors may have made them fp32
    if query.is_cuda and value.dtype in (torch.bfloat16, torch.float16):  # flash knows no other
        from torch.nn.attention.varlen import varlen_attn

        flat = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        bounds = (documents, documents, longest, longest)
        out: torch.Tensor = varlen_attn(*flat, *bounds, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)  # type: ignore
        return out[None], None
    sizes = documents.diff().tolist()
    parts = [
        scaled_dot_product_attention(
            *part,
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,  # type: ignore[misc]
        )
        for part in zip(*(tensor.split_with_sizes(sizes, 2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def register() -> str:
    """Make it known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME

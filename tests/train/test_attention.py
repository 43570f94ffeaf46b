"""Attention on a CPU against its definition in double precision."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ultrachat_cli.train import attention, cpu_attention


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """One document, [h, t, d] and [kv, t, d], every step spelt out."""
    key, value = (tensor.repeat_interleave(len(query) // len(tensor), 0) for tensor in (key, value))
    scores = query @ key.transpose(1, 2) * scale
    hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ value


def drawn(heads: int, shared: int, tokens: int, width: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(tokens)
    return [torch.randn(h, tokens, width).bfloat16().requires_grad_() for h in (heads, shared, shared)]


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((found.double() - wanted).norm() / wanted.norm()).detach())


@pytest.mark.parametrize("kept", [0, 4096])
@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("tokens", [1, 2, 127, 128, 129, 300])
def test_a_document(monkeypatch: pytest.MonkeyPatch, tokens: int, heads: int, shared: int, kept: int) -> None:
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    given = drawn(heads, shared, tokens)
    upstream = torch.randn(heads, tokens, 16).bfloat16()
    found = cpu_attention.attend(*given, 0.3)
    found.backward(upstream)  # type: ignore[no-untyped-call]
    doubles = [tensor.detach().double().requires_grad_() for tensor in given]
    wanted = exact(*doubles, 0.3)
    wanted.backward(upstream.double())  # type: ignore[no-untyped-call]
    assert gap(found, wanted) < 0.005
    for mine, true in zip(given, doubles, strict=True):
        assert mine.grad is not None
        assert true.grad is not None
        assert mine.grad.dtype == torch.bfloat16
        if tokens == 1 and mine is not given[2]:  # one weight of 1, whatever the scores
            assert not mine.grad.any()
        else:
            assert gap(mine.grad, true.grad) < 0.01


def test_it_is_no_less_exact_than_torchs_own() -> None:
    upstream = torch.randn(6, 200, 16).bfloat16()
    gaps = []
    for attend in (
        lambda q, k, v: cpu_attention.attend(q, k, v, 1.0),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, scale=1.0, enable_gqa=True
        )[0],
    ):
        given = drawn(6, 2, 200)
        attend(*given).backward(upstream)
        doubles = [tensor.detach().double().requires_grad_() for tensor in given]
        exact(*doubles, 1.0).backward(upstream.double())  # type: ignore[no-untyped-call]
        gaps.append([gap(a.grad, b.grad) for a, b in zip(given, doubles, strict=True) if a.grad is not None])
    assert all(mine <= torchs * 1.05 for mine, torchs in zip(*gaps, strict=True)), gaps


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("learning", [True, False])
def test_documents_of_a_row_see_only_themselves(kind: torch.dtype, learning: bool) -> None:
    """The way transformers calls it; heads side by side in memory, as projections leave them."""
    ends = [0, 5, 140, 141, 400]
    query, key, value = (
        tensor.detach().to(kind).transpose(0, 1).contiguous().transpose(0, 1)[None] for tensor in drawn(6, 2, 400)
    )
    with torch.set_grad_enabled(learning):
        found, _ = attention.attend(
            torch.nn.Module(), query, key, value, None, scaling=0.25, documents=torch.tensor(ends, dtype=torch.int32),
            longest=259,
        )  # fmt: skip
    assert found.shape == (1, 400, 6, 16)
    for start, end in pairwise(ends):
        alone = exact(*(tensor[0, :, start:end].double() for tensor in (query, key, value)), 0.25)
        assert gap(found[0, start:end].transpose(0, 1), alone) < (0.005 if kind == torch.bfloat16 else 1e-6)

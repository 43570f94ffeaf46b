"""Tokens are drawn from the distribution that transformers' logits processors leave."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ultrachat_cli.models.drawing import Chooser, Drawing, choose

pytestmark = pytest.mark.usefixtures("one_core")
SIZE = 1000
FLAT, PEAKED = (torch.randn(1, SIZE, generator=torch.Generator().manual_seed(5)) * scale for scale in (0.3, 4.0))


def expected(logits: torch.Tensor, how: Drawing) -> torch.Tensor:
    steps = LogitsProcessorList([TemperatureLogitsWarper(how.temperature)])
    if how.top_k:
        steps.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        steps.append(TopPLogitsWarper(how.top_p))
    if how.min_p:
        steps.append(MinPLogitsWarper(how.min_p))
    return steps(torch.zeros(1, 1, dtype=torch.long), logits).softmax(-1)[0]


@pytest.mark.parametrize("logits", [FLAT, PEAKED], ids=["flat", "peaked"])
@pytest.mark.parametrize(
    "how",
    [
        Drawing(), Drawing(0.5), Drawing(top_p=0.7), Drawing(top_k=5), Drawing(top_k=400, top_p=0.99),
        Drawing(min_p=0.2), Drawing(1.3, top_p=0.9, top_k=40, min_p=0.05),
    ],
    ids=str,
)  # fmt: skip
def test_the_distribution_is_that_of_transformers(logits: torch.Tensor, how: Drawing) -> None:
    wanted = expected(logits, how)
    chooser, draws = Chooser(how), 3000
    found = torch.zeros(SIZE)
    for _ in range(draws):
        found[choose(logits, [chooser], [[]])[0]] += 1
    assert not found[wanted == 0].any()
    merged = wanted.sort(descending=True).indices[:20]
    spread = 5 * (wanted[merged] * draws).clamp(min=1).sqrt()
    assert ((found[merged] - wanted[merged] * draws).abs() <= spread).all()
    assert abs(float(found[merged].sum() - wanted[merged].sum() * draws)) <= 5 * (draws / 4) ** 0.5


def test_rows_do_not_disturb_each_other() -> None:
    hows = [Drawing(0), Drawing(seed=1), Drawing(2.0, top_p=0.5, seed=2), Drawing(penalty=5.0, seed=3)]
    before = [[], [], [], list(range(SIZE // 2))]
    both = torch.cat([FLAT, PEAKED, FLAT, PEAKED])
    together = choose(both.clone(), [Chooser(how) for how in hows], before)
    alone = [choose(both[n : n + 1].clone(), [Chooser(how)], [before[n]])[0] for n, how in enumerate(hows)]
    assert together == alone
    assert together[0] == int(FLAT.argmax())


def test_a_penalty_looks_back_as_far_as_it_is_told() -> None:
    best = int(PEAKED.argmax())
    seen = [best, 1, 2, 3]
    near, far = (Chooser(Drawing(0, penalty=100.0, penalty_last=last)) for last in (3, 4))
    assert choose(PEAKED.clone(), [near], [seen]) == [best]
    assert choose(PEAKED.clone(), [far], [seen]) != [best]

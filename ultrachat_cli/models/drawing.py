"""The next token of each text from the model's scores: greedy or drawn, as transformers' logits processors do it.

The order is theirs: repetition penalty, temperature, top_k, top_p, min_p. Only the `_HEAD` likeliest tokens are
sorted; where they do not decide the draw, all are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

GREEDY = 1e-5
"""Temperatures below this mean: always the likeliest token."""
_HEAD = 256


@dataclass(frozen=True)
class Drawing:
    """How tokens are chosen; the defaults change nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Only so many of the likeliest; 0 = all."""
    min_p: float = 0.0
    """Only those at least so likely, as a share of the likeliest one's probability."""
    penalty: float = 1.0
    """Scores of tokens that were there before are divided by this, or multiplied if they are negative."""
    penalty_last: int = 0
    """The penalty is for the last so many tokens, of prompt and answer; 0 = all."""
    seed: int | None = None


@dataclass(frozen=True)
class Chooser:
    """One request's way of choosing, with its own random numbers: others beside it change nothing."""

    how: Drawing
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "random", random.Random(self.how.seed))

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.how.temperature < GREEDY


def choose(logits: torch.Tensor, choosers: Sequence[Chooser], before: Sequence[Sequence[int]]) -> list[int]:
    """The next token of each row of float32[rows, vocabulary]; `before`: the tokens of each text so far."""
    for row, (chooser, ids) in enumerate(zip(choosers, before, strict=True)):
        if chooser.how.penalty != 1:
            _penalise(logits[row], ids[-chooser.how.penalty_last :], chooser.how.penalty)
    found: list[int] = logits.argmax(-1).tolist()
    if all(chooser.greedy for chooser in choosers):
        return found
    warmth = [1.0 if chooser.greedy else chooser.how.temperature for chooser in choosers]
    scaled = logits / torch.tensor(warmth, device=logits.device)[:, None]
    head = scaled.topk(min(_HEAD, scaled.shape[1]))
    shares = (head.values - scaled.logsumexp(-1, keepdim=True)).exp().double().cpu().numpy()
    tokens = head.indices.cpu().numpy()
    whole = head.values.shape[1] == scaled.shape[1]
    for row, chooser in enumerate(choosers):
        if chooser.greedy:
            continue
        at = chooser.random.random()
        place = _place(shares[row], chooser.how, at, whole=whole)
        if place is not None:
            found[row] = int(tokens[row, place])
        else:
            ordered = scaled[row].double().softmax(-1).sort(descending=True)
            place = _place(ordered.values.cpu().numpy(), chooser.how, at, whole=True)
            assert place is not None
            found[row] = int(ordered.indices[place])
    return found


def _penalise(scores: torch.Tensor, ids: Sequence[int], penalty: float) -> None:
    seen = torch.tensor(sorted(set(ids)), device=scores.device)
    old = scores[seen]
    scores[seen] = torch.where(old < 0, old * penalty, old / penalty)


def _place(shares: np.ndarray, how: Drawing, at: float, *, whole: bool) -> int | None:
    """Which of the tokens, ordered by their probabilities, a random number in [0, 1) stands for.

    None where that is decided by tokens beyond these. `whole`: there are none.
    """
    if how.top_k > len(shares) and not whole:
        return None
    kept = shares[: how.top_k] if how.top_k else shares
    closed = whole or how.top_k > 0
    total = kept.sum() if closed else 1.0
    if how.top_p < 1:
        count = int(np.searchsorted(kept.cumsum(), how.top_p * total)) + 1
        if count > len(kept) and not closed:
            return None
        kept, closed = kept[:count], True
    if how.min_p > 0:
        count = int((kept >= how.min_p * kept[0]).sum())
        if count == len(kept) and not closed:
            return None
        kept, closed = kept[:count], True
    sums = kept.cumsum()
    place = int(np.searchsorted(sums, at * (sums[-1] if closed else 1.0), side="right"))
    if place < len(kept):
        return place
    return len(kept) - 1 if closed else None

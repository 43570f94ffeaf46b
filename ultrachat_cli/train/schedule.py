"""The learning rate by optimizer step."""

from __future__ import annotations

import math

from ultrachat_cli.train.settings import Optimizer


def rate(settings: Optimizer, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear warm-up, then the schedule down to `lowest`."""
    warmup = warmup_steps(settings, steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    done = (step - warmup) / max(1, steps - warmup)
    left = 0.5 * (1 + math.cos(math.pi * min(1.0, done))) if settings.schedule == "cosine" else max(0.0, 1 - done)
    return settings.lr * (settings.lowest + (1 - settings.lowest) * left)


def warmup_steps(settings: Optimizer, steps: int) -> int:
    """Steps of the warm-up."""
    return math.ceil(settings.warmup * steps) if settings.warmup < 1 else int(settings.warmup)

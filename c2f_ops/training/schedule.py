"""Learning rate as a function of the cycle: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from .config import Stage


def learning_rate(stage: Stage, cycle: int, cycles: int) -> float:
    """Return the base rate for ``cycle`` (0-based) of ``cycles``; steps of one cycle share it."""
    rate = stage.lr
    if stage.schedule == "step":
        rate *= stage.gamma ** sum(cycle >= milestone for milestone in stage.milestones)
    elif stage.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * cycle / cycles))
    return rate * min(1.0, (cycle + 1) / (stage.warmup + 1))

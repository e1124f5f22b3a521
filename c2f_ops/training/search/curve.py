"""Accuracy against resolution, and where it falls below a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MODES = ("absolute", "relative")


@dataclass(frozen=True)
class Curve:
    """Accuracy of one level on held-out images at falling sides.

    Attributes:
        level: its name.
        sides: in pixels, falling; the first is the full one.
        accuracy: at each side.
        counts: images that have a label, at each side.
        errors: binomial standard errors.
        fitted: the closest curve that never rises as the side falls (least squares, weights ``counts``).
    """

    level: str
    sides: tuple[int, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]
    errors: tuple[float, ...] = field(init=False)
    fitted: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Compute what follows from the measurements."""
        errors = tuple(math.sqrt(a * (1 - a) / n) for a, n in zip(self.accuracy, self.counts, strict=True))
        object.__setattr__(self, "errors", errors)
        object.__setattr__(self, "fitted", isotonic(self.accuracy, self.counts))

    def __str__(self) -> str:
        """One line: the accuracy at each side, in per cent."""
        return self.level + ": " + ", ".join(f"{s} px {a:.1%}" for s, a in zip(self.sides, self.accuracy, strict=True))


class StartsBelow(ValueError):
    """Accuracy is below the threshold at the full side already."""


class NoCrossing(ValueError):
    """Accuracy stays at or above the threshold down to the last side."""


def isotonic(values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """The non-increasing sequence with the least weighted squared distance from ``values``.

    Neighbours that rise are pooled to their weighted mean until none does.

    Raises:
        ValueError: a weight is not positive, or there are not as many as values.
    """
    if len(values) != len(weights) or not all(w > 0 for w in weights):
        raise ValueError(f"isotonic: weights must be {len(values)} positive numbers, got {list(weights)}")
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, mass, length = float(value), float(weight), 1
        while blocks and blocks[-1][0] < mean:
            before, its_mass, its_length = blocks.pop()
            mean = (before * its_mass + mean * mass) / (its_mass + mass)
            mass, length = mass + its_mass, length + its_length
        blocks.append((mean, mass, length))
    return tuple(mean for mean, _, length in blocks for _ in range(length))


def crossing(curve: Curve, threshold: float, *, mode: str = "absolute", below: int | None = None) -> int:
    """The first side of a curve whose fitted accuracy is below the threshold.

    Args:
        curve: from the full side on.
        threshold: an accuracy, or with mode "relative" a share of that at the full side.
        mode: "absolute" or "relative".
        below: only sides smaller than this count; None: than the full one.

    Raises:
        StartsBelow: already at the full side; the message has the curve and what to do.
        NoCrossing: none is below.
    """
    if mode not in MODES:
        raise ValueError(f"crossing: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 < threshold < 1:
        raise ValueError(f"crossing: threshold must be in (0, 1), got {threshold}")
    limit = threshold * curve.fitted[0] if mode == "relative" else threshold
    if curve.fitted[0] < limit or not curve.fitted[0]:
        raise StartsBelow(
            f"crossing: {curve.level} must reach {threshold:g} at {curve.sides[0]} px, got {curve.fitted[0]:.3f} "
            f'({curve}); train longer, lower the threshold, or take mode="relative", a share of that accuracy'
        )
    ceiling = curve.sides[0] if below is None else below
    for side, accuracy in zip(curve.sides, curve.fitted, strict=True):
        if side < ceiling and accuracy < limit:
            return side
    raise NoCrossing(
        f"crossing: {curve.level} must fall below {limit:.3f} at some side under {ceiling} px, got {curve}; raise the "
        f"threshold or give a grid that goes further down"
    )

"""Sides at which accuracy is measured: the curves of the search, of an evaluation, of a calibration."""

from __future__ import annotations

#: Falling sides for images of 448 pixels.
GRID = (448, 384, 320, 256, 224, 192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32)
LEAST = 4  # pixels; below, an image has nothing left to recognise


def default_grid(side: int) -> tuple[int, ...]:
    """The sides of `GRID` in the same ratios for images of ``side`` pixels: falling, distinct, at least 4.

    Raises:
        ValueError: ``side`` is below 4.
    """
    if side < LEAST:
        raise ValueError(f"default_grid: side must be at least {LEAST}, got {side}")
    scaled = {round(side * r / GRID[0]) for r in GRID}
    return tuple(sorted((r for r in scaled if r >= LEAST), reverse=True))


def extended(grid: tuple[int, ...]) -> tuple[int, ...]:
    """``grid`` and beyond: its last ratio again and again, down to 4 pixels."""
    ratio = grid[-1] / grid[-2] if len(grid) > 1 else 0.5
    sides = list(grid)
    while (following := min(round(sides[-1] * ratio), sides[-1] - 1)) >= LEAST:
        sides.append(following)
    return tuple(sides)

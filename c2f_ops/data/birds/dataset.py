"""Seeded streams of drawn birds: picture ``i`` of a stream depends on (seed, split, i) and on nothing else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .anatomy import BUILDERS, Pose
from .paint import Array, Canvas, Frame
from .plumage import Palette, paint_bird
from .scene import paint_backdrop, paint_branch, paint_flower, paint_grass, paint_ground, paint_water
from .taxonomy import LEVELS, NAMES, PARENTS, PATHS, SPECIES

if TYPE_CHECKING:
    from c2f_ops.hierarchy import Hierarchy

SPLITS = ("train", "val", "test")
MIN_SIZE = 8
_DRAWN_SIZE = 96  # smaller pictures are drawn in a multiple of their size and averaged, so that fine marks do not alias


def birds_hierarchy() -> Hierarchy:
    """Build the tree of the drawn birds: 6 families, 15 genera, 40 species."""
    from c2f_ops.hierarchy import Hierarchy

    return Hierarchy(levels=LEVELS, names=NAMES, parents=PARENTS, meta={"source": "c2f_ops.data.birds"})


def render(species: int, rng: np.random.Generator, size: int) -> Array:
    """Draw one bird, uint8 ``[3, size, size]``.

    Pose, colours, light and scene come from ``rng`` in an order that depends on the family alone, so one generator
    state gives two species of a genus the same picture but for their marks, and every size the same scene.
    """
    kind = SPECIES[species]
    u = rng.uniform
    drawn = size * max(1, -(-_DRAWN_SIZE // size))
    canvas, picture = Canvas(drawn), Frame(drawn)
    sun_x, sun_y, sun_z = u(-0.6, 0.6), u(-0.8, -0.35), u(0.5, 0.9)
    length = math.hypot(sun_x, sun_y, sun_z)
    sun = (sun_x / length, sun_y / length, sun_z / length)
    frame = Frame(
        drawn,
        scale=u(0.86, 1.02),
        angle=u(-0.12, 0.12),
        flip=1 if u() < 0.5 else -1,
        shift=(u(-0.07, 0.07), u(-0.06, 0.06)),
    )
    palette = Palette.draw(rng)
    exposure, tint, grain = u(0.8, 1.12), u(0.94, 1.06, size=(3, 1, 1)), u(0.0, 3.0)
    anatomy = BUILDERS[kind.family](Pose(rng))
    support = anatomy.supports[rng.integers(len(anatomy.supports))]
    feet = frame.to_picture(*anatomy.feet)

    paint_backdrop(canvas, picture, rng)
    if support == "branch":
        paint_branch(canvas, picture, rng, feet, sun)
    elif support == "ground":
        paint_ground(canvas, picture, rng, feet)
    elif support == "air" and u() < 0.7:
        paint_flower(canvas, picture, rng, frame.to_picture(*anatomy.bill[-1][3:5]), sun)
    paint_bird(canvas, frame, anatomy, kind, palette, sun)
    if support == "ground":
        paint_grass(canvas, picture, rng, feet)
    elif support == "water":
        paint_water(canvas, picture, rng, feet[1] - anatomy.waterline)

    pixels = canvas.pixels
    pixels *= (exposure * tint).astype(np.float32)
    if drawn != size:
        pixels = pixels.reshape(3, size, drawn // size, size, drawn // size).mean(axis=(2, 4), dtype=np.float32)
    pixels = pixels * np.float32(255) + rng.standard_normal((size, size), dtype=np.float32) * np.float32(grain)
    return np.clip(pixels + np.float32(0.5), 0, 255).astype(np.uint8)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def generate_birds(
    n: int, *, size: int = 128, seed: int = 0, split: str = "train", start: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw pictures ``start .. start + n - 1`` of a seeded stream of birds.

    A family shows in the silhouette, a genus in a plumage pattern, a species only in fine marks that vanish when the
    side is divided by four. Colours, light, pose and backdrop are independent of genus and species. Every block of 40
    consecutive pictures (counted from 0) holds each species once.

    Args:
        n: number of pictures, >= 0.
        size: side in pixels, >= 8.
        seed: >= 0.
        split: ``"train"``, ``"val"`` or ``"test"``: disjoint streams of one seed.
        start: index of the first picture, >= 0.

    Returns:
        Pictures, uint8 ``[n, 3, size, size]``, and labels, int64 ``[n, 3]``, columns family, genus, species.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is out of range, or the split is unknown.
    """
    for name, value, least in (("n", n, 0), ("size", size, MIN_SIZE), ("seed", seed, 0), ("start", start, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"generate_birds: {name} must be an integer, got {type(value).__name__}")
        if value < least:
            raise ValueError(f"generate_birds: {name} must be at least {least}, got {value}")
    if split not in SPLITS:
        raise ValueError(f"generate_birds: split must be one of {', '.join(SPLITS)}, got {split!r}")

    stream, count = SPLITS.index(split), len(SPECIES)
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    labels = torch.empty(n, 3, dtype=torch.int64)
    pixels, paths = images.numpy(), labels.numpy()
    order, block = np.empty(0, dtype=np.int64), -1
    for row, index in enumerate(range(start, start + n)):
        if index // count != block:
            block = index // count
            order = _stream(seed, stream, 0, block).permutation(count)
        species = int(order[index % count])
        pixels[row] = render(species, _stream(seed, stream, 1, index), size)
        paths[row] = PATHS[species]
    return images, labels

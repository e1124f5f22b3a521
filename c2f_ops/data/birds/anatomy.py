"""Body plans of the six families: skeletons of bones for a bird that faces right, with a pose drawn from a generator.

The silhouette alone tells the family: heron, duck, songbird, owl, hummingbird, long-tailed bird.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .paint import Bone

Point = tuple[float, float]
Axis = tuple[Point, Point]
Disc = tuple[float, float, float]  # x, y, radius
Feather = list[Bone]


@dataclass
class Wing:
    """Feathers from back to front, and the axis (shoulder, tip) along which the textures run."""

    feathers: list[Feather]
    axis: Axis


@dataclass
class Anatomy:
    """Bones and landmarks of one posed bird, in drawing units."""

    body: list[Bone]  # head, neck and trunk, joined smoothly
    blend: float  # width of those joints
    head: Disc
    eyes: list[Disc]
    chest: Disc  # where bib and breast texture sit
    spine: Axis  # from breast to rump: back above, belly below
    bill: list[Bone]
    wings: list[Wing]
    feet: Point  # where the bird touches its support
    supports: tuple[str, ...]  # of: branch, ground, water, air
    tail: list[Bone] = field(default_factory=list)
    legs: list[Bone] = field(default_factory=list)
    far_wing: list[Feather] = field(default_factory=list)  # or a crest: feathers behind the body
    waterline: float = 0.0  # height of the water above the feet


class Pose:
    """Small bends of the skeleton."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def __call__(self, centre: float, spread: float) -> float:
        """Draw a number within ``spread`` of ``centre``."""
        return centre + spread * (2 * self._rng.random() - 1)


def _limb(points: list[Disc]) -> list[Bone]:
    return [(*a, *b) for a, b in pairwise(points)]


def _leg(hip: Point, knee: Point, foot: Point, width: float) -> list[Bone]:
    x, y = foot
    toes = [(x, y, width, x + reach, y + 0.012, width * 0.6) for reach in (0.075, -0.045)]
    return [*_limb([(*hip, width * 1.5), (*knee, width), (*foot, width * 0.9)]), *toes]


def _folded(shoulder: Point, tip: Point, width: float) -> Wing:
    """Closed wing: flight feathers that reach the tip, then shorter rows of coverts on top."""
    (sx, sy), (tx, ty) = shoulder, tip
    ux, uy = tx - sx, ty - sy
    length = math.hypot(ux, uy)
    nx, ny = -uy / length, ux / length  # points to the back for a bird facing right
    if ny > 0:
        nx, ny = -nx, -ny

    def feather(start: float, stop: float, lift: float, wide: float, narrow: float) -> Feather:
        root = (sx + start * ux + lift * nx, sy + start * uy + lift * ny, wide * width)
        end = (sx + stop * ux + lift * 0.4 * nx, sy + stop * uy + lift * 0.4 * ny, narrow * width)
        return [(*root, *end)]

    return Wing(
        [
            feather(0.3, 1.0, 0.3 * width, 0.5, 0.1),
            feather(0.2, 0.92, -0.15 * width, 0.72, 0.12),
            feather(0.1, 0.72, -0.1 * width, 0.9, 0.3),
            feather(0.05, 0.38, 0.0, 0.98, 0.62),
        ],
        (shoulder, tip),
    )


def _spread(shoulder: Point, angle: float, length: float) -> Wing:
    """Open wing: a fan of flight feathers behind an arm."""
    sx, sy = shoulder
    wrist = (sx + 0.42 * length * math.cos(angle), sy + 0.42 * length * math.sin(angle))
    feathers: list[Feather] = []
    for k in range(8):
        t = k / 7
        turn = angle - 1.25 + 1.25 * t  # trailing edge first
        root = (sx + t * (wrist[0] - sx), sy + t * (wrist[1] - sy))
        reach = length * (0.4 + 0.26 * t)
        bend = (root[0] + 0.6 * reach * math.cos(turn), root[1] + 0.6 * reach * math.sin(turn), 0.068)
        end = (root[0] + reach * math.cos(turn), root[1] + reach * math.sin(turn), 0.02)
        feathers.append(_limb([(*root, 0.08), bend, end]))
    feathers.append([(sx, sy, 0.1, *wrist, 0.06)])
    return Wing(feathers, (shoulder, (sx + length * math.cos(angle - 0.35), sy + length * math.sin(angle - 0.35))))


def heron(p: Pose) -> Anatomy:
    """Wade on long legs, with a bent neck and a long bill."""
    bend, reach, nod = p(0, 0.06), p(0, 0.04), p(0, 0.05)
    head = (0.25 + reach, -0.6 + nod, 0.1)
    neck = [
        (0.16, -0.04, 0.16),
        (0.3, -0.18, 0.085),
        (0.17 + bend, -0.38, 0.07),
        (head[0] - 0.03, head[1] + 0.02, 0.085),
    ]
    stride = p(0.05, 0.05)
    hip, foot = (-0.06, 0.2), (-0.04 + stride, 0.82)
    return Anatomy(
        body=[(0.1, 0.0, 0.2, -0.28, 0.12, 0.13), *_limb(neck), (*head, head[0] + 0.07, head[1] + 0.01, 0.075)],
        blend=0.07,
        head=head,
        eyes=[(head[0] + 0.05, head[1] - 0.02, 0.027)],
        chest=(0.18, -0.02, 0.15),
        spine=((0.3, 0.06), (-0.4, 0.16)),
        bill=[(head[0] + 0.1, head[1] + 0.005, 0.045, head[0] + 0.46, head[1] + 0.07 + p(0, 0.03), 0.008)],
        wings=[_folded((0.08, -0.03), (-0.48, 0.2), 0.17)],
        tail=[(-0.3, 0.14, 0.1, -0.55, 0.26, 0.05)],
        legs=_leg((0.02, 0.2), (0.1 + stride, 0.48), (0.1 - stride, 0.82), 0.02) + _leg(hip, (0.0, 0.5), foot, 0.022),
        far_wing=[[(head[0] - 0.04, head[1] - 0.06, 0.03, head[0] - 0.26, head[1] + 0.02, 0.006)]],
        feet=(0.03, 0.82),
        supports=("water", "ground"),
        waterline=0.12,
    )


def duck(p: Pose) -> Anatomy:
    """Float low, with a flat bill and a raised tail."""
    head = (0.42 + p(0, 0.05), -0.32 + p(0, 0.06), 0.15)
    lift = p(0, 0.05)
    return Anatomy(
        body=[
            (0.18, 0.14, 0.25, -0.36, 0.12, 0.21),
            (-0.36, 0.1, 0.17, -0.7, -0.08 + lift, 0.03),
            (0.3, 0.06, 0.17, head[0] - 0.04, head[1] + 0.06, 0.1),
            (*head, head[0] + 0.07, head[1] + 0.01, 0.12),
        ],
        blend=0.1,
        head=head,
        eyes=[(head[0] + 0.06, head[1] - 0.04, 0.03)],
        chest=(0.3, 0.1, 0.2),
        spine=((0.45, 0.16), (-0.6, 0.12)),
        bill=[
            (head[0] + 0.15, head[1] + 0.03, 0.065, head[0] + 0.34, head[1] + 0.1, 0.045),
        ],
        wings=[_folded((0.12, 0.06), (-0.58, 0.0 + lift), 0.19)],
        tail=[(-0.5, 0.08, 0.08, -0.76, -0.02 + lift, 0.03)],
        legs=_leg((0.06, 0.32), (0.05, 0.38), (0.08, 0.44), 0.026)
        + _leg((-0.12, 0.32), (-0.12, 0.38), (-0.1, 0.44), 0.026),
        feet=(0.0, 0.44),
        supports=("water", "ground"),
        waterline=0.2,
    )


def songbird(p: Pose) -> Anatomy:
    """Perch round and compact, with a small bill."""
    head = (0.24 + p(0, 0.04), -0.3 + p(0, 0.03), 0.21)
    droop = p(0, 0.1)
    return Anatomy(
        body=[(0.1, 0.05, 0.3, -0.2, 0.2, 0.19), (*head, 0.14, -0.1, 0.22)],
        blend=0.14,
        head=head,
        eyes=[(head[0] + 0.08, head[1] - 0.03, 0.038)],
        chest=(0.27, 0.02, 0.19),
        spine=((0.42, 0.13), (-0.42, 0.27)),
        bill=[(head[0] + 0.17, head[1] + 0.02, 0.06, head[0] + 0.36, head[1] + 0.05, 0.006)],
        wings=[_folded((0.06, 0.02), (-0.5, 0.3 + droop / 2), 0.19)],
        tail=[(-0.28, 0.26, 0.09, -0.7, 0.46 + droop, 0.055), (-0.28, 0.3, 0.08, -0.68, 0.52 + droop, 0.05)],
        legs=_leg((0.08, 0.3), (0.06, 0.4), (0.12, 0.53), 0.022)
        + _leg((-0.02, 0.32), (-0.06, 0.42), (0.0, 0.53), 0.022),
        feet=(0.06, 0.54),
        supports=("branch", "ground"),
    )


def owl(p: Pose) -> Anatomy:
    """Sit upright and face the viewer, with ear tufts."""
    turn, tuft = p(0, 0.05), p(0.0, 0.03)
    head = (turn, -0.36, 0.27)
    eyes = [(turn + side * 0.13, -0.37, 0.062) for side in (-1, 1)]

    def side_wing(side: int) -> Wing:
        return Wing(
            [
                [(side * 0.23, 0.12, 0.13, side * 0.12, 0.7, 0.03)],
                [(side * 0.25, 0.08, 0.13, side * 0.18, 0.6, 0.03)],
                [(side * 0.26, 0.03, 0.12, side * 0.24, 0.46, 0.04)],
                [(side * 0.25, -0.04, 0.1, side * 0.27, 0.2, 0.09)],
            ],
            ((side * 0.32, -0.1), (side * 0.24, 0.64)),
        )

    ears = [(turn + side * 0.16, -0.5, 0.1, turn + side * 0.27, -0.72 + tuft, 0.02) for side in (-1, 1)]
    return Anatomy(
        body=[(0, 0.05, 0.33, 0, 0.4, 0.22), (turn - 0.1, -0.36, 0.25, turn + 0.1, -0.36, 0.25), *ears],
        blend=0.08,
        head=head,
        eyes=eyes,
        chest=(0.0, 0.16, 0.22),
        spine=((0.3, 0.16), (-0.3, 0.16)),
        bill=[(turn, -0.31, 0.04, turn, -0.2, 0.01)],
        wings=[side_wing(-1), side_wing(1)],
        tail=[(-0.04, 0.45, 0.13, -0.05, 0.8, 0.09), (0.04, 0.45, 0.13, 0.05, 0.8, 0.09)],
        legs=[(s * 0.1 + t, 0.55, 0.035, s * 0.1 + t * 1.6, 0.63, 0.025) for s in (-1, 1) for t in (-0.04, 0.0, 0.04)],
        feet=(0.0, 0.66),
        supports=("branch",),
    )


def hummingbird(p: Pose) -> Anatomy:
    """Hover on open wings, with a needle of a bill."""
    beat, lean = p(0, 0.3), p(0, 0.05)
    head = (0.2, -0.2 + lean, 0.14)
    tail = [(-0.16, 0.34, 0.06, -0.3 + s * 0.11, 0.7, 0.03) for s in (-1, 0.0, 1)]
    return Anatomy(
        body=[(0.1, 0.02, 0.17, -0.14, 0.3, 0.09), (*head, 0.12, -0.06, 0.13)],
        blend=0.09,
        head=head,
        eyes=[(head[0] + 0.06, head[1] - 0.03, 0.032)],
        chest=(0.2, -0.02, 0.13),
        spine=((0.16, -0.08), (-0.16, 0.36)),
        bill=[(head[0] + 0.11, head[1], 0.028, head[0] + 0.6, head[1] - 0.06 + p(0, 0.05), 0.007)],
        wings=[_spread((0.02, -0.02), -2.05 + beat, 0.78)],
        tail=tail,
        far_wing=_spread((0.1, -0.06), -1.25 + beat, 0.7).feathers,
        feet=(0.0, 0.75),
        supports=("air",),
    )


def longtail(p: Pose) -> Anatomy:
    """Stand level, with a crest and a tail longer than the body."""
    head = (0.46 + p(0, 0.03), -0.34 + p(0, 0.05), 0.12)
    sweep = p(0, 0.12)
    tail = [(-0.06, 0.06 + k * 0.03, 0.09, -0.78 - k * 0.05, 0.1 + sweep + k * 0.11, 0.028) for k in (0, 1, 2)]
    step = p(0.02, 0.05)
    return Anatomy(
        body=[
            (0.2, -0.04, 0.2, -0.06, 0.06, 0.14),
            (0.3, -0.1, 0.14, head[0] - 0.02, head[1] + 0.05, 0.09),
            (*head, head[0] + 0.04, head[1] + 0.01, 0.1),
        ],
        blend=0.09,
        head=head,
        eyes=[(head[0] + 0.05, head[1] - 0.02, 0.03)],
        chest=(0.32, -0.04, 0.15),
        spine=((0.42, -0.12), (-0.2, 0.08)),
        bill=[(head[0] + 0.11, head[1] + 0.02, 0.045, head[0] + 0.26, head[1] + 0.06, 0.008)],
        wings=[_folded((0.2, -0.06), (-0.34, 0.1), 0.17)],
        tail=tail,
        legs=_leg((0.18, 0.12), (0.14 + step, 0.26), (0.2 + step, 0.44), 0.022)
        + _leg((0.06, 0.12), (0.0 - step, 0.28), (0.06 - step, 0.44), 0.022),
        far_wing=[[(head[0] - 0.03, head[1] - 0.06, 0.04, head[0] - 0.16, head[1] - 0.2, 0.01)]],
        feet=(0.12, 0.45),
        supports=("branch", "ground"),
    )


BUILDERS: dict[str, Callable[[Pose], Anatomy]] = {
    "Ardellidae": heron,
    "Anatellidae": duck,
    "Cantillidae": songbird,
    "Strigellidae": owl,
    "Nectarillidae": hummingbird,
    "Caudatellidae": longtail,
}

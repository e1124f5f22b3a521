"""Painting with numpy: an affine drawing frame, tapered strokes with analytic antialiasing, and a canvas.

The one primitive is the *bone* ``(ax, ay, ra, bx, by, rb)``: a segment whose radius goes linearly from ``ra`` to
``rb``. Bodies are smooth unions of bones; bills, legs, feathers and branches are plain unions of few. A shape is only
evaluated inside its own window of pixels. Coordinates are x right, y down; the picture spans [-1, 1] in both.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Bone = tuple[float, float, float, float, float, float]
Colour = Array  # [3, 1, 1] or [3, h, w], RGB in 0..1
Light = tuple[float, float, float]  # direction towards the light, x right, y down, z to the viewer


class Field(NamedTuple):
    """A shape on a window of the canvas: signed distance (negative inside) and offset from the axis in radii."""

    where: tuple[slice, slice]
    x: Array  # [h, w] coordinates of the pixels in the drawing frame
    y: Array
    distance: Array
    qx: Array
    qy: Array


def rgb(hue: float, lightness: float, saturation: float) -> Colour:
    """Convert to RGB, shaped to broadcast over a window."""
    return np.array(colorsys.hls_to_rgb(hue % 1.0, lightness, saturation), dtype=np.float32)[:, None, None]


def circle(x: float, y: float, radius: float) -> Bone:
    """Make a bone of length zero."""
    return (x, y, radius, x, y, radius)


class Frame:
    """Scale, then mirror, rotation and shift, from drawing units to the picture; knows the pixels under a shape."""

    def __init__(
        self,
        size: int,
        *,
        scale: float = 1.0,
        angle: float = 0.0,
        flip: int = 1,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.size, self.scale, self.flip, self.shift = size, scale, flip, shift
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        self.unit = scale * size / 2  # pixels per drawing unit
        grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
        column, row = (grid - np.float32(shift[0]))[None, :], (grid - np.float32(shift[1]))[:, None]
        self._x = np.float32(flip * self.cos / scale) * column, np.float32(flip * self.sin / scale) * row
        self._y = np.float32(-self.sin / scale) * column, np.float32(self.cos / scale) * row

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Map a drawing point to the picture."""
        x = self.flip * x
        return (
            self.shift[0] + self.scale * (self.cos * x - self.sin * y),
            self.shift[1] + self.scale * (self.sin * x + self.cos * y),
        )

    def direction(self, x: float, y: float) -> tuple[float, float]:
        """Picture direction -> drawing direction (rotation and mirror undone)."""
        return self.flip * (self.cos * x + self.sin * y), self.cos * y - self.sin * x

    def _window(self, bones: Sequence[Bone]) -> tuple[slice, slice]:
        ends = [(*self.to_picture(x, y), r * self.scale) for b in bones for x, y, r in (b[:3], b[3:])]
        low_x, high_x = min(x - r for x, _, r in ends), max(x + r for x, _, r in ends)
        low_y, high_y = min(y - r for _, y, r in ends), max(y + r for _, y, r in ends)

        def pixels(low: float, high: float) -> slice:
            start, stop = (math.floor((v + 1) * self.size / 2) for v in (low, high))
            return slice(min(max(start - 1, 0), self.size), min(max(stop + 2, 0), self.size))

        return pixels(low_y, high_y), pixels(low_x, high_x)

    def field(self, bones: Sequence[Bone], blend: float = 0.0) -> Field:
        """Union of bones; ``blend`` is the width of the smooth joint (polynomial smooth minimum, I. Quilez)."""
        rows, columns = where = self._window(bones)
        x = self._x[0][:, columns] + self._x[1][rows]
        y = self._y[0][:, columns] + self._y[1][rows]
        distance, qx, qy = _bone_distance(x, y, bones[0])
        for bone in bones[1:]:
            d, px, py = _bone_distance(x, y, bone)
            h = (distance - d) * np.float32(0.5 / max(blend, 1e-3))
            h += np.float32(0.5)
            np.clip(h, 0, 1, out=h)  # weight of the new bone
            for old, new in ((distance, d), (qx, px), (qy, py)):
                new -= old
                new *= h
                old += new
            if blend:
                distance -= np.float32(blend) * (h - h * h)
        return Field(where, x, y, distance, qx, qy)

    def coverage(self, distance: Array) -> Array:
        """Share of the pixel inside a straight edge at this signed distance."""
        return np.clip(np.float32(0.5) - distance * np.float32(self.unit), 0, 1)


def _bone_distance(x: Array, y: Array, bone: Bone) -> tuple[Array, Array, Array]:
    ax, ay, ra, bx, by, rb = (np.float32(value) for value in bone)
    dx, dy = x - ax, y - ay
    ex, ey = bx - ax, by - ay
    length2 = ex * ex + ey * ey
    radius: Array | np.float32 = ra
    if length2 > 0:
        along = dx * (ex / length2)
        along += dy * (ey / length2)
        np.clip(along, 0, 1, out=along)
        dx -= along * ex
        dy -= along * ey
        radius = ra + along * (rb - ra)
    distance = np.sqrt(dx * dx + dy * dy)
    distance -= radius
    inverse = 1 / np.maximum(radius, np.float32(1e-4))
    dx *= inverse
    dy *= inverse
    return distance, dx, dy


class Canvas:
    """Planar RGB picture ``[3, size, size]``, float32 in 0..1."""

    def __init__(self, size: int) -> None:
        self.pixels = np.zeros((3, size, size), dtype=np.float32)

    def blend(self, where: tuple[slice, slice], alpha: Array, colour: Colour) -> None:
        """Lay ``colour`` over a window with opacity ``alpha``."""
        region = self.pixels[:, where[0], where[1]]
        region += alpha * (colour - region)

    def stroke(
        self,
        frame: Frame,
        bones: Sequence[Bone],
        colour: Colour,
        light: Light | None = None,
        *,
        soft: float = 0.0,
        opacity: float = 1.0,
        edge: float = 0.0,
        albedo: Callable[[Array, Array, Colour], Colour] | None = None,
    ) -> None:
        """Draw bones: ``light`` rounds it, ``soft`` blurs and ``edge`` darkens its rim, ``albedo`` tints it."""
        f = frame.field([(ax, ay, ra + soft, bx, by, rb + soft) for ax, ay, ra, bx, by, rb in bones])
        if not f.distance.size:
            return
        alpha = smoothstep(-f.distance / (2 * soft)) if soft else frame.coverage(f.distance)
        if albedo is not None:
            colour = albedo(f.x, f.y, colour)
        if light is not None:
            colour = colour * shade(f, light)
        if edge:
            colour = colour * (1 - np.float32(edge) * np.clip(1 + f.distance * np.float32(22), 0, 1))
        self.blend(f.where, alpha * np.float32(opacity), colour)


def shade(f: Field, light: Light) -> Array:
    """Lambert shading of a round body: the normal is (qx, qy, sqrt(1 - q^2))."""
    square = f.qx * f.qx
    square += f.qy * f.qy
    normal_z = np.sqrt(np.maximum(1 - square, 0))
    lit = f.qx * np.float32(light[0])
    lit += f.qy * np.float32(light[1])
    lit += normal_z * np.float32(light[2])
    return np.float32(0.62) + np.float32(0.48) * np.clip(lit, -0.4, 1)


def smoothstep(t: Array) -> Array:
    """Clamp to 0..1 and ease both ends."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)

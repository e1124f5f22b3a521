"""Where the birds live: backdrops drawn without regard to the labels, and supports that fit the posture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .anatomy import Point
from .paint import Array, Bone, Canvas, Colour, Frame, Light, circle, rgb, smoothstep

BACKDROPS = ("sky", "foliage", "hills", "reeds")
HUES = (0.07, 0.11, 0.25, 0.33, 0.45, 0.55, 0.58, 0.6, 0.63, 0.75)  # dusk, straw, leaves, mist, sky, evening


@lru_cache(maxsize=32)
def _interpolation(size: int, knots: int) -> Array:
    """``[size, knots]`` weights of a cubic B-spline whose outermost knots lie outside the picture."""
    position = 1 + (np.arange(size) + 0.5) * ((knots - 3) / size)
    t = np.abs(position[:, None] - np.arange(knots)[None, :])
    weights = np.where(t < 1, 2 / 3 - t * t + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Array:
    """``[size, size]`` noise of unit variance, coarse as the knots; einsum sums in one order on any machine load."""
    knots = rng.standard_normal((rows, columns), dtype=np.float32)
    across = np.einsum("kl,jl->kj", knots, _interpolation(size, columns))
    return np.einsum("ik,kj->ij", _interpolation(size, rows), across)


def _gradient(size: int, top: Colour, bottom: Colour) -> Array:
    ramp = np.linspace(0, 1, size, dtype=np.float32)[None, :, None]
    return np.broadcast_to(top + ramp * (bottom - top), (3, size, size))


def paint_backdrop(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """Fill the canvas with one of the backdrops."""
    kind, u, size = BACKDROPS[rng.integers(len(BACKDROPS))], rng.uniform, frame.size
    hue, lightness = HUES[rng.integers(len(HUES))] + u(-0.04, 0.04), u(0.5, 0.85)
    far = rgb(hue, lightness, u(0.15, 0.5))
    near = rgb(hue + u(-0.12, 0.12), lightness + u(-0.2, 0.1), u(0.1, 0.4))
    canvas.pixels[...] = _gradient(size, far, near)
    everything = (slice(None), slice(None))
    if kind == "sky":
        clouds = smoothstep(smooth_noise(rng, size, 9, 6) * np.float32(0.5))
        canvas.blend(everything, clouds * np.float32(u(0.3, 0.7)), rgb(hue, 0.9, 0.2))
    elif kind == "foliage":
        leaves = rgb(u(0.15, 0.42), u(0.28, 0.55), u(0.15, 0.45))
        canvas.blend(everything, smoothstep(smooth_noise(rng, size, 9, 9) * np.float32(0.4) + np.float32(0.5)), leaves)
        for x, y, radius, opacity in u(size=(9, 4)):
            light = rgb(hue + 0.2 * opacity, 0.82, 0.4)
            disc = circle(2 * x - 1, 2 * y - 1, 0.05 + 0.14 * radius)
            canvas.stroke(frame, [disc], light, soft=0.03, opacity=0.1 + 0.3 * opacity)
    elif kind == "hills":
        y = np.linspace(-1, 1, size, dtype=np.float32)[:, None]
        for k in range(3):
            ridge = smooth_noise(rng, size, 4, 8)[:1] * np.float32(0.16) + np.float32(-0.25 + 0.4 * k + u(-0.1, 0.1))
            hill = rgb(hue + u(-0.15, 0.15), (0.62, 0.5, 0.4)[k] + u(-0.08, 0.08), u(0.15, 0.4))
            canvas.blend(everything, smoothstep((y - ridge) * 20), hill)
    else:
        stems = rgb(u(0.1, 0.4), u(0.3, 0.7), u(0.15, 0.5))
        for x, lean, height, width in u(size=(12, 4)):
            stem = (2.4 * x - 1.2, 1.05, 0.05, 2.4 * x - 1.2 + 0.5 * (lean - 0.5), 0.4 - 1.4 * height, 0.004)
            canvas.stroke(frame, [stem], stems * np.float32(0.75 + 0.4 * width), soft=0.015 + 0.03 * width, opacity=0.7)


def _leaf(x: float, y: float, dx: float, dy: float, width: float) -> list[Bone]:
    low, high = (x + 0.35 * dx, y + 0.35 * dy, width), (x + 0.6 * dx, y + 0.6 * dy, 0.85 * width)
    return [(x, y, 0.004, *low), (*low, *high), (*high, x + dx, y + dy, 0.004)]


def paint_branch(canvas: Canvas, frame: Frame, rng: np.random.Generator, feet: Point, light: Light) -> None:
    """Paint a branch with leaves under the feet."""
    u = rng.uniform
    thick, slope, (x, y) = u(0.035, 0.06), u(-0.1, 0.1), feet
    bark = rgb(u(0.03, 0.12), u(0.2, 0.42), u(0.1, 0.4))
    y += thick * 0.8
    left, right = (-1.1, y + slope * (-1.1 - x)), (1.1, y + slope * (1.1 - x))
    twig = u(-0.8, 0.8)
    canvas.stroke(frame, [(twig, y + slope * (twig - x), 0.025, twig + u(-0.4, 0.4), y + 0.6, 0.01)], bark, light)
    canvas.stroke(frame, [(*left, thick * u(0.7, 1.2), *right, thick * u(0.7, 1.2))], bark, light, edge=0.2)
    leaf = rgb(u(0.12, 0.42), u(0.28, 0.5), u(0.25, 0.6))
    for t, dx, down, tone in u(size=(6, 4)):
        at = 2.2 * t - 1.1
        shape = _leaf(at, y + slope * (at - x), 0.36 * (dx - 0.5), 0.08 + 0.16 * down, 0.045)
        canvas.stroke(frame, shape, leaf * np.float32(0.75 + 0.5 * tone), light)


def paint_ground(canvas: Canvas, frame: Frame, rng: np.random.Generator, feet: Point) -> None:
    """Paint the ground below a horizon behind the feet, and the shadow of the bird."""
    u, size = rng.uniform, frame.size
    horizon = feet[1] - u(0.03, 0.2)
    y = np.linspace(-1, 1, size, dtype=np.float32)[:, None]
    earth = rgb(u(0.06, 0.35), u(0.35, 0.6), u(0.12, 0.45))
    near = earth * np.float32(u(0.7, 1.05))
    colour = earth + np.clip((y - np.float32(horizon)) * np.float32(1 / max(1 - horizon, 0.05)), 0, 1) * (near - earth)
    colour = colour + smooth_noise(rng, size, 18, 7) * np.float32(0.025)
    edge = np.float32(horizon) + smooth_noise(rng, size, 4, 11)[:1] * np.float32(0.012)
    canvas.blend((slice(None), slice(None)), smoothstep((y - edge) * np.float32(30)), colour)
    shadow = (feet[0] - 0.22, feet[1] + 0.03, 0.01, feet[0] + 0.26, feet[1] + 0.03, 0.01)
    canvas.stroke(frame, [shadow], earth * np.float32(0.3), soft=0.05, opacity=0.6)


def paint_grass(canvas: Canvas, frame: Frame, rng: np.random.Generator, feet: Point) -> None:
    """Blades in front of the feet."""
    blade = rgb(rng.uniform(0.12, 0.4), rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.5))
    for x, lean, height, tone in rng.uniform(size=(12, 4)):
        root, foot = 2.2 * x - 1.1, feet[1] + 0.06 + 0.2 * tone
        tip = (root + 0.2 * (lean - 0.5), foot - 0.06 - 0.14 * height)
        canvas.stroke(frame, [(root, foot, 0.016, *tip, 0.003)], blade * np.float32(0.7 + 0.6 * tone))


def paint_water(canvas: Canvas, frame: Frame, rng: np.random.Generator, level: float) -> None:
    """Water from ``level`` down, with the mirror image of all that is painted above."""
    u, size = rng.uniform, frame.size
    tint, clear = rgb(u(0.42, 0.65), u(0.35, 0.7), u(0.1, 0.45)), np.float32(u(0.3, 0.65))
    ripple = smooth_noise(rng, size, 30, 7) * np.float32(u(0.02, 0.06))
    top = min(max(round((level + 1) * size / 2), 0), size)
    mirror = np.clip(2 * top - 1 - np.arange(top, size), 0, size - 1)
    canvas.pixels[:, top:] = tint + clear * (canvas.pixels[:, mirror] - tint) + ripple[top:]
    rim = slice(max(top - 1, 0), top + max(size // 96, 1))
    canvas.pixels[:, rim] = canvas.pixels[:, rim] * np.float32(0.8) + np.float32(0.16)


def paint_flower(canvas: Canvas, frame: Frame, rng: np.random.Generator, at: Point, light: Light) -> None:
    """Paint a flower where the bill ends."""
    u, (x, y) = rng.uniform, at
    stem, petal, turn = rgb(u(0.2, 0.4), u(0.25, 0.45), 0.4), rgb(u(), u(0.5, 0.75), u(0.4, 0.8)), u(0, 2)
    canvas.stroke(frame, [(x, y, 0.014, x + u(-0.2, 0.2), 1.1, 0.022)], stem, light)
    canvas.stroke(frame, _leaf(x, y + 0.4, u(-0.25, 0.25), -0.12, 0.04), stem * np.float32(1.2), light)
    for k in range(5):
        angle = turn + k * 1.2566
        dx, dy = 0.13 * np.cos(angle), 0.1 * np.sin(angle)
        canvas.stroke(frame, _leaf(x, y, float(dx), float(dy), 0.05), petal * np.float32(0.85 + 0.06 * k), light)
    canvas.stroke(frame, [circle(x, y, 0.03)], rgb(0.14, 0.55, 0.8), light)

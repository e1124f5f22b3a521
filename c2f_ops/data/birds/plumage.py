"""Dress a body plan: colours without meaning, the coarse pattern of the genus, the fine marks of the species."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .anatomy import Anatomy, Axis, Wing
from .paint import Array, Bone, Canvas, Colour, Field, Frame, Light, circle, rgb, shade, smoothstep
from .taxonomy import Species

PERIOD = 0.09  # of the fine textures in drawing units: 5 to 6 pixels at 128, two samples at 48, none left at 32
HUES = (0.03, 0.07, 0.1, 0.13, 0.22, 0.38, 0.48, 0.57, 0.61, 0.66, 0.8, 0.95)  # rufous to plum


class Palette(NamedTuple):
    """Colours of one individual, drawn without regard to its labels; only light and dark have a role."""

    base: Colour
    dark: Colour
    light: Colour
    wing: Colour
    bill: Colour
    legs: Colour
    countershade: float  # how much the body pales (or darkens) from back to belly
    strength: float  # amplitude of the fine marks, in RGB units

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Palette:
        """Draw the colours of an individual."""
        u = rng.uniform
        hue = HUES[rng.integers(len(HUES))] + u(-0.03, 0.03)
        return cls(
            base=rgb(hue, u(0.44, 0.6), u(0.08, 0.5)),
            dark=rgb(hue + u(-0.12, 0.12), u(0.13, 0.21), u(0.1, 0.45)),
            light=rgb(0.1 + u(-0.06, 0.06), u(0.76, 0.84), u(0.1, 0.6)),
            wing=rgb(hue + u(-0.1, 0.1), u(0.36, 0.52), u(0.08, 0.45)),
            bill=rgb(u(0.0, 0.17), u(0.35, 0.55), u(0.2, 0.8)),
            legs=rgb(u(0.0, 0.17), u(0.35, 0.55), u(0.1, 0.6)),
            countershade=u(-0.08, 0.14),
            strength=0.26 * math.exp(u(-1.05, 0.0)),
        )


def texture(kind: str, along: Array, across: Array) -> Array:
    """Zero-mean pattern in -1..1: bars cross the axis, streaks follow it, spots do both."""
    turn = np.float32(2 * math.pi / PERIOD)
    if kind == "bars":
        rows = turn * along + np.float32(0.9) * np.sin(turn * np.float32(0.45) * across)  # waved like rows of feathers
        wave = np.sin(rows) * np.float32(1.6)
    elif kind == "streaks":
        wave = np.sin(turn * across) * np.float32(1.6)
    else:
        wave = np.sin(turn * np.float32(0.75) * along) * np.sin(turn * np.float32(0.75) * across) * np.float32(1.8)
    return np.clip(wave, -1, 1)


def modulate(colour: Colour, wave: Array, amplitude: float) -> Colour:
    """Add a zero-mean wave without leaving 0.02..0.98, so that it stays zero-mean."""
    room = np.minimum(np.float32(0.98) - colour, colour - np.float32(0.02))
    return colour + np.minimum(room, np.float32(amplitude)) * wave


def wavelet(distance: Array, half_width: float) -> Array:
    """A light line between two dark ones, ``cos(pi t)`` on -1..1: zero mean across the line, and around a ring."""
    t = np.minimum(np.abs(distance) * np.float32(1 / half_width), 1.5)
    return np.where(t < 1, np.cos(np.float32(math.pi) * t), np.float32(0))


def axes(x: Array, y: Array, axis: Axis) -> tuple[Array, Array]:
    """Coordinates along and across an axis, from its first point; across is positive on the left of its course."""
    (ax, ay), (bx, by) = axis
    length = math.hypot(bx - ax, by - ay)
    ux, uy = np.float32((bx - ax) / length), np.float32((by - ay) / length)
    dx, dy = x - np.float32(ax), y - np.float32(ay)
    return dx * ux + dy * uy, dy * ux - dx * uy


def _inside(distance: Array) -> Array:
    """Soft membership, 0.03 units wide."""
    return smoothstep(np.float32(0.5) - distance * np.float32(1 / 0.03))


def _disc(f: Field, x: float, y: float, radius: float) -> Array:
    dx, dy = f.x - np.float32(x), f.y - np.float32(y)
    return np.sqrt(dx * dx + dy * dy) - np.float32(radius)


def _coarse_pattern(f: Field, a: Anatomy, pattern: str) -> Array:
    """Where the body wears the second colour of its genus, 0..1."""
    hx, hy, hr = a.head
    cx, cy, cr = a.chest
    if pattern == "belly":
        _, across = axes(f.x, f.y, a.spine)
        return _inside(across)
    if pattern == "cap":
        return _inside(np.maximum(_disc(f, hx, hy, 1.4 * hr), f.y - np.float32(hy - 0.35 * hr)))
    if pattern == "hood":
        return _inside(_disc(f, hx, hy, 1.3 * hr))
    if pattern == "bib":
        return _inside(_disc(f, cx, cy, 0.8 * cr))
    assert pattern == "band", pattern
    along, _ = axes(f.x, f.y, ((cx, cy), (hx, hy)))
    return _inside(np.abs(along) - np.float32(0.4 * cr))


def _body(canvas: Canvas, frame: Frame, a: Anatomy, species: Species, palette: Palette, light: Light) -> None:
    f = frame.field(a.body, a.blend)
    (_, fy), (_, ry) = a.spine
    colour = palette.base + np.float32(palette.countershade) * np.clip((f.y - np.float32((fy + ry) / 2)) * 3, -1, 1)
    second = palette.light if species.pattern == "belly" else palette.dark
    colour = colour + _coarse_pattern(f, a, species.pattern) * (second - colour)
    if len(a.eyes) == 2:  # the facial discs of an owl
        mask = np.minimum(*(_disc(f, x, y, 2.2 * radius) for x, y, radius in a.eyes))
        colour = colour + _inside(mask) * np.float32(0.55) * (palette.light - colour)
    marks = species.marks
    if marks.breast != "plain":
        cx, cy, cr = a.chest
        region = smoothstep((np.float32(1.25 * cr) - _disc(f, cx, cy, 0)) * np.float32(1 / 0.08))
        colour = modulate(
            colour, region * texture(marks.breast, f.y - np.float32(cy), f.x - np.float32(cx)), palette.strength
        )
    for x, y, radius in a.eyes:
        if marks.face == "ring":
            colour = modulate(colour, wavelet(_disc(f, x, y, radius + 0.032), 0.036), 1.6 * palette.strength)
        elif marks.face == "stripe":
            along, across = axes(f.x, f.y, ((x, y), (x + 1, y - 0.1)))
            run = np.clip((np.float32(1.1 * a.head[2]) - np.abs(along)) * np.float32(30), 0, 1)
            colour = modulate(colour, -run * wavelet(across, 0.05), 1.6 * palette.strength)
    canvas.blend(f.where, frame.coverage(f.distance), colour * shade(f, light))


def _wing(canvas: Canvas, frame: Frame, wing: Wing, kind: str, palette: Palette, light: Light) -> None:
    def paint(x: Array, y: Array, plain: Colour) -> Colour:
        return plain if kind == "plain" else modulate(plain, texture(kind, *axes(x, y, wing.axis)), palette.strength)

    count = len(wing.feathers)
    for k, feather in enumerate(wing.feathers):
        tone = np.float32(0.78 + 0.34 * (k + 1) / count)  # long feathers behind are darker
        canvas.stroke(frame, feather, palette.wing * tone, light, edge=0.25, albedo=paint)


def _limbs(
    canvas: Canvas, frame: Frame, bones: list[Bone], colour: Colour, light: Light, banded: bool, strength: float
) -> None:
    """Bill or legs, banded or not."""
    for bone in bones:
        ax, ay, _, bx, by, _ = bone

        def paint(x: Array, y: Array, plain: Colour, axis: Axis = ((ax, ay), (bx, by))) -> Colour:
            return modulate(plain, texture("bars", *axes(x, y, axis)), 1.6 * strength) if banded else plain

        canvas.stroke(frame, [bone], colour, light, albedo=paint)


def paint_bird(canvas: Canvas, frame: Frame, a: Anatomy, species: Species, palette: Palette, sun: Light) -> None:
    """Paint from back to front. ``sun`` is the light direction in the picture."""
    light = (*frame.direction(sun[0], sun[1]), sun[2])
    marks = species.marks
    flat = (0.5 * light[0], 0.5 * light[1], light[2])  # feathers are flatter than bodies
    for feather in a.far_wing:
        canvas.stroke(frame, feather, palette.wing * np.float32(0.7), flat, edge=0.2)
    for bone in a.tail:
        canvas.stroke(frame, [bone], palette.wing * np.float32(0.85), flat, edge=0.3)
    _limbs(canvas, frame, a.legs, palette.legs, light, marks.legs == "rings", palette.strength)
    if len(a.eyes) == 1:
        _limbs(canvas, frame, a.bill, palette.bill, light, marks.bill == "bands", palette.strength)
    _body(canvas, frame, a, species, palette, light)
    if len(a.eyes) == 2:  # seen from the front, the bill lies on the face
        _limbs(canvas, frame, a.bill, palette.bill, light, marks.bill == "bands", palette.strength)
    for wing in a.wings:
        _wing(canvas, frame, wing, marks.wing, palette, flat)
    black, white = rgb(0, 0.05, 0.2), rgb(0, 0.97, 0)
    for x, y, radius in a.eyes:
        if len(a.eyes) == 2:
            canvas.stroke(frame, [circle(x, y, radius)], palette.bill * np.float32(1.5))
            radius *= 0.62
        canvas.stroke(frame, [circle(x, y, radius)], black)
        hx, hy = light[0] * 0.4 * radius, light[1] * 0.4 * radius
        canvas.stroke(frame, [circle(x + hx, y + hy, 0.36 * radius)], white)

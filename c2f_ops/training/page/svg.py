"""Charts as inline SVG; colours are CSS classes, so that one chart serves light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ..words import shortened

WIDTH, HEIGHT = 380, 270
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 46, 38
FLOOR = HEIGHT - BOTTOM  # y of the x axis
Points = Sequence[tuple[float, float]]


class Chart:
    """Axes and what is drawn between them, in data coordinates.

    Args:
        title: above the axes.
        x, y: names of the axes.
        x_range, y_range: least and greatest values shown; a range without width is widened.
        log: the x axis is logarithmic.
    """

    def __init__(
        self,
        title: str,
        x: str,
        y: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float] = (0.0, 1.0),
        *,
        log: bool = False,
    ) -> None:
        self._title, self._names, self._log = title, (x, y), log
        self._x, self._y = (self._scale(x_range[0]), self._scale(x_range[1])), y_range
        if self._x[0] == self._x[1]:
            self._x = (self._x[0] - 0.5, self._x[1] + 0.5)
        self._pieces: list[str] = []

    def _scale(self, value: float) -> float:
        return math.log(value) if self._log else value

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point; values out of range stay at the border."""
        u = (self._scale(x) - self._x[0]) / (self._x[1] - self._x[0])
        v = (y - self._y[0]) / (self._y[1] - self._y[0])
        u, v = min(max(u, 0.0), 1.0), min(max(v, 0.0), 1.0)
        return LEFT + u * (WIDTH - LEFT - RIGHT), FLOOR - v * (FLOOR - TOP)

    def _path(self, points: Points) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))

    def line(self, points: Points, style: str, *, dashed: bool = False) -> None:
        """Join points; ``style`` is a class that sets the colour."""
        if points:
            kind = "line dashed" if dashed else "line"
            self._pieces.append(f'<polyline class="{kind} {style}" points="{self._path(points)}"/>')

    def area(self, lower: Points, upper: Points, style: str, *, faint: bool = False) -> None:
        """Fill between two lines over the same places."""
        if lower:
            kind = "band" if faint else "area"
            self._pieces.append(f'<polygon class="{kind} {style}" points="{self._path([*lower, *reversed(upper)])}"/>')

    def dot(self, x: float, y: float, style: str, note: str, *, radius: float = 3.0, hollow: bool = False) -> None:
        """Mark a point; ``note`` shows under the pointer."""
        px, py = self.at(x, y)
        kind = "ring" if hollow else "dot"
        self._pieces.append(
            f'<circle class="{kind} {style}" cx="{px:.1f}" cy="{py:.1f}" r="{radius:g}">'
            f"<title>{escape(note)}</title></circle>"
        )

    def svg(self, x_ticks: Sequence[float], y_ticks: Sequence[float], *, percent: str = "") -> str:
        """Return the element. ``percent`` has the letters of the axes whose ticks are shares."""

        def written(axis: str, value: float) -> str:
            return f"{100 * value if axis in percent else value:g}"

        grid = []
        for value in y_ticks:
            _, y = self.at(math.exp(self._x[0]) if self._log else self._x[0], value)
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            grid.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{written("y", value)}</text>')
        for value in x_ticks:
            x, _ = self.at(value, self._y[0])
            grid.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{FLOOR}"/>')
            grid.append(f'<text class="tick mid" x="{x:.1f}" y="{FLOOR + 14}">{written("x", value)}</text>')
        name_x, name_y = (escape(name) for name in self._names)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title)}: {name_y} against '
            f'{name_x}"><text class="head" x="0" y="12">{escape(self._title)}</text>{"".join(grid)}'
            f'<path class="axis" d="M{LEFT} {TOP}V{FLOOR}H{WIDTH - RIGHT}"/>{"".join(self._pieces)}'
            f'<text class="name mid" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 4}">{name_x}</text>'
            f'<text class="name" x="0" y="{TOP - 16}">{name_y}</text></svg>'
        )


def log_ticks(values: Sequence[int], *, apart: float = 1.3) -> list[int]:
    """Choose from rising values those that have room on a logarithmic axis, the greatest among them."""
    kept: list[int] = []
    for value in sorted(set(values), reverse=True):
        if not kept or kept[-1] >= apart * value:
            kept.append(value)
    return kept[::-1]


def round_ticks(top: float, count: int = 5) -> list[float]:
    """Return round values 0, step, 2 step, .. from 0 to at least ``top``, about ``count`` of them."""
    if not top > 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top / count))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power * count >= top * (1 - 1e-9))
    return [round(i * step, 10) for i in range(math.ceil(top / step * (1 - 1e-9)) + 1)]


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]], totals: Sequence[int], title: str) -> str:
    """Draw a confusion matrix: rows true, columns predicted, shade the share of the answers in a row.

    Args:
        names: of the classes.
        counts: ``[n, n]``.
        totals: answers in each row, those of classes that are not shown included.
        title: above it.
    """
    n, label, top = len(names), 150, 46
    large = n > 12  # no room for counts and for every number
    cell = 13 if large else 32
    pieces = []
    for i, (row, total) in enumerate(zip(counts, totals, strict=True)):
        y = top + i * cell
        pieces.append(
            f'<text class="tick end" x="{label - 22}" y="{y + cell / 2 + 4:g}">{escape(shortened(names[i], 20))}'
            f"<title>{escape(names[i])}</title></text>"
            f'<text class="tick end" x="{label - 4}" y="{y + cell / 2 + 4:g}">{i + 1}</text>'
        )
        if not (large and i % 2):
            pieces.append(f'<text class="tick mid" x="{label + (i + 0.5) * cell:g}" y="{top - 4}">{i + 1}</text>')
        for j, count in enumerate(row):
            if count:
                said = "right" if i == j else f"called {names[j]}"
                pieces.append(
                    f'<rect class="{"hit" if i == j else "miss"}" x="{label + j * cell}" y="{y}" width="{cell - 1}" '
                    f'height="{cell - 1}" fill-opacity="{0.12 + 0.88 * count / total:.2f}"><title>'
                    f"{escape(names[i])}: {count} of {total} {escape(said)}</title></rect>"
                )
                if not large:
                    pieces.append(
                        f'<text class="{"mid over" if count > total / 2 else "mid"}" x="{label + (j + 0.5) * cell:g}" '
                        f'y="{y + cell / 2 + 4:g}">{count}</text>'
                    )
    side, width = n * cell, max(label + n * cell + 8, 300)
    height = top + side + 6
    return (
        f'<svg class="fixed" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}"><text class="head" x="0" y="12">{escape(title)}</text>'
        f'<rect class="frame" x="{label - 0.5}" y="{top - 0.5}" width="{side}" height="{side}"/>{"".join(pieces)}</svg>'
    )

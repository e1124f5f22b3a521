"""The picture of something that comes closer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .approach import Approach
from .report import _FAINT, _INK, _LEVEL_COLOURS, _figure
from .words import shortened, spoken

_LEGEND = 2.3  # inches that an entry of the legend may take


def plot_approach(shown: Approach, path: Path, *, frames: bool = True, title: str = "") -> None:
    """Draw the image at each side, the answer to each below it, and the posteriors of the last answer.

    Args:
        shown: of `approach`.
        path: PNG file to write.
        frames: False leaves the image out.
        title: of the picture.
    """
    count, levels = len(shown.sides), len(shown.levels)
    # Lengths in inches, top to bottom.
    cell, left = max(0.85, _LEGEND / count), 0.35 + 0.085 * max(map(len, shown.levels))
    columns = int(count * cell / _LEGEND)
    head, picture, bars = 0.42, (cell if frames else 0.0), 0.3 * levels + 0.1
    legend, chart, foot = 0.2 * -(-(levels + 1) // columns) + 0.35, 2.2, 0.6
    width, height = left + count * cell + 0.2, head + picture + bars + legend + chart + foot
    figure = _figure(width, height, tight=False)

    def panel(top: float, tall: float) -> Any:
        axes = figure.add_axes((left / width, 1 - (top + tall) / height, count * cell / width, tall / height))
        axes.set_xlim(-0.5, count - 0.5)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, colors=_INK, labelsize=9)
        return axes

    figure.text(0.15 / width, 1 - 0.13 / height, title, va="top", size=11, weight="bold", color=_INK)
    if frames:
        _draw_frames(panel(head, cell), shown)
    _draw_answers(panel(head + picture, bars), shown, cell)
    axes = panel(height - foot - chart, chart)
    _draw_posteriors(axes, shown)
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.8,
        borderpad=0.2, handlelength=1.8,
    )  # fmt: skip
    figure.savefig(path, dpi=150)


def _draw_frames(axes: Any, shown: Approach) -> None:
    for i, frame in enumerate(shown.frames):
        pixels = frame.permute(1, 2, 0).numpy()
        axes.imshow(pixels, extent=(i - 0.46, i + 0.46, -0.46, 0.46), interpolation="nearest", aspect="auto")
    axes.set_xlim(-0.5, len(shown.frames) - 0.5)
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()


def _draw_answers(axes: Any, shown: Approach, cell: float) -> None:
    """A row per level, coarse on top; a bar spans the frames with one answer."""
    for k in range(len(shown.levels)):
        names = [said.path[k] if len(said.path) > k else None for said in shown.answers]
        starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
        for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
            left, wide, name = start - 0.46, end - start - 0.08, names[start]
            if name is not None:
                axes.barh(k, wide, 0.8, left, color=_LEVEL_COLOURS[k % len(_LEVEL_COLOURS)], alpha=0.3)
            if name is not None or k == 0:
                words, colour = (
                    ("unknown", _FAINT) if name is None else (shortened(spoken(name), int(12 * wide * cell)), _INK)
                )
                axes.text(left + 0.05 / cell, k, words, va="center", size=8, color=colour)
    axes.set_yticks(range(len(shown.levels)), shown.levels)
    axes.set_xticks([])
    axes.set_ylim(len(shown.levels) - 0.45, -0.55)


def _draw_posteriors(axes: Any, shown: Approach) -> None:
    """A line per level, the coarse ones wider, so that one shows where they coincide."""
    levels, x = len(shown.levels), list(range(len(shown.sides)))
    limits = [threshold for threshold in shown.thresholds if 0 < threshold < math.inf]
    for k, (level, name, threshold) in enumerate(zip(shown.levels, shown.path, shown.thresholds, strict=True)):
        colour, thick = _LEVEL_COLOURS[k % len(_LEVEL_COLOURS)], 1.6 + 1.4 * (levels - 1 - k)
        label = f"{shortened(spoken(level), 12)} {shortened(spoken(name), 26)}"
        axes.plot(x, shown.posteriors[:, k], color=colour, lw=thick, marker="o", ms=thick + 2.2, label=label,
                  clip_on=False, zorder=2 + k)  # fmt: skip
        if threshold in limits:
            axes.axhline(threshold, color=colour, lw=1.1, ls=(0, (1, 2)))
    if limits:
        label = f"needed for an answer ({shown.target:.0%} right)"
        axes.plot([], [], color=_FAINT, lw=1.1, ls=(0, (1, 2)), label=label)
    axes.set_ylim(0, 1)
    axes.set_ylabel("posterior", color=_INK)
    axes.set_xticks(x, [str(side) for side in shown.sides])
    axes.set_xlabel("side of the image, pixels", color=_INK)
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)

"""The picture of a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..report import _FAINT, _INK, _LEVEL_COLOURS, _figure

if TYPE_CHECKING:
    from .run import SearchResult


def plot_search(result: SearchResult, path: Path) -> None:
    """Draw the curves with standard errors, their monotone fits, thresholds and the sides chosen."""
    figure = _figure(7.2, 4.2)
    axes = figure.subplots()
    chosen = list(reversed(result.sides))[1:]
    for k, (curve, threshold, side) in enumerate(zip(result.curves, result.thresholds, chosen, strict=True)):
        colour = _LEVEL_COLOURS[k % len(_LEVEL_COLOURS)]
        limit = threshold * (curve.fitted[0] if result.mode == "relative" else 1)
        per_cent = [100 * a for a in curve.accuracy]
        errors = [100 * e for e in curve.errors]
        axes.errorbar(curve.sides, per_cent, errors, fmt="o", ms=4, lw=1, color=colour, label=curve.level)
        axes.plot(curve.sides, [100 * a for a in curve.fitted], color=colour, lw=1.6)
        axes.axhline(100 * limit, color=colour, lw=0.9, ls=":")
        axes.axvline(side, color=colour, lw=0.9, ls="--")
        coarser = result.levels[len(result.levels) - 2 - k]
        axes.annotate(
            f"{coarser}: {side} px",
            (side, 3),
            xytext=(-2, 0),
            textcoords="offset points",
            color=_INK,
            size=8,
            ha="right",
            rotation=90,
        )
    axes.set_xscale("log")
    ticks = [s for i, s in enumerate(result.curves[-1].sides) if i % 2 == 0]
    axes.set_xticks(ticks, [str(s) for s in ticks])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set(xlabel="side, pixels", ylabel="accuracy on held-out images, %", ylim=(0, 102))
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="head for", loc="upper right")
    how = "a network trained at each side" if result.retrained else f"trained at {result.curves[0].sides[0]} px"
    axes.set_title(f"{how}; dotted: threshold, dashed: first side below it", size=9, color=_FAINT, loc="left")
    figure.savefig(path, dpi=150)

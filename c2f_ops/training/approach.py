"""Something comes closer: one image through rising sides, answered as a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..answering import Answer, Calibration, ObjectStream, descend, stream_report
from ..answering.calibration import TARGET
from ..data.degrade import resize_uint8
from ..data.images import resize_image
from ..hierarchy import Hierarchy
from ..models import MLPH
from .augment import centre_crop
from .config import Config
from .evaluate import predict_logits
from .grid import default_grid
from .predict import native_side
from .report import _FAINT, _INK, _LEVEL_COLOURS, _figure
from .sampler import stable_seed


@dataclass(frozen=True)
class Approach:
    """Answers to one image at rising sides, each with the evidence of the smaller ones.

    Attributes:
        levels: names, coarse to fine.
        sides: F rising sides.
        frames: F uint8 tensors ``[3, r, r]``, the image at each side.
        answers: F answers.
        path: names of the most probable path at the last frame. posteriors: ``[F, K]``, those of its nodes.
        thresholds: K numbers. target: the precision that they were chosen for.
    """

    levels: tuple[str, ...]
    sides: tuple[int, ...]
    frames: tuple[Tensor, ...]
    answers: tuple[Answer, ...]
    path: tuple[str, ...]
    posteriors: Tensor
    thresholds: tuple[float, ...]
    target: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data, without the frames."""
        return {
            "path": list(self.path),
            "target": self.target,
            "frames": [
                {
                    "side": side,
                    "answer": said.to_dict(),
                    "posteriors": dict(zip(self.levels, row, strict=True)),
                }
                for side, said, row in zip(self.sides, self.answers, self.posteriors.tolist(), strict=True)
            ],
        }


def approach(
    model: MLPH,
    image: Tensor,
    hierarchy: Hierarchy,
    config: Config,
    calibration: Calibration,
    *,
    sides: Sequence[int] | None = None,
    target: float = TARGET,
    n_eff: float = 1.0,
    hysteresis: float = 0.1,
) -> Approach:
    """Show one image to the model at rising sides.

    Args:
        model: of a run.
        image: uint8 ``[3, H, W]``.
        hierarchy: names of the classes.
        config: of the run.
        calibration: of the run.
        sides: in pixels; by default those of `default_grid` that the image has.
        target: of `c2f_ops.answering.ObjectStream`.
        n_eff: likewise. Sides of one still image are no news, hence 1: more makes answers surer than they are right.
        hysteresis: likewise.
    """
    native = native_side(image, config)
    if sides is None:
        sides = [side for side in default_grid(config.image_size) if side <= native] or [native]
    elif not sides or min(sides) < 1:
        raise ValueError(f"approach: sides must be at least one number from 1 up, got {list(sides)}")
    sides = sorted({min(side, config.image_size) for side in sides})
    batch = resize_image(image, config.load_size, mode=config.resize_mode)[None]
    stream = ObjectStream(hierarchy, calibration, n_eff=n_eff, hysteresis=hysteresis, target=target)
    answers, rows = [], []
    for side in sides:
        answers += stream.update(predict_logits(model, batch, config, side, precision=config.precision), side)
        rows.append(stream.posteriors())
    nodes = descend(rows[-1], hierarchy)[0].tolist()
    seen = centre_crop(batch, config.image_size)
    return Approach(
        hierarchy.levels,
        tuple(sides),
        tuple(resize_uint8(seen, (side, side))[0] for side in sides),
        tuple(answers),
        tuple(hierarchy.names[k][node] for k, node in enumerate(nodes)),
        torch.tensor([[float(p[k][0, node]) for k, node in enumerate(nodes)] for p in rows], dtype=torch.float64),
        stream.thresholds,
        target,
    )


def simulate_streams(
    model: MLPH,
    images: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    config: Config,
    calibration: Calibration,
    *,
    frames: int = 12,
    seed: int = 0,
    target: float = TARGET,
    n_eff: float = 1.0,
    hysteresis: float = 0.1,
) -> dict[str, Any]:
    """Let every image come closer and report how the answers deepened: `c2f_ops.answering.stream_report`.

    Args:
        model: of a run.
        images: uint8 ``[N, 3, load, load]``.
        labels: LongTensor ``[N, K]``, -1 for unknown.
        hierarchy: their tree.
        config: of the run.
        calibration: of the run.
        frames: how many, at `seeded_sides`.
        seed: of the sides.
        target: of `c2f_ops.answering.ObjectStream`.
        n_eff: likewise. Sides of one still image are no news, hence 1: more makes answers surer than they are right.
        hysteresis: likewise.
    """
    stream = ObjectStream(
        hierarchy, calibration, batch=len(images), n_eff=n_eff, hysteresis=hysteresis, target=target
    )  # fmt: skip
    sides = seeded_sides(config.image_size, frames, seed)
    answers = [
        stream.update(predict_logits(model, images, config, side, precision=config.precision), side) for side in sides
    ]
    return {"target": target, "seed": seed, **stream_report(answers, sides, labels, hierarchy)}


def seeded_sides(image_size: int, frames: int, seed: int) -> list[int]:
    """Draw sides log-uniformly from the range of `default_grid`, rising; the last is the full one."""
    grid = default_grid(image_size)
    generator = torch.Generator().manual_seed(stable_seed(seed, "approach"))
    logs = math.log(grid[-1]) + torch.rand(frames - 1, generator=generator) * math.log(grid[0] / grid[-1])
    return [*sorted(round(math.exp(value)) for value in logs.tolist()), grid[0]]


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


_LEGEND = 2.3  # inches that an entry of the legend may take


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
                words, colour = ("unknown", _FAINT) if name is None else (_short(name, int(12 * wide * cell)), _INK)
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
        axes.plot(x, shown.posteriors[:, k], color=colour, lw=thick, marker="o", ms=thick + 2.2,
                  label=f"{_short(level, 12)} {_short(name)}", clip_on=False, zorder=2 + k)  # fmt: skip
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


def _short(name: str, most: int = 26) -> str:
    name = name.replace("_", " ")
    return name if len(name) <= most else name[: max(most - 1, 1)] + "\N{HORIZONTAL ELLIPSIS}"

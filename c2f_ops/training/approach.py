"""Something comes closer: one image through rising sides, answered as a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
        sides: in pixels; by default those of `default_grid` that the image has. Larger ones count as its own,
            `native_side`: enlarging an image adds nothing to it.
        target: of `c2f_ops.answering.ObjectStream`.
        n_eff: likewise. Sides of one still image are no news, hence 1: more makes answers surer than they are right.
        hysteresis: likewise.

    Returns:
        The frames and the answers to them.

    Raises:
        ValueError: no sides, or one below 1; calibration of another tree; no thresholds for ``target``.
    """
    native = native_side(image, config)
    if sides is None:
        sides = [side for side in default_grid(config.image_size) if side <= native] or [native]
    elif not sides or min(sides) < 1:
        raise ValueError(f"approach: sides must be at least one number from 1 up, got {list(sides)}")
    sides = sorted({min(side, native) for side in sides})
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

    Returns:
        The report, with ``target`` and ``seed``: JSON data.

    Raises:
        ValueError: no images or frames, or a calibration or labels that do not fit.
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
    if frames < 1:
        raise ValueError(f"seeded_sides: frames must be at least 1, got {frames}")
    grid = default_grid(image_size)
    generator = torch.Generator().manual_seed(stable_seed(seed, "approach"))
    logs = math.log(grid[-1]) + torch.rand(frames - 1, generator=generator) * math.log(grid[0] / grid[-1])
    return [*sorted(round(math.exp(value)) for value in logs.tolist()), grid[0]]

"""Evaluation: every level at every resolution, the fine head mapped upwards, and metrics along the tree."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import degrade_settings
from ..hierarchy import Hierarchy
from ..metrics import hierarchical_metrics, predictions_from_logits
from ..models import MLPH
from .augment import centre_crop, to_input
from .config import Config
from .sampler import ImageBatches


@torch.inference_mode()
def predict_logits(
    model: MLPH, images: ImageBatches, config: Config, resolution: int, *, precision: str = "fp32", batch: int = 64
) -> tuple[Tensor, ...]:
    """Logits of all levels for images seen at one resolution.

    Args:
        model: on any device; left in evaluation mode.
        images: uint8 ``[N, 3, load, load]`` or an `ImageBatches`; their centre is used.
        config: of the run.
        resolution: side in pixels.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        batch: images at a time.

    Returns:
        K tensors ``[N, n_k]``, float32, on the CPU.
    """
    model.eval()
    device = next(model.parameters()).device
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    index = config.nearest_side(resolution)
    parts = []
    for rows in torch.arange(len(images)).split(batch):
        x = to_input(centre_crop(images[rows].to(device), config.image_size), resolution, model.mean, model.std)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            parts.append([logits.float().cpu() for logits in model(x, resolution=index)])
    return tuple(torch.cat(level) for level in zip(*parts, strict=True))


def answers(logits: Sequence[Tensor], hierarchy: Hierarchy, heads: Collection[int]) -> Tensor:
    """Return the predicted class of every level, LongTensor ``[N, K]``, from some of the heads, each for itself.

    A level whose head is not among them gets the ancestor of the next finer answer, and -1 where there is none.

    Args:
        logits: K tensors ``[N, n_k]``, coarse to fine.
        hierarchy: their tree.
        heads: indices of levels.
    """
    predicted = predictions_from_logits(logits)
    for k in reversed(range(hierarchy.num_levels)):
        if k not in heads and k == hierarchy.num_levels - 1:
            predicted[:, k] = -1
        elif k not in heads:
            finer, parent = predicted[:, k + 1], hierarchy.parents[k + 1]
            predicted[:, k] = torch.where(finer >= 0, parent[finer.clamp(min=0)], -1)  # type: ignore[index]
    return predicted


def evaluate(
    model: MLPH,
    images: ImageBatches,
    labels: Tensor,
    hierarchy: Hierarchy,
    config: Config,
    *,
    resolutions: Sequence[int] | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Measure all levels at all resolutions, by default those that the run was trained at or has for its levels.

    Args:
        model: see `predict_logits`.
        images: uint8 ``[N, 3, load, load]``.
        labels: LongTensor ``[N, K]``, coarse to fine, -1 for unknown.
        hierarchy: their tree.
        config: of the run.
        resolutions: sides in pixels.
        precision: see `predict_logits`.

    Returns:
        JSON data: ``own_resolution`` {level: accuracy}; ``accuracy`` and ``mapped_accuracy`` {side: {level: accuracy}},
        the latter of the ancestors of the finest trained head's answer; ``hierarchical`` {side: metrics}; ``tasks``
        [[level, side]] of the training; counts and settings. A level whose head no task trained has accuracy None, and
        in ``hierarchical`` the ancestor of the next finer answer.
    """
    levels, heads = hierarchy.levels, config.trained_levels(hierarchy.levels)
    sides = sorted(set(config.measured_sides if resolutions is None else resolutions), reverse=True)
    accuracy, mapped, tree = {}, {}, {}
    for side in sides:
        logits = predict_logits(model, images, config, side, precision=precision)
        own = hierarchical_metrics(answers(logits, hierarchy, heads), labels, hierarchy)
        upwards = hierarchical_metrics(answers(logits, hierarchy, heads[-1:]), labels, hierarchy)
        accuracy[str(side)] = {name: own.accuracy[k] if k in heads else None for k, name in enumerate(levels)}
        mapped[str(side)] = {name: upwards.accuracy[k] if k <= heads[-1] else None for k, name in enumerate(levels)}
        tree[str(side)] = own.to_dict()
    own_sides = dict(zip(levels, config.own_sides(levels), strict=True))
    return {
        "images": len(images),
        "hierarchy": hierarchy.sha256,
        "resolutions": own_sides,
        "tasks": [[levels[k], side] for k, side in config.cycle(levels)],
        "own_resolution": {
            name: accuracy[str(side)][name] for name, side in own_sides.items() if str(side) in accuracy
        },
        "accuracy": accuracy,
        "mapped_accuracy": mapped,
        "hierarchical": tree,
        "precision": precision,
        "degrade": degrade_settings(),
    }

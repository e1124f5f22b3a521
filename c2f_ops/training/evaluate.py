"""Evaluation: every level at every resolution, the fine head mapped upwards, and metrics along the tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import degrade_settings
from ..hierarchy import Hierarchy
from ..metrics import hierarchical_metrics, predictions_from_logits
from ..models import MLPH
from .augment import centre_crop, to_input
from .config import Config


@torch.inference_mode()
def predict_logits(
    model: MLPH, images: Tensor, config: Config, resolution: int, *, precision: str = "fp32", batch: int = 64
) -> tuple[Tensor, ...]:
    """Logits of all levels for images seen at one resolution.

    Args:
        model: on any device; left in evaluation mode.
        images: uint8 ``[N, 3, load, load]``; their centre is used.
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
    index = nearest_level(config.resolutions, resolution)
    parts = []
    for chunk in images.split(batch):
        x = to_input(centre_crop(chunk.to(device), config.image_size), resolution, model.mean, model.std)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            parts.append([logits.float().cpu() for logits in model(x, resolution=index)])
    return tuple(torch.cat(level) for level in zip(*parts, strict=True))


def nearest_level(resolutions: Sequence[int], resolution: int) -> int:
    """Return the level trained at the side nearest to ``resolution``, as a ratio."""
    return min(range(len(resolutions)), key=lambda k: abs(math.log(resolutions[k] / resolution)))


def evaluate(
    model: MLPH,
    images: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    config: Config,
    *,
    resolutions: Sequence[int] | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Measure all levels at all resolutions, by default those of the run.

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
            the
        latter of the fine prediction's ancestors; ``hierarchical`` {side: metrics}; counts and settings.
    """
    sides = sorted(set(config.resolutions if resolutions is None else resolutions), reverse=True)
    accuracy, mapped, tree = {}, {}, {}
    for side in sides:
        predicted = predictions_from_logits(predict_logits(model, images, config, side, precision=precision))
        heads = hierarchical_metrics(predicted, labels, hierarchy)
        upwards = hierarchical_metrics(hierarchy.ancestors[predicted[:, -1]], labels, hierarchy)
        accuracy[str(side)] = dict(zip(hierarchy.levels, heads.accuracy, strict=True))
        mapped[str(side)] = dict(zip(hierarchy.levels, upwards.accuracy, strict=True))
        tree[str(side)] = heads.to_dict()
    own = dict(zip(hierarchy.levels, config.resolutions, strict=True))
    return {
        "images": len(images),
        "hierarchy": hierarchy.sha256,
        "resolutions": own,
        "own_resolution": {k: accuracy[str(side)][k] for k, side in own.items() if str(side) in accuracy},
        "accuracy": accuracy,
        "mapped_accuracy": mapped,
        "hierarchical": tree,
        "precision": precision,
        "degrade": degrade_settings(),
    }

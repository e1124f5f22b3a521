"""Evaluation: every level at every resolution, the fine head mapped upwards, and metrics along the tree."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ..answering import Calibration
from ..data import degrade_settings
from ..hierarchy import Hierarchy
from ..metrics import hierarchical_metrics, predictions_from_logits
from ..models import MLPH
from .augment import centre_crop, to_input
from .config import Config
from .machine import say
from .sampler import ImageBatches
from .summaries import (
    Outputs,
    calibration_of,
    confidence_of,
    confusions,
    error_heights,
    heads_that_lose,
    selective_answers,
    worst_pairs,
)


@torch.inference_mode()
def predict_logits(
    model: MLPH, images: ImageBatches, config: Config, resolution: int, *, precision: str = "fp32", batch: int = 64
) -> tuple[Tensor, ...]:
    """Logits of all levels for images seen at one resolution.

    Args:
        model: on any device; left in evaluation mode.
        images: uint8 ``[N, 3, load, load]`` or an `ImageBatches`; their centre is used.
        config: of the run.
        resolution: side in pixels, at most that of what the network sees.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        batch: images at a time.

    Returns:
        K tensors ``[N, n_k]``, float32, on the CPU.

    Raises:
        ValueError: the resolution is out of range.
    """
    if not 1 <= resolution <= config.image_size:
        raise ValueError(
            f"predict_logits: resolution must be in 1..{config.image_size}, the image_size, got {resolution}"
        )
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
    calibration: Calibration | None = None,
    keep: bool = False,
    console: Any = None,
) -> dict[str, Any]:
    """Measure all levels at all resolutions, by default those that the run was trained at or has for its levels.

    Args:
        model: see `predict_logits`.
        images: see `predict_logits`.
        labels: LongTensor ``[N, K]``, coarse to fine, -1 for unknown.
        hierarchy: their tree.
        config: of the run.
        resolutions: sides in pixels.
        precision: see `predict_logits`.
        calibration: of the run; how calibrated the heads are is then measured before and after its temperatures.
        keep: give also what the heads said image by image: ``outputs``, an `Outputs`, which is not JSON data.
        console: a rich console for progress; None for silence.

    Returns:
        JSON data, falling sides and levels coarse to fine:

        - ``own_resolution`` {level: accuracy}; ``accuracy`` and ``mapped_accuracy`` {side: {level: accuracy}}, the
          latter of the ancestors of the finest trained head's answer;
        - ``heads_that_lose``: where a head is less accurate than that: level, side, difference and standard error;
        - ``hierarchical`` {side: metrics with their counts};
        - ``error_heights`` {side: images whose finest answer meets the truth at height 0, 1, .., K}, 0 for right ones;
        - ``calibration`` {side: {level: error, log-likelihood, bins [confidence, accuracy, count]}};
        - ``selective`` {side: area under and points of the risk-coverage curve per level, and for each threshold of
          confidence what is answered (`c2f_ops.metrics.confident_answers`)};
        - ``confusion`` of the coarsest trained level, rows true, with the answers in each row, shown or not; and
          ``worst_confusions`` of the finest;
        - ``tasks`` [[level, side]] of the training; counts and settings.

        A level whose head no task trained has accuracy None, no calibration, and in ``hierarchical`` the ancestor of
        the next finer answer.
    """
    levels, heads = hierarchy.levels, config.trained_levels(hierarchy.levels)
    sides = sorted(set(config.measured_sides if resolutions is None else resolutions), reverse=True)
    truth = hierarchy.validate_labels(labels).cpu()
    accuracy, mapped, tree, calibrated, selective, kept = {}, {}, {}, {}, {}, []
    for side in sides:
        say(console, f"measuring {len(images)} images at {side} px ...")
        logits = predict_logits(model, images, config, side, precision=precision)
        predicted, upwards = answers(logits, hierarchy, heads), answers(logits, hierarchy, heads[-1:])
        temperatures = {k: 1.0 if calibration is None else calibration.temperature(k, side) for k in heads}
        confidence = confidence_of(logits, temperatures)
        own, from_finest = (hierarchical_metrics(nodes, truth, hierarchy) for nodes in (predicted, upwards))
        key = str(side)
        accuracy[key] = {name: own.accuracy[k] if k in heads else None for k, name in enumerate(levels)}
        mapped[key] = {name: from_finest.accuracy[k] if k <= heads[-1] else None for k, name in enumerate(levels)}
        tree[key] = own.to_dict()
        calibrated[key] = {
            levels[k]: calibration_of(logits[k], truth[:, k], None if calibration is None else temperatures[k])
            for k in heads
        }
        selective[key] = selective_answers(predicted, confidence, truth, hierarchy, heads)
        kept.append((predicted, upwards, confidence))
    nodes, ancestors, confidences = (torch.stack(values) for values in zip(*kept, strict=True))
    outputs = Outputs(tuple(sides), nodes, ancestors, confidences, truth)
    own_sides = dict(zip(levels, config.own_sides(levels), strict=True))
    metrics = {
        "images": len(images),
        "hierarchy": hierarchy.sha256,
        "resolutions": own_sides,
        "tasks": [[levels[k], side] for k, side in config.cycle(levels)],
        "own_resolution": {
            name: accuracy[str(side)][name] for name, side in own_sides.items() if str(side) in accuracy
        },
        "accuracy": accuracy,
        "mapped_accuracy": mapped,
        "heads_that_lose": heads_that_lose(outputs, hierarchy, heads),
        "hierarchical": tree,
        "error_heights": error_heights(outputs, hierarchy, heads[-1]),
        "calibration": calibrated,
        "selective": selective,
        "confusion": confusions(outputs, hierarchy, heads[0], own_sides[levels[heads[0]]]),
        "worst_confusions": worst_pairs(outputs, hierarchy, heads[-1], own_sides[levels[heads[-1]]]),
        "precision": precision,
        "degrade": degrade_settings(),
    }
    return {**metrics, "outputs": outputs} if keep else metrics

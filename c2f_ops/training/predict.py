"""Answers for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.images import decode_image, resize_image
from ..hierarchy import Hierarchy
from ..models import MLPH
from .config import Config
from .evaluate import predict_logits


def predict_files(
    model: MLPH, files: Sequence[Path], hierarchy: Hierarchy, config: Config, *, resolution: int | None = None
) -> list[dict[str, Any]]:
    """Return for each file the answer of every trained head, coarse to fine: independent, no path decoding.

    ``trained_level`` names the finest level trained at the side nearest to that of the image.

    Args:
        model: of a run.
        files: images, read by Pillow.
        hierarchy: names of the classes.
        config: of the run.
        resolution: side that the images are degraded to. None: they stay as they are, and their shorter side (at most
            the input size) says which resolution they have.
    """
    trained = config.trained_levels(hierarchy.levels)
    answers = []
    for file in files:
        try:
            image = decode_image(file.read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"predict: image must be a readable image file, got {file}: {reason}") from None
        # A crop of the middle, as in evaluation, of which the sides of the images are load_size.
        native = min(image.shape[1:]) * config.image_size // config.load_size
        side = min(max(1, native), config.image_size) if resolution is None else resolution
        batch = resize_image(image, config.load_size, mode=config.resize_mode)[None]
        logits = predict_logits(model, batch, config, side, precision=config.precision)
        levels = {}
        for k in trained:
            probability, index = logits[k][0].softmax(0).max(0)
            name = hierarchy.names[k][int(index)]
            levels[hierarchy.levels[k]] = {"name": name, "id": int(index), "probability": float(probability)}
        nearest = config.sides[config.nearest_side(side)]
        finest = max(k for k, task_side in config.cycle(hierarchy.levels) if task_side == nearest)
        answers.append(
            {
                "image": str(file),
                "resolution": side,
                "trained_level": hierarchy.levels[finest],
                "levels": levels,
            }
        )
    return answers

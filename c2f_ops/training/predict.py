"""Answers for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.images import decode_image, resize_image
from ..hierarchy import Hierarchy
from ..models import MLPH
from .config import Config
from .evaluate import nearest_level, predict_logits


def predict_files(
    model: MLPH, files: Sequence[Path], hierarchy: Hierarchy, config: Config, *, resolution: int | None = None
) -> list[dict[str, Any]]:
    """Return for each file the answer of every level, coarse to fine: independent heads, no path decoding.

    Args:
        model: of a run.
        files: images, read by Pillow.
        hierarchy: names of the classes.
        config: of the run.
        resolution: side that the images are degraded to. None: they stay as they are, and their shorter side (at most
            the input size) says which resolution they have.
    """
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
        level_of_side = nearest_level(config.resolutions, side)
        logits = predict_logits(model, batch, config, side, precision=config.precision)
        levels = {}
        for level, names, values in zip(hierarchy.levels, hierarchy.names, logits, strict=True):
            probability, index = values[0].softmax(0).max(0)
            levels[level] = {"name": names[int(index)], "id": int(index), "probability": float(probability)}
        answers.append(
            {
                "image": str(file),
                "resolution": side,
                "trained_level": hierarchy.levels[level_of_side],
                "levels": levels,
            }
        )
    return answers

"""From uint8 images in memory to what student and teacher see; chance is a function of (seed, stream, step)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampler import stable_seed
from ..selfsup.augment import random_view
from .config import FalconRun


def make_view(images: Tensor, run: FalconRun, stream: str, step: int, *, batch: int, rows: slice | Tensor) -> Tensor:
    """Make one view of each image: uint8 ``[B', 3, S, S]`` -> float32 ``[B', 3, S, S]`` in 0..1, channels last.

    Chance is drawn for all of the ``batch`` images of all processes, of which ``images`` are the ``rows``.
    """
    if stream in ("teacher", "neighbours") and run.teacher_view == "centre":
        return whole(images)
    generator = torch.Generator().manual_seed(stable_seed(run.seed, "view", stream, step))
    flip = 0.5 if run.flip else 0.0
    x = random_view(images, run, generator, size=run.image_size, batch=batch, rows=rows, flip=flip)
    return x.contiguous(memory_format=torch.channels_last)


def whole(images: Tensor) -> Tensor:
    """The images as they are: uint8 -> float32 in 0..1, channels last."""
    return images.to(memory_format=torch.channels_last).float().div_(255)

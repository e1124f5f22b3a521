"""From uint8 batches in memory to what the network sees: crop and flip, degradation, normalisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import degrade
from .config import Config


def augment(images: Tensor, config: Config, generator: torch.Generator, *, batch: int, rows: slice) -> Tensor:
    """Crop and flip at random: uint8 ``[B', 3, load, load]`` -> uint8 ``[B', 3, S, S]``.

    Chance is drawn for all of the ``batch`` images, of which ``images`` are the ``rows``, so that an image is treated
    the same however many processes share the batch.
    """
    size = config.image_size
    flips = torch.rand(batch, generator=generator) < (0.5 if config.flip else 0.0)
    if config.augment == "resized_crop":
        theta = crop_maps(batch, config.min_area, generator, flips)[rows]
        return sample_crops(images, theta, size)
    if config.padding:
        images = _reflect(images, config.padding)
    room = images.shape[-1] - size + 1
    corners = torch.randint(room, (batch, 2), generator=generator)[rows].tolist()
    crops = [x[:, top : top + size, left : left + size] for x, (top, left) in zip(images, corners, strict=True)]
    out = torch.stack(crops)
    return torch.where(flips[rows, None, None, None].to(out.device), out.flip(-1), out)


def crop_maps(batch: int, min_area: float, generator: torch.Generator, flips: Tensor) -> Tensor:
    """Affine maps ``[B, 2, 3]`` of crops with area in [min_area, 1] of the image and aspect in [3/4, 4/3]."""
    area = torch.empty(batch).uniform_(min_area, 1.0, generator=generator)
    aspect = torch.empty(batch).uniform_(-math.log(4 / 3), math.log(4 / 3), generator=generator).exp()
    width, height = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    centre = torch.empty(batch, 2).uniform_(-1.0, 1.0, generator=generator)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = torch.where(flips, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = centre[:, 0] * (1 - width), centre[:, 1] * (1 - height)
    return theta


def sample_crops(images: Tensor, theta: Tensor, size: int) -> Tensor:
    """Sample ``[B, 3, size, size]`` from uint8 images under affine maps ``[B, 2, 3]``, bilinear."""
    grid = F.affine_grid(theta.to(images.device), [len(images), 3, size, size], align_corners=False)
    out = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return out.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _reflect(images: Tensor, padding: int) -> Tensor:
    """Reflect the borders; torch's own padding has no 8-bit kernel."""
    size = images.shape[-1]
    index = torch.arange(-padding, size + padding, device=images.device).abs()
    index = torch.where(index >= size, 2 * (size - 1) - index, index)
    return images[..., index, :][..., index]


def centre_crop(images: Tensor, size: int) -> Tensor:
    """Return the middle, ``[B, 3, size, size]``."""
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


def to_input(images: Tensor, resolution: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Degrade to ``resolution`` and normalise: uint8 ``[B, 3, S, S]`` -> float32 ``[B, 3, S, S]``, channels last."""
    x = degrade(images, resolution).to(memory_format=torch.channels_last).float()
    shift = torch.tensor(mean, device=x.device)[:, None, None] * 255
    scale = torch.tensor(std, device=x.device)[:, None, None] * 255
    return x.sub_(shift).div_(scale)

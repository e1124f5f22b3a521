"""Two random views of each image, made batch by batch on the device: crop, flip, colours, grey, blur."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..augment import crop_maps, sample_crops
from ..sampler import stable_seed
from .config import SelfsupConfig

_LUMA = (0.299, 0.587, 0.114)
_YIQ = torch.tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_GREY = torch.tensor(_LUMA).expand(3, 3)  # every colour becomes the luma


def two_views(images: Tensor, config: SelfsupConfig, step: int, *, batch: int, rows: slice) -> Tensor:
    """Make two independent views: uint8 ``[B', 3, H, W]`` -> float32 ``[2 B', 3, S, S]`` in 0..1, channels last.

    Chance follows from (``config.seed``, ``step``) and is drawn for all of the ``batch`` images, of which ``images``
    are the ``rows``, so that the views do not depend on the number of processes. Rows i and B' + i show image i.
    """
    views, size = [], config.view_size or config.image_size
    for view in range(2):
        generator = torch.Generator().manual_seed(stable_seed(config.seed, "view", step, view))
        views.append(random_view(images, config, generator, size=size, batch=batch, rows=rows))
    return torch.cat(views).contiguous(memory_format=torch.channels_last)


class ViewOptions(Protocol):
    """What `random_view` needs to know; see `SelfsupConfig`."""

    @property
    def min_area(self) -> float:
        """Least share of the image in a crop."""

    @property
    def jitter(self) -> float:
        """Strength of the change of colours."""

    @property
    def jitter_share(self) -> float:
        """Share of views with other colours."""

    @property
    def grey_share(self) -> float:
        """Share of views without colours."""

    @property
    def blur_share(self) -> float:
        """Share of blurred views."""


def random_view(
    images: Tensor,
    options: ViewOptions,
    generator: torch.Generator,
    *,
    size: int,
    batch: int,
    rows: slice | Tensor,
    flip: float = 0.5,
) -> Tensor:
    """Make one random view: uint8 ``[B', 3, H, W]`` -> float32 ``[B', 3, S, S]`` in 0..1 with ``size`` S.

    Chance is drawn for all of the ``batch`` images, of which ``images`` are the ``rows``; a share ``flip`` is mirrored.
    """
    flips = torch.rand(batch, generator=generator) < flip
    maps = crop_maps(batch, options.min_area, generator, flips)[rows]
    contrast, matrix = _colours(batch, options, generator)
    sigma = torch.empty(batch).uniform_(0.1, 2.0, generator=generator)
    blurred = torch.rand(batch, generator=generator) < options.blur_share
    x = sample_crops(images, maps, size).float().div_(255)
    if options.grey_share or (options.jitter and options.jitter_share):
        x = _change_colours(x, contrast[rows].to(x.device), matrix[rows].to(x.device))
    if options.blur_share:
        x = torch.where(blurred[rows, None, None, None].to(x.device), blur(x, sigma[rows].to(x.device)), x)
    return x


def _colours(batch: int, options: ViewOptions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw contrasts ``[B]`` and matrices ``[B, 3, 3]`` of brightness, saturation, hue and grey.

    Saturation, a rotation of the hue in YIQ and the loss of colour are linear and leave grey alone, so all of them
    become one matrix. torchvision turns the hue in HSV, shuffles the order and clips after each change.
    """
    jittered = torch.rand(batch, generator=generator) < options.jitter_share
    brightness, contrast, saturation = (
        torch.where(
            jittered, torch.empty(batch).uniform_(1 - options.jitter, 1 + options.jitter, generator=generator), 1
        )
        for _ in range(3)
    )
    turn = 2 * math.pi * torch.empty(batch).uniform_(-options.jitter / 4, options.jitter / 4, generator=generator)
    turn = torch.where(jittered, turn, 0)
    rotation = torch.zeros(batch, 3, 3)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = turn.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -turn.sin(), turn.sin()
    hue = torch.linalg.inv(_YIQ) @ rotation @ _YIQ
    mixed = torch.lerp(_GREY, torch.eye(3), saturation[:, None, None])
    matrix = brightness[:, None, None] * (hue @ mixed)
    grey = torch.rand(batch, generator=generator) < options.grey_share
    return contrast, torch.where(grey[:, None, None], _GREY @ matrix, matrix)


def _change_colours(x: Tensor, contrast: Tensor, matrix: Tensor) -> Tensor:
    """Apply colour matrices ``[B, 3, 3]`` to ``[B, 3, S, S]`` and pull each image away from its mean luma."""
    pixels = x.flatten(2)
    y = torch.bmm(matrix, pixels)
    luma = y.mean(2, keepdim=True).mul_(y.new_tensor(_LUMA)[:, None]).sum(1, keepdim=True)
    c = contrast[:, None, None]
    return torch.addcmul(luma * (1 - c), y, c).clamp_(0, 1).view_as(x)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur ``[B, 3, S, S]`` with a Gaussian of ``sigma`` ``[B]`` pixels, cut off at a twentieth of S each side."""
    reach = max(1, x.shape[-1] // 20)
    offsets = torch.arange(-reach, reach + 1, device=x.device)
    kernel = torch.softmax(-(offsets**2) / (2 * sigma[:, None] ** 2), 1).repeat_interleave(3, 0)[:, None]  # [3 B, 1, k]
    flat = x.flatten(0, 1)[None]  # [1, 3 B, S, S]
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="reflect"), kernel[:, :, None], groups=len(kernel))
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="reflect"), kernel[:, :, :, None], groups=len(kernel))
    return flat.view_as(x)

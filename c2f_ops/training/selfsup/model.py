"""What contrastive training trains: a backbone and a projector that is thrown away afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models.resnet_cifar import make_backbone
from .config import SelfsupConfig


class SimCLR(nn.Module):
    """Images ``[B, 3, S, S]`` in 0..1 -> projections ``[B, dim]``; ``backbone`` and ``normalise`` are kept.

    Source: Chen et al. 2020; the projector has batch norm, as in later implementations.
    """

    def __init__(self, config: SelfsupConfig) -> None:
        super().__init__()
        self.backbone = make_backbone(config.backbone)
        width = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.projector = nn.Sequential(
            nn.Linear(width, config.hidden, bias=False),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.dim),
        )

    def normalise(self, x: Tensor) -> Tensor:
        """Shift and scale colours in 0..1 to what the backbone expects."""
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.backbone.mean, self.backbone.std))
        return (x - mean) / std

    def embed(self, images: Tensor) -> Tensor:
        """Images uint8 ``[B, 3, S, S]`` -> features ``[B, d]``."""
        x = images.to(memory_format=torch.channels_last).float() / 255
        return self.backbone(self.normalise(x))

    def forward(self, x: Tensor) -> Tensor:
        """Project views."""
        return self.projector(self.backbone(self.normalise(x)))

"""The student: a backbone and one linear classifier over the fine classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...models import Falcon
from ...models.resnet_cifar import make_backbone
from .config import FalconRun


class FineClassifier(nn.Module):
    """Images ``[B, 3, S, S]`` in 0..1 -> logits ``[B, K_F]``."""

    backbone: nn.Module
    head: nn.Linear

    def __init__(self, backbone: nn.Module, num_fine: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.num_features), num_fine)  # type: ignore[arg-type]

    def embed(self, x: Tensor) -> Tensor:
        """Features ``[B, d]``."""
        mean, std = (x.new_tensor(v)[:, None, None] for v in (self.backbone.mean, self.backbone.std))
        return self.backbone((x - mean) / std)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K_F]``."""
        return self.head(self.embed(x))


def build_falcon(run: FalconRun, num_fine: int, num_coarse: Sequence[int], *, weights: bool = True) -> Falcon:
    """Build student and teacher with random classifiers; without ``weights`` nothing is read, for models loaded after.

    ``run.init`` may be a name that the library of the backbone knows; files and folders are for `load_start`.
    """
    named = run.init if weights and run.init is not None and not is_path(run.init) else None
    torch.manual_seed(run.seed)
    backbone = make_backbone(run.backbone, weights=named, options=run.backbone_options)
    return Falcon(FineClassifier(backbone, num_fine), num_fine, num_coarse, run.falcon, seed=run.seed)


def is_path(init: str) -> bool:
    """Whether ``init`` means a file or folder, not weights by name."""
    return "/" in init or "\\" in init or "." in init

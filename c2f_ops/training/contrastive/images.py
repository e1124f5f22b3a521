"""Images as the contrastive loop takes them, whole or as random views, and the network that embeds them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ...models.resnet_cifar import make_backbone
from ..augment import crop_maps, sample_crops
from ..sampler import stable_seed

_CHUNK = 512  # images of a piece


class ImageRows:
    """Images uint8 ``[N, 3, S, S]``, given out as normalised float32 ``[n, 3, S, S]``, channels last.

    Args:
        images: The images; they stay where they are.
        backbone: Says by ``mean`` and ``std`` what colours it expects.
        device: Where images are given out.
        min_area: Least share of the image in a view.
        seed: Of the views.
    """

    def __init__(
        self, images: np.ndarray, backbone: nn.Module, device: torch.device, *, min_area: float = 1.0, seed: int = 0
    ) -> None:
        self.images, self.device = torch.from_numpy(images), device
        self.min_area, self.seed = min_area, seed
        self.mean, self.std = (
            255 * torch.tensor(colours, device=device)[:, None, None] for colours in (backbone.mean, backbone.std)
        )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Tensor:
        """The images of the given numbers, whole and unchanged."""
        return self._normalise(self.images[index].to(self.device))

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive pieces and where they lie."""
        for start in range(0, len(self), _CHUNK):
            where = slice(start, start + _CHUNK)
            yield where, self._normalise(self.images[where].to(self.device))

    def view(self, index: Tensor, step: int) -> Tensor:
        """Random crops of these images, half of them mirrored; chance follows from the seed and the step."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "contrastive view", step))
        flips = torch.rand(len(index), generator=generator) < 0.5
        maps = crop_maps(len(index), self.min_area, generator, flips)
        chosen = self.images[index].to(self.device)
        return self._normalise(sample_crops(chosen, maps, chosen.shape[-1]))

    def _normalise(self, images: Tensor) -> Tensor:
        x = images.to(memory_format=torch.channels_last).float()
        return x.sub_(self.mean).div_(self.std)


class ImageEncoder(nn.Module):
    """A backbone by name, in bfloat16 where asked for, and a linear projection in float32."""

    def __init__(self, name: str, dim: int, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone, self.bf16 = make_backbone(name).to(memory_format=torch.channels_last), bf16
        self.projection = nn.Linear(int(self.backbone.num_features), dim)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, 3, S, S]`` -> embeddings ``[B, dim]``."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.backbone(x)
        return self.projection(features.float())

"""Which images make up a batch, as a function of (seed, stage, stream, cycle): resuming needs no state."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor


class ImageBatches(Protocol):
    """Images that training asks for by index: a tensor, or something that decodes when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Return uint8 ``[B, 3, load, load]`` for a LongTensor ``[B]``."""


def stable_seed(*parts: int | str) -> int:
    """Mix parts into one seed that depends on neither process nor version."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class BatchSampler:
    """Shuffles without replacement, epoch after epoch; the last incomplete batch of an epoch is left out.

    Args:
        size: number of images.
        batch_size: images in a batch; all of them where there are fewer.
        seed: of the run.
        stream: what makes the shuffles of a stage and level independent of others.
    """

    def __init__(self, size: int, batch_size: int, seed: int, stream: str) -> None:
        if size < 1:
            raise ValueError(f"training: images must be at least 1, got {size}")
        self.size, self.batch_size = size, min(batch_size, size)
        self.seed, self.stream = seed, stream
        self.batches = size // self.batch_size  # in an epoch
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def batch(self, cycle: int) -> Tensor:
        """Return the indices of the batch of ``cycle``, LongTensor ``[batch_size]``."""
        epoch, position = divmod(cycle, self.batches)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, self.stream, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
        start = position * self.batch_size
        return self._order[start : start + self.batch_size]


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows by class, LongTensor ``[N]``, into (kept, held out), sorted; ``share`` of each class is held out."""
    generator = torch.Generator().manual_seed(stable_seed(seed, "split"))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for value in labels.unique():
        rows = (labels == value).nonzero()[:, 0]
        chosen = torch.randperm(len(rows), generator=generator)[: round(share * len(rows))]
        held[rows[chosen]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]

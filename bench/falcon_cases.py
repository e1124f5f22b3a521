"""Named shapes of the FALCON loss, what they cost at least, and operands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One shape: ``batch`` samples, ``fine`` and ``coarse`` classes, ``neighbours`` of each sample."""

    name: str
    source: str
    batch: int
    fine: int
    coarse: int
    neighbours: int = 5

    def exps(self) -> int:
        """Exponentials of forward and gradient: z twice, each neighbour once, the groups of z and s."""
        return self.batch * (self.fine * (2 + self.neighbours) + 2 * self.fine // self.coarse)

    def minimum_bytes(self, itemsize: int) -> int:
        """z twice, s on the groups, neighbours once, the gradient of the rows written and read, d_z written."""
        rows = itemsize * (3 + self.neighbours) + 8
        return self.batch * (self.fine * rows + itemsize * self.fine // self.coarse)

    def dense(self) -> bool:
        """Whether the dense masked form, batch x fine x coarse, is within reach."""
        return self.batch * self.fine * self.coarse < 2**26


CASES = {
    case.name: case
    for case in (
        Case("tiered", "tieredImageNet", 512, 608, 34),
        Case("cifar", "CIFAR-100", 256, 100, 20),
        Case("entity13", "Entity13", 512, 260, 13),
        Case("pbmc", "PBMC", 1024, 83, 9),
        Case("large", "10,000 classes", 512, 10_000, 1_000),
    )
}


def operands(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """z (a leaf), s, t ``[B, L, K_F]``, y, g."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (2 * torch.randn(*shape, generator=generator)).to(device, dtype)

    g = (torch.randperm(case.fine, generator=generator) % case.coarse).int().to(device)
    y = torch.randint(case.coarse, (case.batch,), generator=generator).to(device)
    z, s = draw(case.batch, case.fine), draw(case.batch, case.fine)
    return z.requires_grad_(), s, draw(case.batch, case.neighbours, case.fine), y, g

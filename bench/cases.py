"""Named shapes of the pooling operator, from real networks, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from c2f_ops import FBP, HBP, MLP, TRILINEAR, multilinear_pool

INTERACTIONS = {"mlp": MLP, "hbp": HBP, "fbp": FBP, "trilinear": TRILINEAR}


@dataclass(frozen=True)
class Case:
    """One shape: ``B`` samples of ``L`` positions, ``M`` maps of ``C`` channels, projected to ``D``."""

    name: str
    source: str
    batch: int
    side: int  # L = side * side
    channels: int
    dim: int
    layout: str = "NCHW"

    def flops(self, interactions: str, *, backward: bool = False) -> int:
        """Multiply-adds of the projections, twice; forward, or forward and backward without recompute."""
        count = 1 + max(max(t) for t in INTERACTIONS[interactions])
        forward = 2 * count * self.batch * self.side**2 * self.channels * self.dim
        return 3 * forward if backward else forward

    def minimum_bytes(self, interactions: str, itemsize: int) -> int:
        """Features and weights read once, result written once in float32."""
        count = 1 + max(max(t) for t in INTERACTIONS[interactions])
        read = count * (self.batch * self.side**2 * self.channels + self.channels * self.dim) * itemsize
        return read + self.result_bytes(interactions)

    def result_bytes(self, interactions: str) -> int:
        """The result, in float32."""
        return 4 * self.batch * len(INTERACTIONS[interactions]) * self.dim

    def scaled(self, batch: int) -> Case:
        """The same shape with another batch size."""
        return Case(self.name, self.source, batch, self.side, self.channels, self.dim, self.layout)


CASES = {
    case.name: case
    for case in (
        Case("vgg", "VGG-16 relu5, input 448", 8, 28, 512, 8192),
        Case("r50-layer4", "ResNet-50 layer4, input 448", 8, 14, 2048, 8192),
        Case("r50-layer3", "ResNet-50 layer3, input 448", 8, 28, 1024, 8192),
        Case("vit-b14", "ViT-B/14 tokens, input 448", 8, 32, 768, 8192, "NLC"),
        Case("small", "a small network, input 112", 16, 7, 256, 1024),
        Case("tiny", "call overhead", 1, 2, 8, 16),
    )
}


def operands(
    case: Case, interactions: str, dtype: torch.dtype, device: str, *, grad: bool, seed: int = 0
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Features, weights and biases of a case: unit-scale ReLU features, projections within ``sqrt(3 / C)``."""
    generator = torch.Generator().manual_seed(seed)
    count = 1 + max(max(t) for t in INTERACTIONS[interactions])
    b, s, c, d = case.batch, case.side, case.channels, case.dim
    shape = (b, c, s, s) if case.layout == "NCHW" else (b, s * s, c)

    def leaf(t: Tensor) -> Tensor:
        return t.to(device, dtype).requires_grad_(grad)

    features = [leaf(torch.relu(torch.randn(shape, generator=generator))) for _ in range(count)]
    weights = [leaf((torch.rand(c, d, generator=generator) * 2 - 1) * (3 / c) ** 0.5) for _ in range(count)]
    biases = [torch.randn(d, generator=generator).mul_(0.1).to(device).requires_grad_(grad) for _ in range(count)]
    return features, weights, biases


def eager(
    features: list[Tensor], weights: list[Tensor], biases: list[Tensor], interactions: str, layout: str
) -> Tensor:
    """What users write today: projections, products and sums as separate torch operations, in the operand type."""
    projected = projections(features, weights, biases, layout)
    pooled = []
    for t in INTERACTIONS[interactions]:
        product = projected[t[0]]
        for m in t[1:]:
            product = product * projected[m]
        pooled.append(product.sum(1))
    p = torch.stack(pooled, 1).float()
    s = torch.sign(p) * (torch.sqrt(p.abs() + 0.03**2) - 0.03)
    return (s / torch.sqrt((s * s).sum(2, keepdim=True) + 1e-7)).flatten(1)


def projections(features: list[Tensor], weights: list[Tensor], biases: list[Tensor], layout: str) -> list[Tensor]:
    """The products of matrices alone, ``[B, L, D]`` each."""
    maps = [x.flatten(2).transpose(1, 2) if layout == "NCHW" else x for x in features]
    return [x @ w + b.to(w.dtype) for x, w, b in zip(maps, weights, biases, strict=True)]


def ours(
    features: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    interactions: str,
    layout: str,
    *,
    backend: str = "auto",
    algo: str = "auto",
    recompute: bool | str = "auto",
) -> Tensor:
    """The fused operator."""
    return multilinear_pool(
        features,
        weights,
        biases,
        interactions=INTERACTIONS[interactions],
        layout=layout,
        backend=backend,
        algo=algo,
        recompute=recompute,
        out_dtype=torch.float32,
    )


def step(run: Callable[[], Tensor], leaves: list[Tensor], *, backward: bool) -> Callable[[], object]:
    """A callable for the timer: the forward without grad, or forward and backward to every leaf."""
    if backward:
        return lambda: torch.autograd.grad(run().sum(), leaves)

    def forward() -> Tensor:
        with torch.no_grad():
            return run()

    return forward


__all__ = ["CASES", "INTERACTIONS", "Case", "eager", "operands", "ours", "projections", "step"]

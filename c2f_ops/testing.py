"""What tests of kernels need: inputs in every layout, the numerics contract, the float64 truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .functional import multilinear_pool

TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"p": 1e-12, "z": 1e-12, "grad": 1e-11},
    torch.float32: {"p": 2e-6, "z": 5e-6, "grad": 1e-5},
    torch.float16: {"p": 5e-4, "z": 1e-3, "grad": 2e-3},
    torch.bfloat16: {"p": 2e-3, "z": 5e-3, "grad": 1e-2},
}
"""Largest relative L2 error of a backend, by operand type: pooled products, result, gradients."""


@dataclass
class PoolInputs:
    """Operands of one `multilinear_pool` call, leaves that require gradients, and its options."""

    features: list[Tensor]
    weights: list[Tensor]
    biases: list[Tensor | None] | None
    mask: Tensor | None
    options: dict[str, object] = field(default_factory=dict)

    def run(self, *, backend: str, **extra: object) -> Tensor:
        """The result on ``backend``; ``extra`` options win over the stored ones."""
        options: dict[str, Any] = {**self.options, "mask": self.mask, **extra}
        return multilinear_pool(self.features, self.weights, self.biases, backend=backend, **options)

    def leaves(self) -> list[Tensor]:
        """Everything that may have a gradient, in a fixed order, each once."""
        tensors = [*self.features, *self.weights, *(b for b in self.biases or [] if b is not None)]
        tensors += [self.mask] if self.mask is not None and self.mask.requires_grad else []
        return list({id(t): t for t in tensors}.values())

    def to(self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> PoolInputs:
        """Copies with the same values and memory format; ``dtype`` applies to whatever is floating."""
        memo: dict[int, Tensor] = {}

        def convert(t: Tensor | None) -> Tensor | None:
            if t is None:
                return None
            if id(t) not in memo:
                copy = t.detach().to(device=device, dtype=dtype if t.is_floating_point() else None, copy=True)
                memo[id(t)] = copy.requires_grad_(t.requires_grad)
            return memo[id(t)]

        biases = None if self.biases is None else [convert(b) for b in self.biases]
        features = [convert(x) for x in self.features]
        weights = [convert(w) for w in self.weights]
        return PoolInputs(features, weights, biases, convert(self.mask), self.options)  # type: ignore[arg-type]


def make_pool_inputs(
    batch: int,
    height: int,
    width: int,
    channels: Sequence[int],
    dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "NCHW",
    bias: bool = True,
    mask: str = "none",
    seed: int = 0,
    device: str | torch.device = "cpu",
    **options: object,
) -> PoolInputs:
    """Unit-scale ReLU features, projections within ``sqrt(3 / C)``, small biases; ``layout`` also "channels_last".

    The values are rounded to ``dtype`` first, so a float64 copy (`PoolInputs.to`) is the same problem. ``mask``:
    "none", "bool", "weights" (float, no gradient) or "float" (float, with gradient).
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    features, weights = [], []
    prefix = int(options.get("num_prefix_tokens", 0))  # type: ignore[call-overload]
    for c in channels:
        if layout == "NLC":
            x = draw(batch, height * width + prefix, c)
        elif layout == "NHWC":
            x = draw(batch, height, width, c)
        else:
            x = draw(batch, c, height, width)
        x = torch.relu(x).to(device, dtype)
        x = x.to(memory_format=torch.channels_last) if layout == "channels_last" else x
        features.append(x.requires_grad_())
        uniform = torch.rand(c, dim, generator=generator) * 2 - 1
        weights.append((uniform * (3 / max(1, c)) ** 0.5).to(device, dtype).requires_grad_())
    biases: list[Tensor | None] | None = None
    if bias:
        biases = [(0.1 * draw(dim)).to(device, dtype).requires_grad_() for _ in channels]
    position_mask = None
    if mask == "bool":
        position_mask = (torch.rand(batch, height * width, generator=generator) < 0.6).to(device)
    elif mask != "none":
        position_mask = torch.rand(batch, height * width, generator=generator).to(device)
        position_mask = position_mask.to(torch.float64 if dtype == torch.float64 else torch.float32)
        position_mask.requires_grad_(mask == "float")
    named = "NCHW" if layout == "channels_last" else layout
    return PoolInputs(features, weights, biases, position_mask, {"layout": named, **options})


def value_and_grads(inputs: PoolInputs, *, backend: str, seed: int = 0, **extra: object) -> tuple[Tensor, list[Tensor]]:
    """Result and the gradients for a fixed random d_out (exact in every type), in the order of `PoolInputs.leaves`."""
    out = inputs.run(backend=backend, **extra)
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(out.device, out.dtype)
    grads = torch.autograd.grad(out, inputs.leaves(), d_out)
    return out.detach(), list(grads)


@dataclass
class Truth:
    """Result and gradients of a problem in float64, and how much each of them amplifies a rounding of the operands."""

    value: Tensor
    grads: list[Tensor]
    pooled: Tensor
    amplification: list[float]

    def bounds(self, dtype: torch.dtype) -> list[float]:
        """Error bounds for operands of ``dtype``: of the value, then of each gradient.

        A tolerance holds for problems of ordinary condition. Where operands changed by one part in 2^24 change a result
        by more than `_ORDINARY` parts (few positions, p near 0 under the square root), the bound grows in proportion.
        """
        tolerance = TOLERANCES[dtype]
        kinds = ["z"] + ["grad"] * len(self.grads)
        return [tolerance[kind] * max(1.0, a / _ORDINARY) for kind, a in zip(kinds, self.amplification, strict=True)]


_ORDINARY = 20.0


def truth_of(inputs: PoolInputs) -> Truth:
    """The float64 reference on the same (already rounded) values."""
    exact = inputs.to(dtype=torch.float64, device="cpu")
    value, grads = value_and_grads(exact, backend="reference")
    pooled = exact.run(backend="reference", sqrt_mode="none", norm_scope="none", pooling="sum").detach()
    nudged, generator, ulp = inputs.to(dtype=torch.float64, device="cpu"), torch.Generator().manual_seed(1), 2.0**-24
    with torch.no_grad():
        for leaf in nudged.leaves():
            leaf.mul_(1 + ulp * torch.randn(leaf.shape, generator=generator, dtype=torch.float64))
    moved, moved_grads = value_and_grads(nudged, backend="reference")
    pairs = zip([moved, *moved_grads], [value, *grads], strict=True)
    return Truth(value, grads, pooled, [relative_error(a, b) / ulp for a, b in pairs])


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """``|actual - truth| / |truth|`` in L2 and float64; 0 where both vanish."""
    a, t = actual.detach().double().cpu().flatten(), truth.detach().double().cpu().flatten()
    difference, size = (a - t).norm().item(), t.norm().item()
    return difference / size if size > 0 else difference


def assert_as_accurate(
    actual: Tensor, truth: Tensor, peer: Tensor, *, what: str = "result", parts: float = 0.0
) -> None:
    """Assert that ``actual`` errs at most twice as much as ``peer`` (eager torch, same type), plus 8 ulps.

    A difference of numbers in that type, of up to ``parts``, may err by one ulp of them: where they nearly cancel, that
    is more, and it is chance which of two roundings is the nearer.
    """
    size, eps = truth.detach().double().norm().item(), torch.finfo(peer.dtype).eps
    slack = eps * max(8.0, parts / size if size > 0 else 0.0)
    error, bound = relative_error(actual, truth), 2 * relative_error(peer, truth) + slack
    assert error <= bound, (
        f"{what}: relative error {error:.2e} exceeds twice that of eager torch plus ulps, {bound:.2e}"
    )

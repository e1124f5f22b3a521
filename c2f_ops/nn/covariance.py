"""Matrix square root of the covariance of the positions (iSQRT-COV)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .bilinear import bilinear_sum, upper_triangle
from .protocol import Pool, Positions


class CovariancePool(Pool):
    """Square root of the covariance over positions by Newton-Schulz iterations, its upper triangle as a vector.

        S = 1/N sum_i (u_i - mean u)(u_i - mean u)',  u_i = W' x_i      out = triu( sqrt(t) NS(S / t) ),  t = trace S

    Only matrix products, so the backward, by automatic differentiation, needs no eigenvectors. There is no signed
    square root and no L2 norm, and the triangle is not rescaled, as in the paper.

    Args:
        in_channels: Channels C of the map.
        dim: Width d of the projection before the covariance; None: none, d = C.
        iterations: Newton-Schulz iterations, at least 1; the paper takes 3 to 5.
        eps: Added to the trace, for maps that do not vary.
        layout, num_prefix_tokens: as for `c2f_ops.multilinear_pool`.

    Attributes:
        out_features: ``d (d + 1) / 2``.
        weight: Projection ``[C, d]``, or None.

    Source: Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root Normalization
    (CVPR 2018), algorithm 1.
    """

    upper: Tensor

    def __init__(
        self,
        in_channels: int,
        dim: int | None = 256,
        *,
        iterations: int = 5,
        eps: float = 1e-10,
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
    ) -> None:
        width = in_channels if dim is None else dim
        super().__init__(in_channels, width * (width + 1) // 2, layout=layout, num_prefix_tokens=num_prefix_tokens)
        for name, value in (("dim", width), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"CovariancePool: {name} must be at least 1, got {value!r}")
        if not 0 < eps < float("inf"):
            raise ValueError(f"CovariancePool: eps must be finite and greater than 0, got {eps!r}")
        self.dim = width
        self.iterations = iterations
        self.eps = eps
        self.weight = None if dim is None else nn.Parameter(torch.empty(in_channels, dim))
        row, column = upper_triangle(width)
        self.register_buffer("upper", row * width + column, persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the projection anew, uniform within ``sqrt(3 / C)``: it keeps the scale of the features."""
        if self.weight is not None:
            bound = math.sqrt(3 / self.weight.shape[0])
            self.weight.uniform_(-bound, bound)

    def _project(self, maps: list[Tensor]) -> list[Tensor]:
        if self.weight is None:
            return maps
        (x,) = maps
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        # bmm reads positions-first views of NCHW maps in place; matmul would fold batch and positions with a copy
        return [torch.bmm(x.to(dtype), self.weight.to(dtype).expand(x.shape[0], -1, -1))]

    def _pool(self, at: Positions) -> Tensor:
        (x,) = at.maps
        centred = x - at.mean(x).unsqueeze(1)
        count = at.count.unsqueeze(2)
        covariance = bilinear_sum(at, centred, centred) / torch.where(count > 0, count, 1.0)
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + self.eps
        root = newton_schulz_root(covariance / trace, self.iterations) * trace.sqrt()
        return root.flatten(1).index_select(1, self.upper)

    def extra_repr(self) -> str:
        """Show the configuration."""
        return f"{super().extra_repr()}, dim={self.dim}, iterations={self.iterations}"


def newton_schulz_root(a: Tensor, iterations: int) -> Tensor:
    """Approximate square root of symmetric positive semi-definite ``[B, d, d]`` of norm at most 1, by matrix products.

    Y tends to the root and Z to its inverse:  T = (3 I - Z Y) / 2,  Y <- Y T,  Z <- T Z,  from Y = A, Z = I.
    """
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = 1.5 * identity - 0.5 * a
    y = torch.bmm(a, z)
    for _ in range(iterations - 1):
        t = 1.5 * identity - 0.5 * torch.bmm(z, y)
        y, z = torch.bmm(y, t), torch.bmm(t, z)
    return y

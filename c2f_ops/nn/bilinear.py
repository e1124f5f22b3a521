"""Bilinear pooling with the whole outer product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .protocol import NormalizedPool, Positions


class BilinearPool(NormalizedPool):
    """Sum of outer products, signed square root, L2 norm: ``vec(sum_i x_i y_i')``, the pooling of B-CNN.

    B-CNN divides by L; with the norm that changes nothing but the meaning of ``sqrt_eps``, which is here for sums as in
    the other layers. ``pooling="mean"`` matters with ``norm_scope="none"`` only.

    Args:
        in_channels: Channels C of the map, whose outer product with itself is taken; or the channels of two maps.
        triangle: Keep the entries on and above the diagonal, those above times sqrt(2) after square root and norm. The
            matrix of one map is symmetric, so norms and inner products are those of the whole.
        layout, num_prefix_tokens, pooling, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps: as for
            `c2f_ops.multilinear_pool`; there is one interaction.

    Attributes:
        out_features: ``C^2`` or ``C_1 C_2``; ``C (C + 1) / 2`` for the triangle.

    Source: Bilinear CNN Models for Fine-Grained Visual Recognition (ICCV 2015).
    """

    upper: Tensor
    off_diagonal: Tensor

    def __init__(
        self,
        in_channels: int | Sequence[int],
        *,
        triangle: bool = False,
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
        pooling: str = "sum",
        sqrt_mode: str = "shifted",
        sqrt_eps: float = 0.03,
        norm_scope: str = "interaction",
        l2_mode: str = "add",
        l2_eps: float = 1e-7,
    ) -> None:
        if triangle and not isinstance(in_channels, int):
            raise ValueError(f"BilinearPool: in_channels must be one number with triangle=True, got {in_channels!r}")
        super().__init__(
            in_channels,
            0,
            maps=2,
            layout=layout,
            num_prefix_tokens=num_prefix_tokens,
            pooling=pooling,
            sqrt_mode=sqrt_mode,
            sqrt_eps=sqrt_eps,
            norm_scope=norm_scope,
            l2_mode=l2_mode,
            l2_eps=l2_eps,
        )
        first, second = self.in_channels
        self.triangle = triangle
        self.out_features = first * (first + 1) // 2 if triangle else first * second
        if triangle:
            row, column = upper_triangle(first)
            self.register_buffer("upper", row * first + column, persistent=False)
            self.register_buffer("off_diagonal", row != column, persistent=False)

    def _pool(self, at: Positions) -> Tensor:
        z = self._normalize([bilinear_sum(at, at.maps[0], at.maps[-1]).flatten(1)], at.count)
        if not self.triangle:
            return z
        kept = z.index_select(1, self.upper)
        return torch.where(self.off_diagonal, kept * math.sqrt(2), kept)

    def extra_repr(self) -> str:
        """Show the configuration."""
        return f"{super().extra_repr()}, triangle={self.triangle}"


def bilinear_sum(at: Positions, x: Tensor, y: Tensor) -> Tensor:
    """Sum of outer products over positions: ``[B, L, C_1]``, ``[B, L, C_2]`` -> ``[B, C_1, C_2]``."""
    return torch.bmm((x if at.weights is None else x * at.weights).transpose(1, 2), y)


def upper_triangle(size: int) -> Tensor:
    """Rows and columns ``[2, size (size + 1) / 2]`` of the entries on and above the diagonal, row by row."""
    return torch.triu_indices(size, size)

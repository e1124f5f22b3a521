"""Polynomial kernels by Tensor Sketch: compact bilinear pooling and kernel pooling."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .bilinear import bilinear_sum
from .protocol import NormalizedPool, Positions


class TensorSketch(nn.Module):
    """Sketch of the sum over positions of products of vectors: ``sum_i vec(x_i (x) y_i (x) ...)`` -> ``[B, dim]``.

    A count sketch adds channel c, times its sign, to entry h(c); the circular convolution of the sketches of several
    vectors is a sketch of their outer product. Products of spectra are summed over positions, so that each sample takes
    one inverse transform. Where the outer product of two factors is smaller than their sketches, ``C_0 C_1 <= L D``, it
    is summed over positions instead, and its entries (c, c'), times both signs, are added to h_0(c) + h_1(c') mod D:
    the same numbers. Inner products of results are unbiased estimates of those of the summed outer products.

    Args:
        channels: C_k of each factor.
        dim: Width D.
        generator: Draws the hashes and signs, which are buffers ``hash0`` ``[C_0]``, ``sign0`` ``[C_0]`` and so on.

    Source: Pham and Pagh, Fast and Scalable Polynomial Kernels via Explicit Feature Maps (KDD 2013).
    """

    hash0: Tensor
    hash1: Tensor
    sign0: Tensor
    sign1: Tensor

    def __init__(self, channels: Sequence[int], dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.degree = len(channels)
        for k, c in enumerate(channels):
            self.register_buffer(f"hash{k}", torch.randint(dim, (c,), generator=generator))
            sign = torch.randint(2, (c,), generator=generator) * 2 - 1
            self.register_buffer(f"sign{k}", sign.to(torch.int8))  # a type that .half() and .double() leave alone

    def count_sketch(self, x: Tensor, k: int) -> Tensor:
        """Sketch factor k: ``[B, L, C_k]`` -> ``[B, L, D]``."""
        signed = x * self.get_buffer(f"sign{k}")
        empty = x.new_zeros(*x.shape[:-1], self.dim)
        return empty.index_add(-1, self.get_buffer(f"hash{k}"), signed)

    def forward(self, at: Positions) -> Tensor:
        """Factors ``at.maps`` (a single one serves for all) -> ``[B, D]``."""
        maps = at.maps * self.degree if len(at.maps) == 1 else at.maps
        _, length, channels = maps[0].shape
        if self.degree == 2 and channels * maps[1].shape[2] <= length * self.dim:
            return self._add_up(bilinear_sum(at, maps[0] * self.sign0, maps[1] * self.sign1))
        spectra = [torch.fft.rfft(self.count_sketch(x, k)) for k, x in enumerate(maps)]
        return torch.fft.irfft(at.sum(functools.reduce(operator.mul, spectra)), n=self.dim)

    def _add_up(self, products: Tensor) -> Tensor:
        """Signed sums of outer products ``[B, C_0, C_1]`` -> ``[B, D]``."""
        target = (self.hash0.unsqueeze(1) + self.hash1) % self.dim
        empty = products.new_zeros(products.shape[0], self.dim)
        return empty.scatter_add(1, target.flatten().expand(products.shape[0], -1), products.flatten(1))

    def extra_repr(self) -> str:
        """Show the configuration."""
        return f"degree={self.degree}, dim={self.dim}"


class CompactBilinearPool(NormalizedPool):
    """Sketch of the sum of outer products, signed square root, L2 norm: `BilinearPool` in D numbers instead of C^2.

        irfft( sum_i rfft(S_1 x_i) o rfft(S_2 y_i) )         S_k: count sketch, C -> D

    Without square root and norm, the inner product of two results estimates ``sum_{i,k} (x_i' y_k)^2``.

    Args:
        in_channels: Channels C of the map; or the channels of two maps.
        dim: Width D of the result.
        seed: Seed of the hashes and signs, which are buffers.
        layout, num_prefix_tokens, pooling, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps: as for
            `c2f_ops.multilinear_pool`; there is one interaction.

    Source: Compact Bilinear Pooling (CVPR 2016), algorithm 2. Its algorithm 1 is `RandomMaclaurinPool`.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        dim: int = 8192,
        *,
        seed: int = 0,
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
        pooling: str = "sum",
        sqrt_mode: str = "shifted",
        sqrt_eps: float = 0.03,
        norm_scope: str = "interaction",
        l2_mode: str = "add",
        l2_eps: float = 1e-7,
    ) -> None:
        super().__init__(
            in_channels,
            dim,
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
        if dim < 1:
            raise ValueError(f"CompactBilinearPool: dim must be positive, got {dim}")
        self.sketch = TensorSketch(self.in_channels, dim, torch.Generator().manual_seed(seed))

    def _pool(self, at: Positions) -> Tensor:
        return self._normalize([self.sketch(at)], at.count)


class KernelPool(NormalizedPool):
    """Sums of x and of sketches of its outer powers, one block for each degree, signed square root, L2 norm of each.

        sum_i x_i,  sketch sum_i x_i (x) x_i,  sketch sum_i x_i (x) x_i (x) x_i, ...

    Each block has its own L2 norm (``norm_scope="interaction"``, as each product of `MultiLinearPool`), so that no
    degree drowns another; the linear classifier behind weighs them, which is what the coefficients of the paper do.

    Args:
        in_channels: Channels C of the map.
        dims: Widths of the sketches of degree 2, 3, ...; degree 1 is the sum of x itself.
        seed: Seed of the hashes and signs, which are buffers.
        layout, num_prefix_tokens, pooling, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps: as for
            `c2f_ops.multilinear_pool`; degrees are the interactions.

    Attributes:
        out_features: ``C + sum(dims)``.

    Source: Kernel Pooling for Convolutional Neural Networks (CVPR 2017).
    """

    def __init__(
        self,
        in_channels: int,
        dims: Sequence[int] = (4096, 4096),
        *,
        seed: int = 0,
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
        pooling: str = "sum",
        sqrt_mode: str = "shifted",
        sqrt_eps: float = 0.03,
        norm_scope: str = "interaction",
        l2_mode: str = "add",
        l2_eps: float = 1e-7,
    ) -> None:
        if not dims or any(d < 1 for d in dims):
            raise ValueError(f"KernelPool: dims must be positive numbers, one for each degree from 2 on, got {dims!r}")
        super().__init__(
            in_channels,
            in_channels + sum(dims),
            maps=1,
            layout=layout,
            num_prefix_tokens=num_prefix_tokens,
            pooling=pooling,
            sqrt_mode=sqrt_mode,
            sqrt_eps=sqrt_eps,
            norm_scope=norm_scope,
            l2_mode=l2_mode,
            l2_eps=l2_eps,
        )
        generator = torch.Generator().manual_seed(seed)
        self.sketches = nn.ModuleList(
            TensorSketch((in_channels,) * degree, dim, generator) for degree, dim in enumerate(dims, start=2)
        )

    def _pool(self, at: Positions) -> Tensor:
        return self._normalize([at.sum(at.maps[0]), *(sketch(at) for sketch in self.sketches)], at.count)

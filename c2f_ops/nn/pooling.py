"""Multilinear pooling layers: the general one and its presets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import FBP, HBP, MLP, TRILINEAR, multilinear_pool

INITS = ("caffe", "torch")


class MultiLinearPool(nn.Module):
    """Project M feature maps to a common width, multiply, sum over positions, signed square root, L2 norm.

    Args:
        in_channels: Channels C_m of each of the M feature maps (1 to 4); or one number: a single map, projected once
            for each factor.
        dim: Projection width D.
        interactions: Tuples of factor indices; default is the preset of the class, here MLP: three pairs and the
            trilinear term.
        bias: Learn a bias for each projection.
        init: "caffe" uniform within ``sqrt(3 / C_m)`` and zero biases (HBP's released network), "torch" as
            `torch.nn.Linear`.
        layout, num_prefix_tokens, activation, pooling, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps, algo,
            recompute, backend: as for `c2f_ops.multilinear_pool`.

    Attributes:
        out_features: ``len(interactions) * dim``.
        weights: M parameters ``[C_m, D]``.
        biases: M parameters ``[D]``, or None.

    Source: Coarse-to-Fine Grained Classification (SIGIR 2019), eq. (6).
    """

    preset: tuple[tuple[int, ...], ...] = MLP

    def __init__(
        self,
        in_channels: int | Sequence[int],
        dim: int = 8192,
        *,
        interactions: Sequence[Sequence[int]] | None = None,
        bias: bool = True,
        init: str = "caffe",
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
        activation: str = "none",
        pooling: str = "sum",
        sqrt_mode: str = "shifted",
        sqrt_eps: float = 0.03,
        norm_scope: str = "interaction",
        l2_mode: str = "add",
        l2_eps: float = 1e-7,
        algo: str = "auto",
        recompute: bool | str = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.interactions = tuple(tuple(t) for t in (self.preset if interactions is None else interactions))
        used = {i for t in self.interactions for i in t}
        self.single_map = isinstance(in_channels, int)
        self.in_channels = (in_channels,) * len(used) if isinstance(in_channels, int) else tuple(in_channels)
        if not self.in_channels or any(c < 1 for c in self.in_channels):
            raise ValueError(f"{name}: in_channels must be positive, got {in_channels!r}")
        if used != set(range(len(self.in_channels))):
            raise ValueError(
                f"{name}: interactions must use each of the {len(self.in_channels)} feature maps of in_channels and no "
                f"other, got {self.interactions}"
            )
        if dim < 1:
            raise ValueError(f"{name}: dim must be positive, got {dim}")
        if init not in INITS:
            raise ValueError(f"{name}: init must be one of {INITS}, got {init!r}")
        self.dim = dim
        self.init = init
        self.layout = layout
        self.num_prefix_tokens = num_prefix_tokens
        self.activation = activation
        self.pooling = pooling
        self.sqrt_mode = sqrt_mode
        self.sqrt_eps = sqrt_eps
        self.norm_scope = norm_scope
        self.l2_mode = l2_mode
        self.l2_eps = l2_eps
        self.algo = algo
        self.recompute = recompute
        self.backend = backend
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(c, dim)) for c in self.in_channels])
        self.biases = nn.ParameterList([nn.Parameter(torch.empty(dim)) for _ in self.in_channels]) if bias else None
        self.reset_parameters()

    @property
    def out_features(self) -> int:
        """Width of the result, ``Q * D``."""
        return len(self.interactions) * self.dim

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for m, weight in enumerate(self.weights):
            fan_in = weight.shape[0]
            bound = math.sqrt(3 / fan_in) if self.init == "caffe" else 1 / math.sqrt(fan_in)
            weight.uniform_(-bound, bound)
            if self.biases is not None and self.init == "caffe":
                self.biases[m].zero_()
            elif self.biases is not None:
                self.biases[m].uniform_(-bound, bound)

    def forward(self, features: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """M feature maps in ``layout`` (or the single one), mask ``[B, L]`` or None -> ``[B, out_features]``."""
        maps = [features] if isinstance(features, Tensor) else list(features)
        return multilinear_pool(
            maps * len(self.in_channels) if self.single_map and len(maps) == 1 else maps,
            list(self.weights),
            None if self.biases is None else list(self.biases),
            interactions=self.interactions,
            layout=self.layout,
            num_prefix_tokens=self.num_prefix_tokens,
            mask=mask,
            activation=self.activation,
            pooling=self.pooling,
            sqrt_mode=self.sqrt_mode,
            sqrt_eps=self.sqrt_eps,
            norm_scope=self.norm_scope,
            l2_mode=self.l2_mode,
            l2_eps=self.l2_eps,
            algo=self.algo,
            recompute=self.recompute,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Show the configuration."""
        return (
            f"in_channels={self.in_channels}, dim={self.dim}, interactions={self.interactions}, "
            f"bias={self.biases is not None}, layout={self.layout!r}, activation={self.activation!r}, "
            f"pooling={self.pooling!r}, sqrt={self.sqrt_mode!r} ({self.sqrt_eps:g}), "
            f"norm={self.norm_scope!r} ({self.l2_mode!r}, {self.l2_eps:g})"
        )


class HierarchicalBilinearPool(MultiLinearPool):
    """Three feature maps, three pairs. Arguments as for `MultiLinearPool`.

    Source: Hierarchical Bilinear Pooling for Fine-Grained Visual Recognition (ECCV 2018).
    """

    preset = HBP


class FactorizedBilinearPool(MultiLinearPool):
    """One pair: two projections of a single map (FBP proper, ``in_channels`` a number), or of two.

    With an ``activation`` and two maps this is MLB.

    Source: Coarse-to-Fine Grained Classification (SIGIR 2019), eq. (3) and (4).
    """

    preset = FBP


class TrilinearPool(MultiLinearPool):
    """One triple: three projections of a single map (``in_channels`` a number), or of three.

    Source: Coarse-to-Fine Grained Classification (SIGIR 2019), eq. (5).
    """

    preset = TRILINEAR


class RandomMaclaurinPool(nn.Module):
    """Polynomial pooling of one map by frozen +-1 projections: ``p_j = D^(-1/2) sum_i prod_m (w_mj' x_i)``.

    Without square root and norm, the inner product of two results estimates ``sum_{i,k} (x_i' y_k)^degree``.

    Args:
        in_channels: Channels C of the map.
        dim: Width D of the result.
        degree: Number of factors, 2 to 4.
        seed: Seed of the projections, which are a buffer ``signs`` ``[degree, C, D]``.
        layout, num_prefix_tokens, sqrt_mode, sqrt_eps, norm_scope, backend: as for `c2f_ops.multilinear_pool`.

    Source: Kar and Karnick (AISTATS 2012); Compact Bilinear Pooling (CVPR 2016).
    """

    signs: Tensor

    def __init__(
        self,
        in_channels: int,
        dim: int = 8192,
        *,
        degree: int = 2,
        seed: int = 0,
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
        sqrt_mode: str = "shifted",
        sqrt_eps: float = 0.03,
        norm_scope: str = "interaction",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not 2 <= degree <= 4:
            raise ValueError(f"RandomMaclaurinPool: degree must be between 2 and 4, got {degree}")
        self.in_channels = (in_channels,) * degree
        self.single_map = True
        self.out_features = dim
        self.layout = layout
        self.num_prefix_tokens = num_prefix_tokens
        self.sqrt_mode = sqrt_mode
        self.sqrt_eps = sqrt_eps
        self.norm_scope = norm_scope
        self.backend = backend
        draws = torch.randint(0, 2, (degree, in_channels, dim), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("signs", draws.to(torch.get_default_dtype()) * 2 - 1)

    def forward(self, features: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Feature map in ``layout``, mask ``[B, L]`` or None -> ``[B, dim]``."""
        maps = [features] if isinstance(features, Tensor) else list(features)
        first, *others = self.signs.unbind()
        weights = [first / math.sqrt(self.out_features), *others]
        return multilinear_pool(
            maps * len(weights),
            weights,
            interactions=(tuple(range(len(weights))),),
            layout=self.layout,
            num_prefix_tokens=self.num_prefix_tokens,
            mask=mask,
            sqrt_mode=self.sqrt_mode,
            sqrt_eps=self.sqrt_eps,
            norm_scope=self.norm_scope,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Show the configuration."""
        degree, channels, dim = self.signs.shape
        return f"in_channels={channels}, dim={dim}, degree={degree}, layout={self.layout!r}"

"""What the pooling layers in plain torch share: any layout in, position masks, arithmetic and result types."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._checks import LAYOUTS, POOLINGS, check_choice, check_norm, check_tensor
from ..functional import signed_sqrt_normalize
from ..functional.pooling import _autocast_dtype, _positions_first, _wide


@dataclass(frozen=True)
class Positions:
    """Feature maps ``[B, L, C_m]`` in float32 (float64 for float64 inputs) and the weights ``[B, L, 1]``, if any.

    Positions that a boolean mask excludes are zeros of weight 0.
    """

    maps: list[Tensor]  # M, or one for all factors
    weights: Tensor | None

    @property
    def count(self) -> Tensor:
        """``[B, 1]``: positions of each sample, or the sum of their weights."""
        x = self.maps[0]
        return x.new_full((x.shape[0], 1), x.shape[1]) if self.weights is None else self.weights.sum(1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over positions: ``[B, L, K]`` -> ``[B, K]``."""
        return values.sum(1) if self.weights is None else (values * self.weights).sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over positions: ``[B, L, K]`` -> ``[B, K]``, 0 where no position is left."""
        count = self.count
        return self.sum(values) / torch.where(count > 0, count, 1.0)


class Pool(nn.Module):
    """Base of the pooling layers: ``forward(features, mask=None) -> [B, out_features]``.

    Arithmetic is float32 (float64 for float64 inputs); the result has the type of the features, float32 under autocast.

    Attributes:
        in_channels: C_m of each map. single_map: one tensor serves for all of them.
        out_features: width of the result. layout, num_prefix_tokens: of the features.
    """

    def __init__(
        self, in_channels: int | Sequence[int], out_features: int, *, layout: str, num_prefix_tokens: int, maps: int = 1
    ) -> None:
        super().__init__()
        self.single_map = isinstance(in_channels, int)
        self.in_channels = (in_channels,) * maps if isinstance(in_channels, int) else tuple(in_channels)
        if len(self.in_channels) != maps or any(c < 1 for c in self.in_channels):
            expected = "a positive number" + (f" or {maps} of them" if maps > 1 else "")
            raise ValueError(f"{self._name}: in_channels must be {expected}, got {in_channels!r}")
        check_choice(self._name, "layout", layout, tuple(LAYOUTS))
        if num_prefix_tokens < 0:
            raise ValueError(f"{self._name}: num_prefix_tokens must not be negative, got {num_prefix_tokens}")
        self.out_features = out_features
        self.layout = layout
        self.num_prefix_tokens = num_prefix_tokens

    @property
    def _name(self) -> str:
        return type(self).__name__

    def forward(self, features: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Feature map in ``layout``, mask ``[B, L]`` (bool selects, float weights) or None -> ``[B, out_features]``."""
        maps = [features] if isinstance(features, Tensor) else list(features)
        maps = self._check(maps)
        weights = None
        if mask is not None:
            weights = self._check_mask(mask, maps[0]).unsqueeze(2)
            if mask.dtype == torch.bool:
                maps = [torch.where(weights, x, 0.0) for x in maps]
        maps = self._project(maps)
        autocast = _autocast_dtype(maps[0].device)
        dtype = torch.promote_types(maps[0].dtype, maps[-1].dtype)
        wide = _wide(dtype)
        with contextlib.nullcontext() if autocast is None else torch.autocast(maps[0].device.type, enabled=False):
            at = Positions([x.to(wide) for x in maps], None if weights is None else weights.to(wide))
            pooled = self._pool(at)
        return pooled.to(dtype if autocast is None else wide)

    def _project(self, maps: list[Tensor]) -> list[Tensor]:
        """What happens to each position before pooling, in the caller's precision: nothing."""
        return maps

    def _pool(self, at: Positions) -> Tensor:
        raise NotImplementedError

    def _check(self, maps: list[Tensor]) -> list[Tensor]:
        """``[B, L, C_m]`` views of maps of the right number, rank, channels and positions."""
        expected = self.in_channels[:1] if self.single_map else self.in_channels
        if len(maps) != len(expected):
            raise ValueError(f"{self._name}: features must be {len(expected)} map(s), got {len(maps)}")
        prefix = self.num_prefix_tokens
        if prefix and self.layout != "NLC":
            raise ValueError(f"{self._name}: num_prefix_tokens must be 0 for layout {self.layout!r}, got {prefix}")
        views: list[Tensor] = []
        for m, (x, channels) in enumerate(zip(maps, expected, strict=True)):
            check_tensor(self._name, f"features[{m}]", x, LAYOUTS[self.layout], f" for layout {self.layout!r}")
            view = _positions_first(x, self.layout)
            if view.shape[2] != channels:
                raise ValueError(
                    f"{self._name}: features[{m}] must have {channels} channels in layout {self.layout!r}, "
                    f"got shape {list(x.shape)}"
                )
            view = view[:, prefix:]
            if view.shape[1] < 1:
                raise ValueError(
                    f"{self._name}: features[{m}] must have a position after {prefix} prefix tokens, "
                    f"got shape {list(x.shape)}"
                )
            if views and view.shape[:2] != views[0].shape[:2]:
                raise ValueError(
                    f"{self._name}: features[{m}] must have B, L = {list(views[0].shape[:2])} like features[0], "
                    f"got {list(view.shape[:2])}"
                )
            views.append(view)
        return views

    def _check_mask(self, mask: Tensor, x: Tensor) -> Tensor:
        if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{self._name}: mask must be a bool or floating-point tensor, got {got}")
        if mask.shape != x.shape[:2]:
            raise ValueError(f"{self._name}: mask must have shape {list(x.shape[:2])}, got {list(mask.shape)}")
        return mask

    def extra_repr(self) -> str:
        """Show the configuration."""
        channels = self.in_channels[0] if self.single_map else self.in_channels
        return f"in_channels={channels}, out_features={self.out_features}, layout={self.layout!r}"


class NormalizedPool(Pool):
    """A `Pool` that ends in signed square root and L2 norm, with the options of `c2f_ops.multilinear_pool`."""

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_features: int,
        *,
        maps: int,
        layout: str,
        num_prefix_tokens: int,
        pooling: str,
        sqrt_mode: str,
        sqrt_eps: float,
        norm_scope: str,
        l2_mode: str,
        l2_eps: float,
    ) -> None:
        super().__init__(in_channels, out_features, layout=layout, num_prefix_tokens=num_prefix_tokens, maps=maps)
        check_choice(self._name, "pooling", pooling, POOLINGS)
        check_norm(self._name, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
        self.pooling = pooling
        self.sqrt_mode = sqrt_mode
        self.sqrt_eps = sqrt_eps
        self.norm_scope = norm_scope
        self.l2_mode = l2_mode
        self.l2_eps = l2_eps

    def _normalize(self, blocks: Sequence[Tensor], count: Tensor) -> Tensor:
        """Sums over positions ``[B, D_q]`` -> ``[B, sum D_q]``, each block with a norm of its own, or one for all."""
        parts = list(blocks) if self.norm_scope == "interaction" else [torch.cat(list(blocks), 1)]
        out = torch.cat(
            [
                signed_sqrt_normalize(
                    p.unsqueeze(1),
                    sqrt_mode=self.sqrt_mode,
                    sqrt_eps=self.sqrt_eps,
                    norm_scope=self.norm_scope,
                    l2_mode=self.l2_mode,
                    l2_eps=self.l2_eps,
                ).squeeze(1)
                for p in parts
            ],
            1,
        )
        if self.pooling == "sum" or self.norm_scope != "none":
            return out
        safe = torch.where(count > 0, count, 1.0)
        return out * (1.0 / safe if self.sqrt_mode == "none" else safe.rsqrt())

    def extra_repr(self) -> str:
        """Show the configuration."""
        return (
            f"{super().extra_repr()}, pooling={self.pooling!r}, sqrt={self.sqrt_mode!r} ({self.sqrt_eps:g}), "
            f"norm={self.norm_scope!r} ({self.l2_mode!r}, {self.l2_eps:g})"
        )

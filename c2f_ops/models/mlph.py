"""MLPH: one backbone and one multilinear pooling for all levels of a hierarchy, one linear head for each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import MLP
from ..hierarchy import Hierarchy
from ..nn import MultiLinearPool
from .taps import TappedBackbone


class MLPH(nn.Module):
    """Multi-linear pooling with hierarchy.

    Taps of a backbone are projected, multiplied position by position and summed (`c2f_ops.multilinear_pool`); linear
    heads, one
    per level, read the pooled vector:  ``logits_k = p W_k + b_k``,  W_k ``[Q D, n_k]``.

    Args:
        hierarchy: the tree of the labels, or just the class counts of its levels, coarse to fine.
        backbone: ``"torchvision/<model>"`` or ``"timm/<model>"``.
        taps: one to four module names; None for the defaults of `TappedBackbone`.
        dim: projection width D.
        interactions: tuples of tap indices; `c2f_ops.MLP` by default, for three taps.
        weights, backbone_options, image_size, layout, unequal: as for `TappedBackbone`.
        resolution_statistics: number of sets of batch-norm statistics, one per image resolution; None for a single set.
        sqrt_mode, sqrt_eps, norm_scope, pooling, bias, init: as for `c2f_ops.nn.MultiLinearPool`.

    Attributes:
        backbone, pool, heads: the parts; ``heads[k]`` belongs to level k, coarse to fine.
        hierarchy: the tree; None where only class counts were given.
        config: the other arguments as JSON data, taps and layout settled; without weights.
        calibration: JSON data that `save_pretrained` keeps with the model; None at first.
        mean, std: of the colours, RGB in 0..1; images are to be normalised with them.

    Shapes:
        images ``[B, 3, S, S]`` -> tuple of logits ``[B, n_k]``.

    Source: Coarse-to-Fine Grained Classification (SIGIR 2019), section 3; initial values of HBP's released network.
    """

    def __init__(
        self,
        hierarchy: Hierarchy | Sequence[int],
        *,
        backbone: str = "torchvision/vgg16",
        taps: Sequence[str] | None = None,
        dim: int = 8192,
        interactions: Sequence[Sequence[int]] = MLP,
        weights: str | None = None,
        backbone_options: Mapping[str, Any] | None = None,
        image_size: int = 448,
        layout: str = "auto",
        unequal: str = "error",
        resolution_statistics: int | None = None,
        sqrt_mode: str = "shifted",
        sqrt_eps: float = 0.03,
        norm_scope: str = "interaction",
        pooling: str = "sum",
        bias: bool = True,
        init: str = "caffe",
    ) -> None:
        super().__init__()
        sizes = tuple(hierarchy.sizes if isinstance(hierarchy, Hierarchy) else hierarchy)
        if not sizes or any(n < 1 for n in sizes):
            raise ValueError(f"MLPH: hierarchy must have at least one level and one class in each, got sizes {sizes}")
        self.num_classes = sizes
        self.hierarchy = hierarchy if isinstance(hierarchy, Hierarchy) else None
        self.calibration: dict[str, Any] | None = None
        self.backbone = TappedBackbone(
            backbone,
            taps,
            weights=weights,
            options=backbone_options,
            image_size=image_size,
            layout=layout,
            unequal=unequal,
        )
        self.mean, self.std = self.backbone.mean, self.backbone.std
        self.pool = MultiLinearPool(
            self.backbone.channels,
            dim,
            interactions=interactions,
            bias=bias,
            init=init,
            layout=self.backbone.layout,
            pooling=pooling,
            sqrt_mode=sqrt_mode,
            sqrt_eps=sqrt_eps,
            norm_scope=norm_scope,
        )
        self.heads = nn.ModuleList(nn.Linear(self.pool.out_features, n) for n in sizes)
        bound = math.sqrt(3 / self.pool.out_features)
        for parameter in self.heads.parameters():
            if parameter.ndim == 2:
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.zeros_(parameter)
        self.statistics = None if resolution_statistics is None else _Statistics(self.backbone, resolution_statistics)
        self.config: dict[str, Any] = {
            "backbone": self.backbone.name, "taps": list(self.backbone.taps), "dim": dim,
            "interactions": [list(factors) for factors in interactions],
            "backbone_options": dict(backbone_options or {}), "image_size": image_size,
            "layout": self.backbone.layout, "unequal": unequal, "resolution_statistics": resolution_statistics,
            "sqrt_mode": sqrt_mode, "sqrt_eps": sqrt_eps, "norm_scope": norm_scope, "pooling": pooling, "bias": bias,
            "init": init,
        }  # fmt: skip

    def embed(self, x: Tensor, resolution: int | None = None) -> Tensor:
        """Images ``[B, 3, S, S]`` -> pooled vectors ``[B, Q D]``, float32."""
        if self.statistics is None:
            return self.pool(self.backbone(x))
        index = len(self.statistics.mean) - 1 if resolution is None else resolution
        self.statistics.load(index)
        maps = self.backbone(x)
        if self.training:
            self.statistics.store(index)
        return self.pool(maps)

    def forward(
        self, x: Tensor, levels: Sequence[int] | None = None, resolution: int | None = None
    ) -> tuple[Tensor, ...]:
        """Images ``[B, 3, S, S]`` -> logits ``[B, n_k]`` of ``levels``, by default of all, coarse to fine.

        ``resolution`` picks the batch-norm statistics, where there are several sets, one per resolution from low to
        high: the index of the set, by default the last.
        """
        pooled = self.embed(x, resolution)
        chosen = range(len(self.heads)) if levels is None else levels
        with torch.autocast(
            pooled.device.type, enabled=False
        ):  # a classifier costs little, and classes differ by little
            return tuple(self.heads[k](pooled) for k in chosen)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write weights, config, hierarchy and, if there is one, calibration to a folder: safetensors and JSON.

        Each file is written atomically, ``config.json`` with the hashes of the others last, so a folder whose writing
        was cut off is told from a whole one.

        Raises:
            ValueError: the model was made from class counts, without a `Hierarchy`.
        """
        from .pretrained import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        hierarchy: Hierarchy | None = None,
        map_names: bool = False,
        device: str | torch.device = "cpu",
    ) -> MLPH:
        """Read what `save_pretrained` wrote, in eval mode; no code of the folder is run and nothing is downloaded.

        Args:
            folder: on this machine.
            hierarchy: the one that the model must have; None takes that of the folder.
            map_names: with another ``hierarchy`` of the same levels, classes keep their weights by name
                (`Hierarchy.match_names`); new ones get initial values, with a warning that names them.
            device: where the model shall be.

        Raises:
            FileNotFoundError: the folder holds no saved model.
            ValueError: a file is damaged or of another kind, or the hierarchy is another one.
        """
        from .pretrained import load

        return load(cls, Path(folder), hierarchy, map_names=map_names).to(device)


class _Statistics(nn.Module):
    """Sets of batch-norm statistics, a row per resolution; the batch norms themselves hold a copy of the row in use."""

    mean: Tensor  # [sets, channels of all batch norms]
    var: Tensor

    def __init__(self, backbone: nn.Module, sets: int) -> None:
        super().__init__()
        norms = [
            m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
        ]
        if not norms:
            raise ValueError("MLPH: resolution_statistics must be None for a backbone without batch norm")
        self._norms = tuple(norms)  # a tuple, so that they are not registered a second time
        self._widths = [m.num_features for m in norms]
        self.register_buffer("mean", torch.cat(self._held("running_mean")).repeat(sets, 1))
        self.register_buffer("var", torch.cat(self._held("running_var")).repeat(sets, 1))

    def _held(self, name: str) -> list[Tensor]:
        return [getattr(norm, name) for norm in self._norms]

    def load(self, index: int) -> None:
        """Copy row ``index`` into the batch norms."""
        if not 0 <= index < len(self.mean):
            raise ValueError(f"MLPH: resolution must be in 0..{len(self.mean) - 1}, got {index}")
        for rows, name in ((self.mean, "running_mean"), (self.var, "running_var")):
            torch._foreach_copy_(self._held(name), list(rows[index].split(self._widths)))

    def store(self, index: int) -> None:
        """Copy what the batch norms hold into row ``index``."""
        for rows, name in ((self.mean, "running_mean"), (self.var, "running_var")):
            rows[index] = torch.cat(self._held(name))

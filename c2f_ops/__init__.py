"""Coarse-to-fine visual recognition, from the kernel to the trained model."""

from __future__ import annotations

from . import losses, nn
from ._info import info
from ._ops.registry import backends
from ._version import __version__
from .functional import (
    FBP,
    HBP,
    MLP,
    TRILINEAR,
    class_attentive_loss,
    decomposed,
    explain,
    falcon_loss,
    multilinear_pool,
    signed_sqrt_normalize,
)
from .hierarchy import Hierarchy
from .metrics import evaluate_discovery
from .neighbours import group_knn, sample_neighbours
from .relations import RelationResult, balance_threshold, group_cost, solve_relations

__all__ = [
    "FBP",
    "HBP",
    "MLP",
    "TRILINEAR",
    "Hierarchy",
    "RelationResult",
    "__version__",
    "backends",
    "balance_threshold",
    "class_attentive_loss",
    "decomposed",
    "evaluate_discovery",
    "explain",
    "falcon_loss",
    "group_cost",
    "group_knn",
    "info",
    "losses",
    "multilinear_pool",
    "nn",
    "sample_neighbours",
    "signed_sqrt_normalize",
    "solve_relations",
]

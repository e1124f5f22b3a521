"""Modules: pooling layers with one protocol, a head for any network, class attention."""

from .attention import ClassAttention
from .bilinear import BilinearPool
from .covariance import CovariancePool
from .heads import replace_head
from .pooling import (
    FactorizedBilinearPool,
    HierarchicalBilinearPool,
    MultiLinearPool,
    RandomMaclaurinPool,
    TrilinearPool,
)
from .simple import AveragePool, GeMPool, MaxPool
from .sketch import CompactBilinearPool, KernelPool

__all__ = [
    "AveragePool",
    "BilinearPool",
    "ClassAttention",
    "CompactBilinearPool",
    "CovariancePool",
    "FactorizedBilinearPool",
    "GeMPool",
    "HierarchicalBilinearPool",
    "KernelPool",
    "MaxPool",
    "MultiLinearPool",
    "RandomMaclaurinPool",
    "TrilinearPool",
    "replace_head",
]

"""Modules over `c2f_ops.functional`: they hold parameters and settings, nothing else."""

from .attention import ClassAttention
from .pooling import FactorizedBilinearPool, HierarchicalBilinearPool, MultiLinearPool, RandomMaclaurinPool

__all__ = [
    "ClassAttention",
    "FactorizedBilinearPool",
    "HierarchicalBilinearPool",
    "MultiLinearPool",
    "RandomMaclaurinPool",
]

"""Modules over `c2f_ops.functional`: they hold parameters and settings, nothing else."""

from .pooling import FactorizedBilinearPool, HierarchicalBilinearPool, MultiLinearPool, RandomMaclaurinPool

__all__ = ["FactorizedBilinearPool", "HierarchicalBilinearPool", "MultiLinearPool", "RandomMaclaurinPool"]

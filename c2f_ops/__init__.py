"""Coarse-to-fine visual recognition, from the kernel to the trained model."""

from __future__ import annotations

from ._ops.registry import backends
from .functional import FBP, HBP, MLP, TRILINEAR, decomposed, explain, multilinear_pool, signed_sqrt_normalize

__all__ = [
    "FBP",
    "HBP",
    "MLP",
    "TRILINEAR",
    "backends",
    "decomposed",
    "explain",
    "multilinear_pool",
    "signed_sqrt_normalize",
]

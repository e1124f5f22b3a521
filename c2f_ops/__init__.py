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
    decomposed,
    explain,
    falcon_loss,
    multilinear_pool,
    signed_sqrt_normalize,
)
from .hierarchy import Hierarchy

__all__ = [
    "FBP",
    "HBP",
    "MLP",
    "TRILINEAR",
    "Hierarchy",
    "__version__",
    "backends",
    "decomposed",
    "explain",
    "falcon_loss",
    "info",
    "losses",
    "multilinear_pool",
    "nn",
    "signed_sqrt_normalize",
]

"""Public functions: check arguments, settle types (autocast once, here), make one op call."""

from __future__ import annotations

from .contrastive import class_attentive_loss
from .falcon import falcon_loss
from .pooling import (
    FBP,
    HBP,
    MAX_FACTORS,
    MLP,
    TRILINEAR,
    Explanation,
    decomposed,
    explain,
    multilinear_pool,
    signed_sqrt_normalize,
)

__all__ = [
    "FBP",
    "HBP",
    "MAX_FACTORS",
    "MLP",
    "TRILINEAR",
    "Explanation",
    "class_attentive_loss",
    "decomposed",
    "explain",
    "falcon_loss",
    "multilinear_pool",
    "signed_sqrt_normalize",
]

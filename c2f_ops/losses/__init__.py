"""Losses as modules over `c2f_ops.functional`."""

from .contrastive import ClassAttentiveLoss
from .falcon import FalconLoss

__all__ = ["ClassAttentiveLoss", "FalconLoss"]

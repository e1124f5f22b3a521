"""Losses as modules over `c2f_ops.functional`."""

from .falcon import FalconLoss

__all__ = ["FalconLoss"]

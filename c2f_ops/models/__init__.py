"""Models: a backbone of torchvision or timm with named taps, multilinear pooling, and a head per level."""

from .mlph import MLPH
from .taps import TappedBackbone

__all__ = ["MLPH", "TappedBackbone"]

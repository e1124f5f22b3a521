"""Models: MLPH, a tapped backbone with multilinear pooling and a head per level; FALCON, a student and its teacher."""

from .ema import ema_update
from .falcon import Falcon
from .falcon_config import FalconConfig
from .mlph import MLPH
from .taps import TappedBackbone

__all__ = ["MLPH", "Falcon", "FalconConfig", "TappedBackbone", "ema_update"]

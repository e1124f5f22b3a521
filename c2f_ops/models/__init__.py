"""Models: MLPH, a tapped backbone with multilinear pooling and a head per level; FALCON, a student and its teacher."""

from .checkpoints import load_backbone_weights
from .contrastive import ClassAttentiveEncoder
from .ema import ema_update
from .falcon import Falcon
from .falcon_config import FalconConfig
from .mlph import MLPH
from .resnet_cifar import make_backbone
from .taps import TappedBackbone

__all__ = [
    "MLPH",
    "ClassAttentiveEncoder",
    "Falcon",
    "FalconConfig",
    "TappedBackbone",
    "ema_update",
    "load_backbone_weights",
    "make_backbone",
]

"""Self-supervised pre-training of backbones, and features of images."""

from .augment import two_views
from .config import SelfsupConfig
from .embed import embed, knn_accuracy, write_features
from .loss import nt_xent
from .model import SimCLR
from .run import load_images, load_selfsup, pretrain

__all__ = [
    "SelfsupConfig",
    "SimCLR",
    "embed",
    "knn_accuracy",
    "load_images",
    "load_selfsup",
    "nt_xent",
    "pretrain",
    "two_views",
    "write_features",
]

"""Training of coarse-to-fine models: config and recipes, loop, checkpoints, evaluation, reports."""

from .config import Config, Stage
from .evaluate import evaluate, predict_logits
from .loop import Hooks, Interrupted, Position, Trainer
from .recipes import make_config
from .run import load_run, train

__all__ = [
    "Config",
    "Hooks",
    "Interrupted",
    "Position",
    "Stage",
    "Trainer",
    "evaluate",
    "load_run",
    "make_config",
    "predict_logits",
    "train",
]

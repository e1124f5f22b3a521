"""FALCON end to end: classes finer than the labels, found in images."""

from .config import FalconRun
from .evaluate import evaluate_logits, predict_logits
from .loop import FalconTrainer, Hooks, Learner, Position
from .model import FineClassifier, build_falcon
from .recipes import make_run
from .run import load_falcon, train_falcon
from .start import Start, learn_start, make_start

__all__ = [
    "FalconRun",
    "FalconTrainer",
    "FineClassifier",
    "Hooks",
    "Learner",
    "Position",
    "Start",
    "build_falcon",
    "evaluate_logits",
    "learn_start",
    "load_falcon",
    "make_run",
    "make_start",
    "predict_logits",
    "train_falcon",
]

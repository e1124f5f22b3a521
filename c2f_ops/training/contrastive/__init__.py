"""Class-attentive contrastive learning against its baselines: one run, one page."""

from .config import METHODS, ContrastiveConfig
from .data import Problem, load_problem
from .methods import Outcome, fit_method
from .report import write_report
from .run import judge, train

__all__ = [
    "METHODS",
    "ContrastiveConfig",
    "Outcome",
    "Problem",
    "fit_method",
    "judge",
    "load_problem",
    "train",
    "write_report",
]

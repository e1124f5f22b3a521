"""Answers as deep in the tree as they can be sure: calibrated heads, consistent paths, thresholds, streams."""

from .calibration import Calibration, calibrate
from .decoding import decode, descend, path_scores, posteriors
from .fitting import fit_path_weights, fit_temperature
from .rule import Answer, answer, choose_thresholds, settle, wilson_lower
from .stream import ObjectStream, stream_report

__all__ = [
    "Answer",
    "Calibration",
    "ObjectStream",
    "answer",
    "calibrate",
    "choose_thresholds",
    "decode",
    "descend",
    "fit_path_weights",
    "fit_temperature",
    "path_scores",
    "posteriors",
    "settle",
    "stream_report",
    "wilson_lower",
]

"""Confidence: how far it is from accuracy, and what answering only when confident gains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._hierarchy_checks import as_integers
from ..hierarchy import Hierarchy
from ._integers import check_ids


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence.

    Attributes:
        confidence: mean of theirs. accuracy: share that is right. count: how many they are.
    """

    confidence: float
    accuracy: float
    count: int


def reliability(confidence: Tensor, correct: Tensor, *, bins: int = 15) -> list[Bin]:
    """Sort answers into bins of equal mass, by rising confidence; empty ones are left out.

    Args:
        confidence: ``[N]``, probability given to the answer; equal values keep their order.
        correct: ``[N]``, bool.
        bins: number of bins; sizes differ by at most one answer.

    Raises:
        ValueError: other shapes, or no bin.
        TypeError: ``correct`` is not bool.
    """
    _check_answers("reliability", confidence, correct, bins)
    order = confidence.argsort(stable=True)
    parts = zip(*(values.double()[order].tensor_split(bins) for values in (confidence, correct)), strict=True)
    return [Bin(float(sure.mean()), float(right.mean()), len(sure)) for sure, right in parts if len(sure)]


def expected_calibration_error(confidence: Tensor, correct: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error over bins of equal mass: sum over bins of share * |confidence - accuracy|.

    Args:
        confidence: ``[N]``, probability given to the answer.
        correct: ``[N]``, bool.
        bins: see `reliability`.

    Raises:
        ValueError: other shapes, or no bin.
        TypeError: ``correct`` is not bool.

    Source:
        Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, with
        bins of equal mass as in Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis for Natural
        Language Processing Models", EMNLP 2015.
    """
    _check_answers("expected_calibration_error", confidence, correct, bins)
    gaps = sum(
        part.count * abs(part.confidence - part.accuracy) for part in reliability(confidence, correct, bins=bins)
    )
    return gaps / len(confidence) if len(confidence) else float("nan")


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> tuple[float, int]:
    """Return the mean of -log softmax(logits)[label], in nats, and the number of labels it is over (nan over none).

    Args:
        logits: ``[N, C]``.
        labels: integers ``[N]`` in -1..C - 1; -1 is left out.

    Raises:
        ValueError: other shapes or values.
        TypeError: ``labels`` are not integers.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"negative_log_likelihood: logits and labels must have shapes [N, C] and [N], "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    labels = as_integers("negative_log_likelihood", "labels", labels)
    check_ids("negative_log_likelihood", "labels", labels, logits.shape[1])
    known = labels >= 0
    if not known.any():
        return float("nan"), 0
    logs = logits[known].double().log_softmax(1).gather(1, labels[known, None])
    return float(-logs.mean()), len(logs)


def risk_coverage(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return the error rate of the n most confident answers for n = 1 .. N, float64 ``[N]``.

    Args:
        confidence: ``[N]``; equal values keep their order.
        correct: ``[N]``, bool.

    Raises:
        ValueError: other shapes.
        TypeError: ``correct`` is not bool.

    Source:
        El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.
    """
    _check_answers("risk_coverage", confidence, correct)
    wrong = (~correct)[confidence.argsort(descending=True, stable=True)].double()
    return wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, device=wrong.device)


def area_under_risk_coverage(confidence: Tensor, correct: Tensor) -> float:
    """Return the mean of `risk_coverage` over n (lower is better), nan over none.

    Args:
        confidence: ``[N]``; equal values keep their order.
        correct: ``[N]``, bool.

    Raises:
        ValueError: other shapes.
        TypeError: ``correct`` is not bool.

    Source:
        Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019.
    """
    _check_answers("area_under_risk_coverage", confidence, correct)
    return float(risk_coverage(confidence, correct).mean())


def confident_answers(pred: Tensor, confidence: Tensor, hierarchy: Hierarchy, threshold: float) -> Tensor:
    """Keep the answers of each image down to the last level that is sure: -1 from there on.

    A level is kept if its confidence reaches the threshold, the level above is kept, and its answer is a child of the
    one above. So what remains is a path of the tree, of any depth.

    Args:
        pred: integers ``[N, K]``, coarse to fine, -1 for no answer.
        confidence: ``[N, K]``; nan is never sure.
        hierarchy: the tree.
        threshold: between 0 and 1.

    Returns:
        LongTensor ``[N, K]``.

    Raises:
        ValueError: other shapes, or no classes of the tree.
        TypeError: ``pred`` are not integers.
    """
    if pred.shape != confidence.shape:
        raise ValueError(
            f"confident_answers: pred and confidence must have one shape [N, K], "
            f"got {list(pred.shape)} and {list(confidence.shape)}"
        )
    pred = hierarchy._check_range("confident_answers", "pred", pred)
    kept = (pred >= 0) & (confidence >= threshold)
    for k in range(1, hierarchy.num_levels):
        parent = hierarchy.parents[k].to(pred.device)[pred[:, k].clamp(min=0)]  # type: ignore[union-attr]
        kept[:, k] &= kept[:, k - 1] & (parent == pred[:, k - 1])
    return torch.where(kept, pred, -1)


def _check_answers(function: str, confidence: Tensor, correct: Tensor, bins: int = 1) -> None:
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"{function}: confidence and correct must have one shape [N], "
            f"got {list(confidence.shape)} and {list(correct.shape)}"
        )
    if correct.dtype != torch.bool:
        raise TypeError(f"{function}: correct must be bool, got {correct.dtype}")
    if bins < 1:
        raise ValueError(f"{function}: bins must be at least 1, got {bins}")

"""What the answers of an evaluation come to: calibration, selective answers, confusions; all plain data."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import replacing
from ..hierarchy import Hierarchy
from ..metrics import (
    confident_answers,
    confusion_matrix,
    expected_calibration_error,
    hierarchical_metrics,
    negative_log_likelihood,
    reliability,
    risk_coverage,
    worst_confusions,
)

THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # of confidence, for selective answers
POINTS = 60  # of a curve of risk against coverage
LARGEST_MATRIX = 60  # classes in a confusion matrix


@dataclass(frozen=True)
class Outputs:
    """What the heads said, image by image.

    Attributes:
        sides: S sides in pixels, falling.
        predicted: LongTensor ``[S, N, K]``, answers of the trained heads, for other levels the ancestor of the next
            finer answer, or -1.
        mapped: LongTensor ``[S, N, K]``, the answer of the finest trained head and its ancestors.
        confidence: float32 ``[S, N, K]``, probability of the answers of trained heads (after temperature scaling, where
            there is one), else that of the next finer answer, or nan.
        labels: LongTensor ``[N, K]``, filled.
    """

    sides: tuple[int, ...]
    predicted: Tensor
    mapped: Tensor
    confidence: Tensor
    labels: Tensor

    def save(self, path: Path) -> None:
        """Write an npz file, atomically; plain numbers, no pickles."""
        arrays = {name: getattr(self, name).numpy() for name in ("predicted", "mapped", "confidence", "labels")}
        with replacing(path) as partial, open(partial, "wb") as file:  # savez adds a suffix to names, not to files
            np.savez_compressed(file, sides=np.array(self.sides), **arrays)


def confidence_of(logits: Sequence[Tensor], temperatures: dict[int, float]) -> Tensor:
    """Probability of each answer, ``[N, K]``."""
    values = torch.full((len(logits[0]), len(logits)), math.nan)
    for k in reversed(range(len(logits))):
        if k in temperatures:
            values[:, k] = (logits[k] / temperatures[k]).softmax(1).amax(1)
        elif k + 1 < len(logits):
            values[:, k] = values[:, k + 1]
    return values


def calibration_of(logits: Tensor, labels: Tensor, temperature: float | None) -> dict[str, Any]:
    """Calibration error, negative log-likelihood and reliability of one head, before and after its temperature."""
    known = labels >= 0

    def measured(scaled: Tensor, suffix: str = "") -> dict[str, Any]:
        sure, answer = scaled[known].double().softmax(1).max(1)
        right = answer == labels[known]
        return {
            f"ece{suffix}": expected_calibration_error(sure, right),
            f"nll{suffix}": negative_log_likelihood(scaled, labels)[0],
            f"bins{suffix}": [list(astuple(part)) for part in reliability(sure, right)],
        }

    result = {"images": int(known.sum()), "temperature": temperature, **measured(logits)}
    return result if temperature is None else {**result, **measured(logits / temperature, "_scaled")}


def selective_answers(
    predicted: Tensor, confidence: Tensor, truth: Tensor, hierarchy: Hierarchy, heads: Collection[int]
) -> dict[str, Any]:
    """Risk against coverage per level, thinned to `POINTS`, and what is answered at each threshold."""
    levels = hierarchy.levels
    areas, curves = {}, {}
    for k in heads:
        known = truth[:, k] >= 0
        risk = risk_coverage(confidence[known, k], predicted[known, k] == truth[known, k])
        shown = torch.linspace(0, len(risk) - 1, min(POINTS, len(risk))).round().long()
        areas[levels[k]] = float(risk.mean())
        curves[levels[k]] = [[(int(i) + 1) / len(risk), float(risk[i])] for i in shown]
    rows = []
    for threshold in THRESHOLDS:
        given = hierarchical_metrics(confident_answers(predicted, confidence, hierarchy, threshold), truth, hierarchy)
        rows.append(
            {
                "threshold": threshold,
                "coverage": dict(zip(levels, given.coverage, strict=True)),
                "accuracy": dict(zip(levels, given.answered_accuracy, strict=True)),
                "answered": dict(zip(levels, given.num_answered, strict=True)),
                "mean_depth": given.mean_depth,
                "hierarchical_precision": given.hierarchical_precision,
                "hierarchical_recall": given.hierarchical_recall,
            }
        )
    return {"aurc": areas, "risk_coverage": curves, "thresholds": rows}


def heads_that_lose(outputs: Outputs, hierarchy: Hierarchy, heads: Sequence[int]) -> list[dict[str, Any]]:
    """Levels and sides where the finest head, mapped upwards, is right more often than the head itself."""
    found = []
    for k in heads[:-1]:
        known = outputs.labels[:, k] >= 0
        for i, side in enumerate(outputs.sides):
            own, mapped = (
                (nodes[i, :, k] == outputs.labels[:, k])[known] for nodes in (outputs.predicted, outputs.mapped)
            )
            gained, lost = int((mapped & ~own).sum()), int((own & ~mapped).sum())
            if gained > lost:
                n = len(own)
                found.append(
                    {
                        "level": hierarchy.levels[k],
                        "side": side,
                        "difference": (gained - lost) / n,
                        "standard_error": math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n,
                    }
                )
    return found


def error_heights(outputs: Outputs, hierarchy: Hierarchy, finest: int) -> dict[str, list[int]]:
    """Count images by the height at which the finest answer meets the truth: 0 for right, K for the root."""
    known = outputs.labels[:, finest] >= 0
    truth = outputs.labels[known, : finest + 1]
    heights = finest + 1 - (outputs.mapped[:, known, : finest + 1] == truth).sum(2)
    return {
        str(side): torch.bincount(row, minlength=finest + 2).tolist()
        for side, row in zip(outputs.sides, heights, strict=True)
    }


def _at(outputs: Outputs, side: int | None) -> int:
    """Index of a side, or of the largest where it is not measured."""
    return outputs.sides.index(side) if side in outputs.sides else 0


def confusions(outputs: Outputs, hierarchy: Hierarchy, level: int, own_side: int | None) -> dict[str, Any]:
    """Matrices at the largest side and the level's own, of the classes with most errors where there are too many."""
    n = hierarchy.sizes[level]
    chosen = dict.fromkeys([0, _at(outputs, own_side)])
    tables = {i: confusion_matrix(outputs.predicted[i, :, level], outputs.labels[:, level], n) for i in chosen}
    both = torch.stack([table + table.T for table in tables.values()]).sum(0)
    wrong = both.fill_diagonal_(0).sum(1)
    classes = wrong.argsort(descending=True, stable=True)[:LARGEST_MATRIX].sort().values
    return {
        "level": hierarchy.levels[level],
        "classes": classes.tolist(),
        "counts": {str(outputs.sides[i]): table[classes][:, classes].tolist() for i, table in tables.items()},
        "totals": {str(outputs.sides[i]): table.sum(1)[classes].tolist() for i, table in tables.items()},
    }


def worst_pairs(outputs: Outputs, hierarchy: Hierarchy, level: int, own_side: int | None) -> dict[str, Any]:
    """The worst confusions of a level at its own side."""
    tree, _ = hierarchy.select(hierarchy.levels[: level + 1])
    i = _at(outputs, own_side)
    pairs = worst_confusions(
        outputs.predicted[i, :, level], outputs.labels[:, level], outputs.confidence[i, :, level], tree
    )
    return {
        "level": hierarchy.levels[level],
        "side": outputs.sides[i],
        "pairs": [{**asdict(pair), "images": pair.images[:3], "count": len(pair.images)} for pair in pairs],
    }

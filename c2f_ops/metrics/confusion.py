"""Which classes are taken for which others, and what that costs in the tree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from ._integers import check_ids


@dataclass(frozen=True)
class Confusion:
    """Images of one finest class that were given another.

    Attributes:
        true, predicted: ids of the two classes.
        images: rows of the images, the most confident answer first.
        labeled: images of the true class in all.
        height: of the lowest common ancestor of the two classes: 1 for the parent, K for the root.
        confidence: mean over the images.
    """

    true: int
    predicted: int
    images: tuple[int, ...]
    labeled: int
    height: int
    confidence: float


def confusion_matrix(pred: Tensor, target: Tensor, n: int) -> Tensor:
    """Count answers per true class: LongTensor ``[n, n]``, rows true, columns predicted.

    Args:
        pred: LongTensor ``[N]``, values in -1..n - 1.
        target: LongTensor ``[N]``, likewise; images where either is -1 are left out.
        n: number of classes.

    Raises:
        ValueError: other shapes or values.
    """
    known = _checked("confusion_matrix", pred, target, n)
    return torch.bincount(target[known] * n + pred[known], minlength=n * n).view(n, n)


def worst_confusions(
    pred: Tensor, target: Tensor, confidence: Tensor, hierarchy: Hierarchy, *, count: int = 12
) -> list[Confusion]:
    """Return the pairs of finest classes (true, predicted) whose mix-ups add most to the hierarchical distance.

    A pair weighs its number of images times the height of the lowest common ancestor; of equal ones the more confident
    comes first.

    Args:
        pred: LongTensor ``[N]``, finest classes, -1 for no answer.
        target: LongTensor ``[N]``, finest classes, -1 for unknown.
        confidence: ``[N]``, probability given to the answer.
        hierarchy: the tree.
        count: pairs returned at most.

    Raises:
        ValueError: other shapes or values.
    """
    pred, target, confidence = pred.cpu(), target.cpu(), confidence.cpu()
    known = _checked("worst_confusions", pred, target, hierarchy.sizes[-1])
    if confidence.shape != pred.shape:
        raise ValueError(
            f"worst_confusions: confidence must have shape [N], {list(pred.shape)}, got {list(confidence.shape)}"
        )
    order = confidence.argsort(descending=True, stable=True)
    rows = order[(known & (pred != target))[order]]
    pairs, of = torch.stack([target, pred], 1)[rows].unique(dim=0, return_inverse=True)
    sizes = torch.bincount(of, minlength=len(pairs))
    sure = (torch.zeros(len(pairs)).double().index_add(0, of, confidence[rows].double()) / sizes).tolist()
    true, wrong = hierarchy.ancestors[pairs].unbind(1)
    heights = hierarchy.num_levels - (true == wrong).sum(1)
    weights = (sizes * heights).tolist()
    ranked = sorted(range(len(pairs)), key=lambda i: (-weights[i], -sure[i]))[:count]
    return [
        Confusion(
            true=int(pairs[i, 0]),
            predicted=int(pairs[i, 1]),
            images=tuple(rows[of == i].tolist()),
            labeled=int((target == pairs[i, 0]).sum()),
            height=int(heights[i]),
            confidence=sure[i],
        )
        for i in ranked
    ]


def _checked(function: str, pred: Tensor, target: Tensor, n: int) -> Tensor:
    """Images with an answer and a label, bool ``[N]``."""
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError(
            f"{function}: pred and target must have one shape [N], got {list(pred.shape)} and {list(target.shape)}"
        )
    check_ids(function, "pred", pred, n)
    check_ids(function, "target", target, n)
    return (pred >= 0) & (target >= 0)

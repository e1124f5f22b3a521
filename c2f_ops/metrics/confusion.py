"""Which classes are taken for which others, and what that costs in the tree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..hierarchy import Hierarchy


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
    """
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError(
            f"confusion_matrix: pred and target must have one shape [N], "
            f"got {list(pred.shape)} and {list(target.shape)}"
        )
    for name, values in (("pred", pred), ("target", target)):
        if len(values) and not -1 <= int(values.min()) <= int(values.max()) < n:
            raise ValueError(
                f"confusion_matrix: {name} must be in -1..{n - 1}, got {int(values.min())}..{int(values.max())}"
            )
    known = (pred >= 0) & (target >= 0)
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
    """
    n = hierarchy.sizes[-1]
    table = confusion_matrix(pred, target, n)
    labeled = torch.bincount(target[target >= 0], minlength=n)
    order = confidence.argsort(descending=True, stable=True)
    found = []
    for true, predicted in (table * (1 - torch.eye(n, dtype=torch.long))).nonzero().tolist():
        rows = order[(target[order] == true) & (pred[order] == predicted)]
        shared = int((hierarchy.ancestors[true] == hierarchy.ancestors[predicted]).sum())
        sure = float(confidence[rows].double().mean())
        pair = Confusion(true, predicted, tuple(rows.tolist()), int(labeled[true]), hierarchy.num_levels - shared, sure)
        found.append(pair)
    return sorted(found, key=lambda c: (-len(c.images) * c.height, -c.confidence, c.true, c.predicted))[:count]

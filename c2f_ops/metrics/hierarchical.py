"""Metrics of hierarchical classification: accuracy per level, along the path and in the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..hierarchy import Hierarchy


@dataclass(frozen=True)
class HierarchicalMetrics:
    """Values of :func:`hierarchical_metrics`, each with the number of images it is a mean over (nan over none).

    Attributes:
        accuracy, num_labeled: per level, share of right answers among the images whose label of that level is known.
        coverage, answered_accuracy, num_answered: per level, share of those images with an answer, and share of right
            answers among them.
        full_path_accuracy, num_full_path: share of images right at every level, among those labelled at every level.
        inconsistency_rate, num_predicted: share of images where a predicted node is not the parent of the predicted
            node below it, among the images with any answer; labels play no part.
        lca_severity, num_wrong: mean height of the lowest common ancestor of predicted and true finest class (parent 1,
            root K) over the images with a wrong finest prediction.
        hierarchical_distance, num_fine: the same mean over all images with finest label and prediction (0 where right).
        hierarchical_precision, hierarchical_recall, hierarchical_f1, num_paths: hP, hR, hF and the number of images
            with any label.
        mean_depth: mean number of answered levels, over all images.
        num_images: N.
    """

    levels: tuple[str, ...]
    accuracy: tuple[float, ...]
    num_labeled: tuple[int, ...]
    coverage: tuple[float, ...]
    answered_accuracy: tuple[float, ...]
    num_answered: tuple[int, ...]
    full_path_accuracy: float
    num_full_path: int
    inconsistency_rate: float
    num_predicted: int
    lca_severity: float
    num_wrong: int
    hierarchical_distance: float
    num_fine: int
    hierarchical_precision: float
    hierarchical_recall: float
    hierarchical_f1: float
    num_paths: int
    mean_depth: float
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data; the per-level ones are keyed by level name."""
        fields = asdict(self)
        levels = fields.pop("levels")
        return {
            key: dict(zip(levels, value, strict=True)) if isinstance(value, tuple) else value
            for key, value in fields.items()
        }


def predictions_from_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the independent argmax per level; ties go to the lowest class id.

    Args:
        logits: K tensors ``[N, n_k]``, coarse to fine.

    Returns:
        LongTensor ``[N, K]``.
    """
    if isinstance(logits, Tensor) or not logits or any(level.ndim != 2 for level in logits):
        raise ValueError("predictions_from_logits: logits must be a sequence of tensors [N, n_k], one per level")
    return torch.stack([level.argmax(dim=1) for level in logits], dim=1)  # argmax takes the first of equal values


def hierarchical_metrics(pred: Tensor, target: Tensor, hierarchy: Hierarchy) -> HierarchicalMetrics:
    """Compare predicted with true nodes of a tree.

    With v the deepest predicted node of an image and A(v) the node and its ancestors without the root, up to the depth
    to which the image is labelled,

        hP = sum |A(v) n A(y)| / sum |A(v)|,  hR = sum |A(v) n A(y)| / sum |A(y)|,  hF = 2 hP hR / (hP + hR).

    The ancestors are those in the tree, so answers of independent heads above v enter only the accuracy per level, the
    full path and the inconsistency rate. An answer of -1 is an abstention: wrong for ``accuracy``, left out of
    ``answered_accuracy``, and a shorter A(v).

    Args:
        pred: integers ``[N, K]``, coarse to fine; -1 for no answer at that level. Need not be consistent.
        target: integers ``[N, K]``; -1 for unknown (filled from finer labels). Must agree with the tree.
        hierarchy: the tree.

    Returns:
        The metrics, with the counts behind them.

    Raises:
        ValueError: shapes or values do not fit the hierarchy.

    Example:
        Four images in a tree A: a (1, 2), b (3); B: c (4, 5). The truths are 1, 1, 1, 4; the answers 1, 2, 4 and, at
        the level of families, c.

        >>> tree = Hierarchy.from_paths(["A/a/1", "A/a/2", "A/b/3", "B/c/4", "B/c/5"])
        >>> answers = tree.expand(["A/a/1", "A/a/2", "B/c/4", "B/c"])
        >>> m = hierarchical_metrics(answers, tree.from_fine([0, 0, 0, 3]), tree)
        >>> m.accuracy  # the abstention counts as wrong; of the 3 species answered, 1 is right
        (0.75, 0.75, 0.25)
        >>> m.lca_severity  # 2 for 1 meets at the parent (1), 4 for 1 at the root (3)
        2.0
        >>> m.hierarchical_precision, m.hierarchical_recall  # (3 + 2 + 0 + 2) / (3 + 3 + 3 + 2), the same / 12
        (0.6363636363636364, 0.5833333333333334)
    """
    v = hierarchy._check_range("hierarchical_metrics", "pred", pred).cpu()
    y = hierarchy.validate_labels(target).cpu()
    if len(v) != len(y):
        raise ValueError(f"hierarchical_metrics: pred must have {len(y)} rows as target has, got {len(v)}")
    levels, fine = hierarchy.num_levels, hierarchy.num_levels - 1
    labeled, answered, right = y >= 0, v >= 0, (v == y) & (y >= 0)
    num_labeled, num_answered, num_right = labeled.sum(0), (labeled & answered).sum(0), right.sum(0)

    broken = torch.zeros(len(v), dtype=torch.bool)
    for k in range(1, levels):
        parent = hierarchy.parents[k][v[:, k].clamp(min=0)]  # type: ignore[index]
        broken |= answered[:, k] & answered[:, k - 1] & (parent != v[:, k - 1])

    path = _path_of_deepest(v, hierarchy)
    shared = ((path == y) & labeled).sum(1)
    judged = labeled[:, fine] & answered[:, fine]
    height = (levels - shared)[judged]
    wrong = int((height > 0).sum())
    num_paths = int(labeled[:, 0].sum())
    overlap, size_v, size_y = int(shared.sum()), int(((path >= 0) & labeled).sum()), int(labeled.sum())

    return HierarchicalMetrics(
        levels=hierarchy.levels,
        accuracy=_ratios(num_right, num_labeled),
        num_labeled=tuple(num_labeled.tolist()),
        coverage=_ratios(num_answered, num_labeled),
        answered_accuracy=_ratios(num_right, num_answered),
        num_answered=tuple(num_answered.tolist()),
        full_path_accuracy=_ratio(int(right.all(1).sum()), int(labeled.all(1).sum())),
        num_full_path=int(labeled.all(1).sum()),
        inconsistency_rate=_ratio(int(broken.sum()), int(answered.any(1).sum())),
        num_predicted=int(answered.any(1).sum()),
        lca_severity=_ratio(int(height.sum()), wrong),
        num_wrong=wrong,
        hierarchical_distance=_ratio(int(height.sum()), len(height)),
        num_fine=len(height),
        hierarchical_precision=_ratio(overlap, size_v),
        hierarchical_recall=_ratio(overlap, size_y),
        hierarchical_f1=_ratio(2 * overlap, size_v + size_y),  # the harmonic mean of hP and hR, without their 0 / 0
        num_paths=num_paths,
        mean_depth=_ratio(int(answered.sum()), len(v)),
        num_images=len(v),
    )


def _path_of_deepest(nodes: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Return ``[N, K]``: the deepest known node of each row and its ancestors, -1 below it."""
    path = nodes.clone()
    for k in range(hierarchy.num_levels - 1, 0, -1):
        known = path[:, k] >= 0
        parent = hierarchy.parents[k][path[:, k].clamp(min=0)]  # type: ignore[index]
        path[:, k - 1] = torch.where(known, parent, path[:, k - 1])
    return path


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _ratios(parts: Tensor, wholes: Tensor) -> tuple[float, ...]:
    return tuple(_ratio(part, whole) for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True))

"""Metrics of a fine-to-coarse relation against the true one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ._integers import MOST_CELLS, Ints, labels, relation


def relation_accuracy(g_true: ArrayLike | Tensor, g_pred: ArrayLike | Tensor, matching: ArrayLike | Tensor) -> float:
    """Return the share of fine classes whose matched cluster has the right parent; unmatched classes are wrong.

    Args:
        g_true: true parents, integers ``[K]`` or ``[D, K]`` (mean over data sets); classes with -1 are left out.
        g_pred: parents of the clusters, integers ``[K']`` or ``[D, K']``.
        matching: integers ``[K']`` of :func:`match_classes`; -1 for none.
    """
    name = "relation_accuracy"
    parents, parents_pred = relation(name, "g_true", g_true), relation(name, "g_pred", g_pred)
    for argument, value in (("g_true", parents), ("g_pred", parents_pred)):
        if value is None:
            raise TypeError(f"{name}: {argument} must be integers, got None")
    assert parents is not None and parents_pred is not None
    match = labels(name, "matching", matching)
    if parents_pred.shape != (len(parents), len(match)):
        raise ValueError(f"{name}: g_pred must be [{len(parents)}, {len(match)}], got {list(parents_pred.shape)}")
    if match.max(initial=-1) >= parents.shape[1]:
        raise ValueError(f"{name}: matching must be below the {parents.shape[1]} classes, got {match.max()}")
    return compare_relations(parents, parents_pred, match, np.ones(parents.shape[1], bool))[0]


def graph_edit_distance(
    g_true: ArrayLike | Tensor,
    g_pred: ArrayLike | Tensor,
    *,
    num_coarse_true: int | None = None,
    num_coarse_pred: int | None = None,
) -> int:
    """Return the exact edit distance of two relations as graphs of fine nodes, coarse nodes and parent edges.

        |K_F - K_F'| + |K_C - K_C'| + K_F + K_F' - 2 sum_j min(n_(j), n'_(j)),   group sizes sorted, padded with 0

    Unit costs; a fine node corresponds to a fine node, a coarse node to a coarse node, and which one is free (when K_C
    = K_C' or K_F = K_F', letting a fine node become a coarse one would save nothing).

    Blind spot: it sees nothing but the two multisets of group sizes. Relations that give every fine class a wrong
    parent are at distance 0 when the sizes agree; relation_accuracy is the one to read. Published distances come from
    an approximate algorithm and do not compare.

    Args:
        g_true: parents, integers ``[K_F]``.
        g_pred: parents, integers ``[K_F']``.
        num_coarse_true: K_C; by default the highest parent + 1.
        num_coarse_pred: K_C'; by default the highest parent + 1.

    Example:
        >>> graph_edit_distance([0, 0, 1, 1], [1, 1, 0, 0]), graph_edit_distance([0, 0, 1, 1], [0, 0, 0, 1])
        (0, 2)
    """
    name = "graph_edit_distance"
    sizes: list[Ints] = []
    for argument, g, count in (("g_true", g_true, num_coarse_true), ("g_pred", g_pred, num_coarse_pred)):
        parents = labels(name, argument, g)
        if parents.min(initial=0) < 0:
            raise ValueError(f"{name}: {argument} must be at least 0, got {parents.min()}")
        count = int(parents.max(initial=-1)) + 1 if count is None else count
        if not isinstance(count, (int, np.integer)) or count > MOST_CELLS:
            raise ValueError(f"{name}: num_coarse_{argument[2:]} must be an integer up to 2^30, got {count!r}")
        if parents.max(initial=-1) >= count:
            raise ValueError(f"{name}: num_coarse_{argument[2:]} must exceed every parent, got {count}")
        sizes.append(np.bincount(parents, minlength=count))
    return _edit_distance(*sizes)


def _edit_distance(a: Ints, b: Ints) -> int:
    fine, fine_pred, shorter = int(a.sum()), int(b.sum()), min(len(a), len(b))
    common = int(np.minimum(np.sort(a)[::-1][:shorter], np.sort(b)[::-1][:shorter]).sum())
    return abs(fine - fine_pred) + abs(len(a) - len(b)) + fine + fine_pred - 2 * common


def compare_relations(g: Ints, g_pred: Ints, matching: Ints, judged: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Relation accuracy over the judged classes, group size error and edit distance, each a mean over data sets."""
    cluster_of = np.full(g.shape[1], -1)
    cluster_of[matching[matching >= 0]] = np.flatnonzero(matching >= 0)
    rows = []
    for parents, parents_pred in zip(g, g_pred, strict=True):
        asked = judged & (parents >= 0)
        found = np.append(parents_pred, -1)[cluster_of]
        num_coarse = int(max(parents.max(), parents_pred.max())) + 1
        sizes, sizes_pred = (np.bincount(p[p >= 0], minlength=num_coarse) for p in (parents, parents_pred))
        accuracy = float((found == parents)[asked].mean()) if asked.any() else float("nan")
        rows.append((accuracy, float(np.abs(sizes - sizes_pred).sum()), float(_edit_distance(sizes, sizes_pred))))
    accuracy, size_error, distance = np.mean(rows, axis=0).tolist()
    return accuracy, size_error, distance

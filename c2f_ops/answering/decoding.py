"""From the logits of all heads to one path of the tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hierarchy import Hierarchy

MODES = ("path", "best_leaf", "top_down", "independent")


def path_scores(
    logits: Sequence[Tensor],
    hierarchy: Hierarchy,
    temperatures: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the log-score of every finest class; a softmax over them gives probabilities, and frames add up.

        score(leaf) = sum_k w_k log P_k(ancestor_k(leaf)),    P_k = softmax(z_k / T_k)

    Args:
        logits: K tensors ``[N, n_k]``, coarse to fine, of any floating dtype.
        hierarchy: their tree.
        temperatures: T_k > 0; by default 1.
        weights: w_k >= 0; by default 1 / K. A head with weight 0 has no say.

    Returns:
        float64 ``[N, n_{K-1}]``.

    Raises:
        ValueError: the shapes do not fit the tree, or temperatures or weights are too few or out of range.
    """
    check_shapes("path_scores", "logits", logits, hierarchy)
    levels = hierarchy.num_levels
    temperatures = (1.0,) * levels if temperatures is None else temperatures
    weights = (1 / levels,) * levels if weights is None else weights
    if len(temperatures) != levels or not all(t > 0 for t in temperatures):
        raise ValueError(f"path_scores: temperatures must be {levels} numbers above 0, got {list(temperatures)}")
    if len(weights) != levels or not all(w >= 0 for w in weights):
        raise ValueError(f"path_scores: weights must be {levels} numbers from 0 up, got {list(weights)}")
    scores = logits[0].new_zeros((len(logits[0]), hierarchy.sizes[-1]), dtype=torch.float64)
    for z, path, temperature, weight in zip(logits, hierarchy.ancestors.T, temperatures, weights, strict=True):
        if weight:
            scores += weight * (z.double() / temperature).log_softmax(1)[:, path.to(z.device)]
    return scores


def posteriors(scores: Tensor, hierarchy: Hierarchy) -> tuple[Tensor, ...]:
    """Return the probability of every node: softmax over the leaves, summed from children to parents.

    A node never gets less than any of its children, in floating point too.

    Args:
        scores: log-scores ``[N, n_{K-1}]`` of `path_scores`, or sums of such; of any floating dtype.
        hierarchy: the tree.

    Returns:
        K tensors ``[N, n_k]``, float64, coarse to fine.

    Raises:
        ValueError: the shape does not fit the tree.
    """
    if scores.ndim != 2 or scores.shape[1] != hierarchy.sizes[-1]:
        raise ValueError(f"posteriors: scores must have shape [N, {hierarchy.sizes[-1]}], got {list(scores.shape)}")
    result = [scores.double().softmax(1)]
    for k in range(hierarchy.num_levels - 1, 0, -1):
        parent = hierarchy.parents[k].to(scores.device)  # type: ignore[union-attr]
        coarser = result[0].new_zeros((len(scores), hierarchy.sizes[k - 1]))
        result.insert(0, coarser.index_add_(1, parent, result[0]))
    return tuple(result)


def descend(values: Sequence[Tensor], hierarchy: Hierarchy) -> Tensor:
    """Go down from the root, at each level to the child with the highest value; ties go to the lowest id.

    Args:
        values: K floating tensors ``[N, n_k]``, coarse to fine: posteriors, or logits.
        hierarchy: their tree.

    Returns:
        LongTensor ``[N, K]``, a path in every row.

    Raises:
        ValueError: the shapes do not fit the tree.
    """
    check_shapes("descend", "values", values, hierarchy)
    nodes = [values[0].argmax(1)]
    for k in range(1, hierarchy.num_levels):
        nodes.append(among_children(values[k], hierarchy, k, nodes[-1]).argmax(1))
    return torch.stack(nodes, dim=1)


def among_children(values: Tensor, hierarchy: Hierarchy, level: int, parents: Tensor) -> Tensor:
    """Return ``[N, n_k]`` values of a level with -inf outside the children of ``parents``, LongTensor ``[N]``."""
    parent_of = hierarchy.parents[level].to(values.device)  # type: ignore[union-attr]
    return values.masked_fill(parent_of != parents[:, None], -torch.inf)


def decode(
    logits: Sequence[Tensor],
    hierarchy: Hierarchy,
    *,
    mode: str = "path",
    temperatures: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return one class per level.

    ``"path"`` combines the heads and goes down from the root by the posteriors: consistent, and the answer of a coarse
    level depends on no finer choice. ``"best_leaf"`` gives the most probable leaf and its ancestors, which may lie in a
    family that is not the most probable one: of leaves A {0.2, 0.2, 0.2} and B {0.4}, B wins, while A has 0.6.
    ``"top_down"`` goes down by the heads themselves. ``"independent"`` takes each head for itself: it may contradict
    the tree.

    Args:
        logits: K tensors ``[N, n_k]``, coarse to fine, of any floating dtype.
        hierarchy: their tree.
        mode: one of the four.
        temperatures: of ``"path"`` and ``"best_leaf"``; see `path_scores`.
        weights: likewise.

    Returns:
        LongTensor ``[N, K]``.

    Raises:
        ValueError: no such mode, or logits that do not fit the tree or are not finite; see also `path_scores`.
    """
    if mode not in MODES:
        raise ValueError(f"decode: mode must be one of {', '.join(MODES)}, got {mode!r}")
    check_shapes("decode", "logits", logits, hierarchy)
    check_finite("decode", "logits", logits)
    if mode == "independent":
        return torch.stack([z.argmax(1) for z in logits], dim=1)
    if mode == "top_down":
        return descend(logits, hierarchy)
    scores = path_scores(logits, hierarchy, temperatures, weights)
    if mode == "best_leaf":
        return hierarchy.ancestors.to(scores.device)[scores.argmax(1)]
    return descend(posteriors(scores, hierarchy), hierarchy)


def check_shapes(function: str, argument: str, values: Sequence[Tensor], hierarchy: Hierarchy) -> None:
    """Raise ValueError unless ``values`` are K tensors ``[N, n_k]``."""
    shapes = [list(z.shape) for z in values]
    rows = shapes[0][0] if shapes and shapes[0] else 0
    if shapes != [[rows, n] for n in hierarchy.sizes]:
        wanted = ", ".join(f"[N, {n}]" for n in hierarchy.sizes)
        raise ValueError(f"{function}: {argument} must have the shapes {wanted}, got {', '.join(map(str, shapes))}")


def check_finite(function: str, argument: str, values: Sequence[Tensor]) -> None:
    """Raise ValueError unless ``values`` are all finite."""
    if not all(z.isfinite().all() for z in values):
        raise ValueError(f"{function}: {argument} must be finite, got nan or inf")

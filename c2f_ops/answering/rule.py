"""How deep to answer: thresholds from held-out images, and the answer that they allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .decoding import among_children, check_shapes

Z = 1.645  # of a one-sided bound at 95 %


@dataclass(frozen=True)
class Answer:
    """The answer about one object.

    Attributes:
        name: of the node; ``"unknown"`` at the root.
        level: index of its level, coarse to fine; -1 at the root.
        posterior: its probability; 1 at the root.
        path: names from the coarsest level to the node; empty at the root.
        nodes: K class ids, -1 below the node.
        runner_up: (name, posterior) of the most probable other node of that level, or None if there is none; at the
            root, of the most probable node of the coarsest level. It may lie in another branch.
        reason: why the answer is not deeper.
    """

    name: str
    level: int
    posterior: float
    path: tuple[str, ...]
    nodes: tuple[int, ...]
    runner_up: tuple[str, float] | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def wilson_lower(right: float, n: int, z: float = Z) -> float:
    """Return the lower end of Wilson's interval for the share ``right / n``; 0 for none of none.

    Raises:
        ValueError: ``right`` is not in 0..n.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if n < 0 or not 0 <= right <= n:
        raise ValueError(f"wilson_lower: right must be in 0..n, got {right} of {n}")
    return float(_wilson(right / n, n, z)) if n else 0.0


def _wilson(share: Any, n: Any, z: float) -> Any:
    """The same for floats and tensors."""
    spread = (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (share + z * z / (2 * n) - z * spread) / (1 + z * z / n)


def choose_thresholds(
    best: Tensor, right: Tensor, *, target: float = 0.95, images: Tensor | None = None, z: float = Z
) -> tuple[float, ...]:
    """Choose for each level the smallest threshold at which its answers are precise enough.

    Levels are settled coarse to fine. At level k, among the rows that pass the thresholds of all coarser levels, the
    threshold is the smallest posterior p for which the rows with ``best[:, k] >= p`` have a Wilson lower bound of at
    least ``target``. Where no p has it, the threshold is inf: the level, and every finer one, is never answered.

    Args:
        best: posteriors ``[N, K]`` of the nodes that greedy descent picks, on any device.
        right: ``[N, K]``, 1 where the node is the true one, 0 where not, -1 where the truth is unknown.
        target: precision wanted.
        images: LongTensor ``[N]``, which image a row shows. Rows of one image, seen at several sides, err together, so
            the bound counts images and not rows. By default each row is an image of its own.
        z: quantile of the bound, one-sided 95 % by default.

    Returns:
        K thresholds.

    Raises:
        ValueError: the shapes do not fit, or the target is not between 0 and 1.
    """
    if best.ndim != 2 or best.shape != right.shape:
        raise ValueError(
            f"choose_thresholds: best and right must have one shape [N, K], got {list(best.shape)} "
            f"and {list(right.shape)}"
        )
    if not 0 < target < 1:
        raise ValueError(f"choose_thresholds: target must be between 0 and 1, got {target}")
    images = torch.arange(len(best)) if images is None else images.cpu()
    if images.shape != best.shape[:1]:
        raise ValueError(f"choose_thresholds: images must have shape [{len(best)}], got {list(images.shape)}")
    best, right, alive = best.cpu(), right.cpu().long(), torch.ones(len(best), dtype=torch.bool)
    thresholds = []
    for k in range(best.shape[1]):
        rows = (alive & (right[:, k] >= 0)).nonzero()[:, 0]
        rows = rows[best[rows, k].argsort(descending=True, stable=True)]
        values = best[rows, k]
        seen = torch.zeros(len(rows), dtype=torch.float64)  # 1 at the first row of each image
        seen[np.unique(images[rows].numpy(), return_index=True)[1]] = 1
        share = right[rows, k].cumsum(0) / torch.arange(1, len(rows) + 1, dtype=torch.float64)
        bound = _wilson(share, seen.cumsum(0), z)
        last_of_equals = torch.ones(len(rows), dtype=torch.bool)
        last_of_equals[:-1] = values[:-1] > values[1:]
        passing = ((bound >= target) & last_of_equals).nonzero()[:, 0]
        thresholds.append(float(values[passing[-1]]) if len(passing) else math.inf)
        alive &= best[:, k] >= thresholds[-1]
    return tuple(thresholds)


def settle(
    posteriors: Sequence[Tensor],
    hierarchy: Hierarchy,
    thresholds: Sequence[float] | None,
    *,
    held: Tensor | None = None,
    hysteresis: float = 0.0,
) -> Tensor:
    """Go down from the root to the best child for as long as it passes the threshold of its level.

    A node that was answered before, and still is the best child, stays until its posterior falls below the threshold by
    more than ``hysteresis``; where one is let go, so are those below it.

    Args:
        posteriors: K tensors ``[N, n_k]`` of `c2f_ops.answering.posteriors`.
        hierarchy: the tree.
        thresholds: K numbers; None: all 0.
        held: earlier answers, LongTensor ``[N, K]``, -1 for none.
        hysteresis: see above.

    Returns:
        LongTensor ``[N, K]``, -1 below the answer.

    Raises:
        ValueError: posteriors, thresholds or held do not fit the tree, or hysteresis is negative.
    """
    thresholds = _checked_thresholds("settle", posteriors, hierarchy, thresholds)
    nodes = torch.full((len(posteriors[0]), hierarchy.num_levels), -1, device=posteriors[0].device)
    held = nodes.clone() if held is None else held
    if held.shape != nodes.shape:
        raise ValueError(f"settle: held must have shape {list(nodes.shape)}, got {list(held.shape)}")
    if not hysteresis >= 0:
        raise ValueError(f"settle: hysteresis must be from 0 up, got {hysteresis}")
    answered = torch.ones_like(nodes[:, 0], dtype=torch.bool)
    for k, p in enumerate(posteriors):
        best, node = (p if k == 0 else among_children(p, hierarchy, k, nodes[:, k - 1])).max(1)
        stays = (node == held[:, k]) & (best >= thresholds[k] - hysteresis)
        answered = answered & ((best >= thresholds[k]) | stays)
        nodes[:, k] = torch.where(answered, node, -1)
    return nodes


def _checked_thresholds(
    function: str, posteriors: Sequence[Tensor], hierarchy: Hierarchy, thresholds: Sequence[float] | None
) -> Sequence[float]:
    """Return thresholds that fit posteriors that fit the tree."""
    check_shapes(function, "posteriors", posteriors, hierarchy)
    thresholds = (0.0,) * hierarchy.num_levels if thresholds is None else thresholds
    if len(thresholds) != hierarchy.num_levels:
        raise ValueError(f"{function}: thresholds must be {hierarchy.num_levels} numbers, got {list(thresholds)}")
    return thresholds


def answer(
    posteriors: Sequence[Tensor], hierarchy: Hierarchy, thresholds: Sequence[float] | None = None
) -> list[Answer]:
    """Answer at the deepest level k such that levels 0 .. k all pass their thresholds; "unknown" where none does.

    Args:
        posteriors: K tensors ``[N, n_k]`` of `c2f_ops.answering.posteriors`.
        hierarchy: the tree.
        thresholds: K numbers; None answers at the finest level.

    Returns:
        N answers.

    Raises:
        ValueError: posteriors or thresholds do not fit the tree.
    """
    thresholds = _checked_thresholds("answer", posteriors, hierarchy, thresholds)
    return describe(settle(posteriors, hierarchy, thresholds), posteriors, hierarchy, thresholds)


def describe(
    nodes: Tensor, posteriors: Sequence[Tensor], hierarchy: Hierarchy, thresholds: Sequence[float]
) -> list[Answer]:
    """Put nodes ``[N, K]`` of `settle` into words."""
    on_cpu = [p.cpu() for p in posteriors]
    return [_describe(row, [p[i] for p in on_cpu], hierarchy, thresholds) for i, row in enumerate(nodes.tolist())]


def _describe(nodes: list[int], posteriors: list[Tensor], hierarchy: Hierarchy, thresholds: Sequence[float]) -> Answer:
    depth = sum(node >= 0 for node in nodes)
    path = tuple(hierarchy.names[k][nodes[k]] for k in range(depth))
    level = max(depth - 1, 0)
    others = posteriors[level].clone()
    if depth:
        others[nodes[level]] = -1
    other = int(others.argmax())
    runner_up = (hierarchy.names[level][other], float(others[other])) if others[other] >= 0 else None
    reason = "finest level"
    if depth < hierarchy.num_levels:
        values = posteriors[depth]
        if depth:
            values = among_children(values[None], hierarchy, depth, torch.tensor(nodes[depth - 1 : depth]))[0]
        best, finer = int(values.argmax()), hierarchy.levels[depth]
        reason = (
            f"{finer} {hierarchy.names[depth][best]} has {float(values[best]):.3f}, needs {thresholds[depth]:.3f}"
            if thresholds[depth] < math.inf
            else f"{finer} is never answered: it has no threshold"
        )
    return Answer(
        path[-1] if path else "unknown",
        depth - 1,
        float(posteriors[level][nodes[level]]) if depth else 1.0,
        path,
        tuple(nodes),
        runner_up,
        reason,
    )

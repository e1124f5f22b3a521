"""Convex fits of a few scales to held-out answers: the temperature of a head, the weights of the levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .decoding import check_finite, check_shapes

LEAST_SCALE = 0.02  # a temperature of 50


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T of softmax(z / T) that fits labels best.

    Minimises over 1 / T the mean negative log-likelihood + (1 / T - 1)^2 / (2 N): convex, and the second term, a prior
    that weighs as much as one image, keeps T away from 0 where few images are all right. At most 50; 1 without images.

    Args:
        logits: ``[N, C]``, of any floating dtype and on any device; the fit is done on the CPU.
        labels: integers ``[N]``; -1 is left out.

    Raises:
        ValueError: shapes or labels do not fit, or logits are not finite.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    if logits.ndim != 2:
        raise ValueError(f"fit_temperature: logits must have shape [N, C], got {list(logits.shape)}")
    check_finite("fit_temperature", "logits", [logits])
    logits, labels = logits.cpu(), _checked_labels("fit_temperature", "labels", labels, *logits.shape)
    known = labels >= 0
    scale = _fit_scales(logits[known].double()[None], labels[known], torch.ones(1, dtype=torch.float64), LEAST_SCALE)
    return float(1 / scale[0])


def fit_path_weights(
    log_probs: Sequence[Tensor], leaves: Tensor, hierarchy: Hierarchy, heads: Sequence[int] | None = None
) -> Tensor:
    """Return the weights w >= 0 of the levels under which `path_scores` fit the finest labels best.

    Minimises the mean negative log-likelihood of the softmax over leaves + |w - 1 / K|^2 / (2 N): convex; see
    `fit_temperature` for the second term. 1 / K for each of the K heads without images.

    Args:
        log_probs: K tensors ``[N, n_k]``, log P_k, coarse to fine, of any floating dtype and on any device; the fit is
            done on the CPU.
        leaves: integers ``[N]``, finest labels; -1 is left out.
        hierarchy: the tree.
        heads: levels that take part; the others get weight 0. By default all.

    Returns:
        float64 ``[K]``, on the CPU.

    Raises:
        ValueError: shapes, labels or heads do not fit the tree, or values of a level that takes part are not finite.
    """
    check_shapes("fit_path_weights", "log_probs", log_probs, hierarchy)
    start = torch.tensor(default_weights("fit_path_weights", hierarchy, heads), dtype=torch.float64)
    chosen = start.nonzero()[:, 0].tolist()
    check_finite("fit_path_weights", "log_probs", [log_probs[k] for k in chosen])
    leaves = _checked_labels("fit_path_weights", "leaves", leaves, *log_probs[-1].shape)
    known = leaves >= 0
    terms = torch.stack([log_probs[k].cpu()[known].double()[:, hierarchy.ancestors[:, k]] for k in chosen])
    start[chosen] = _fit_scales(terms, leaves[known], start[chosen], 0.0)
    return start


def _fit_scales(terms: Tensor, target: Tensor, prior: Tensor, least: float) -> Tensor:
    """Minimise mean NLL of softmax(sum_m c_m terms[m]) + |c - prior|^2 / (2 N) over c >= ``least``.

    Newton's method on the coordinates that are free to move, with halved steps: ``terms`` ``[M, N, C]``, few M.
    """
    c, n = prior.clone(), len(target)
    if not n:
        return c
    picked = terms.gather(2, target.expand(len(c), n)[..., None])[..., 0]  # [M, N]

    def objective(c: Tensor) -> Tensor:
        scores = torch.einsum("m,mnc->nc", c, terms)
        return (scores.logsumexp(1) - c @ picked).mean() + (c - prior).square().sum() / (2 * n)

    for _ in range(100):
        p = torch.einsum("m,mnc->nc", c, terms).softmax(1)
        mean = torch.einsum("nc,mnc->mn", p, terms)
        gradient = (mean - picked).mean(1) + (c - prior) / n
        spread = ((terms - mean[..., None]) * p.sqrt()).flatten(1)
        hessian = (spread @ spread.T + torch.eye(len(c), dtype=c.dtype)) / n
        free = (c > least) | (gradient < 0)
        if not free.any() or gradient[free].abs().max() < 1e-10:
            break
        step = torch.zeros_like(c)
        step[free] = -torch.linalg.solve(hessian[free][:, free], gradient[free])
        before, length = objective(c), 1.0
        while objective((c + length * step).clamp(min=least)) > before and length > 1e-9:
            length /= 2
        moved = (c + length * step).clamp(min=least)
        if length <= 1e-9 or torch.equal(moved, c):  # at the limit of rounding
            break
        c = moved
    return c


def default_weights(function: str, hierarchy: Hierarchy, heads: Sequence[int] | None) -> tuple[float, ...]:
    """Return equal weights of ``heads``, by default of all levels, and 0 for the others."""
    heads = range(hierarchy.num_levels) if heads is None else heads
    if not heads or not set(heads) <= set(range(hierarchy.num_levels)) or len(set(heads)) < len(heads):
        raise ValueError(
            f"{function}: heads must be some of the levels 0..{hierarchy.num_levels - 1}, each once, got {list(heads)}"
        )
    return tuple(1 / len(heads) if k in heads else 0.0 for k in range(hierarchy.num_levels))


def _checked_labels(function: str, argument: str, labels: Tensor, rows: int, classes: int) -> Tensor:
    if labels.shape != (rows,):
        raise ValueError(f"{function}: {argument} must have shape [{rows}], got {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{function}: {argument} must be integers, got {labels.dtype}")
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(f"{function}: {argument} must be below {classes}, got {int(labels.max())}")
    return labels.cpu().long()

"""What held-out images say about the heads: temperatures, weights of the levels, thresholds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import read_json, write_json
from ..hierarchy import Hierarchy
from .decoding import check_logits, descend, path_scores, posteriors
from .rule import Z, choose_thresholds

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
TARGET = 0.95
LEAST_SCALE = 0.02  # a temperature of 50


@dataclass(frozen=True)
class Calibration:
    """Temperatures and weights per level and side, thresholds per level.

    Attributes:
        levels: names, coarse to fine.
        sides: rising.
        temperatures, weights: rows of K numbers, one for each of ``sides`` and a last one, fitted to all of them
            together, for images of unknown size.
        targets: precisions. thresholds: for each a row of K numbers; inf for a level that is never answered.
        z: quantile of the Wilson bound behind the thresholds.
        hierarchy: its sha256.
        images: number of held-out images; 0 where nothing was fitted.
        split, seed: where they came from.
    """

    levels: tuple[str, ...]
    sides: tuple[int, ...]
    temperatures: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    targets: tuple[float, ...]
    thresholds: tuple[tuple[float, ...], ...]
    hierarchy: str
    images: int = 0
    split: str = ""
    seed: int = 0
    z: float = Z

    def __post_init__(self) -> None:
        """Check that the tables fit together."""
        for name, rows in (("temperatures", len(self.sides) + 1), ("weights", len(self.sides) + 1)):
            _check_table(name, getattr(self, name), rows, len(self.levels))
        _check_table("thresholds", self.thresholds, len(self.targets), len(self.levels))

    @classmethod
    def none(cls, hierarchy: Hierarchy, heads: Sequence[int] | None = None) -> Calibration:
        """Return what holds without held-out images: T = 1, equal weights of ``heads``, and no promise of precision.

        Every level down to the finest of ``heads`` is answered.
        """
        row = _default_weights(hierarchy, heads)
        finest = max(k for k, weight in enumerate(row) if weight)
        thresholds = tuple(0.0 if k <= finest else math.inf for k in range(hierarchy.num_levels))
        return cls(
            hierarchy.levels, (), ((1.0,) * hierarchy.num_levels,), (row,), (0.0,), (thresholds,), hierarchy.sha256
        )

    def _row(self, side: int | None) -> int:
        """The row of the side nearest as a ratio, the smaller of two as near; the last one for None."""
        if side is None or not self.sides:
            return len(self.sides)
        return min(range(len(self.sides)), key=lambda i: abs(math.log(self.sides[i] / side)))

    def temperatures_of(self, side: int | None) -> tuple[float, ...]:
        """Return T of every level for images of a side, None for an unknown one."""
        return self.temperatures[self._row(side)]

    def temperature(self, level: int, side: int | None) -> float:
        """Return T of one level."""
        return self.temperatures_of(side)[level]

    def weights_of(self, side: int | None) -> tuple[float, ...]:
        """Return the weight of every level for images of a side, None for an unknown one."""
        return self.weights[self._row(side)]

    def thresholds_of(self, target: float = TARGET) -> tuple[float, ...]:
        """Return the threshold of every level for a target precision; without held-out images those of `none`.

        Raises:
            ValueError: thresholds were chosen for other targets.
        """
        if not self.images:
            return self.thresholds[0]
        if target not in self.targets:
            raise ValueError(
                f"Calibration: target must be one of {', '.join(map(str, self.targets))}, got {target}; "
                "thresholds for others need the held-out images"
            )
        return self.thresholds[self.targets.index(target)]

    def scores(self, logits: Sequence[Tensor], hierarchy: Hierarchy, side: int | None) -> Tensor:
        """Return `path_scores` of images of a side."""
        return path_scores(logits, hierarchy, self.temperatures_of(side), self.weights_of(side))

    def check(self, hierarchy: Hierarchy) -> None:
        """Raise ValueError unless the calibration is of this tree."""
        if self.hierarchy != hierarchy.sha256:
            raise ValueError(
                f"Calibration: hierarchy must have sha256 {self.hierarchy[:12]}, got {hierarchy.sha256[:12]}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data: a threshold of inf becomes None."""
        table = [[None if tau == math.inf else tau for tau in row] for row in self.thresholds]
        return {**asdict(self), "thresholds": table}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave."""
        try:
            values = dict(data)
            values["thresholds"] = [[math.inf if tau is None else tau for tau in row] for row in data["thresholds"]]
            for name in ("temperatures", "weights", "thresholds"):
                values[name] = tuple(tuple(map(float, row)) for row in values[name])
            for name in ("levels", "sides", "targets"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"Calibration: data must be that of to_dict, got {error}") from None

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration, readable."""
        write_json(path, self.to_dict())

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `to_json` wrote."""
        return cls.from_dict(read_json(Path(path)))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T of softmax(z / T) that fits labels best.

    Minimises over 1 / T the mean negative log-likelihood + (1 / T - 1)^2 / (2 N): convex, and the second term, a prior
    that weighs as much as one image, keeps T away from 0 where few images are all right. At most 50; 1 without images.

    Args:
        logits: ``[N, C]``.
        labels: LongTensor ``[N]``; -1 is left out.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    _check_fit("fit_temperature", "logits", logits, labels)
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
        log_probs: K tensors ``[N, n_k]``, log P_k, coarse to fine.
        leaves: LongTensor ``[N]`` of finest labels; -1 is left out.
        hierarchy: the tree.
        heads: levels that take part; the others get weight 0.

    Returns:
        float64 ``[K]``.
    """
    check_logits("fit_path_weights", log_probs, hierarchy)
    _check_fit("fit_path_weights", "log_probs", log_probs[-1], leaves)
    known = leaves >= 0
    start = torch.tensor(_default_weights(hierarchy, heads), dtype=torch.float64)
    chosen = start.nonzero()[:, 0].tolist()
    terms = torch.stack([log_probs[k][known].double()[:, hierarchy.ancestors[:, k]] for k in chosen])
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


def calibrate(
    logits: Mapping[int, Sequence[Tensor]],
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    heads: Sequence[int] | None = None,
    targets: Sequence[float] = TARGETS,
    split: str = "",
    seed: int = 0,
) -> Calibration:
    """Fit temperatures, weights and thresholds to held-out images that were seen at several sides.

    Args:
        logits: side -> K tensors ``[N, n_k]``, coarse to fine, of the same images in the same order.
        labels: LongTensor ``[N, K]``, -1 for unknown.
        hierarchy: the tree.
        heads: levels whose heads are trained; by default all. The others keep T = 1 and get weight 0.
        targets: precisions that thresholds are chosen for.
        split: where the images came from, for the record.
        seed: of the split, for the record.
    """
    labels = hierarchy.validate_labels(labels)
    sides = tuple(sorted(logits))
    if not sides or not len(labels):
        raise ValueError("calibrate: logits must be of at least one image at one side, got none")
    heads = range(hierarchy.num_levels) if heads is None else heads
    rows = [_fit_row(logits[side], labels, hierarchy, heads) for side in sides]
    mixture = [torch.cat(parts) for parts in zip(*(logits[side] for side in sides), strict=True)]
    rows.append(_fit_row(mixture, labels.repeat(len(sides), 1), hierarchy, heads))

    best, right = [], []
    for side, (temperatures, weights) in zip(sides, rows, strict=False):
        p = posteriors(path_scores(logits[side], hierarchy, temperatures, weights), hierarchy)
        nodes = descend(p, hierarchy)
        best.append(torch.stack([level.gather(1, node[:, None])[:, 0] for level, node in zip(p, nodes.T, strict=True)]))
        right.append(torch.where(labels >= 0, (nodes == labels).long(), -1))
    images = torch.arange(len(labels)).repeat(len(sides))
    best_of_all, right_of_all = torch.cat(best, dim=1).T, torch.cat(right)
    thresholds = tuple(choose_thresholds(best_of_all, right_of_all, target=t, images=images) for t in targets)
    return Calibration(
        hierarchy.levels,
        sides,
        tuple(row[0] for row in rows),
        tuple(row[1] for row in rows),
        tuple(targets),
        thresholds,
        hierarchy.sha256,
        len(labels),
        split,
        seed,
    )


def _fit_row(
    logits: Sequence[Tensor], labels: Tensor, hierarchy: Hierarchy, heads: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    temperatures = [fit_temperature(z, labels[:, k]) if k in heads else 1.0 for k, z in enumerate(logits)]
    log_probs = [(z.double() / t).log_softmax(1) for z, t in zip(logits, temperatures, strict=True)]
    weights = fit_path_weights(log_probs, labels[:, -1], hierarchy, heads)
    return tuple(temperatures), tuple(weights.tolist())


def _default_weights(hierarchy: Hierarchy, heads: Sequence[int] | None) -> tuple[float, ...]:
    heads = range(hierarchy.num_levels) if heads is None else heads
    if not heads or not set(heads) <= set(range(hierarchy.num_levels)):
        raise ValueError(
            f"Calibration: heads must be some of the levels 0..{hierarchy.num_levels - 1}, got {list(heads)}"
        )
    return tuple(1 / len(heads) if k in heads else 0.0 for k in range(hierarchy.num_levels))


def _check_table(name: str, table: Sequence[Sequence[float]], rows: int, columns: int) -> None:
    if [len(row) for row in table] != [columns] * rows:
        raise ValueError(f"Calibration: {name} must be {rows} rows of {columns} numbers, got {table}")


def _check_fit(function: str, argument: str, values: Tensor, labels: Tensor) -> None:
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(
            f"{function}: {argument} must be [N, C] and labels [N], got {list(values.shape)} and {list(labels.shape)}"
        )
    if not values.isfinite().all():
        raise ValueError(f"{function}: {argument} must be finite, got nan or inf")
    if len(labels) and int(labels.max()) >= values.shape[1]:
        raise ValueError(f"{function}: labels must be below {values.shape[1]}, got {int(labels.max())}")

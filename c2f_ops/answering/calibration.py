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
from .decoding import check_shapes, descend, path_scores, posteriors
from .fitting import default_weights, fit_path_weights, fit_temperature
from .rule import Z, choose_thresholds

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
TARGET = 0.95


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

        Raises:
            ValueError: heads are none, not levels of the tree, or repeated.
        """
        row = default_weights("Calibration", hierarchy, heads)
        finest = max(k for k, weight in enumerate(row) if weight)
        thresholds = tuple(0.0 if k <= finest else math.inf for k in range(hierarchy.num_levels))
        return cls(
            hierarchy.levels, (), ((1.0,) * hierarchy.num_levels,), (row,), (0.0,), (thresholds,), hierarchy.sha256
        )

    def _row(self, side: int | None) -> int:
        """The row of the `nearest_side`; the last one for None."""
        if side is not None and side < 1:
            raise ValueError(f"Calibration: side must be None or at least 1, got {side}")
        return len(self.sides) if side is None or not self.sides else nearest_side(self.sides, side)

    def temperatures_of(self, side: int | None) -> tuple[float, ...]:
        """Return T of every level for images of a side, None for an unknown one.

        Raises:
            ValueError: the side is below 1.
        """
        return self.temperatures[self._row(side)]

    def temperature(self, level: int, side: int | None) -> float:
        """Return T of one level; see `temperatures_of`."""
        return self.temperatures_of(side)[level]

    def weights_of(self, side: int | None) -> tuple[float, ...]:
        """Return the weight of every level for images of a side, None for an unknown one.

        Raises:
            ValueError: the side is below 1.
        """
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
        """Return `path_scores` of images of a side, with the same errors."""
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
        """Read what `to_dict` gave.

        Raises:
            ValueError: the data are something else.
        """
        try:
            values = dict(data)
            values["thresholds"] = [[math.inf if tau is None else tau for tau in row] for row in data["thresholds"]]
            for name in ("temperatures", "weights", "thresholds"):
                values[name] = tuple(tuple(map(float, row)) for row in values[name])
            for name, kind in (("levels", str), ("sides", int), ("targets", float)):
                values[name] = tuple(map(kind, values[name]))
            return cls(**values)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"Calibration: data must be that of to_dict, got {error!r}") from None

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration, readable."""
        write_json(path, self.to_dict())

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the file, which is named, is something else or cannot be read.
        """
        data = read_json(Path(path))
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def nearest_side(sides: Sequence[int], side: int) -> int:
    """Return the index in rising ``sides`` of the one nearest to ``side`` as a ratio, the smaller of two as near."""
    return min(range(len(sides)), key=lambda i: max(sides[i] / side, side / sides[i]))


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
        logits: side -> K tensors ``[N, n_k]``, coarse to fine, of the same images in the same order, of any floating
            dtype and on any device; the fit is done on the CPU.
        labels: integers ``[N, K]``, -1 for unknown.
        hierarchy: the tree.
        heads: levels whose heads are trained; by default all. The others keep T = 1 and get weight 0.
        targets: precisions that thresholds are chosen for.
        split: where the images came from, for the record.
        seed: of the split, for the record.

    Returns:
        The calibration, with a row for each of the sides and one for all together.

    Raises:
        ValueError: no images, or logits, labels, heads or targets that do not fit; labels that contradict the tree.
    """
    labels = hierarchy.validate_labels(labels).cpu()
    sides = tuple(sorted(logits))
    if not sides or not len(labels):
        raise ValueError("calibrate: logits must be of at least one image at one side, got none")
    for side in sides:
        check_shapes("calibrate", "logits", logits[side], hierarchy)
    logits = {side: [z.cpu() for z in logits[side]] for side in sides}
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


def _check_table(name: str, table: Sequence[Sequence[float]], rows: int, columns: int) -> None:
    if [len(row) for row in table] != [columns] * rows:
        raise ValueError(f"Calibration: {name} must be {rows} rows of {columns} numbers, got {table}")

"""Fine classes whose samples carry labels of several coarse classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class MultiParent(NamedTuple):
    """A fine class of data set ``dataset`` with two large coarse classes, and the share of the second one's labels."""

    dataset: int
    fine: int
    parent: int
    second: int
    share: float


def second_parents(cost: np.ndarray, share: float) -> Iterator[tuple[int, int, int, float]]:
    """Yield (fine, parent, second, share) for rows of the co-occurrence ``[K_F, K_C]`` whose second entry is large."""
    if cost.shape[1] < 2:
        return
    mass = cost.sum(1)
    top = np.argpartition(-cost, 1, axis=1)[:, :2]
    for fine in np.flatnonzero(mass > 0):
        parent, second = sorted(top[fine].tolist(), key=lambda j: -cost[fine, j])
        part = float(cost[fine, second] / mass[fine])
        if part >= share > 0:
            yield int(fine), parent, second, part

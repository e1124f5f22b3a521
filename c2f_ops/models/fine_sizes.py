"""How many fine classes lie below each coarse class, and where: over-clustering, then Ward's merging."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .falcon_init import FineStart, kmeans_start

_CLEAR = 0.1  # share of the inertia that other sizes must save before they replace proportional ones


class Merging(NamedTuple):
    """The merging of m pieces of one coarse class, two by two.

    ``inertia[k - 1]`` is the sum of squared distances to centres with k clusters; ``pieces`` ``[m, d]`` and ``weights``
    ``[m]`` are means and samples; ``steps`` has the pair of each merger, the second joining the first.
    """

    inertia: np.ndarray
    pieces: np.ndarray
    weights: np.ndarray
    steps: list[tuple[int, int]]

    def centroids(self, k: int) -> np.ndarray:
        """``[k, d]`` centres where k clusters are left."""
        c, w = self.pieces * self.weights[:, None], self.weights.copy()
        for a, b in self.steps[: len(c) - k]:
            c[a], w[a], w[b] = c[a] + c[b], w[a] + w[b], 0
        return c[w > 0] / w[w > 0, None]


def ward(pieces: np.ndarray, weights: np.ndarray, inertia: float) -> Merging:
    """Merge pieces two by two, each time those whose union adds least inertia (Ward 1963).

    Args:
        pieces: float64 ``[m, d]`` means of the pieces.
        weights: ``[m]`` samples of each, at least 1.
        inertia: Sum of squared distances of the samples to the means of their pieces.
    """
    c, w = pieces.copy(), weights.astype(np.float64)
    alive = np.ones(len(c), dtype=bool)
    cost = np.stack([_union(c, w, a) for a in range(len(c))])
    np.fill_diagonal(cost, np.inf)
    totals, steps = [inertia], []
    while len(totals) < len(c):
        a, b = (int(i) for i in np.unravel_index(cost.argmin(), cost.shape))
        totals.append(totals[-1] + cost[a, b])
        steps.append((a, b))
        c[a], w[a] = (w[a] * c[a] + w[b] * c[b]) / (w[a] + w[b]), w[a] + w[b]
        alive[b] = False
        cost[b] = cost[:, b] = np.inf
        cost[a] = cost[:, a] = np.where(alive & (np.arange(len(c)) != a), _union(c, w, a), np.inf)
    return Merging(np.array(totals[::-1]), pieces, weights.astype(np.float64), steps)


def _union(c: np.ndarray, w: np.ndarray, a: int) -> np.ndarray:
    """``[m]`` inertia that the union of piece a with each adds."""
    return w * w[a] / (w + w[a]) * np.square(c - c[a]).sum(1)


def allocate(curves: list[np.ndarray], total: int) -> np.ndarray:
    """int64 ``[K_C]``: sizes with the least sum of inertia; exact, by dynamic programming.

    Args:
        curves: Inertia of each coarse class with 1, 2, ... clusters; together of at least ``total`` entries.
        total: Sum of the sizes.
    """
    best, choices = np.full(total + 1, np.inf), []
    best[0] = 0.0
    for curve in curves:
        k = min(len(curve), total)
        table = np.full((k, total + 1), np.inf)
        for size in range(1, k + 1):
            table[size - 1, size:] = best[: total + 1 - size] + curve[size - 1]
        choices.append(table.argmin(0) + 1)
        best = table.min(0)
    sizes = []
    for choice in reversed(choices):
        sizes.append(int(choice[total]))
        total -= sizes[-1]
    return np.array(sizes[::-1])


def fine_start(
    x: np.ndarray, y: np.ndarray, samples: np.ndarray, sizes: np.ndarray, *, free: bool = False, seed: int = 0
) -> FineStart:
    """k-means inside each coarse class from better first centres, with sizes that the data ask for.

    Each class is cut into more pieces than it gets fine classes, and Ward's method merges them. That says what any
    number of clusters would cost, and gives k-means first centres that hardly depend on chance.

    Args:
        x: float ``[N, d]`` features.
        y: int ``[N]`` coarse labels.
        samples: int ``[K_C]``, samples that each class has; x may hold a part of them.
        sizes: int ``[K_C]``, fine classes of each coarse class, each at least 1.
        free: Whether other sizes of the same sum replace ``sizes`` where they save a tenth of the inertia.
        seed: Seed of the first centres.
    """
    if not samples.all():
        return kmeans_start(x, y, sizes, seed=seed)
    mergings = [_cut(x[y == j], 2 * int(size) + 4, seed + j) for j, size in enumerate(sizes)]
    if free and sum(len(m.inertia) for m in mergings) >= sizes.sum():
        curves = [m.inertia * n / m.weights.sum() for m, n in zip(mergings, samples, strict=True)]
        better = allocate(curves, int(sizes.sum()))
        if _total(curves, better) < (1 - _CLEAR) * _total(curves, sizes):
            sizes = better
    first = [m.centroids(min(int(k), len(m.pieces))) for m, k in zip(mergings, sizes, strict=True)]
    return kmeans_start(x, y, sizes, seed=seed, first=first)


def _cut(x: np.ndarray, pieces: int, seed: int) -> Merging:
    """Samples ``[n, d]`` of one class in at most that many pieces, merged."""
    everything, count = np.zeros(len(x), np.int64), np.array([min(pieces, len(x))])
    c = kmeans_start(x, everything, count, seed=seed).centroids.astype(np.float64)
    nearest = (x @ c.T - np.square(c).sum(1) / 2).argmax(1)
    weights = np.bincount(nearest, minlength=len(c))
    inertia = float(np.square(x - c[nearest]).sum())
    return ward(c[weights > 0], weights[weights > 0], inertia)


def _total(curves: list[np.ndarray], sizes: np.ndarray) -> float:
    return float(sum(curve[min(k, len(curve)) - 1] for curve, k in zip(curves, sizes, strict=True)))

"""How many fine classes: clusters that are apart on held-out samples. A proposal, never a choice."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array

from ..models.fine_sizes import cut
from ._inputs import Labels, Rows, check_range, fit_scaling, read_labels, to_array
from ._start import average_neighbours

_SAMPLES = 1000  # of a coarse class that are looked at
_WIDTH = 32  # principal components of a coarse class that are looked at
_PER_CLUSTER = 10  # samples a cluster must be able to have
_RUNS = 2  # splits into halves; each half is clustered once
_NEAR = 10  # neighbours that samples are averaged with before k-means, fewer for small classes
_ITERATIONS = 20  # of k-means after Ward's merging
_LEAST = 6  # held-out samples of two clusters without which they are one
_APART = {"apart": 2.9, "nearly apart": 2.75}  # least separation of clusters; the halves of a Gaussian have 2.65
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class FineCountEstimate:
    """Estimated numbers of fine classes.

    Attributes:
        per_coarse: int ``[K_C]``, the median vote of each coarse class.
        total: Their sum.
        low, high: Smallest and largest total of a single vote.
        per_coarse_low, per_coarse_high: int ``[K_C]``, smallest and largest vote.
        votes: int ``[K_C]`` of each vote: "apart", "nearly apart", "likelihood".
        classes: The coarse labels.
    """

    per_coarse: np.ndarray
    total: int
    low: int
    high: int
    per_coarse_low: np.ndarray
    per_coarse_high: np.ndarray
    votes: dict[str, np.ndarray]
    classes: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        fields = asdict(self)
        fields["votes"] = {name: vote.tolist() for name, vote in self.votes.items()}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FineCountEstimate:
        """The inverse of `to_dict`."""
        votes = {name: np.array(vote) for name, vote in fields["votes"].items()}
        arrays = {k: np.array(v) for k, v in fields.items() if isinstance(v, list)}
        return cls(**{**fields, **arrays, "votes": votes})

    def __str__(self) -> str:
        """The report: a line for each coarse class."""
        names = [str(c) for c in self.classes]
        wide = max(12, *map(len, names))
        head = " ".join(f"{voter:>17}" for voter in self.votes)
        lines = [
            f"{self.total} fine classes (single votes: {self.low} to {self.high})",
            f"{'coarse class':<{wide}} {'estimate':>8} {'interval':>9} {head}",
        ]
        for j, name in enumerate(names):
            interval = f"{self.per_coarse_low[j]}-{self.per_coarse_high[j]}"
            row = " ".join(f"{vote[j]:>17}" for vote in self.votes.values())
            lines.append(f"{name:<{wide}} {self.per_coarse[j]:>8} {interval:>9} {row}")
        return "\n".join(lines)


def estimate_n_fine(
    X: Any,
    y_coarse: Any,
    k_max: int = 10,
    random_state: int | None = None,
    *,
    standardize: bool = True,
) -> FineCountEstimate:
    """Estimate how many fine classes each coarse class has, by clusters of one half of it seen on the other.

    Up to 1000 samples of a coarse class, in up to 32 principal components, are halved at random, twice. Each half is
    clustered into k = 1 to ``k_max`` (no more than one for ten samples) by Ward's merging of small pieces and k-means,
    on samples averaged with their neighbours. The samples of the other half judge the clusters:

    * apart, nearly apart: the largest k of which every two clusters have a separation of at least 2.9, or 2.75. That
      is the distance of the means of their samples on the line between the two centres, in standard deviations within;
      2.65 for the halves of a Gaussian of any covariance;
    * likelihood: the k under which a mixture of Gaussians of one variance gives the samples most likelihood.

    The estimate is the median of the three. Samples that did not make a cut know nothing of where chance put it, so
    noise does not look like a cluster, however many dimensions it has.

    Args:
        X: ``[N, d]`` as for `FalconClusterer`.
        y_coarse: ``[N]`` coarse labels; -1, None and NaN are left out.
        k_max: Most fine classes of one coarse class.
        random_state: Seed.
        standardize: As for `FalconClusterer`.

    Returns:
        The estimate; print it for a report.
    """
    if not isinstance(k_max, (int, np.integer)) or isinstance(k_max, bool) or k_max < 1:
        raise ValueError(f"estimate_n_fine: k_max must be an integer of at least 1, got {k_max!r}")
    X = check_array(to_array(X), accept_sparse="csr", dtype="numeric", input_name="X", estimator="estimate_n_fine")
    check_range("estimate_n_fine", X)
    labels = read_labels("estimate_n_fine", y_coarse, None, X.shape[0])
    if labels.codes.shape[1] != 1:
        raise ValueError(f"estimate_n_fine: y_coarse must have shape [N], got {list(labels.codes.shape)}")
    k_max, y, classes = int(k_max), labels.codes[:, 0], labels.classes[0]
    rng = np.random.default_rng(random_state)
    rows = Rows(X, fit_scaling(X, standardize), torch.device("cpu"))
    votes = {name: np.ones(len(classes), np.int64) for name in (*_APART, "likelihood")}
    for j in range(len(classes)):
        members = np.flatnonzero(y == j)
        members = np.sort(rng.permutation(members)[:_SAMPLES])
        largest = min(k_max, len(members) // _PER_CLUSTER)
        if largest >= 2:
            for name, k in _votes(_principal(rows.take(torch.from_numpy(members)).numpy()), largest, rng).items():
                votes[name][j] = k
    table = np.stack(list(votes.values()))
    totals = table.sum(1)
    chosen = np.sort(table, axis=0)[1]
    return FineCountEstimate(
        chosen, int(chosen.sum()), int(totals.min()), int(totals.max()), table.min(0), table.max(0), votes, classes
    )


def _principal(x: np.ndarray) -> np.ndarray:
    """The leading principal components ``[n, <= 32]`` in their own scale."""
    x = x - x.mean(0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return (u * s)[:, :_WIDTH]


def _votes(x: np.ndarray, largest: int, rng: np.random.Generator) -> dict[str, int]:
    """The votes on 1 to ``largest`` clusters of ``x``."""
    runs = []
    for _ in range(_RUNS):
        halves = np.array_split(rng.permutation(len(x)), 2)
        for fitted, held in (halves, halves[::-1]):
            runs.append(_held_out(x[fitted], x[held], largest, int(rng.integers(2**31 - 1))))
    separations, likelihoods = np.swapaxes(runs, 0, 1)
    separation = np.median(separations, axis=0)
    votes = {name: int(np.flatnonzero(separation >= least).max()) + 1 for name, least in _APART.items()}
    return {**votes, "likelihood": int(likelihoods.mean(0).argmax()) + 1}


def _held_out(x: np.ndarray, held: np.ndarray, largest: int, seed: int) -> np.ndarray:
    """Least separation (infinite for one cluster) and mean log-likelihood ``[2, largest]`` of clusters of ``x``."""
    from sklearn.cluster import KMeans

    near = min(_NEAR, len(x) // (4 * largest))
    smooth = average_neighbours(torch.from_numpy(x), np.zeros(len(x), np.int64), near) if near else x
    merging = cut(smooth, min(2 * largest + 4, len(x) // 4), seed)
    out = np.stack([np.zeros(largest), np.full(largest, -np.inf)])
    for k in range(1, min(largest, len(merging.pieces)) + 1):
        first = merging.centroids(k).astype(np.float32)
        labels = KMeans(k, init=first, n_init=1, max_iter=_ITERATIONS).fit_predict(smooth)
        used, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        centres = np.stack([x[labels == i].mean(0) for i in range(len(used))])
        variance = np.square(x - centres[labels]).sum() / max((len(x) - k) * x.shape[1], 1)
        out[:, k - 1] = _separation(held, centres), _likelihood(held, centres, sizes / len(x), max(variance, _TINY))
    return out


def _separation(x: np.ndarray, centres: np.ndarray) -> float:
    """The least separation of two clusters of ``x`` by nearest centre."""
    nearest = (x @ centres.T - np.square(centres).sum(1) / 2).argmax(1)
    clusters = [x[nearest == i] for i in range(len(centres))]
    least = np.inf
    for a, b in combinations(range(len(centres)), 2):
        one, two = (clusters[i] @ (centres[a] - centres[b]) for i in (a, b))
        if not len(one) or not len(two) or len(one) + len(two) < _LEAST:
            return 0.0
        within = (one.var() * len(one) + two.var() * len(two)) / (len(one) + len(two) - 2)
        least = min(least, (one.mean() - two.mean()) / np.sqrt(max(within, _TINY)))
    return float(least)


def _likelihood(x: np.ndarray, centres: np.ndarray, shares: np.ndarray, variance: float) -> float:
    """Mean log-likelihood of ``x``, up to a constant, in a mixture of Gaussians of one variance."""
    squares = np.square(x).sum(1)[:, None] - 2 * x @ centres.T + np.square(centres).sum(1)
    scores = torch.from_numpy(np.log(shares) - squares / (2 * variance)).logsumexp(1)
    return float(scores.mean()) - x.shape[1] / 2 * np.log(variance)


def count_fine(
    who: str, X: Any, labels: Labels, n_fine: int | None, seed: int
) -> tuple[int, np.ndarray | None, FineCountEstimate | None]:
    """K_F as given, or estimated with a warning; then also sizes of the groups of the most labelled data set."""
    most = max(labels.counts)
    if n_fine is not None:
        if n_fine < most:
            raise ValueError(f"{who}: n_fine must be at least the {most} coarse classes, got {n_fine}")
        return int(n_fine), None, None
    first = labels.first
    estimate = estimate_n_fine(X, labels.codes[:, first], random_state=seed)
    sizes = np.pad(estimate.per_coarse, (0, labels.counts[first] - len(estimate.per_coarse)), constant_values=1)
    count = max(int(sizes.sum()), most)
    warnings.warn(
        f"{who}: n_fine is None; {count} fine classes were estimated ({estimate.low} to {estimate.high}); "
        "n_fine_estimate_ has the report",
        stacklevel=4,
    )
    return count, sizes if sizes.sum() == count else None, estimate

"""How many fine classes: votes for each coarse class, with their spread. An estimate is a proposal, never a choice."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array

from ._inputs import Labels, Rows, check_range, dense, fit_scaling, read_labels, to_array

_SAMPLES = 1000  # of a coarse class that the votes on k-means look at
_WIDTH = 32  # principal components of a coarse class that they look at
_PER_CLUSTER = 10  # samples a cluster must be able to have
_RUNS = 5  # pairs of subsamples of the stability vote
_NEAR_BEST = 0.9  # stability: the largest k within this share of the best
_MARGIN = 0.1  # by which a split must be more stable, or better separated, than one of a single Gaussian
_SMALL = 0.2  # over-clustering: classes of less mass than this share of the average are dropped
_OVERLAP = 0.2  # over-clustering: neighbours' probability of another class, relative to the own, that merges the two
_TOTAL = 20_000  # samples that the over-clustering looks at


@dataclass(frozen=True)
class FineCountEstimate:
    """Estimated numbers of fine classes.

    Attributes:
        per_coarse: int ``[K_C]``, the stability vote of each coarse class; where that is 2, which it also says of one
            elongated cluster, the median vote (the lower one of two).
        total: Their sum.
        low, high: Smallest and largest total of a single voter.
        per_coarse_low, per_coarse_high: int ``[K_C]``, smallest and largest vote.
        votes: int ``[K_C]`` of each voter: "stability", "silhouette", "calinski_harabasz", "merge".
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
            f"{self.total} fine classes (single voters: {self.low} to {self.high})",
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
    device: str = "auto",
) -> FineCountEstimate:
    """Estimate how many fine classes each coarse class has: stability decides, three more votes make the interval.

    Up to 1000 samples of a coarse class, in up to 32 principal components, are split by k-means into k = 2 to ``k_max``
    clusters (no more than one for ten samples):

    * stability: the largest k whose median adjusted Rand index between fits to two random 80 % subsets, on the samples
      they share, reaches 0.9 of the best;
    * silhouette: the k of the largest mean silhouette;
    * calinski_harabasz: the k of the largest ratio of dispersion between to within clusters;
    * merge: FALCON with twice as many classes as stability says; classes of less than 0.2 of the average mass are
      dropped, and two of one coarse class merge where the neighbours of the samples of one have the other with more
      than 0.2 of the probability of their own.

    A k-means vote is 1 where its splits are no better than those of a single Gaussian of the same mean and covariance.

    Args:
        X: ``[N, d]`` as for `FalconClusterer`.
        y_coarse: ``[N]`` coarse labels; -1, None and NaN are left out.
        k_max: Most fine classes of one coarse class.
        random_state: Seed.
        standardize: As for `FalconClusterer`.
        device: Where the over-clustering runs.

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
    votes = {name: np.ones(len(classes), np.int64) for name in ("stability", "silhouette", "calinski_harabasz")}
    for j in range(len(classes)):
        members = np.flatnonzero(y == j)
        members = np.sort(rng.permutation(members)[:_SAMPLES])
        largest = min(k_max, len(members) // _PER_CLUSTER)
        if largest >= 2:
            found = _split_votes(_principal(rows.take(torch.from_numpy(members)).numpy()), largest, rng)
            for name, k in found.items():
                votes[name][j] = k
    stable = votes["stability"]
    votes["merge"] = _merge_votes(X, y, stable, k_max, int(rng.integers(2**31 - 1)), standardize, device)
    table = list(votes.values())
    totals = [int(vote.sum()) for vote in table]
    least, most = np.min(table, axis=0), np.max(table, axis=0)
    chosen = np.where(stable == 2, np.sort(table, axis=0)[1], stable)
    return FineCountEstimate(chosen, int(chosen.sum()), min(totals), max(totals), least, most, votes, classes)


def _principal(x: np.ndarray) -> np.ndarray:
    """The leading principal components ``[n, <= 32]`` in their own scale."""
    x = x - x.mean(0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return (u * s)[:, :_WIDTH]


def _split_votes(x: np.ndarray, largest: int, rng: np.random.Generator) -> dict[str, int]:
    """The votes on k-means with 2 to ``largest`` clusters of ``x``, against those on one Gaussian in its place."""
    null = rng.standard_normal(x.shape) * x.std(0)  # principal components are not correlated
    seed = int(rng.integers(2**31 - 1))
    own, other = _scores(x, largest, seed), _scores(null, largest, seed)
    out = {}
    for name, score in own.items():
        base = other[name]
        if name == "stability":
            best, split = score.max(), (score - base).max() > _MARGIN
            k = int(np.flatnonzero(score >= _NEAR_BEST * best).max()) + 2
        else:
            k = int(score.argmax()) + 2
            margin = base[k - 2] * (1 + _MARGIN) if name == "calinski_harabasz" else base[k - 2] + _MARGIN / 2
            split = score[k - 2] > margin
        out[name] = k if split else 1
    return out


def _scores(x: np.ndarray, largest: int, seed: int) -> dict[str, np.ndarray]:
    """For each k from 2: median stability, silhouette and Calinski-Harabasz index."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score, silhouette_score

    rng = np.random.default_rng(seed)
    scores: dict[str, list[float]] = {"stability": [], "silhouette": [], "calinski_harabasz": []}
    size = int(np.ceil(0.8 * len(x)))
    for k in range(2, largest + 1):
        agreement = []
        for _ in range(_RUNS):
            a, b = (np.sort(rng.permutation(len(x))[:size]) for _ in range(2))
            shared = np.intersect1d(a, b)
            one, two = (
                KMeans(k, n_init=1, random_state=int(rng.integers(2**31 - 1))).fit(x[part]).predict(x[shared])
                for part in (a, b)
            )
            agreement.append(adjusted_rand_score(one, two))
        whole = KMeans(k, n_init=3, random_state=seed).fit_predict(x)
        several = len(np.unique(whole)) > 1
        scores["stability"].append(float(np.median(agreement)))
        scores["silhouette"].append(silhouette_score(x, whole) if several else 0.0)
        scores["calinski_harabasz"].append(calinski_harabasz_score(x, whole) if several else 0.0)
    return {name: np.array(values) for name, values in scores.items()}


def _merge_votes(
    X: Any, y: np.ndarray, guess: np.ndarray, k_max: int, seed: int, standardize: bool, device: str
) -> np.ndarray:
    """Over-cluster by FALCON, drop small classes, merge those that neighbours confuse: int ``[K_C]``."""
    from ._loop import find_neighbours
    from .falcon import FalconClusterer

    pick = np.flatnonzero(y >= 0)
    pick = np.sort(np.random.default_rng(seed).permutation(pick)[:_TOTAL])
    counts = np.bincount(y[pick], minlength=len(guess))
    sizes = np.clip(np.minimum(2 * guess, counts // _PER_CLUSTER), 1, None)
    relations = np.repeat(np.arange(len(guess)), sizes)
    model = FalconClusterer(
        int(sizes.sum()), relations=relations, epochs=30, lr=0.1, standardize=standardize, may_keep_start=False,
        device=device, random_state=seed,
    )  # fmt: skip
    x = dense(X[pick])
    model.fit(x, y[pick])
    p = model.predict_proba(x)
    near = find_neighbours(x, y[pick], 10, model.metric, torch.device("cpu")).numpy()
    return merge_counts(p, near, model.relations_[0], len(guess))


def merge_counts(p: np.ndarray, near: np.ndarray, relations: np.ndarray, num_coarse: int) -> np.ndarray:
    """How many classes are left of each coarse one.

    Args:
        p: ``[N, K]`` probabilities.
        near: int ``[N, k]`` neighbours, -1 for none.
        relations: int ``[K]``.
        num_coarse: K_C.
    """
    count = p.shape[1]
    here = near >= 0
    around = (p[near] * here[:, :, None]).sum(1) / np.maximum(here.sum(1), 1)[:, None]  # [N, K]
    seen = p.T @ around  # [K, K]: classes of samples by classes of their neighbours
    own = np.maximum(np.diag(seen), np.finfo(np.float64).tiny)
    confusion = np.maximum(seen / own[:, None], seen.T / own[None])  # either side's view
    keep = np.flatnonzero(p.mean(0) >= _SMALL / count)
    group = {int(k): int(k) for k in keep}

    def root(k: int) -> int:
        return k if group[k] == k else root(group[k])

    for a in group:
        for b in group:
            if a < b and relations[a] == relations[b] and confusion[a, b] > _OVERLAP:
                group[root(a)] = root(b)
    roots = [relations[k] for k in group if group[k] == k]
    return np.maximum(np.bincount(roots, minlength=num_coarse), 1)


def count_fine(
    who: str, X: Any, labels: Labels, n_fine: int | None, seed: int, device: str
) -> tuple[int, np.ndarray | None, FineCountEstimate | None]:
    """K_F as given, or estimated with a warning; then also sizes of the groups of the most labelled data set."""
    most = max(labels.counts)
    if n_fine is not None:
        if n_fine < most:
            raise ValueError(f"{who}: n_fine must be at least the {most} coarse classes, got {n_fine}")
        return int(n_fine), None, None
    first = labels.first
    estimate = estimate_n_fine(X, labels.codes[:, first], random_state=seed, device=device)
    sizes = np.pad(estimate.per_coarse, (0, labels.counts[first] - len(estimate.per_coarse)), constant_values=1)
    count = max(int(sizes.sum()), most)
    warnings.warn(
        f"{who}: n_fine is None; {count} fine classes were estimated ({estimate.low} to {estimate.high}); "
        "n_fine_estimate_ has the report",
        stacklevel=4,
    )
    return count, sizes if sizes.sum() == count else None, estimate

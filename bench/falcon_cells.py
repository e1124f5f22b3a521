"""What the studies of FALCON share: samples, methods, the judge, and a file of results that grows cell by cell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2f_ops.metrics import evaluate_discovery

Fit = tuple[np.ndarray, np.ndarray | None]  # fine classes of the test samples, relations [D, K_F]


@dataclass(frozen=True)
class Samples:
    """Features ``[N, d]``, coarse labels ``[N]`` or ``[N, D]``, fine labels ``[N]``."""

    x: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray

    def first(self, n: int | None) -> Samples:
        """The first n of a fixed shuffle."""
        if n is None or n >= len(self.x):
            return self
        rows = np.random.default_rng(0).permutation(len(self.x))[:n]
        return Samples(self.x[rows], self.coarse[rows], self.fine[rows])


@dataclass(frozen=True)
class Cell:
    """One result to compute."""

    experiment: str
    setting: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the file."""
        return "/".join((self.experiment, self.setting, self.method, str(self.seed)))


# ---- methods ---------------------------------------------------------------------------------------------------------


def falcon(train: Samples, n_fine: int | None, seed: int, **options: Any) -> Any:
    """A `FalconClusterer` with a linear head, fitted."""
    from c2f_ops.estimators import FalconClusterer

    return FalconClusterer(n_fine, random_state=seed, **options).fit(train.x, train.coarse)


def baseline(name: str, train: Samples, test: np.ndarray, n_fine: int, seed: int) -> Fit:
    """A class of `c2f_ops.estimators.baselines` by name; only the upper bound sees fine labels."""
    from c2f_ops.estimators import baselines

    model = getattr(baselines, name)(n_fine, random_state=seed)
    fine = (train.fine,) if name == "SupervisedUpperBound" else ()
    model.fit(train.x, train.coarse, *fine)
    return model.predict(test), np.atleast_2d(model.relations_)


def plain_kmeans(train: Samples, test: np.ndarray, n_fine: int, seed: int) -> Fit:
    """k-means over everything: no labels at all."""
    from sklearn.cluster import KMeans

    return KMeans(n_fine, n_init=1, random_state=seed).fit(train.x).predict(test), None


BASELINES = ("GroupKMeans", "CoarseTrainingKMeans", "NeighbourClustering", "SupervisedUpperBound")


def fit(method: str, train: Samples, test: np.ndarray, n_fine: int, seed: int, **options: Any) -> Fit:
    """Train ``method`` on coarse labels and name the test samples' classes."""
    if method == "FALCON":
        model = falcon(train, n_fine, seed, **options)
        return model.predict(test), model.relations_
    if method == "KMeans":
        return plain_kmeans(train, test, n_fine, seed)
    return baseline(method, train, test, n_fine, seed)


# ---- judging ---------------------------------------------------------------------------------------------------------


def true_relations(samples: Samples) -> np.ndarray:
    """Coarse class of each fine class, by majority."""
    counts = np.zeros((samples.fine.max() + 1, samples.coarse.max() + 1))
    np.add.at(counts, (samples.fine, samples.coarse), 1)
    return counts.argmax(1)


def judge(test: Samples, result: Fit) -> dict[str, Any]:
    """The metrics of a result against the fine classes and the relations of the test samples."""
    predicted, relations = result
    metrics = evaluate_discovery(
        test.fine, predicted, g_true=true_relations(test), g_pred=None if relations is None else relations[0],
        y_coarse=test.coarse, protocol="heldout",
    )  # fmt: skip
    kept = ("accuracy", "macro_accuracy", "ari", "nmi", "within_group_accuracy", "relation_accuracy", "ged")
    kept += ("group_size_error", "used_clusters")
    values = metrics.to_dict()
    return {name: values[name] for name in kept}


# ---- Gaussians -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussians:
    """Fine classes as unit Gaussians: centres ``[K_F, d]``, coarse class of each ``[K_F]``."""

    centres: np.ndarray
    parents: np.ndarray

    @classmethod
    def of(cls, sizes: Sequence[int], width: int, rng: np.random.Generator) -> Gaussians:
        """Coarse centres of variance 1 in each direction, ``sizes[j]`` fine ones of variance 1/4 about each."""
        parents = np.repeat(np.arange(len(sizes)), sizes)
        coarse = rng.standard_normal((len(sizes), width))
        return cls(coarse[parents] + 0.5 * rng.standard_normal((len(parents), width)), parents)

    def draw(self, counts: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Samples:
        """``counts[k]`` samples of fine class k, in random order."""
        fine = rng.permutation(np.repeat(np.arange(len(self.parents)), counts))
        x = self.centres[fine] + rng.standard_normal((len(fine), self.centres.shape[1]))
        return Samples(x.astype(np.float32), self.parents[fine], fine)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The fine class of the nearest true centre: what no method can be expected to beat."""
        return (x @ self.centres.T - 0.5 * np.square(self.centres).sum(1)).argmax(1)


# ---- running ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    """Results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(todo: Iterable[Cell], path: Path, work: Callable[[Cell], dict[str, Any]]) -> None:
    """Compute what is not in the file, appending each result as it comes."""
    done = {record["key"] for record in read(path)}
    for cell in todo:
        if cell.key in done:
            continue
        start = time.perf_counter()
        record = {"key": cell.key, **vars(cell), **work(cell), "seconds": round(time.perf_counter() - start, 2)}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{cell.key}: accuracy {record['accuracy']:.3f}, ARI {record['ari']:.3f}, {record['seconds']} s", flush=True
        )

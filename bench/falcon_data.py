"""The data of the FALCON studies: samples, what befalls their labels, and samples made for one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from c2f_ops.data.cifar_variants import FULL_CLASS
from c2f_ops.data.cifar_variants import _table as cifar_table


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


def true_relations(samples: Samples) -> np.ndarray:
    """Coarse class of each fine class, by majority."""
    counts = np.zeros((samples.fine.max() + 1, samples.coarse.max() + 1))
    np.add.at(counts, (samples.fine, samples.coarse), 1)
    return counts.argmax(1)


# ---- what befalls labels ---------------------------------------------------------------------------------------------


def with_noise(samples: Samples, rate: float, rng: np.random.Generator) -> Samples:
    """Symmetric noise: a share ``rate`` of the coarse labels becomes another class, uniformly."""
    count = samples.coarse.max() + 1
    flipped = rng.random(len(samples.coarse)) < rate
    other = (samples.coarse + rng.integers(1, count, len(samples.coarse))) % count
    return replace(samples, coarse=np.where(flipped, other, samples.coarse))


def with_pair_noise(samples: Samples, rate: float, rng: np.random.Generator) -> Samples:
    """Noise within pairs: a share ``rate`` of the labels of coarse classes 2 j and 2 j + 1 becomes the other one."""
    flipped = rng.random(len(samples.coarse)) < rate
    return replace(samples, coarse=np.where(flipped, samples.coarse ^ 1, samples.coarse))


def with_taxonomies(samples: Samples, which: str) -> Samples:
    """Even samples labelled by the first taxonomy, odd ones by a second that cuts across it; or one half alone.

    The second groups fine classes by rank inside their first group: class r of group j belongs to group (j + 4 r) mod
    K_C of the second, so that with 10 or 20 groups of 5 two fine classes of one group never share a second group.
    """
    first = true_relations(samples)
    rank = np.array([np.flatnonzero(np.flatnonzero(first == j) == k)[0] for k, j in enumerate(first)])
    second = (first + 4 * rank) % (first.max() + 1)
    even = np.arange(len(samples.x)) % 2 == 0
    labels = np.stack([np.where(even, first[samples.fine], -1), np.where(even, -1, second[samples.fine])], 1)
    if which == "both":
        return replace(samples, coarse=labels)
    rows, column = (even, 0) if which == "first taxonomy" else (~even, 1)
    return Samples(samples.x[rows], labels[rows, column], samples.fine[rows])


def with_two_parents(samples: Samples, count: int, rng: np.random.Generator, share: float = 0.5) -> Samples:
    """A ``share`` of the samples of ``count`` fine classes gets the label of another coarse class."""
    first = true_relations(samples)
    coarse = samples.coarse.copy()
    for k in rng.permutation(len(first))[:count]:
        rows = np.flatnonzero(samples.fine == k)
        coarse[rows[rng.random(len(rows)) < share]] = (first[k] + 1 + rng.integers(first.max())) % (first.max() + 1)
    return replace(samples, coarse=coarse)


def variant(samples: Samples, name: str) -> Samples:
    """CIFAR-68 or CIFAR-SI: rows of CIFAR-100 whose fine classes are numbered by name; see `c2f_ops.data`.

    CIFAR-SI keeps the first images of a class in the order of the rows.
    """
    table = cifar_table()
    if name == "CIFAR-68":
        kept = np.array([row["in_cifar68"] == "1" for row in table])[samples.fine]
    else:
        images = np.array([int(row["si_images"]) for row in table])
        order = np.argsort(samples.fine, kind="stable")
        counts = np.bincount(samples.fine, minlength=len(table))
        place = np.empty(len(order), np.int64)  # of a sample among those of its class
        place[order] = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
        kept = place < (counts * images // FULL_CLASS)[samples.fine]
    fine, coarse = (np.unique(labels[kept], return_inverse=True)[1] for labels in (samples.fine, samples.coarse))
    return Samples(samples.x[kept], coarse, fine)


# ---- samples that need no file ---------------------------------------------------------------------------------------


def digits() -> tuple[Samples, Samples]:
    """scikit-learn's digits under coarse classes {0, 6, 8, 9}, {1, 4, 7} and {2, 3, 5}: 1,197 and 600 samples."""
    from sklearn.datasets import load_digits

    x, fine = load_digits(return_X_y=True)
    coarse = np.array([0, 1, 2, 2, 1, 2, 0, 1, 0, 0])[fine]
    order = np.random.default_rng(0).permutation(len(x))
    parts = (order[600:], order[:600])
    train, test = (Samples(x[rows].astype(np.float32), coarse[rows], fine[rows]) for rows in parts)
    return train, test


@dataclass(frozen=True)
class Gaussians:
    """Fine classes as Gaussians of one covariance.

    Attributes:
        centres: ``[K_F, d]``.
        parents: ``[K_F]``, coarse class of each.
        nuisance: ``[q, d]``; a sample is its centre, a unit Gaussian, and these directions by a unit Gaussian each.
    """

    centres: np.ndarray
    parents: np.ndarray
    nuisance: np.ndarray

    @classmethod
    def of(cls, sizes: Sequence[int], width: int, rng: np.random.Generator, nuisance: int = 0) -> Gaussians:
        """Coarse centres of variance 1 in each direction, ``sizes[j]`` fine ones of variance 1/4 about each.

        The ``nuisance`` directions have standard deviation 3 and say nothing about classes.
        """
        parents = np.repeat(np.arange(len(sizes)), sizes)
        coarse = rng.standard_normal((len(sizes), width))
        centres = coarse[parents] + 0.5 * rng.standard_normal((len(parents), width))
        directions = np.linalg.qr(rng.standard_normal((width, nuisance)))[0].T
        return cls(centres, parents, 3 * directions)

    def draw(self, counts: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Samples:
        """``counts[k]`` samples of fine class k, in random order."""
        fine = rng.permutation(np.repeat(np.arange(len(self.parents)), counts))
        x = self.centres[fine] + rng.standard_normal((len(fine), self.centres.shape[1]))
        x += rng.standard_normal((len(fine), len(self.nuisance))) @ self.nuisance
        return Samples(x.astype(np.float32), self.parents[fine], fine)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The fine class of the nearest true centre, by Mahalanobis distance: the best there is for equal classes."""
        scale = np.linalg.inv(np.eye(x.shape[1]) + self.nuisance.T @ self.nuisance)
        centres = self.centres @ scale
        norms = 0.5 * (self.centres * centres).sum(1)
        return np.concatenate([(part @ centres.T - norms).argmax(1) for part in np.array_split(x, 1 + len(x) // 4096)])


def spectra(sizes: Sequence[int], count: int, rng: np.random.Generator) -> tuple[Samples, Samples]:
    """Spectra of 128 bins, ``count`` for training and ``count`` for test of each fine class; no Gaussian anywhere.

    A fine class is four spectral lines of its coarse class and three of its own. A sample has each about a bin from its
    place, at a gain of its own, over a floor of noise; its features are log(1 + power).
    """
    parents = np.repeat(np.arange(len(sizes)), sizes)
    lines = np.concatenate(
        [rng.uniform(0, 128, (len(sizes), 4))[parents], rng.uniform(0, 128, (len(parents), 3))], axis=1
    )

    def draw() -> Samples:
        fine = rng.permutation(np.repeat(np.arange(len(parents)), count))
        place = lines[fine] + rng.standard_normal((len(fine), 7))
        gain = np.exp(0.5 * rng.standard_normal(place.shape))
        power = (gain[:, :, None] * np.exp(-0.5 * np.square(np.arange(128) - place[:, :, None]))).sum(1)
        power += 0.2 * rng.exponential(size=power.shape)
        return Samples(np.log1p(power).astype(np.float32), parents[fine], fine)

    return draw(), draw()

"""Ward's merging, the choice of sizes, and the start made of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from c2f_ops.models.falcon_init import kmeans_start, proportional
from c2f_ops.models.fine_sizes import allocate, fine_start, ward

pytest.importorskip("sklearn")


def inertia_of(x, labels):
    return sum(np.square(x[labels == k] - x[labels == k].mean(0)).sum() for k in np.unique(labels))


def test_ward_is_that_of_scikit_learn():
    from sklearn.cluster import AgglomerativeClustering

    x = np.random.default_rng(0).normal(size=(30, 3))
    merging = ward(x, np.ones(30), 0.0)
    for k in (1, 2, 5, 12, 30):
        labels = AgglomerativeClustering(k).fit_predict(x)
        assert merging.inertia[k - 1] == pytest.approx(inertia_of(x, labels), abs=1e-9)
        expected = np.stack([x[labels == i].mean(0) for i in range(k)])
        assert np.allclose(np.sort(merging.centroids(k), 0), np.sort(expected, 0))


def test_weights_of_pieces_count_as_samples():
    x, times = np.random.default_rng(1).normal(size=(8, 2)), np.arange(1, 9)
    pieces, samples = ward(x, times, 0.0), ward(x.repeat(times, 0), np.ones(36), 0.0)
    assert np.allclose(pieces.inertia, samples.inertia[:8])
    assert np.allclose(np.sort(pieces.centroids(3), 0), np.sort(samples.centroids(3), 0))


def test_sizes_are_the_best_there_are():
    rng = np.random.default_rng(2)
    curves = [np.sort(rng.random(n))[::-1] for n in (4, 2, 5)]
    for total in (3, 6, 11):
        sizes = allocate(curves, total)
        every = [s for s in product(range(1, 5), range(1, 3), range(1, 6)) if sum(s) == total]
        cost = [sum(c[k - 1] for c, k in zip(curves, s, strict=True)) for s in every]
        assert tuple(sizes) == every[int(np.argmin(cost))]


def clusters(counts, parents, seed=0, width=8, spread=3.0):
    rng = np.random.default_rng(seed)
    fine = np.repeat(np.arange(len(counts)), counts)
    x = spread * rng.normal(size=(len(counts), width))[fine] + rng.normal(size=(len(fine), width))
    return x.astype(np.float32), np.asarray(parents)[fine], fine


def test_sizes_follow_clear_clusters_not_samples():
    counts, parents = [200, 10, 10, 10, 60, 60], [0, 1, 1, 1, 2, 2]
    x, y, _ = clusters(counts, parents)
    samples = np.bincount(y)
    usual = proportional(6, samples)
    assert usual.tolist() != [1, 3, 2]
    assert np.bincount(fine_start(x, y, samples, usual, free=True).relations).tolist() == [1, 3, 2]
    assert np.bincount(fine_start(x, y, samples, usual).relations).tolist() == usual.tolist()


def test_sizes_stay_where_there_are_no_clusters():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(400, 8)).astype(np.float32), np.repeat([0, 1], [300, 100])
    start = fine_start(x, y, np.array([300, 100]), np.array([6, 2]), free=True)
    assert np.bincount(start.relations).tolist() == [6, 2]


def test_a_part_of_a_class_stands_for_all_of_it():
    """Three clusters each and four centres: the class with more samples is cut right, whatever was drawn of it."""
    x, y, _ = clusters([50] * 6, [0, 0, 0, 1, 1, 1])
    for samples, sizes in ((150, 15), [3, 1]), ((150, 150_000), [1, 3]):
        start = fine_start(x, y, np.array(samples), np.array([2, 2]), free=True)
        assert np.bincount(start.relations).tolist() == sizes


def test_first_centres_that_are_better_are_taken():
    x, y, fine = clusters([30] * 24, [0] * 24, spread=4.0, width=4)
    best = np.stack([x[fine == k].mean(0) for k in range(24)])

    def inertia(start):
        return np.square(x[:, None] - start.centroids).sum(2).min(1).sum()

    plain, helped = (kmeans_start(x, y, np.array([24]), first=first) for first in (None, [best]))
    assert inertia(helped) < inertia(plain)
    assert inertia(fine_start(x, y, np.array([720]), np.array([24]))) <= inertia(plain)


def test_classes_without_or_with_few_samples():
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    start = fine_start(x, np.array([0, 0, 0, 0, 2]), np.array([4, 0, 1]), np.array([2, 1, 3]), free=True)
    assert start.relations.tolist() == [0, 0, 1, 2, 2, 2]
    few = fine_start(x, np.array([0, 0, 0, 0, 1]), np.array([4, 1]), np.array([3, 3]), free=True)
    assert len(few.centroids) == 6 and np.isfinite(few.centroids).all()

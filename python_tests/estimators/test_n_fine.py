"""The estimate of the number of fine classes."""

from __future__ import annotations

import numpy as np
import pytest

from c2f_ops.estimators import FalconClusterer, FineCountEstimate, estimate_n_fine
from c2f_ops.estimators.n_fine import merge_counts


@pytest.fixture(scope="module")
def uneven(gaussians):
    """Coarse classes of 4, 2 and 1 fine classes."""
    return gaussians(3, fine=7, n=700, parents=[0, 0, 0, 0, 1, 1, 2])


@pytest.fixture(scope="module")
def estimate(uneven):
    return estimate_n_fine(uneven.x, np.array(["a", "b", "c"])[uneven.y], k_max=5, random_state=0)


def test_gaussians_are_counted(estimate):
    assert estimate.per_coarse.tolist() == [4, 2, 1]
    assert estimate.total == 7
    assert estimate.low <= 7 <= estimate.high <= 10
    assert set(estimate.votes) == {"stability", "silhouette", "calinski_harabasz", "merge"}


def test_the_report_names_every_class_and_voter(estimate):
    report = str(estimate)
    assert report.startswith("7 fine classes (single voters: ")
    assert [line.split()[:2] for line in report.splitlines()[2:]] == [["a", "4"], ["b", "2"], ["c", "1"]]
    assert all(voter in report for voter in estimate.votes)
    again = FineCountEstimate.from_dict(estimate.to_dict())
    assert str(again) == report


def test_small_classes_are_not_split(gaussians):
    data = gaussians(0, n=36)  # nine samples in a coarse class
    assert estimate_n_fine(data.x, data.y, random_state=0).per_coarse.tolist() == [1, 1, 1, 1]


def test_it_repeats_itself_and_leaves_unlabelled_samples_out(uneven):
    y = np.where(np.arange(len(uneven.y)) % 7 == 6, -1, uneven.y)
    a, b = (estimate_n_fine(uneven.x, y, k_max=3, random_state=1) for _ in range(2))
    assert a.to_dict() == b.to_dict()
    assert a.classes.tolist() == [0, 1]


def test_clusterer_warns_of_what_it_chose(uneven):
    model = FalconClusterer(epochs=3, random_state=0)
    with pytest.warns(UserWarning, match=r"n_fine is None; \d+ fine classes were estimated"):
        model.fit(uneven.x, uneven.y)
    assert model.n_fine_ == model.n_fine_estimate_.total
    assert np.bincount(model.relations_[0]).sum() == model.n_fine_


def test_merging():
    """Classes 0 and 1 share their neighbours, 2 does not; 3 is empty; 4 shares with 0 but has another parent."""
    p = np.repeat(np.eye(5, dtype=np.float32)[[0, 1, 2, 4]], 10, 0)
    blocks = [np.arange(10), np.arange(10, 20), np.arange(20, 30), np.arange(30, 40)]
    mixed = np.concatenate(blocks[:2])
    near = np.stack([mixed] * 20 + [np.r_[blocks[2], np.full(10, -1)]] * 10 + [np.r_[blocks[3], blocks[0]]] * 10)
    assert merge_counts(p, near, np.array([0, 0, 0, 0, 1]), 2).tolist() == [2, 1]


@pytest.mark.parametrize("k_max", [0, 2.5])
def test_errors(k_max):
    with pytest.raises(ValueError, match="k_max must be an integer of at least 1"):
        estimate_n_fine(np.zeros((4, 2)), [0, 0, 1, 1], k_max)

"""Data of the estimator tests: Gaussians with a known hierarchy, and scikit-learn's digits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest


class Samples(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    fine: np.ndarray
    parents: np.ndarray


def draw(seed=0, *, fine=12, coarse=4, d=16, n=1200, spread=2.0, noise=0.7, parents=None):
    rng = np.random.default_rng(seed)
    centres = spread * rng.standard_normal((fine, d))
    labels = np.arange(n) % fine
    x = centres[labels] + noise * rng.standard_normal((n, d))
    parents = np.arange(fine) % coarse if parents is None else np.asarray(parents)
    return Samples(x.astype(np.float32), parents[labels], labels, parents)


@pytest.fixture(scope="session")
def gaussians():
    """A function (seed, fine=, coarse=, d=, n=, spread=, noise=, parents=) -> x, y, fine, parents."""
    return draw


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits

    x, fine = load_digits(return_X_y=True)
    parents = np.array([0, 1, 2, 2, 1, 2, 0, 1, 0, 0])
    return Samples(x.astype(np.float32), parents[fine], fine, parents)

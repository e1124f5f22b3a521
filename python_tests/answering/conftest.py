"""Random trees, and heads that know the truth to some degree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from c2f_ops.hierarchy import Hierarchy


def make_tree(rng: np.random.Generator, depth: int) -> Hierarchy:
    names, parents, above = [], [], 0
    for k in range(depth):
        n = above + int(rng.integers(1, 4))
        links = np.concatenate([np.arange(above), rng.integers(0, max(above, 1), n - above)])
        rng.shuffle(links)
        names.append([f"{k}.{i}" for i in range(n)])
        parents.append(links if k else None)
        above = n
    return Hierarchy([f"l{k}" for k in range(depth)], names, parents)


def make_logits(rng: np.random.Generator, tree: Hierarchy, labels: torch.Tensor, strength: float) -> list[torch.Tensor]:
    """Logits of independent heads: noise, and ``strength`` at the true class."""
    logits = []
    for k, n in enumerate(tree.sizes):
        z = torch.from_numpy(rng.normal(size=(len(labels), n)))
        z[torch.arange(len(labels)), labels[:, k]] += strength
        logits.append(z)
    return logits


@pytest.fixture(scope="session")
def random_tree():
    return make_tree


@pytest.fixture(scope="session")
def noisy_logits():
    return make_logits


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def small() -> Hierarchy:
    """Two families: A with the species 1, 2, 3, and B with 4."""
    return Hierarchy.from_paths(["A/1", "A/2", "A/3", "B/4"], ["family", "species"])

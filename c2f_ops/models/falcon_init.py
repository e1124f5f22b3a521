"""A start for FALCON from features: k-means inside each coarse class gives relations and classifier."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class FineStart(NamedTuple):
    """centroids float32 ``[K_F, d]`` and relations int32 ``[K_F]``."""

    centroids: np.ndarray
    relations: np.ndarray


def spread(num_fine: int, num_coarse: int) -> np.ndarray:
    """int64 ``[K_C]``: the sizes of groups as equal as can be, the larger ones first."""
    sizes = np.full(num_coarse, num_fine // num_coarse)
    sizes[: num_fine % num_coarse] += 1
    return sizes


def proportional(num_fine: int, samples: np.ndarray) -> np.ndarray:
    """int64 ``[K_C]``: sizes in proportion to ``samples`` ``[K_C]``, each at least 1 (Sainte-Lague's method)."""
    sizes = np.ones(len(samples), dtype=np.int64)
    for _ in range(num_fine - len(samples)):
        sizes[(samples / (2 * sizes + 1)).argmax()] += 1
    return sizes


def kmeans_start(
    x: np.ndarray, y: np.ndarray, sizes: np.ndarray, *, seed: int = 0, first: list[np.ndarray] | None = None
) -> FineStart:
    """k-means with ``sizes[j]`` centres among the samples of coarse class j.

    Args:
        x: float ``[N, d]`` features.
        y: int ``[N]`` coarse labels, -1 for none (left out).
        sizes: int ``[K_C]``, fine classes of each coarse class, each at least 1.
        seed: Seed of the initial centres.
        first: Centres ``[sizes[j], d]`` of each class to start from besides; the result of least inertia counts.

    Returns:
        Centroids grouped by coarse class in order. A class with fewer samples than centres repeats its samples; one
        without samples takes the mean of all.
    """
    from sklearn.cluster import KMeans

    centroids = []
    for j, size in enumerate(sizes.tolist()):
        members = x[y == j]
        if len(members) > size:
            models = [KMeans(size, n_init=3, random_state=seed + j).fit(members)]
            if first is not None and len(first[j]) == size:
                models.append(KMeans(size, init=first[j], n_init=1).fit(members))
            centroids.append(min(models, key=lambda model: model.inertia_).cluster_centers_)
        else:
            members = members if len(members) else x.mean(0, keepdims=True)
            centroids.append(members[np.arange(size) % len(members)])
    relations = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return FineStart(np.concatenate(centroids).astype(np.float32), relations)


def sharpness_of(
    x: np.ndarray, y: np.ndarray, centroids: np.ndarray, relations: np.ndarray, confidence: float
) -> float:
    """The scale of squared distances that makes ``confidence`` the mean largest probability inside the group."""
    pick = np.random.default_rng(0).permutation(len(x))[:2000]
    widest = int(np.bincount(relations).max())
    if widest == 1:
        return 1.0
    table = np.full((len(pick), widest), np.inf)
    for row, i in enumerate(pick):
        distance = np.square(centroids[relations == y[i]] - x[i]).sum(1) / 2
        table[row, : len(distance)] = distance - distance.min()
    low, high = -20.0, 20.0  # powers of two
    for _ in range(30):
        middle = (low + high) / 2
        reached = (1 / np.exp(-(2.0**middle) * table).sum(1)).mean() >= confidence
        low, high = (low, middle) if reached else (middle, high)
    return 2.0**high


@torch.no_grad()
def set_classifier(head: nn.Linear, centroids: np.ndarray, *, sharpness: float = 1.0) -> None:
    """Make ``head`` score by distance to centroids ``[K_F, d]``: the softmax of ``-sharpness |x - c|^2 / 2``."""
    if tuple(centroids.shape) != tuple(head.weight.shape):
        raise ValueError(
            f"set_classifier: centroids must have shape {list(head.weight.shape)}, got {list(centroids.shape)}"
        )
    c = torch.from_numpy(centroids).to(head.weight)
    head.weight.copy_(sharpness * c)
    if head.bias is not None:
        head.bias.copy_(-0.5 * sharpness * c.square().sum(1))

"""Paired tests of two classifiers on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._hierarchy_checks import some


@dataclass(frozen=True)
class McNemar:
    """Images that only one of two classifiers has right, and the probability of so uneven a split by chance."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class Interval:
    """Difference of two accuracies, its 95 % interval, and a two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def mcnemar(a: Tensor, b: Tensor) -> McNemar:
    """McNemar's test, exact: of the images that the two see differently, is each as likely to win?

    Args:
        a: bool ``[N]``, whether one classifier has an image right.
        b: likewise of the other.

    Returns:
        Counts and the two-sided binomial p; 1 where they agree on every image.

    Raises:
        ValueError: other shapes or types.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    _check("mcnemar", a, b, 1)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    log_half = n * math.log(0.5)
    tail = sum(math.exp(_log_choose(n, i) + log_half) for i in range(k + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail))


def paired_bootstrap(a: Tensor, b: Tensor, *, rounds: int = 10_000, seed: int = 0) -> Interval:
    """Bootstrap of the mean difference of correctness over seeds and images, both drawn with replacement.

    A round draws seeds, and one set of images for all of them, since all runs were measured on the same images.

    Args:
        a: bool ``[S, N]``: run ``s`` of one classifier has image ``n`` right.
        b: likewise of the other; rows are paired.
        rounds: how often to draw.
        seed: of the draws.

    Returns:
        Mean difference, quantiles 2.5 % and 97.5 % of the draws, and twice the smaller share of draws on one side of 0,
        at least ``2 / (rounds + 1)``.

    Raises:
        ValueError: other shapes or types, or no round.

    Source: Owen, The pigeonhole bootstrap, 2007 (rows and columns drawn apart); Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapter 13 (quantiles as interval).
    """
    _check("paired_bootstrap", a, b, 2)
    if rounds < 1:
        raise ValueError(f"paired_bootstrap: rounds must be at least 1, got {rounds}")
    generator = torch.Generator().manual_seed(seed)
    difference = a.double() - b.double()
    runs, images = difference.shape
    draws = torch.empty(rounds, dtype=torch.float64)
    for i in range(rounds):
        of_runs = torch.randint(runs, (runs,), generator=generator).bincount(minlength=runs).double()
        of_images = torch.randint(images, (images,), generator=generator).bincount(minlength=images).double()
        draws[i] = of_runs @ difference @ of_images / (runs * images)
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    one_side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Interval(float(difference.mean()), low, high, min(1.0, 2 * (one_side + 1) / (rounds + 1)))


def holm(p: list[float]) -> list[float]:
    """Return p values adjusted for being several.

    Reject those below a, and the chance of any false rejection is at most a.

    Args:
        p: of each test, between 0 and 1.

    Returns:
        As many, in the same order.

    Raises:
        ValueError: not between 0 and 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    if wrong := [value for value in p if not 0 <= value <= 1]:
        raise ValueError(f"holm: p must be between 0 and 1, got {some(wrong, 'values')}")
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check(op: str, a: Tensor, b: Tensor, rank: int) -> None:
    for name, value in (("a", a), ("b", b)):
        if value.dtype != torch.bool or value.ndim != rank or not value.numel():
            raise ValueError(f"{op}: {name} must be bool with {rank} dimensions, got {value.dtype} {[*value.shape]}")
    if a.shape != b.shape:
        raise ValueError(f"{op}: b must have the shape of a, {[*a.shape]}, got {[*b.shape]}")

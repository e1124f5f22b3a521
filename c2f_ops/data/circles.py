"""Generated vectors for contrastive learning: circles of almost equal radii, and classes that hide in few features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

ANGLES = ("fixed", "phase", "iid")

Angles = Literal["fixed", "phase", "iid"]


def circles_toy(
    n_per_class: int,
    radii: Sequence[float] = (1.0, 1.05, 1.10, 1.15),
    *,
    sigma: float = 0.05,
    points: int = 100,
    angles: Angles = "fixed",
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Generate noisy circles; the class is the radius.

    ``x = (r cos t_0, r sin t_0, r cos t_1, ...) + N(0, sigma^2)`` per coordinate. The mean distance of the points from
    the centre tells the radius to about ``sigma / sqrt(points)``, by default a tenth of the gap between classes: the
    best possible accuracy is close to 1. Draw train and test with different seeds.

    Args:
        n_per_class: circles of each class.
        radii: one for each class.
        sigma: standard deviation of the noise.
        points: points on a circle.
        angles: ``"fixed"``: ``t_k = 2 pi k / points``; ``"phase"``: the same, turned by one uniform angle for each
            circle; ``"iid"``: each angle uniform by itself.
        seed: of everything drawn.

    Returns:
        X, float32 ``[N, 2 points]``, and y, int64 ``[N]``; the classes take turns, 0, 1, 2, 3, 0, ...

    Raises:
        ValueError: an argument does not fit; the message names it.

    Source:
        "Fine-Grained Classification via Class-Attentive Contrastive Representation Learning", section 4.1: four classes
        of circles, 200 coordinates. Radii, noise and angles are not in the paper, these are ours.
    """
    name = "circles_toy"
    for argument, count in (("n_per_class", n_per_class), ("points", points)):
        _positive_int(name, argument, count)
    if not len(radii) or not all(0 < r < np.inf for r in radii):
        raise ValueError(f"{name}: radii must hold positive numbers, got {tuple(radii)}")
    if not 0 <= sigma < np.inf:
        raise ValueError(f"{name}: sigma must be at least 0, got {sigma!r}")
    if angles not in ANGLES:
        raise ValueError(f"{name}: angles must be one of {ANGLES}, got {angles!r}")
    rng = np.random.default_rng(seed)
    y = np.arange(n_per_class * len(radii)) % len(radii)
    turn = np.zeros((len(y), 1))
    if angles == "phase":
        turn = rng.uniform(0, 2 * np.pi, (len(y), 1))
    elif angles == "iid":
        turn = rng.uniform(0, 2 * np.pi, (len(y), points))
    t = turn + 2 * np.pi * np.arange(points) / points  # a uniform angle stays uniform
    circles = np.asarray(radii)[y][:, None, None] * np.stack([np.cos(t), np.sin(t)], axis=-1)  # [N, points, 2]
    x = circles.reshape(len(y), 2 * points) + sigma * rng.standard_normal((len(y), 2 * points))
    return x.astype(np.float32), y.astype(np.int64)


class PlantedFeatures(NamedTuple):
    """Values of :func:`planted_features`."""

    X: NDArray[np.float32]  # [N, num_features]
    y: NDArray[np.int64]  # [N]
    subsets: NDArray[np.int64]  # [C, m], ascending: the features of each class
    patterns: NDArray[np.float64]  # [C, m], +1 or -1: what the class shows there


def planted_features(
    n_per_class: int,
    *,
    num_classes: int = 20,
    num_features: int = 256,
    m: int = 4,
    nuisance: float = 1.0,
    factors: int = 8,
    noise: float = 0.1,
    seed: int = 0,
    plant_seed: int = 0,
) -> PlantedFeatures:
    """Generate classes each of which is recognised by a few features of its own, among heavy nuisance.

    On the m features of its class a sample shows the pattern of the class, +1 or -1, plus ``N(0, noise^2)``. Every
    other feature, those of other classes among them, is nuisance with one law for all classes: ``N(0, nuisance^2)``,
    half of its variance from ``factors`` directions common to all features. Two class means differ in 2 m
    numbers of size 1, while ``(num_features - m) nuisance^2`` of squared norm has nothing to do with the class.

    Args:
        n_per_class: samples of each class.
        num_classes: C.
        num_features: length of a sample.
        m: features of each class. No two classes share one where ``C m <= num_features``; beyond, subsets are drawn
            independently.
        nuisance: standard deviation of a nuisance feature.
        factors: common directions; 0 for independent features.
        noise: standard deviation on the features of the class.
        seed: of the samples.
        plant_seed: of subsets, patterns and directions: the same for train and test.

    Returns:
        X, y (the classes take turns), subsets, patterns.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    name = "planted_features"
    sizes = {"n_per_class": n_per_class, "num_classes": num_classes, "num_features": num_features, "m": m}
    for argument, count in sizes.items():
        _positive_int(name, argument, count)
    if m > num_features:
        raise ValueError(f"{name}: m must be at most num_features = {num_features}, got {m}")
    if not isinstance(factors, int) or factors < 0:
        raise ValueError(f"{name}: factors must be an int of at least 0, got {factors!r}")
    for argument, value in (("nuisance", nuisance), ("noise", noise)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}: {argument} must be at least 0, got {value!r}")
    plant = np.random.default_rng(plant_seed)
    if num_classes * m <= num_features:
        subsets = plant.permutation(num_features)[: num_classes * m].reshape(num_classes, m)
    else:
        subsets = np.stack([plant.choice(num_features, m, replace=False) for _ in range(num_classes)])
    subsets = np.sort(subsets, axis=1)
    patterns = plant.choice([-1.0, 1.0], (num_classes, m))

    rng = np.random.default_rng(seed)
    y = np.arange(n_per_class * num_classes) % num_classes
    x = rng.standard_normal((len(y), num_features))
    if factors:
        directions = plant.standard_normal((factors, num_features))
        directions /= np.linalg.norm(directions, axis=0)
        x = (x + rng.standard_normal((len(y), factors)) @ directions) / np.sqrt(2)
    x *= nuisance
    x[np.arange(len(y))[:, None], subsets[y]] = patterns[y] + noise * rng.standard_normal((len(y), m))
    return PlantedFeatures(x.astype(np.float32), y.astype(np.int64), subsets.astype(np.int64), patterns)


def _positive_int(name: str, argument: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: {argument} must be a positive int, got {value!r}")

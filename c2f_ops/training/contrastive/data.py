"""Samples to train on and others to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.circles import circles_toy, planted_features
from ...data.embeddings import Embeddings, load_embeddings
from .config import ContrastiveConfig

_FOLDS = 5


@dataclass(frozen=True)
class Problem:
    """Training and test samples of C classes.

    Attributes:
        x, y: ``[N, d]`` float32, ``[N]`` int64.
        x_test, y_test: as they; nothing is chosen on them.
        names: names of the classes.
        planted: int64 ``[C, m]``, the features that tell each class, where they are known.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    names: tuple[str, ...]
    planted: np.ndarray | None = None


def load_problem(config: ContrastiveConfig, seed: int) -> Problem:
    """The data of one seed."""
    if config.data == "circles":
        radii = [1 + c * config.radius_step for c in range(4)]
        (x, y), (x_test, y_test) = (
            circles_toy(
                config.n_per_class, radii, sigma=config.sigma, angles=config.angles, seed=2 * seed + part  # type: ignore[arg-type]
            )
            for part in (0, 1)
        )  # fmt: skip
        return Problem(x, y, x_test, y_test, _numbers(y))
    if config.data == "planted":
        train, test = (
            planted_features(config.n_per_class, nuisance=config.nuisance, seed=2 * seed + part, plant_seed=seed)
            for part in (0, 1)
        )
        return Problem(train.X, train.y, test.X, test.y, _numbers(train.y), train.subsets)
    if config.data == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return _fold(x.astype(np.float32), y.astype(np.int64), _numbers(y), seed)
    loaded = load_embeddings(config.data)
    (x, y), names = _labelled(loaded), _names(loaded)
    if config.test is None:
        return _fold(x, y, names, seed)
    other = load_embeddings(config.test)
    if _names(other) != names:
        raise ValueError(f"contrastive: test must have the classes of data, got others in {config.test}")
    return Problem(x, y, *_labelled(other), names)


def _labelled(data: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    """Samples with a class: the fine one where the file has fine classes."""
    y: Any = data.fine if data.fine is not None else data.coarse
    if y is None or y.ndim != 1:
        raise ValueError(f"contrastive: data must have one class for each sample, fine or coarse, got {data.source}")
    x = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    return x[y >= 0].astype(np.float32), y[y >= 0].astype(np.int64)


def _names(data: Embeddings) -> tuple[str, ...]:
    return data.fine_names if data.fine is not None else data.coarse_names[0]


def _numbers(y: np.ndarray) -> tuple[str, ...]:
    return tuple(str(c) for c in range(int(y.max()) + 1))


def _fold(x: np.ndarray, y: np.ndarray, names: tuple[str, ...], seed: int) -> Problem:
    """Fold ``seed mod 5`` of a stratified split; another split for every five seeds."""
    rng = np.random.default_rng(seed // _FOLDS)
    fold = np.empty(len(y), np.int64)
    for c in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == c))
        fold[members] = np.arange(len(members)) % _FOLDS
    held = fold == seed % _FOLDS
    return Problem(x[~held], y[~held], x[held], y[held], names)

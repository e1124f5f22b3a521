"""Samples to train on and others to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data import LabeledImages, load_dataset
from ...data.circles import circles_toy, planted_features
from ...data.csv_index import csv_splits
from ...data.embeddings import Embeddings, load_embeddings
from .config import METHODS, ContrastiveConfig

_FOLDS = 5


@dataclass(frozen=True)
class Problem:
    """Training and test samples of C classes.

    Attributes:
        x, y: ``[N, d]`` float32, or images ``[N, 3, S, S]`` uint8; ``[N]`` int64.
        x_test, y_test: as they; nothing is chosen on them.
        names: names of the classes.
        planted: int64 ``[C, m]``, the features that tell each class, where they are known.
        coarse: int64 ``[N]``, of training samples the class of the level above, -1 unknown; None without such a level.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    names: tuple[str, ...]
    planted: np.ndarray | None = None
    coarse: np.ndarray | None = None

    @property
    def levels(self) -> np.ndarray:
        """Training labels int64 ``[N, 2]``, coarse and fine.

        Raises:
            ValueError: There are no coarse ones.
        """
        if self.coarse is None:
            raise ValueError("contrastive: data must have coarse classes above the fine ones for attentive-hard")
        return np.stack([self.coarse, self.y], 1)


def load_problem(config: ContrastiveConfig, seed: int) -> Problem:
    """The data of one seed.

    Raises:
        ValueError: A setting does not suit the data, or a method of the config needs coarse classes and none are known.
    """
    problem = _load(config, seed)
    if any((METHODS[name] or {}).get("hard_coarse_weight") for name in config.methods):
        problem.levels  # noqa: B018 - now, not after the methods before it
    return problem


def _load(config: ContrastiveConfig, seed: int) -> Problem:
    if config.images:
        return _load_images(config, seed)
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
    (x, y, coarse), names = _labelled(loaded), _names(loaded)
    if config.test is None:
        return _fold(x, y, names, seed, coarse)
    other = load_embeddings(config.test)
    if _names(other) != names:
        raise ValueError(f"contrastive: test must have the classes of data, got others in {config.test}")
    x_test, y_test, _ = _labelled(other)
    return Problem(x, y, x_test, y_test, names, coarse=coarse)


def _load_images(config: ContrastiveConfig, seed: int) -> Problem:
    """Both splits, or a fold; classes without a training image are left out."""
    held = _has_no_test(config)
    if held and config.test_images is not None:
        raise ValueError(f"contrastive: test_images must be None where a fold is held out, got {config.test_images}")
    train = _images(config, "train", config.train_images, seed)
    labels = train.labels.numpy()
    kinds, y = np.unique(labels[:, -1], return_inverse=True)
    if len(kinds) < 2:
        raise ValueError(f"contrastive: data must have training images of at least 2 classes, got {len(kinds)}")
    names = tuple(train.hierarchy.names[-1][c] for c in kinds)
    coarse = labels[:, -2] if labels.shape[1] > 1 else None
    if held:
        return _fold(train.stacked().numpy(), y, names, seed, coarse)
    test = _images(config, "test", config.test_images, seed)
    fine = test.labels[:, -1].numpy()
    known = np.isin(fine, kinds)
    y_test = np.searchsorted(kinds, fine[known])
    return Problem(train.stacked().numpy(), y, test.stacked().numpy()[known], y_test, names, coarse=coarse)


def _images(config: ContrastiveConfig, split: str, count: int | None, seed: int) -> LabeledImages:
    """The images of a split that have a class, of the coarse classes asked for."""
    images = load_dataset(config.data, root=config.root, split=split, size=config.side, seed=seed, n=count)
    keep = images.labels[:, -1] >= 0
    if config.coarse_classes is not None:
        total = images.hierarchy.sizes[-2] if images.hierarchy.num_levels > 1 else 0
        if config.coarse_classes > total:
            raise ValueError(
                f"contrastive: coarse_classes must be at most the {total} coarse classes of {config.data}, "
                f"got {config.coarse_classes}"
            )
        keep &= images.labels[:, -2] < config.coarse_classes
    return images.subset(keep.nonzero()[:, 0])


def _has_no_test(config: ContrastiveConfig) -> bool:
    """Whether the files say that all images are for training."""
    if config.root is None:
        return False
    if config.data == "csv":
        return "test" not in csv_splits(Path(config.root))
    return config.data == "folder" and not all((Path(config.root) / split).is_dir() for split in ("train", "test"))


def _labelled(data: Embeddings) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Samples with a class, the fine one where the file has fine classes, and then with one coarse class."""
    y: Any = data.fine if data.fine is not None else data.coarse
    if y is None or y.ndim != 1:
        raise ValueError(f"contrastive: data must have one class for each sample, fine or coarse, got {data.source}")
    x = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    above = data.coarse if data.fine is not None and data.coarse is not None and data.coarse.ndim == 1 else None
    coarse = None if above is None else above[y >= 0].astype(np.int64)
    return x[y >= 0].astype(np.float32), y[y >= 0].astype(np.int64), coarse


def _names(data: Embeddings) -> tuple[str, ...]:
    return data.fine_names if data.fine is not None else data.coarse_names[0]


def _numbers(y: np.ndarray) -> tuple[str, ...]:
    return tuple(str(c) for c in range(int(y.max()) + 1))


def _fold(x: np.ndarray, y: np.ndarray, names: tuple[str, ...], seed: int, coarse: np.ndarray | None = None) -> Problem:
    """Fold ``seed mod 5`` of a stratified split; another split for every five seeds."""
    rng = np.random.default_rng(seed // _FOLDS)
    fold = np.empty(len(y), np.int64)
    for c in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == c))
        fold[members] = np.arange(len(members)) % _FOLDS
    held = fold == seed % _FOLDS
    return Problem(x[~held], y[~held], x[held], y[held], names, coarse=None if coarse is None else coarse[~held])

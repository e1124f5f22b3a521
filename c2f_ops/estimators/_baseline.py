"""What the baselines share: reading inputs, prediction, training of small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ._inputs import Rows, find_device, fit_scaling, read_labels, to_array


class Baseline(ClusterMixin, BaseEstimator):
    """Reading of inputs and prediction; a subclass has `_fit` and `_scores`."""

    n_fine: int | None
    standardize: bool
    random_state: Any
    device: str
    relations_: np.ndarray
    labels_: np.ndarray

    def fit(self, X: Any, y_coarse: Any) -> Any:
        """Fit on features ``[N, d]`` and coarse labels ``[N]`` (integers or strings; -1: none)."""
        rows, codes = self._read(X, y_coarse)
        if not isinstance(self.n_fine, (int, np.integer)) or not len(self.classes_coarse_) <= self.n_fine <= len(codes):
            raise ValueError(
                f"{type(self).__name__}: n_fine must be between the {len(self.classes_coarse_)} coarse classes and the "
                f"{len(codes)} samples, got {self.n_fine!r}"
            )
        self._fit(rows, codes)
        self.labels_ = self._assign(rows)
        return self

    def fit_predict(self, X: Any, y: Any = None, **options: Any) -> np.ndarray:
        """Fit and return the clusters of the training samples, found without their labels."""
        return self.fit(X, y, **options).labels_

    def predict(self, X: Any) -> np.ndarray:
        """Clusters int64 ``[N]`` of features ``[N, d]``."""
        check_is_fitted(self, "relations_")
        return self._assign(self._rows(validate_data(self, to_array(X), reset=False, dtype=np.float32)))

    def predict_coarse(self, X: Any) -> np.ndarray:
        """Coarse labels ``[N]``: the coarse class of the predicted cluster."""
        return self.classes_coarse_[self.relations_[self.predict(X)]]

    def _read(self, X: Any, y_coarse: Any) -> tuple[Tensor, np.ndarray]:
        x = validate_data(self, to_array(X), dtype=np.float32, ensure_min_samples=2)
        labels = read_labels(type(self).__name__, y_coarse, None, len(x))
        if labels.codes.shape[1] != 1:
            raise ValueError(f"{type(self).__name__}: y_coarse must have shape [N], got {list(labels.codes.shape)}")
        self.classes_coarse_ = labels.classes[0]
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._scaling = fit_scaling(x, self.standardize)
        return self._rows(x), labels.codes[:, 0]

    def _rows(self, x: np.ndarray) -> Tensor:
        device = find_device(type(self).__name__, self.device)
        return Rows(x, self._scaling, device).take(torch.arange(len(x)))

    @torch.no_grad()
    def _assign(self, rows: Tensor) -> np.ndarray:
        """Cluster of highest score, ties to the lowest."""
        return torch.cat([self._scores(part).argmax(1) for part in rows.split(8192)]).cpu().numpy()

    def _fit(self, rows: Tensor, codes: np.ndarray) -> None:
        raise NotImplementedError

    def _scores(self, rows: Tensor) -> Tensor:
        raise NotImplementedError


def network(rows: Tensor, hidden: Sequence[int], outputs: int, seed: int) -> nn.Sequential:
    """Layers whose start depends on the seed alone."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = rows.shape[1]
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        layers.append(nn.Linear(width, outputs))
    return nn.Sequential(*layers).to(rows.device)


def train_classifier(head: nn.Module, rows: Tensor, codes: np.ndarray, options: Any) -> None:
    """Cross-entropy on the samples with a label."""
    target = torch.from_numpy(codes).to(rows.device)

    def loss(pick: Tensor, step: int) -> Tensor:
        return nn.functional.cross_entropy(head(rows[pick]), target[pick])

    train(head, loss, torch.from_numpy(np.flatnonzero(codes >= 0)), options, options.epochs)


def train(head: nn.Module, loss: Callable[[Tensor, int], Tensor], samples: Tensor, options: Any, epochs: int) -> None:
    """AdamW with a cosine; batches of nearly equal size in an order that the seed fixes."""
    device = next(head.parameters()).device
    batches = max(1, round(len(samples) / options.batch_size))
    steps = max(1, epochs * batches)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(options.seed_)
    for epoch in range(epochs):
        order = samples[torch.randperm(len(samples), generator=generator)]
        for batch, pick in enumerate(order.tensor_split(batches)):
            optimizer.zero_grad()
            loss(pick.to(device), epoch * batches + batch).backward()
            optimizer.step()
            schedule.step()

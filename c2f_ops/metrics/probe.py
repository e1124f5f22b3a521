"""The linear probe: a linear classifier on frozen embeddings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._embeddings import Array, Rows, class_labels, rows, unit

SOLVERS = ("adam", "logistic", "ridge")


@dataclass(frozen=True)
class ProbeReport:
    """Values of :func:`linear_probe`.

    Attributes:
        accuracy: share of right answers on the test set.
        train_accuracy: the same on the training set.
        solver, standardize, normalize: how it was read; accuracies of different readings do not compare.
        num_train, num_test: labelled samples.
    """

    accuracy: float
    train_accuracy: float
    solver: str
    standardize: bool
    normalize: bool
    num_train: int
    num_test: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def linear_probe(
    Z_train: Array,
    y_train: Array,
    Z_test: Array,
    y_test: Array,
    *,
    epochs: int = 100,
    lr: float = 1e-3,
    batch_size: int = 64,
    standardize: bool = False,
    normalize: bool = False,
    solver: Literal["adam", "logistic", "ridge"] = "adam",
    penalty: float = 1.0,
    seed: int = 0,
) -> ProbeReport:
    """Train a linear classifier on embeddings and count its right answers.

    Report it with ``standardize=False`` and ``True``: Adam at a fixed learning rate does not see embeddings that differ
    by a millionth, while standardising magnifies whatever is left of them. Where all directions are equal the length of
    z may still tell the classes; ``normalize=True`` removes it.

    Args:
        Z_train: embeddings ``[N, d]``.
        y_train: integers ``[N]``; samples with a negative label are left out.
        Z_test: embeddings ``[N', d]``.
        y_test: integers ``[N']``, as y_train.
        epochs: of ``"adam"``, which minimises the cross entropy in float32 over shuffled batches.
        lr: of ``"adam"``.
        batch_size: of ``"adam"``.
        standardize: subtract the training mean and divide by the training deviation, feature by feature.
        normalize: divide each embedding by its norm, before that.
        solver: ``"adam"``, the probe of the paper; ``"logistic"``, logistic regression to convergence by scikit-learn;
            ``"ridge"``, least squares on one-hot labels in closed form. The last two are float64 and draw nothing.
        penalty: squared-norm penalty of those two, in units of one sample's loss.
        seed: of start and batches of ``"adam"``; torch's own generator is left alone.

    Returns:
        The report.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        ImportError: ``"logistic"`` without scikit-learn.

    Source:
        "Fine-Grained Classification via Class-Attentive Contrastive Representation Learning", section 4.3: a linear
        classifier on frozen embeddings, 100 epochs, Adam at 1e-3 as in training.
    """
    name = "linear_probe"
    if solver not in SOLVERS:
        raise ValueError(f"{name}: solver must be one of {SOLVERS}, got {solver!r}")
    for argument, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}: {argument} must be a positive int, got {count!r}")
    for argument, value in (("lr", lr), ("penalty", penalty)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {argument} must be positive, got {value!r}")
    x, y = _labelled(name, rows(name, Z_train, "Z_train"), y_train, "train")
    x_test, y_test = _labelled(name, rows(name, Z_test, "Z_test"), y_test, "test")
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(f"{name}: Z_test must have the {x.shape[1]} features of Z_train, got {x_test.shape[1]}")
    if normalize:
        x, x_test = unit(x), unit(x_test)
    if standardize:
        mean, deviation = x.mean(0), x.std(0, correction=0)
        deviation = torch.where(deviation > 1e-12 * mean.abs(), deviation, 1.0)
        x, x_test = (x - mean) / deviation, (x_test.to(mean.device) - mean) / deviation
    classes = int(y.max()) + 1
    if solver == "adam":
        weight, bias = _adam(x.float(), y.to(x.device), classes, epochs, lr, batch_size, seed)
    elif solver == "ridge":
        weight, bias = _ridge(x, y.to(x.device), classes, penalty)
    else:
        weight, bias = _logistic(x, y, classes, penalty)

    def accuracy(z: Tensor, labels: Tensor) -> float:
        scores = z.to(weight) @ weight.T + bias
        return float((scores.argmax(1).cpu() == labels).double().mean())

    return ProbeReport(accuracy(x_test, y_test), accuracy(x, y), solver, standardize, normalize, len(x), len(x_test))


def _labelled(name: str, array: Rows, labels: Array, split: str) -> tuple[Tensor, Tensor]:
    """Embeddings with a label, float64, and their labels on the CPU."""
    y = class_labels(name, labels, len(array), argument=f"y_{split}")
    z = array.double() if isinstance(array, Tensor) else torch.from_numpy(np.array(array, float))
    if not bool(z.isfinite().all()):
        raise ValueError(f"{name}: Z_{split} must be finite, got NaN or infinity")
    return z[(y >= 0).to(z.device)], y[y >= 0]


def _adam(x: Tensor, y: Tensor, classes: int, epochs: int, lr: float, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weight ``[C, d]`` and bias ``[C]`` after the given epochs; the start is that of ``torch.nn.Linear``."""
    generator = torch.Generator().manual_seed(seed)
    bound = x.shape[1] ** -0.5
    start = ((torch.rand((classes, x.shape[1] + 1), generator=generator) * 2 - 1) * bound).to(x.device)
    weight, bias = start[:, :-1].clone().requires_grad_(), start[:, -1].clone().requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    with torch.enable_grad():
        for _ in range(epochs):
            for index in torch.randperm(len(x), generator=generator).to(x.device).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(x[index], weight, bias), y[index]).backward()
                optimizer.step()
    return weight.detach(), bias.detach()


def _ridge(x: Tensor, y: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Least squares on one-hot labels; the bias bears no penalty."""
    target = F.one_hot(y, classes).double()
    mean, share = x.mean(0), target.mean(0)
    centred = x - mean
    gram = centred.T @ centred
    gram.diagonal().add_(penalty)
    weight = torch.linalg.solve(gram, centred.T @ (target - share)).T
    return weight, share - weight @ mean


def _logistic(x: Tensor, y: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ImportError('linear_probe: scikit-learn is not installed; pip install "c2f_ops[train]"') from None
    model = LogisticRegression(C=1 / penalty, max_iter=10_000).fit(x.cpu().numpy(), y.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(model.classes_) == 2:  # one row, for the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    # Classes that do not occur get no row from scikit-learn, and here never win.
    full = torch.zeros((classes, x.shape[1]), dtype=torch.float64)
    offset = torch.full((classes,), -torch.inf, dtype=torch.float64)
    index = torch.from_numpy(model.classes_)
    full[index], offset[index] = weight, bias
    return full.to(x.device), offset.to(x.device)

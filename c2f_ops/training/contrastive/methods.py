"""The methods that are compared: one network, one optimiser, one sampler, different losses."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.contrastive import perceptron
from .config import METHODS, ContrastiveConfig
from .data import Problem


@dataclass(frozen=True)
class Outcome:
    """A trained method on both parts of the data.

    Attributes:
        z, z_test: embeddings, float32 ``[N, d]``.
        w: class weights ``[C, d]``, None for ones.
        prototypes: float64 ``[C, d]``.
        history: one record for each epoch.
        classifier: accuracy of the classifier that cross-entropy trains along; None for the others.
        seconds: processor time of the training.
    """

    z: np.ndarray
    z_test: np.ndarray
    w: np.ndarray | None
    prototypes: np.ndarray
    history: list[dict[str, Any]]
    classifier: float | None
    seconds: float


class LinearClassifier(nn.Module):
    """Cross-entropy of a linear classifier, the loss of the supervised baseline."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of embeddings ``[B, d]`` with classes ``[B]``."""
        return F.cross_entropy(self.linear(z), y)


def fit_method(name: str, problem: Problem, config: ContrastiveConfig, seed: int) -> Outcome:
    """Train a method of `METHODS`."""
    options = METHODS[name]
    if options is None:
        return _cross_entropy(problem, config, seed)
    from ...estimators import ClassAttentiveClassifier

    model = ClassAttentiveClassifier(
        standardize=config.scaled, backbone=config.backbone, hidden=config.hidden, dim=config.dim,
        batch_norm=config.batch_norm, front_end=config.front_end, epochs=config.epochs, batch_size=config.batch_size,
        lr=config.lr, attention_lr=config.attention_lr, temperature=config.temperature, margin=config.margin,
        bound=config.bound, w_min=config.w_min, w_max=config.w_max, prototype=config.prototype,  # type: ignore[arg-type]
        validation_fraction=0.0, device=config.device, random_state=seed,
    ).set_params(**options)  # fmt: skip
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ClassAttentiveClassifier: the")  # the page shows the status
        model.fit(problem.x, problem.y)
    seconds = time.process_time() - start
    w = None if options.get("attention") == "identity" else model.class_weights_
    z, z_test = (model.transform(x) for x in (problem.x, problem.x_test))
    return Outcome(z, z_test, w, model.prototypes_, model.history_, None, seconds)


def _cross_entropy(problem: Problem, config: ContrastiveConfig, seed: int) -> Outcome:
    from ...estimators._contrastive_loop import Loop, Plan, embed
    from ...estimators._inputs import Rows, Scaling, find_device, fit_scaling
    from ...metrics import class_attentive_prototypes
    from ...models.contrastive import PolarRadii

    device = find_device("contrastive", config.device)
    x, x_test = problem.x, problem.x_test
    if config.front_end == "polar":
        x, x_test = (PolarRadii()(torch.from_numpy(part)).numpy() for part in (x, x_test))
    scaling = fit_scaling(x, True)
    if not config.scaled:
        scaling = Scaling(np.zeros_like(scaling.mean), np.ones_like(scaling.scale))
    width, classes = x.shape[1], len(problem.names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = nn.Identity()
        if config.backbone != "identity":
            hidden = [config.hidden] if config.backbone == "mlp" else []
            network = perceptron(width, hidden, config.dim, batch_norm=config.batch_norm)
        head = LinearClassifier(width if config.backbone == "identity" else config.dim, classes)
    loop = Loop(network, head, Plan(config.epochs, config.batch_size, config.lr, config.lr, seed), device)
    rows, rows_test = Rows(x, scaling, device), Rows(x_test, scaling, device)
    start = time.process_time()
    history = list(loop.epochs(rows, problem.y))
    seconds = time.process_time() - start
    z, z_test = embed(network, rows), embed(network, rows_test)
    with torch.no_grad():
        right = head.linear.cpu()(z_test).argmax(1).numpy() == problem.y_test
    prototypes = class_attentive_prototypes(z.numpy(), problem.y, num_classes=classes)
    return Outcome(z.numpy(), z_test.numpy(), None, np.asarray(prototypes), history, float(right.mean()), seconds)

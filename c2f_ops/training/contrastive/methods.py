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
from ..machine import find_precision
from .config import METHODS, ContrastiveConfig
from .data import Problem
from .images import ImageEncoder, ImageRows


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
    """Train a method of `METHODS`.

    Contrastive methods on features are what `ClassAttentiveClassifier` does; what it has no place for, images, two
    levels of labels and cross-entropy, is trained here in the same loop.
    """
    options = METHODS[name]
    if config.images or options is None or "hard_coarse_weight" in options:
        return _train(options, problem, config, seed)
    from ...estimators import ClassAttentiveClassifier

    model = ClassAttentiveClassifier(
        standardize=config.scaled, backbone=config.network, hidden=config.hidden, dim=config.dim,
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


def _train(options: dict[str, Any] | None, problem: Problem, config: ContrastiveConfig, seed: int) -> Outcome:
    """Network, loss and loop; chance follows from the seed."""
    from ...estimators._contrastive_loop import Loop, Plan, embed, make_criterion, weights_of
    from ...estimators._inputs import find_device
    from ...metrics import class_attentive_prototypes

    device, classes = find_device("contrastive", config.device), len(problem.names)
    codes, weights_lr = problem.y, config.lr
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network, dim, rows, rows_test = (_of_images if config.images else _of_features)(problem, config, device, seed)
        if options is None:
            criterion: nn.Module = LinearClassifier(dim, classes)
        else:
            settings = {
                "bound": config.bound, "w_min": config.w_min, "w_max": config.w_max, "temperature": config.temperature,
                "margin": config.margin, "attention_lr": config.attention_lr, **options,
            }  # fmt: skip
            weights_lr = settings.pop("attention_lr") or config.lr
            codes = problem.levels if "hard_coarse_weight" in options else codes
            criterion = make_criterion(classes, dim, **settings)
        loop = Loop(network, criterion, Plan(config.epochs, config.batch_size, config.lr, weights_lr, seed), device)
        start = time.process_time()
        history = list(loop.epochs(rows, codes, getattr(rows, "view", None)))
        seconds = time.process_time() - start
    z, z_test = embed(network, rows), embed(network, rows_test)
    right = None
    if isinstance(criterion, LinearClassifier):
        with torch.no_grad():
            right = float((criterion.linear.cpu()(z_test).argmax(1).numpy() == problem.y_test).mean())
    weights = weights_of(criterion)
    w = None if weights is None else weights.cpu().numpy()
    prototypes = class_attentive_prototypes(
        z.numpy(), problem.y, w, num_classes=classes, kind=config.prototype,  # type: ignore[arg-type]
    )  # fmt: skip
    return Outcome(z.numpy(), z_test.numpy(), w, np.asarray(prototypes), history, right, seconds)


def _of_images(problem: Problem, config: ContrastiveConfig, device: torch.device, seed: int) -> tuple[Any, ...]:
    """Network, width of its embedding, training and test samples."""
    bf16 = find_precision(config.precision, device) == "bf16"
    network = ImageEncoder(config.network, config.dim, bf16=bf16)
    rows = ImageRows(problem.x, network.backbone, device, min_area=config.min_area, seed=seed)
    return network, config.dim, rows, ImageRows(problem.x_test, network.backbone, device)


def _of_features(problem: Problem, config: ContrastiveConfig, device: torch.device, _seed: int) -> tuple[Any, ...]:
    """As for images."""
    from ...estimators._inputs import Rows, Scaling, fit_scaling
    from ...models.contrastive import PolarRadii

    x, x_test = problem.x, problem.x_test
    if config.front_end == "polar":
        x, x_test = (PolarRadii()(torch.from_numpy(part)).numpy() for part in (x, x_test))
    scaling = fit_scaling(x, True)
    if not config.scaled:
        scaling = Scaling(np.zeros_like(scaling.mean), np.ones_like(scaling.scale))
    network: nn.Module = nn.Identity()
    dim = width = x.shape[1]
    if config.network != "identity":
        hidden, dim = [config.hidden] if config.network == "mlp" else [], config.dim
        network = perceptron(width, hidden, dim, batch_norm=config.batch_norm)
    return network, dim, Rows(x, scaling, device), Rows(x_test, scaling, device)

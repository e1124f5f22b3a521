"""Epochs of class-attentive contrastive training: the loss, batches of few classes, and the monitor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..losses import ClassAttentiveLoss
from ..metrics import collapse_report, error_bound
from ..nn import ClassAttention

_MONITORED = 2048  # samples that the monitor looks at after each epoch
_GLANCE = 512  # of them at a time: images take memory
_STUCK = 0.01  # a loss this close to that of a constant embedding has learned nothing


@dataclass(frozen=True)
class Plan:
    """How to step: epochs, batch size, learning rates of the network and of the class weights, seed."""

    epochs: int
    batch_size: int
    lr: float
    attention_lr: float
    seed: int


class Samples(Protocol):
    """Samples as a network takes them; `c2f_ops.estimators._inputs.Rows` of features, for instance."""

    @property
    def device(self) -> torch.device:
        """Where they are given out."""

    def take(self, index: Tensor) -> Tensor:
        """Samples of the given numbers."""

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive pieces and where they lie."""


def make_criterion(
    num_classes: int,
    dim: int,
    *,
    mode: str = "supcon",
    attention: str = "table",
    bound: str = "auto",
    w_min: float = 0.05,
    w_max: float = 2.0,
    **options: Any,
) -> ClassAttentiveLoss:
    """The loss with class weights of its own; "auto" is "sigmoid", but "none" with mode="paper"."""
    bound = ("none" if mode == "paper" else "sigmoid") if bound == "auto" else bound
    weights = ClassAttention(num_classes, dim, kind=attention, bound=bound, w_min=w_min, w_max=w_max)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ClassAttentiveLoss: mode='paper'")  # the monitor says more
        return ClassAttentiveLoss(num_classes, dim, attention=weights, mode=mode, group=None, **options)


class ClassBatches:
    """Batches with equal numbers of samples of each class in it, at least 2 where the class has them.

    A batch holds as many classes as it can with two samples each; classes take turns, and so do the samples of a class.
    No sample occurs twice in a batch. An epoch is as many batches as make one pass over the data.
    """

    def __init__(self, codes: np.ndarray, batch_size: int, rng: np.random.Generator) -> None:
        self.members = [np.flatnonzero(codes == c) for c in np.unique(codes)]
        self.size, self.rng = min(batch_size, len(codes)), rng
        self.count = -(-len(codes) // self.size)
        self.ready: list[np.ndarray] = [np.empty(0, np.int64) for _ in self.members]
        self.turns: list[int] = []

    def __iter__(self) -> Iterator[Tensor]:
        """Row numbers ``[B]`` of each batch of an epoch."""
        classes = min(len(self.members), max(1, self.size // 2))
        share, rest = divmod(self.size, classes)
        for _ in range(self.count):
            if len(self.turns) < classes:
                self.turns = self.rng.permutation(len(self.members)).tolist()
            now, self.turns = self.turns[:classes], self.turns[classes:]
            yield torch.from_numpy(np.concatenate([self._deal(c, share + (i < rest)) for i, c in enumerate(now)]))

    def _deal(self, c: int, count: int) -> np.ndarray:
        """The next samples of a class; a new order where too few are left of the last one."""
        if len(self.ready[c]) < count:
            self.ready[c] = self.rng.permutation(self.members[c])
        dealt, self.ready[c] = self.ready[c][:count], self.ready[c][count:]
        return dealt


class Loop:
    """Trains a network and what its loss has to learn, and keeps an eye on the embeddings.

    Args:
        network: Samples to embeddings ``[B, d]``.
        criterion: `ClassAttentiveLoss`, or any module ``(z, y) -> loss``.
        plan: How to step.
        device: Where.
    """

    def __init__(self, network: nn.Module, criterion: nn.Module, plan: Plan, device: torch.device) -> None:
        self.network, self.criterion, self.plan = network.to(device), criterion.to(device), plan
        groups = [
            {"params": list(network.parameters()), "lr": plan.lr},
            {"params": list(criterion.parameters()), "lr": plan.attention_lr},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.Adam(groups, fused=True) if groups else None
        self.rng = np.random.default_rng(plan.seed)

    def epochs(
        self, rows: Samples, codes: np.ndarray, view: Callable[[Tensor, int], Tensor] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Train on samples; yield what to remember of each epoch.

        Args:
            rows: N samples, as the monitor sees them.
            codes: Classes ``[N]``, or ``[N, K]`` where the loss takes K levels; the last is the class.
            view: The samples of the given numbers as they are in the step of that number; None: as they are.
        """
        labels = torch.from_numpy(codes).to(rows.device)
        codes = codes if codes.ndim == 1 else codes[:, -1]
        batches = ClassBatches(codes, self.plan.batch_size, self.rng)
        watched = torch.from_numpy(np.sort(self.rng.permutation(len(codes))[:_MONITORED]))
        step = 0
        for epoch in range(1, self.plan.epochs + 1):
            self.network.train()
            total, chance = torch.zeros((), device=rows.device), 0.0
            for batch in batches:
                x = rows.take(batch) if view is None else view(batch, step)
                loss = self.criterion(self.network(x), labels[batch.to(labels.device)])
                if self.optimizer is not None:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                total += loss.detach()
                chance += math.log(max(1, len(batch) - 1))
                step += 1
            mean, chance = float(total) / batches.count, chance / batches.count
            contrastive = isinstance(self.criterion, ClassAttentiveLoss) and self.criterion.mode == "supcon"
            stuck = contrastive and abs(mean - chance) <= _STUCK * chance
            record: dict[str, Any] = {"epoch": epoch, "loss": mean}
            if contrastive:
                record |= {"log_candidates": chance, "stuck": stuck}
            yield record | self._look(rows, watched, codes[watched.numpy()])

    @torch.no_grad()
    def _look(self, rows: Samples, watched: Tensor, codes: np.ndarray) -> dict[str, Any]:
        """Collapse monitor and error bound of some training samples."""
        self.network.eval()
        z = torch.cat([self.network(rows.take(part)).float() for part in watched.split(_GLANCE)])
        w = weights_of(self.criterion)
        if not bool(z.isfinite().all()):
            raise FloatingPointError("training diverged: the embeddings are not finite; lower lr or scale the inputs")
        seen = collapse_report(z, torch.from_numpy(codes), w, uniformity_samples=512).to_dict() if len(z) > 1 else {}
        if len(np.unique(codes)) > 1:
            bound = error_bound(z, torch.from_numpy(codes), w)
            seen |= {"bound": bound.bound, "true_error": bound.true_error}
        seen.pop("num_samples", None)
        return seen


def weights_of(criterion: nn.Module) -> Tensor | None:
    """Class weights ``[C, d]``; None where all are 1."""
    w = criterion.attention() if isinstance(criterion, ClassAttentiveLoss) else None
    return None if w is None else w.detach()


@torch.no_grad()
def embed(network: nn.Module, rows: Samples) -> Tensor:
    """Embeddings ``[N, d]`` float32 on the CPU."""
    network.eval()
    return torch.cat([network(part).float().cpu() for _, part in rows.chunks()])


def fit_temperature(scores: np.ndarray, codes: np.ndarray) -> float:
    """The temperature T with the least cross entropy of ``softmax(scores / T)``, within 1e-3 and 1e3.

    The cross entropy is convex in 1 / T: bisection of its derivative, on a log scale.
    """
    centred = scores - scores.max(1, keepdims=True)
    own = np.take_along_axis(centred, codes[:, None], 1)[:, 0]
    finite = np.where(np.isfinite(centred), centred, 0.0)

    def slope(beta: float) -> float:
        p = np.exp(beta * centred)
        return float(((p * finite).sum(1) / p.sum(1) - own).mean())

    low, high = -3.0, 3.0  # of log10 beta
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(10**middle) > 0 else (middle, high)
    return float(10 ** -((low + high) / 2))

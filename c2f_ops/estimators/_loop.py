"""FALCON on rows of features: head, start, epochs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models import Falcon
from ..neighbours import group_knn, sample_neighbours
from ._inputs import Labels, Rows

_BANK = 1 << 26  # teacher logits [N, K_F] kept at most; beyond, a frozen teacher gives the same ones when asked
_LOGITS = 1 << 22  # logits computed at once in a pass over all rows


class Head(nn.Module):
    """Logits of features: a linear map, plus a multilayer perceptron that starts as zero where ``hidden`` has sizes.

    So a classifier by distance to centroids, which is linear, can be a start for both.
    """

    def __init__(self, width: int, num_fine: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_fine)
        self.deep: nn.Sequential | None = None
        if hidden:
            sizes = [width, *hidden]
            layers: list[nn.Module] = []
            for a, b in pairwise(sizes):
                layers += [nn.Linear(a, b), nn.ReLU()]
            last = nn.Linear(sizes[-1], num_fine)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.deep = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d]`` to logits ``[B, K_F]``."""
        return self.linear(x) if self.deep is None else self.linear(x) + self.deep(x)


def make_head(width: int, num_fine: int, hidden: Sequence[int], seed: int, device: torch.device) -> Head:
    """A head whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(width, num_fine, hidden).to(device)


def find_neighbours(x: Any, groups: np.ndarray, k: int, metric: str, device: torch.device) -> Tensor:
    """int ``[N, k]`` nearest samples of the same group, -1 where there are fewer, on the device."""
    if k == 0:
        return torch.empty((len(groups), 0), dtype=torch.int32, device=device)
    if not hasattr(x, "toarray"):
        x = x if x.dtype in (np.float64, np.float32, np.float16) else x.astype(np.float32)
        return group_knn(x, groups, k, metric).indices.to(device)
    from sklearn.neighbors import NearestNeighbors

    found = np.full((len(groups), k), -1, np.int32)
    everyone = np.arange(len(groups))
    metric = {"l2": "sqeuclidean"}.get(metric, metric)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        columns = rows if group >= 0 else everyone
        near = min(k, len(columns) - 1)
        if near < 1:
            continue
        search = NearestNeighbors(n_neighbors=near, algorithm="brute", metric=metric).fit(x[columns])
        if group >= 0:
            found[rows, :near] = columns[search.kneighbors(return_distance=False)]
            continue
        near_or_self = search.kneighbors(x[rows], near + 1, return_distance=False)
        for row, ids in zip(rows, near_or_self, strict=True):
            found[row, :near] = ids[ids != row][:near]
    return torch.from_numpy(found).to(device)


@dataclass
class Plan:
    """How to step: epochs planned, batch size, learning rate, weight decay, noise and dropout of the views, seed."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    noise: float
    dropout: float
    seed: int


class Loop:
    """Epochs of FALCON over rows of features. It pickles, and goes on where it stood."""

    def __init__(self, falcon: Falcon, plan: Plan) -> None:
        self.falcon, self.plan, self.epoch = falcon, plan, 0
        self.optimizer = torch.optim.SGD(
            falcon.student.parameters(), plan.lr, momentum=0.9, weight_decay=plan.weight_decay
        )

    def run_epoch(
        self, rows: Rows, codes: Tensor, neighbours: Tensor, *, skip: int = 0, constant_lr: bool = False
    ) -> dict[str, Any]:
        """One pass over the rows with labels ``codes`` ``[N, D]`` and neighbours ``[N, k]``; what to remember of it.

        The first ``skip`` rows are there to be neighbours.
        """
        falcon, plan, config = self.falcon, self.plan, self.falcon.config
        self.epoch += 1
        generator = torch.Generator().manual_seed(plan.seed * (1 << 20) + self.epoch)
        noise = torch.Generator(rows.device).manual_seed(plan.seed * (1 << 20) + self.epoch)
        falcon.train()
        falcon.start_epoch()
        bank = self._bank(rows) if config.neighbour_mode == "bank" else falcon.teacher_logits
        order = skip + torch.randperm(len(rows) - skip, generator=generator)
        batches = order.tensor_split(-(-len(order) // plan.batch_size))
        terms, used, moved = torch.zeros(5, device=rows.device), torch.zeros(falcon.num_fine, device=rows.device), 0
        for step, batch in enumerate(batches):
            if not constant_lr:
                progress = (self.epoch - 1 + step / len(batches)) / plan.epochs
                self.optimizer.param_groups[0]["lr"] = plan.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            x, y, here = rows.take(batch), codes[batch.to(codes.device)], neighbours[batch.to(neighbours.device)]
            z, s = falcon.student(self._view(x, noise)), falcon.teacher_logits(self._view(x, noise))
            t, idx, mask = None, None, None
            if config.neighbours_per_step and here.shape[1]:
                near = sample_neighbours(
                    here, min(config.neighbours_per_step, here.shape[1]), seed=plan.seed, step=int(falcon.steps),
                    samples=batch.to(here.device),
                )  # fmt: skip
                if isinstance(bank, Tensor):
                    t, idx = bank, near
                else:
                    t = bank(self._view(rows.take(near.clamp(min=0).flatten()), noise)).view(*near.shape, -1)
                    mask = near >= 0
            loss, parts = falcon.loss(z, s, t, y, self.epoch, plan.epochs, nbr_mask=mask, idx=idx)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            results = falcon.after_step(z.detach(), s, y, self.epoch, plan.epochs)
            moved += sum(r.moved for r in results or ())
            terms += torch.cat([loss.detach()[None], parts])
            used += z.detach().argmax(1).bincount(minlength=falcon.num_fine)
        names = ("loss", "coarse", "nn", "conf", "reg")
        record: dict[str, Any] = dict(zip(names, (terms / len(batches)).tolist(), strict=True))
        return {
            "epoch": self.epoch, **record, "used_clusters": int((used > 0).sum()), "moved": moved,
            "tau": config.tau(self.epoch, plan.epochs), "lr": self.optimizer.param_groups[0]["lr"],
        }  # fmt: skip

    def groups(self, rows: Rows, labels: Labels) -> np.ndarray:
        """int64 ``[N]``: the group that a sample's neighbours are in, -1 for any; see ``cross_dataset_neighbours``."""
        config, several = self.falcon.config, len(labels.classes) > 1
        meet = several and config.cross_dataset_neighbours == "meet"
        if not meet or self.epoch < config.soft_length(self.plan.epochs):
            return labels.groups
        falcon, codes = self.falcon.eval(), np.empty_like(labels.codes)
        for where, logits in logits_of(falcon.teacher, rows):
            y = torch.from_numpy(labels.codes[where]).to(rows.device)
            codes[where] = falcon.complete(logits, y).cpu().numpy()
        return Labels(codes, labels.classes, labels.datasets).groups

    def finish(self, rows: Rows, codes: Tensor, *, solve: bool = True) -> list[np.ndarray]:
        """Solve the relations once more, from predictions for all rows; return their co-occurrence ``[K_F, K_C]``."""
        falcon = self.falcon.eval()
        falcon.forget()
        network = falcon.student if falcon.config.mstep_source == "student" else falcon.teacher
        for where, logits in logits_of(network, rows):
            falcon.count(logits, codes[where])
        costs = [cost.numpy() for cost in falcon.cooccurrence()]
        if falcon.config.learn_relations and solve:
            falcon.solve(self.epoch, self.plan.epochs)
        return costs

    def uncertain(self, rows: Rows, codes: Tensor, share: float) -> Tensor:
        """bool ``[N, D]``: the ``share`` of labels, in each data set, that the teacher finds least likely."""
        falcon = self.falcon.eval()
        likely = torch.full(codes.shape, torch.inf, device=rows.device)
        for where, logits in logits_of(falcon.teacher, rows):
            p = logits.softmax(1)
            for d, (g, count) in enumerate(zip(falcon.relations.long(), falcon.num_coarse, strict=True)):
                mass = p.new_zeros(len(p), count).index_add_(1, g, p)
                y = codes[where, d]
                likely[where, d] = torch.where(y < 0, torch.inf, mass.gather(1, y.clamp(min=0)[:, None])[:, 0])
        dropped = torch.zeros_like(codes, dtype=torch.bool)
        for d in range(codes.shape[1]):
            least = likely[:, d].argsort()[: int(share * int((codes[:, d] >= 0).sum()))]
            dropped[least, d] = True
        return dropped

    def _view(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A view of standardised features: some of them at their mean, all of them with Gaussian noise."""
        if self.plan.dropout:
            keep = torch.rand(x.shape, generator=generator, device=x.device) >= self.plan.dropout
            x = x * keep
        if self.plan.noise:
            x = x + self.plan.noise * torch.randn(x.shape, generator=generator, device=x.device)
        return x

    def _bank(self, rows: Rows) -> Any:
        """The teacher's logits of all rows as they are now: a tensor, or a frozen teacher where that would be large."""
        if len(rows) * self.falcon.num_fine > _BANK:
            return torch.no_grad()(copy.deepcopy(self.falcon.teacher))
        bank = torch.empty(len(rows), self.falcon.num_fine, device=rows.device)
        for where, logits in logits_of(self.falcon.teacher, rows):
            bank[where] = logits
        return bank


@torch.no_grad()
def logits_of(network: nn.Module, rows: Rows) -> Any:
    """Yield slices of the rows and their logits, a bounded number at a time."""
    assert isinstance(network, Head)
    step = max(1, _LOGITS // network.linear.out_features)
    for where, part in rows.chunks():
        for i in range(0, len(part), step):
            piece = part[i : i + step]
            yield slice(where.start + i, where.start + i + len(piece)), network(piece)

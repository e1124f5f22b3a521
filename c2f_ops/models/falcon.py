"""FALCON: a student, its teacher, and the relations between fine and coarse classes that they learn.

Trainers and estimators are loops over this module; a step of theirs is

    z = student(view_0)                                    # wrapped in DistributedDataParallel, or not
    s, t = falcon.teacher_logits(view_1), falcon.teacher_logits(views_1_of_neighbours).unflatten(0, (B, -1))
    loss, terms = falcon.loss(z, s, t, y, epoch, epochs)
    loss.backward(); optimizer.step()
    falcon.after_step(z, s, y, epoch, epochs)              # teacher, co-occurrence, and at times the relations
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..losses import FalconLoss
from ..relations import RelationResult, group_cost, solve_relations
from .ema import ema_update, make_teacher
from .falcon_config import FalconConfig


class Falcon(nn.Module):
    """Class discovery from coarse labels (Fine-grained Classes and How to Find Them, ICML 2024).

    Args:
        student: Network x -> logits ``[B, num_fine]``.
        num_fine: K_F.
        num_coarse: K_C, or one number for each data set (taxonomy).
        config: The switches.
        relations: int ``[D, K_F]`` or ``[K_F]``, the first relations; None draws them from random costs.
        seed: Seed of that draw.
        group: Process group of the loss and the counts; see `c2f_ops.falcon_loss`.
        backend: Backend of the loss.

    Attributes:
        student, teacher: The networks.
        relations: int32 ``[D, K_F]``, coarse class of each fine class.
        steps: Optimiser steps taken, int64 scalar.
        last_results: The latest `RelationResult` of each data set, None before the first solve.
    """

    student: nn.Module
    teacher: nn.Module
    steps: Tensor
    batches: Tensor

    def __init__(
        self,
        student: nn.Module,
        num_fine: int,
        num_coarse: int | Sequence[int],
        config: FalconConfig | None = None,
        *,
        relations: Any = None,
        seed: int = 0,
        group: Any = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.config = config or FalconConfig()
        self.group = group
        self.student, self.teacher = student, make_teacher(student)
        weights = self.config.lambdas
        if self.config.reg_ddp == "reference":
            weights = (*weights[:-1], weights[-1] / self._world())
        self.criterion = FalconLoss(
            num_fine, num_coarse, lambdas=weights, temperature=self.config.temperature,
            coarse_smoothing=self.config.label_smoothing_coarse, reg_ema=self.config.reg_ema, group=group,
            backend=backend,
        )  # fmt: skip
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        for d, count in enumerate(self.num_coarse):
            self.register_buffer(f"cost_{d}", torch.zeros(num_fine, count, dtype=torch.float64))
            self.register_buffer(f"prices_{d}", torch.full((count,), torch.nan, dtype=torch.float64))
            self.register_buffer(f"sizes_{d}", torch.full((count,), torch.nan, dtype=torch.float64))
        self.last_results: list[RelationResult] | None = None
        if relations is None:
            self._draw_relations(seed)
        else:
            self.set_relations(relations)
        self.train()

    @property
    def num_fine(self) -> int:
        """K_F."""
        return self.criterion.num_fine

    @property
    def num_coarse(self) -> tuple[int, ...]:
        """K_C of each data set."""
        return self.criterion.num_coarse

    @property
    def relations(self) -> Tensor:
        """int32 ``[D, K_F]``, coarse class of each fine class."""
        return self.criterion.relations

    def set_relations(self, g: Any) -> None:
        """Take relations ``[D, K_F]`` or ``[K_F]`` as they are; see `FalconLoss.set_relations`."""
        self.criterion.set_relations(g)
        for d in range(len(self.num_coarse)):
            self.get_buffer(f"prices_{d}").fill_(torch.nan)

    def expect_sizes(self, d: int, sizes: Any) -> None:
        """Let data set d's relation solve pull to groups of ``sizes`` ``[K_C]``, not to shares of the samples.

        Without effect where ``group_prior`` is "equal".
        """
        self.get_buffer(f"sizes_{d}").copy_(torch.as_tensor(sizes))

    def train(self, mode: bool = True) -> Falcon:
        """Set the mode; the teacher is in eval mode unless it keeps statistics of its own."""
        super().train(mode)
        self.teacher.train(mode and self.config.ema_buffers == "own")
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K_F]`` of the network that predicts."""
        return self.student(x) if self.config.predict_with == "student" else self.teacher(x)

    @torch.no_grad()
    def teacher_logits(self, x: Tensor) -> Tensor:
        """Logits ``[B, K_F]`` of the teacher, without gradient."""
        return self.teacher(x)

    def loss(
        self,
        z: Tensor,
        s: Tensor,
        t: Tensor | None,
        y: Tensor,
        epoch: int,
        epochs: float,
        *,
        nbr_mask: Tensor | None = None,
        idx: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its detached terms ``[4]``: coarse, nn, conf, reg.

        Args:
            z: ``[B, K_F]`` student logits of one view.
            s: ``[B, K_F]`` teacher logits of another view.
            t: ``[B, L, K_F]`` teacher logits of neighbours, or a bank ``[N, K_F]`` with ``idx`` ``[B, L]``, or None.
            y: ``[B, D]`` coarse labels, -1 for none; ``[B]`` where there is one data set.
            epoch: From 1.
            epochs: Number of epochs.
            nbr_mask: ``[B, L]`` bool, False where there is no neighbour.
            idx: ``[B, L]`` rows of the bank.
        """
        tau = self.config.tau(epoch, epochs)
        return self.criterion(z, s, t, self._columns(y), tau=tau, nbr_mask=nbr_mask, idx=idx)

    @torch.no_grad()
    def after_step(self, z: Tensor, s: Tensor, y: Tensor, epoch: int, epochs: float) -> list[RelationResult] | None:
        """Move the teacher, count the batch; every ``mstep_every`` steps solve the relations and return the results.

        ``z``, ``s`` and ``y`` are those of `loss`.
        """
        ema_update(
            self.teacher, self.student, self.config.decay(int(self.steps)), buffers=self.config.ema_buffers
        )  # fmt: skip
        self.steps += 1
        if not self.config.learn_relations:
            return None
        self.count(z if self.config.mstep_source == "student" else s, y)
        self.batches += 1
        if int(self.batches) % self.config.mstep_every:
            return None
        return self.solve(epoch, epochs)

    def start_epoch(self) -> None:
        """Forget the counts of the last epoch where the configuration says so."""
        if not self.config.mstep_carry_over:
            self.forget()

    def forget(self) -> None:
        """Empty the co-occurrence counts."""
        self.batches.zero_()
        for d in range(len(self.num_coarse)):
            self.get_buffer(f"cost_{d}").zero_()

    @torch.no_grad()
    def count(self, logits: Tensor, y: Tensor) -> None:
        """Add a batch to the co-occurrence of predictions ``softmax(logits)`` ``[B, K_F]`` and labels."""
        p, y = logits.float().softmax(1), self._columns(y)
        for d, count in enumerate(self.num_coarse):
            group_cost(p, y[:, d], count, out=self.get_buffer(f"cost_{d}"))

    def cooccurrence(self) -> list[Tensor]:
        """C of each data set over all processes, float64 ``[K_F, K_C]`` on the CPU, of sum 1 (0 without counts)."""
        costs = []
        for d in range(len(self.num_coarse)):
            cost = self.get_buffer(f"cost_{d}").clone()
            if self._world() > 1:
                dist.all_reduce(cost, group=None if self.group == "auto" else self.group)
            costs.append((cost / cost.sum().clamp(min=torch.finfo(cost.dtype).tiny)).cpu())
        return costs

    @torch.no_grad()
    def solve(self, epoch: int, epochs: float) -> list[RelationResult]:
        """Solve the relations of every data set exactly from the counts so far, and let the counts decay.

        Raises:
            RuntimeError: processes came to different relations.
        """
        results = []
        for d, (cost, count) in enumerate(zip(self.cooccurrence(), self.num_coarse, strict=True)):
            prices = self.get_buffer(f"prices_{d}")
            known = None if prices.isnan().any() else prices.cpu().numpy()
            lam = self.config.balance(self.num_fine, count, epoch, epochs)
            counted = bool(cost.any())  # a window may hold no label of a data set
            proportional = counted and self.config.group_prior == "proportional"
            sizes = self.get_buffer(f"sizes_{d}").cpu().numpy()
            shares = self.num_fine * cost.sum(0).numpy() if np.isnan(sizes).any() else sizes
            prior = shares if proportional else None
            previous = self.relations[d].cpu().numpy()
            result = solve_relations(cost.numpy(), lam, prev=previous, prices=known, prior=prior)
            prices.copy_(torch.from_numpy(result.prices))
            results.append(result)
            self.get_buffer(f"cost_{d}").mul_(self.config.mstep_decay)
        self.criterion.set_relations(torch.stack([torch.from_numpy(r.g) for r in results]))
        self._compare()
        self.last_results = results
        return results

    def fine_under(self, y: Tensor) -> Tensor:
        """bool ``[B, K_F]``: the fine classes under all of a sample's labels ``[B, D]``; all where these share none."""
        under = ((self.relations == y[:, :, None]) | (y < 0)[:, :, None]).all(1)
        return under | ~under.any(1, keepdim=True)

    @torch.no_grad()
    def complete(self, logits: Tensor, y: Tensor) -> Tensor:
        """Labels ``[B, D]`` with the missing ones of labelled samples predicted from ``logits`` ``[B, K_F]``.

        The prediction is the coarse class with most mass on the fine classes under the labels there are.
        """
        p = logits.masked_fill(~self.fine_under(y), -torch.inf).softmax(1)
        likely = [
            p.new_zeros(len(p), count).index_add_(1, g.long(), p).argmax(1)
            for g, count in zip(self.relations, self.num_coarse, strict=True)
        ]
        return torch.where((y < 0) & (y >= 0).any(1, keepdim=True), torch.stack(likely, 1), y)

    def _draw_relations(self, seed: int) -> None:
        """First relations from random costs: Gaussian rows after a softmax, for mass 1 / K_F each or as they are."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for count in self.num_coarse:
            cost = torch.randn(self.num_fine, count, generator=generator, dtype=torch.float64).softmax(1)
            if self.config.mstep_init != "reference":
                cost /= self.num_fine
            lam = self.config.balance(self.num_fine, count, 1, 1)
            drawn.append(torch.from_numpy(solve_relations(cost.numpy(), lam).g))
        self.criterion.set_relations(torch.stack(drawn))

    def _compare(self) -> None:
        if self._world() == 1:
            return
        digest = hashlib.sha256(self.relations.cpu().numpy().tobytes()).digest()[:8]
        mine = torch.tensor(list(digest), dtype=torch.int64, device=self.steps.device)
        low, high = mine.clone(), mine.clone()
        group = None if self.group == "auto" else self.group
        dist.all_reduce(low, dist.ReduceOp.MIN, group=group)
        dist.all_reduce(high, dist.ReduceOp.MAX, group=group)
        if not torch.equal(low, high):
            raise RuntimeError("Falcon: processes came to different relations; their data, seeds or versions differ")

    def _columns(self, y: Tensor) -> Tensor:
        return y[:, None] if y.ndim == 1 else y

    def _world(self) -> int:
        alone = self.group is None or not (dist.is_available() and dist.is_initialized())
        return 1 if alone else dist.get_world_size(None if self.group == "auto" else self.group)

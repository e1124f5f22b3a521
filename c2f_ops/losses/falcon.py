"""The FALCON loss as a module that holds the fine-to-coarse relations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import falcon_loss
from ..functional._world import World
from ..functional.falcon import _labels, _weights


class FalconLoss(nn.Module):
    """`c2f_ops.falcon_loss` with its relations as a buffer and its weights as settings.

    Args:
        num_fine: K_F.
        num_coarse: K_C, or one number for each data set.
        lambdas: Weights of L_coarse, of L_nn + L_conf and of L_reg; or four, with L_nn and L_conf apart.
        temperature: T of the target.
        coarse_smoothing: eps. L_coarse is then ``-(1 - eps) log p_c[y] - eps mean_j log p_c[j]``, j over the coarse
            classes of the sample's data set; the mean over them where it has labels of several.
        reg_ema: m. L_reg and its gradient are then taken at a running mean of p over batches instead of the mean over
            this one: ``r <- m r + (1 - m) p_bar`` from 0, divided by its sum, the gradient flowing to p_bar with full
            weight. For batches of few samples for each fine class. In train mode a call moves the mean.
        group: As for `c2f_ops.falcon_loss`.
        backend: As for `c2f_ops.falcon_loss`.

    Attributes:
        relations: int32 ``[D, K_F]``, the coarse class of each fine class for each data set. They start spread evenly;
            `set_relations` changes them.
        running_p: float64 ``[K_F]``, r, the same in all processes; there with ``reg_ema`` alone.
    """

    relations: Tensor
    running_p: Tensor

    def __init__(
        self,
        num_fine: int,
        num_coarse: int | Sequence[int],
        *,
        lambdas: Sequence[float] = (0.5, 0.5, 2.0),
        temperature: float = 0.9,
        coarse_smoothing: float = 0.0,
        reg_ema: float = 0.0,
        group: Any = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        counts = [num_coarse] if isinstance(num_coarse, int) else list(num_coarse)
        if not counts or min(counts) < 1 or num_fine < max(counts):
            raise ValueError(
                f"FalconLoss: num_fine must be at least num_coarse and that at least 1, got {num_fine} and {num_coarse}"
            )
        for name, value in (("coarse_smoothing", coarse_smoothing), ("reg_ema", reg_ema)):
            if not 0 <= value < 1:
                raise ValueError(f"FalconLoss: {name} must be in [0, 1), got {value!r}")
        self.num_fine, self.num_coarse = num_fine, tuple(counts)
        self.coarse_smoothing, self.reg_ema = coarse_smoothing, reg_ema
        self.lambdas, self.temperature, self.group, self.backend = lambdas, temperature, group, backend
        spread = torch.stack([torch.arange(num_fine) * count // num_fine for count in counts])
        self.register_buffer("relations", spread.to(torch.int32))
        if reg_ema:
            self.register_buffer("running_p", torch.zeros(num_fine, dtype=torch.float64))

    def set_relations(self, g: Any) -> None:
        """Take new relations, int ``[K_F]`` or ``[D, K_F]``; every coarse class must have a fine class.

        Raises:
            TypeError: g holds something else than integers.
            ValueError: the shape is another, a class is out of range, or a coarse class is left without fine class.
        """
        try:
            new = torch.as_tensor(g)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"FalconLoss: g must hold integers, got {g!r}") from None
        if new.is_floating_point() or new.is_complex() or new.dtype == torch.bool:
            raise TypeError(f"FalconLoss: g must hold integers, got {new.dtype}")
        new = new.to(torch.int64).cpu()
        new = new[None] if new.ndim == 1 else new
        if new.shape != self.relations.shape:
            raise ValueError(
                f"FalconLoss: g must have shape {list(self.relations.shape)}, got {list(torch.as_tensor(g).shape)}"
            )
        for row, (parents, count) in enumerate(zip(new, self.num_coarse, strict=True)):
            if parents.min() < 0 or parents.max() >= count:
                raise ValueError(
                    f"FalconLoss: g[{row}] must hold classes 0 to {count - 1}, "
                    f"got {int(parents.min())} to {int(parents.max())}"
                )
            empty = (parents.bincount(minlength=count) == 0).nonzero().flatten().tolist()
            if empty:
                raise ValueError(f"FalconLoss: g[{row}] must give each coarse class a fine class, got none for {empty}")
        self.relations.copy_(new)

    def forward(
        self,
        z: Tensor,
        s: Tensor,
        t: Tensor | None,
        y: Tensor,
        d: Tensor | None = None,
        *,
        tau: float = 1.0,
        nbr_mask: Tensor | None = None,
        idx: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its detached terms ``[4]``; arguments as for `c2f_ops.falcon_loss`."""
        coarse, nn, conf, reg = _weights(self.lambdas)
        smoothing = self.coarse_smoothing
        weights = ((1 - smoothing) * coarse, nn, conf, 0.0 if self.reg_ema else reg)
        result = falcon_loss(
            z, s, t, y, self.relations, d, lambdas=weights, T=self.temperature, tau=tau, nbr_mask=nbr_mask,
            idx=idx, group=self.group, backend=self.backend, return_terms=True,
        )  # fmt: skip
        assert isinstance(result, tuple)
        loss, terms = result
        if smoothing:
            spread = self._spread(z, y, d)
            loss = loss + coarse * smoothing * spread
            terms[0].lerp_(spread.detach(), smoothing)
        if self.reg_ema:
            running = self._running_reg(z)
            loss = loss + reg * running
            terms[3] = running.detach()
        return loss, terms

    def _spread(self, z: Tensor, y: Tensor, d: Tensor | None) -> Tensor:
        """Mean over the labelled samples of all processes of ``-mean_j log p_c[j]``."""
        y, g = _labels(y, self.relations, d, z)
        z, world = _widen(z), World(self.group)
        known = y >= 0
        share = known / known.sum(1, keepdim=True).clamp(min=1)
        lower = torch.stack(
            [_group_lse(z, parents, count).mean(1) for parents, count in zip(g, self.num_coarse, strict=True)], 1
        )
        each = (share * (z.logsumexp(1, keepdim=True) - lower)).sum()
        return each * world.size / world.sum(known.any(1).sum().to(z)).clamp(min=1)

    def _running_reg(self, z: Tensor) -> Tensor:
        """L_reg at the running mean of p, of all processes."""
        world, p = World(self.group), _widen(z).softmax(1)
        mass, tiny = p.sum(0), torch.finfo(p.dtype).tiny
        # Added in the order of the processes, so that all of them hold the same bits.
        total = world.gather(torch.cat([mass.detach(), mass.new_tensor([len(p)])])[None]).sum(0)
        count = total[-1].clamp(min=1)
        running = torch.lerp((total[:-1] / count).to(self.running_p), self.running_p, self.reg_ema)
        if self.training:
            self.running_p.copy_(running)
        running = running / running.sum().clamp(min=tiny)
        slope = running.clamp(min=tiny).log()
        value = math.log(self.num_fine) + (running * slope).sum()
        here = mass * (world.size / count)
        return value.to(p) + (slope.to(p) * (here - here.detach())).sum()

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"num_fine={self.num_fine}, num_coarse={self.num_coarse}, lambdas={self.lambdas}, "
            f"temperature={self.temperature}, coarse_smoothing={self.coarse_smoothing}, reg_ema={self.reg_ema}, "
            f"backend={self.backend!r}"
        )


def _widen(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def _group_lse(z: Tensor, g: Tensor, count: int) -> Tensor:
    """``[B, count]``: the log-sum-exp of ``z`` ``[B, K_F]`` over each group of g ``[K_F]``, none of them empty."""
    g = g.long()
    top = z.new_full((len(z), count), -torch.inf).scatter_reduce(1, g.expand_as(z), z.detach(), "amax")
    mass = z.new_zeros(len(z), count).index_add(1, g, (z - top[:, g]).exp())
    return top + mass.log()

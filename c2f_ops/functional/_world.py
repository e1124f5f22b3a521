"""Sums and gathers over the processes of a group, with gradients as `DistributedDataParallel` expects them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class World:
    """The processes of a group, or this one alone.

    Args:
        group: A process group; "auto": the default one where `torch.distributed` is initialised; None: this process.
    """

    def __init__(self, group: Any) -> None:
        alone = group is None or (group == "auto" and not (dist.is_available() and dist.is_initialized()))
        self.group = None if alone or group == "auto" else group
        self.size = 1 if alone else dist.get_world_size(self.group)
        self.rank = 0 if alone else dist.get_rank(self.group)

    def sum(self, x: Tensor) -> Tensor:
        """``x`` summed over processes. Backward: the local gradient times their number, as DDP will divide by it."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        local = x * self.size
        return local + (total - local.detach())

    def longest(self, length: int, like: Tensor) -> int:
        """The largest ``length`` of the processes."""
        if self.size == 1:
            return length
        longest = torch.tensor(length, device=like.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX, group=self.group)
        return int(longest)

    def gather(self, x: Tensor) -> Tensor:
        """``[n, ...]`` of each process, in order of rank, ``[size n, ...]``. Backward: summed over the processes."""
        return x if self.size == 1 else _Gather.apply(x, self.group, self.size, self.rank)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any, size: int, rank: int) -> Tensor:
        ctx.group, ctx.rows = group, slice(rank * len(x), (rank + 1) * len(x))
        parts = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        total = d_out[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.rows], None, None, None

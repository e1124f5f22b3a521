"""NT-Xent, the contrastive loss of SimCLR, and its decoupled form."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def nt_xent(a: Tensor, b: Tensor, *, temperature: float = 0.2, decoupled: bool = False, gather: bool = False) -> Tensor:
    """Tell the other view of an image from all other images of the batch.

    With ``z`` the 2 B unit vectors of both views, ``s_ij = <z_i, z_j> / T`` and ``p(i)`` the other view of i's image:
    ``loss = mean_i( log sum_{j != i} exp(s_ij) - s_ip(i) )``. ``decoupled`` leaves ``p(i)`` out of the sum, so an easy
    pair does not weaken the push away from negatives; the loss can then be negative.

    Args:
        a: ``[B, d]``, one view, not normalised; the loss is computed in float32.
        b: ``[B, d]``, the other view.
        temperature: T.
        decoupled: as above.
        gather: take negatives from all processes of `torch.distributed`, which must have equal B. The gradient flows to
            all of them; the mean over processes, which DDP takes, is the gradient of the loss of the whole batch.

    Returns:
        A 0-dim tensor: the mean over the 2 B views of this process.

    Source: Chen et al. 2020, equation 1; decoupled: Yeh et al. 2022, equation 3.
    """
    if a.ndim != 2 or a.shape != b.shape or len(a) < 1:
        raise ValueError(f"nt_xent: a and b must be [B, d] alike, got {list(a.shape)} and {list(b.shape)}")
    if not temperature > 0:
        raise ValueError(f"nt_xent: temperature must be positive, got {temperature}")
    with torch.autocast(a.device.type, enabled=False):
        a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
        all_a, all_b, first = a, b, 0
        if gather:
            all_a, all_b = _Gather.apply(a), _Gather.apply(b)
            first = dist.get_rank() * len(a)
        logits = torch.cat([a, b]) @ torch.cat([all_a, all_b]).t() / temperature  # [2 B, 2 W B]
        rows = torch.arange(2 * len(a), device=a.device)
        here = rows % len(a) + first
        own = here + len(all_a) * (rows >= len(a))
        other = here + len(all_a) * (rows < len(a))
        positive = logits[rows, other]
        logits = logits.index_put((rows, own), logits.new_tensor(-torch.inf))
        if decoupled:
            logits = logits.index_put((rows, other), logits.new_tensor(-torch.inf))
        return (logits.logsumexp(1) - positive).mean()


class _Gather(torch.autograd.Function):
    """Rows ``[B, d]`` of each process -> rows of all, ``[W B, d]``; gradients come back from all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]

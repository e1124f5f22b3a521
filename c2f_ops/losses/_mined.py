"""Class-attentive losses over pairs that a miner chose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mined_loss(
    z: Tensor,
    y: Tensor,
    w: Tensor | None,
    indices: Sequence[Tensor],
    keys: Tensor | None,
    *,
    mode: str,
    temperature: float,
    margin: float,
    negative_weight: float,
    eps: float = 1e-6,
) -> Tensor:
    """The losses of `c2f_ops.class_attentive_loss` where only the listed pairs count.

    A pair listed twice counts once. Positives and negatives are what the miner says, whatever the labels; these choose
    the weights of the anchor. Memory is batch x keys.

    Args:
        z: ``[B, d]``.
        y: ``[B]`` or ``[B, K]``; the last level chooses the weights.
        w: ``[C, d]`` or None.
        indices: ``(a1, p, a2, n)`` or ``(a, p, n)``, rows of z and of the keys.
        keys: ``[N, d]``; None: z.
        mode: As for `c2f_ops.class_attentive_loss`.
        temperature: Likewise.
        margin: Likewise.
        negative_weight: Likewise.
        eps: Smallest norm.
    """
    if len(indices) == 3:
        a1, p, n = indices
        a2 = a1
    elif len(indices) == 4:
        a1, p, a2, n = indices
    else:
        raise ValueError(
            f"ClassAttentiveLoss: indices_tuple must have 3 tensors (a, p, n) or 4 (a1, p, a2, n), got {len(indices)}"
        )
    positive, negative = (_pairs(z, keys, a, b) for a, b in ((a1, p), (a2, n)))
    sim = _similarities(z, y, w, keys, eps)
    if mode == "supcon":
        kept = positive | negative
        s = (sim / temperature).masked_fill(~kept, -torch.inf)
        count, has = positive.sum(1), positive.any(1)
        lse = torch.where(has[:, None], s, 0.0).logsumexp(1)
        value = lse - (sim * positive).sum(1) / (count.clamp(min=1) * temperature)
        return torch.where(has, value, 0.0).sum() / has.sum().clamp(min=1)
    loss = ((1 - sim) * positive).sum() / positive.sum().clamp(min=1)
    if mode == "paper":
        return loss
    return loss + negative_weight * ((sim - margin).clamp(min=0) * negative).sum() / negative.sum().clamp(min=1)


def _pairs(z: Tensor, keys: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """bool ``[B, N]``, True at the listed pairs."""
    listed = torch.zeros(len(z), len(z if keys is None else keys), dtype=torch.bool, device=z.device)
    listed[a, b] = True
    return listed


def _similarities(z: Tensor, y: Tensor, w: Tensor | None, keys: Tensor | None, eps: float) -> Tensor:
    """Cosines ``[B, N]`` under the anchors' weights, float32 or wider; those of an unknown class are 0."""
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(wide)
        x = z if keys is None else keys.to(wide)
        fine = y if y.ndim == 1 else y[:, -1]
        v = torch.ones_like(z) if w is None else w.to(wide).square()[fine.clamp(min=0)]
        norm = (v * z.square()).sum(1, keepdim=True).clamp(min=eps**2).sqrt()
        sim = (v * z) @ x.T / (norm * (v @ x.square().T).clamp(min=eps**2).sqrt())
    return torch.where(fine[:, None] >= 0, sim, 0.0)

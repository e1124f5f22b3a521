"""The row part of the FALCON loss in plain PyTorch, with the gradient written out.

    value_i = a_coarse coarse_i + a_nn nn_i + a_conf conf_i        mass_k = sum_i p_ik

    coarse_i = LSE(z_i) - LSE(z_i over G_i)                        G_i: fine classes under the coarse label of sample i
    nn_i     = mean_l LSE(z_i) + LSE(t_l) - LSE(z_i + t_l)         l: its neighbours
    conf_i   = sum_k q_ik (LSE(z_i) - z_ik)                        q_i: softmax of s_i / T over G_i, hardened by tau

Sizes are linear in the fine classes: no tensor has both a fine and a coarse dimension. Source: Fine-grained Classes and
How to Find Them (ICML 2024), eq. (3) to (9).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


def falcon_loss_fwd(
    z: Tensor,
    s: Tensor,
    t: Tensor,
    neighbours: Tensor,
    y: Tensor,
    g: Tensor,
    scale: Tensor,
    temperature: float,
    tau: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows z, s ``[B, K_F]`` and a bank t ``[N, K_F]``; types and shapes as in csrc/include/c2f/falcon_loss.h.

    Returns:
        value ``[B]``, terms ``[B, 3]``, mass ``[K_F]``, lse ``[B]``, and the gradient of value with respect to z,
        ``[B, K_F]`` if ``save``, else ``[0, K_F]``; float32, float64 for float64.
    """
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    z, s, scale = z.to(wide), s.to(wide), scale.to(wide)
    labelled, member = (y >= 0).any(1), _groups(y, g)
    if z.device.type == "cpu":
        _check(y, member, labelled, neighbours, len(t))

    lse, log_p, p = z.logsumexp(1), z.log_softmax(1), z.softmax(1)  # not z - lse, whose rounding grows with the logits
    within = log_p.masked_fill(~member, NEGATIVE_INFINITY)
    coarse = torch.where(labelled, -within.logsumexp(1), 0.0)

    target = (s / temperature).masked_fill(~member, NEGATIVE_INFINITY)
    hard = torch.zeros_like(s).scatter_(1, target.argmax(1, keepdim=True), 1.0)
    q = tau * target.softmax(1) + (1 - tau) * hard
    conf = torch.where(labelled, -(q * log_p).sum(1), 0.0)

    present = neighbours >= 0
    count = present.sum(1).to(wide)
    nn, w = torch.zeros_like(lse), torch.zeros_like(z)
    for idx, here in zip(neighbours.T, present.T, strict=True):
        row = t[idx.clamp(min=0)].to(wide) if len(t) else torch.zeros_like(z)
        joint = log_p + row.log_softmax(1)
        share = torch.where(here, 1 / count, 0.0)
        nn += torch.where(here, -share * joint.logsumexp(1), 0.0)
        if save:
            w += torch.where(here[:, None], share[:, None] * joint.softmax(1), 0.0)

    terms = torch.stack([coarse, nn, conf], 1)
    grad = z.new_empty((0, z.shape[1]))
    if save:
        on = labelled[:, None]
        grad = torch.where(on, scale[0] * (p - within.softmax(1)) + scale[2] * (p - q), 0.0)
        grad += torch.where((count > 0)[:, None], scale[1] * (p - w), 0.0)
    return (terms * scale).sum(1), terms, p.sum(0), lse, grad


def falcon_loss_bwd(d_value: Tensor, d_mass: Tensor, z: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """Gradient with respect to z: ``d_value_i grad_i + p_i (d_mass - <p_i, d_mass>)``, in z's type."""
    p = (z.to(lse.dtype) - lse[:, None]).softmax(1)
    return (d_value[:, None] * grad + p * (d_mass - (p @ d_mass)[:, None])).to(z.dtype)


def _groups(y: Tensor, g: Tensor) -> Tensor:
    """``[B, K_F]``: fine classes under every label of a sample, or under its first where those have none in common."""
    under = (g[None] == y[:, :, None]) | (y < 0)[:, :, None]  # [B, D, K_F]
    all_of_them = under.all(1)
    first = (y >= 0).to(torch.int8).argmax(1)
    of_first = under[torch.arange(len(y), device=y.device), first]
    return torch.where(all_of_them.any(1, keepdim=True), all_of_them, of_first)


def _check(y: Tensor, member: Tensor, labelled: Tensor, neighbours: Tensor, rows: int) -> None:
    empty = labelled & ~member.any(1)
    if empty.any():
        labels = y[int(empty.nonzero()[0])]
        d = int((labels >= 0).nonzero()[0])
        raise ValueError(
            f"falcon_loss: g must give each class in y a fine class, got none for class {int(labels[d])} "
            f"of data set {d}"
        )
    if neighbours.numel() and int(neighbours.max()) >= rows:
        raise ValueError(f"falcon_loss: idx must be below {rows}, the rows of t, got {int(neighbours.max())}")

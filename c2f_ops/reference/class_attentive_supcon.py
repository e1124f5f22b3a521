"""Sums of class-attentive similarities in plain PyTorch, with the gradient written out.

    sim_ij = <z_i o w_c, x_j o w_c> / (|z_i o w_c| |x_j o w_c|)      c: class of anchor i, its weights on both sides
    attract_i = sum_j a_h sim_ij                                     h: levels on which anchor and key agree
    repel_i = log sum_j r_h exp(sim_ij / temperature)                or sum_j r_h max(0, sim_ij - margin)

Anchors are taken in blocks, so that memory is linear in the keys. Source: Fine-Grained Classification via
Class-Attentive Contrastive Representation Learning, eq. (1) to (3); Supervised Contrastive Learning (NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 2**21  # pairs of a block


def class_attentive_supcon_fwd(
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    attract_weight: list[float],
    repel_weight: list[float],
    hinge: bool,
    parameter: float,
    eps: float,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Anchors z ``[A, d]``, keys x ``[N, d]``, squared weights v ``[C, d]``; csrc/include/c2f/class_attentive_supcon.h.

    Returns:
        attract and repel ``[A]``, float32 (float64 for float64).
    """
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    attract, repel = z.new_zeros(len(z), dtype=wide), z.new_zeros(len(z), dtype=wide)
    for rows in _blocks(z, x, classes):
        pairs = _Pairs(rows, z, x, classes, v, eps)
        a, r = _weights(rows, z_labels, x_labels, attract_weight, repel_weight, first, wide)
        attract[rows] = (a * pairs.sim).sum(1)
        if hinge:
            repel[rows] = (r * (pairs.sim - parameter).clamp(min=0)).sum(1)
        else:
            repel[rows] = (pairs.sim / parameter + r.log()).logsumexp(1)
    return attract, repel


def class_attentive_supcon_bwd(
    d_attract: Tensor,
    d_repel: Tensor,
    repel: Tensor,
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    attract_weight: list[float],
    repel_weight: list[float],
    hinge: bool,
    parameter: float,
    eps: float,
    first: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to z and x, in their type, and v; ``[0, d]`` where ``needs`` (of z, x, v) is False."""
    wide = repel.dtype
    d_z, d_x, d_v = (torch.zeros_like(t, dtype=wide) for t in (z, x, v))
    for rows in _blocks(z, x, classes):
        pairs = _Pairs(rows, z, x, classes, v, eps)
        a, r = _weights(rows, z_labels, x_labels, attract_weight, repel_weight, first, wide)
        if hinge:
            slope = r * (pairs.sim > parameter)
        else:
            slope = r * ((pairs.sim / parameter - repel[rows, None]).exp() / parameter)
            slope = torch.where(r > 0, slope, 0.0)
        s = d_attract[rows, None] * a + d_repel[rows, None] * slope
        t = s / (pairs.z_norm * pairs.x_norm)
        of_key = torch.where(pairs.x_norm > eps, s * pairs.sim / pairs.x_norm**2, 0.0)
        of_anchor = torch.where(pairs.z_norm > eps, (s * pairs.sim).sum(1, keepdim=True) / pairs.z_norm**2, 0.0)
        q = t @ pairs.x
        d_z[rows] = pairs.v * (q - of_anchor * pairs.z)
        d_x += t.T @ (pairs.v * pairs.z) - (of_key.T @ pairs.v) * pairs.x
        d_v.index_add_(0, classes[rows], pairs.z * q - (of_anchor * pairs.z**2 + of_key @ pairs.x**2) / 2)
    results = zip((d_z, d_x, d_v), (z, x, v), needs, strict=True)
    d_z, d_x, d_v = (d.to(t.dtype) if need else t.new_empty((0, t.shape[1])) for d, t, need in results)
    return d_z, d_x, d_v


def _blocks(z: Tensor, x: Tensor, classes: Tensor) -> Iterator[Tensor]:
    """Rows of the anchors that have a class, a block at a time."""
    rows = (classes >= 0).nonzero().flatten()
    return iter(rows.split(max(1, _BLOCK // max(1, len(x)))) if len(rows) else ())


class _Pairs:
    """Similarities ``[R, N]`` of a block of anchors with all keys, and what they are made of."""

    def __init__(self, rows: Tensor, z: Tensor, x: Tensor, classes: Tensor, v: Tensor, eps: float) -> None:
        wide = torch.float64 if z.dtype == torch.float64 else torch.float32
        self.z, self.x, self.v = z[rows].to(wide), x.to(wide), v[classes[rows]]
        self.z_norm = (self.v * self.z**2).sum(1, keepdim=True).clamp(min=eps**2).sqrt()  # [R, 1]
        self.x_norm = (self.v @ self.x.T**2).clamp(min=eps**2).sqrt()  # [R, N]
        self.sim = (self.v * self.z) @ self.x.T / (self.z_norm * self.x_norm)


def _weights(
    rows: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    attract: list[float],
    repel: list[float],
    first: int,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """What each pair weighs in the two sums, ``[R, N]``."""
    mine, theirs = z_labels[rows, None], x_labels[None]
    agree = ((mine == theirs) & (mine >= 0)).cumprod(2).sum(2)
    present = (x_labels[:, 0] >= -1).expand_as(agree)
    if first >= 0:
        present = present & (rows[:, None] + first != torch.arange(len(x_labels), device=rows.device))
    tables = (torch.tensor(t, dtype=wide, device=rows.device) for t in (attract, repel))
    a, r = (torch.where(present, table[agree], 0.0) for table in tables)
    return a, r

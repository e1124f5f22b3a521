"""Multilinear pooling in plain PyTorch: the specification that every kernel is compared with.

    U_m = act(X_m W_m + b_m)                 p[b, q] = sum_i w[b, i] * prod_{m in T_q} U_m[b, i]

16-bit operands are widened to float32, so products and sums carry float32 (float64 for float64 inputs) throughout.
Every function is composed of differentiable operations, which makes the backward differentiable once more. Work goes
through in blocks of samples to bound the memory of the intermediates.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

Interactions = Sequence[Sequence[int]]
Grads = tuple[list[Tensor | None], list[Tensor | None], list[Tensor | None], Tensor | None]

_BLOCK_ELEMENTS = 2**24  # B' * L * D of one block of samples: 64 MiB a projection in float32


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def multilinear_pool_fwd(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    save: bool,
    algo: str = "chunked",
) -> tuple[Tensor, list[Tensor]]:
    """Pool: features ``M x [B, L, C_m]``, weights ``M x [C_m, D]`` -> p ``[B, Q, D]`` and, saved, M x ``[B, L, D]``.

    ``algo`` has no effect: blocks of samples are the one way this room works.
    """
    pooled: list[Tensor] = []
    saved: list[list[Tensor]] = [[] for _ in features] if save else []
    for rows in _blocks(features[0], weights[0]):
        selected = None if mask is None else mask[rows]
        projections = [
            project(x[rows], w, b, selected, activation) for x, w, b in zip(features, weights, biases, strict=True)
        ]
        pooled.append(torch.stack([_sum_positions(_product(projections, t), selected) for t in interactions], dim=1))
        for kept, u, x in zip(saved, projections, features, strict=False):
            kept.append(u.to(x.dtype))
    return torch.cat(pooled), [torch.cat(kept) for kept in saved]


def multilinear_pool_bwd(
    d_p: Tensor,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    projections: Sequence[Tensor],
    interactions: Interactions,
    activation: str,
    needs: Sequence[bool],
) -> Grads:
    """Gradient of the forward: d_p ``[B, Q, D]`` -> (d_features, d_weights, d_biases, d_mask), None where not needed.

    ``projections`` are the saved ones or empty (rebuilt). ``needs`` has 3 M + 1 entries: features, weights, biases,
    mask.
    """
    count = len(features)
    need_x, need_w, need_b = (list(needs[k * count : (k + 1) * count]) for k in range(3))
    need_mask = bool(needs[3 * count])
    wanted = [any(group) for group in zip(need_x, need_w, need_b, strict=True)]
    d_features: list[list[Tensor]] = [[] for _ in features]
    d_weights: list[list[Tensor]] = [[] for _ in features]
    d_biases: list[list[Tensor]] = [[] for _ in features]
    d_mask: list[Tensor] = []

    for rows in _blocks(features[0], weights[0]):
        selected = None if mask is None else mask[rows]
        block = [_select(x[rows], selected).to(d_p.dtype) for x in features]
        if projections:
            us = [u[rows].to(d_p.dtype) for u in projections]
        else:
            us = [project(x, w, b, selected, activation) for x, w, b in zip(block, weights, biases, strict=True)]
        a = d_p[rows].unsqueeze(2)  # [B', Q, 1, D]
        if need_mask:
            d_mask.append(
                functools.reduce(
                    operator.add, ((a[:, q] * _product(us, t)).sum(-1) for q, t in enumerate(interactions))
                )
            )
        for m in range(count):
            if not wanted[m]:
                continue
            g = _weigh(_leave_one_out(us, interactions, m, a), selected)
            g = _activation_grad(us[m], g, activation)  # G_m, [B', L, D]
            if need_x[m]:
                d_features[m].append(g @ weights[m].to(g.dtype).t())
            if need_w[m]:
                d_weights[m].append(torch.einsum("blc,bld->cd", block[m], g))
            if need_b[m]:
                d_biases[m].append(g.sum((0, 1)))

    return (
        [torch.cat(d).to(x.dtype) if n else None for d, x, n in zip(d_features, features, need_x, strict=True)],
        [_total(d).to(w.dtype) if n else None for d, w, n in zip(d_weights, weights, need_w, strict=True)],
        [_total(d) if n else None for d, n in zip(d_biases, need_b, strict=True)],
        torch.cat(d_mask) if need_mask else None,
    )


def project(x: Tensor, w: Tensor, b: Tensor | None, mask: Tensor | None, activation: str) -> Tensor:
    """``act(x w + b)``: x ``[B, L, C]``, w ``[C, D]`` -> ``[B, L, D]``, accumulation type; masked positions: x = 0."""
    dtype = accumulation_dtype(x.dtype)
    u = _select(x, mask).to(dtype) @ w.to(dtype)
    if b is not None:
        u = u + b.to(dtype)
    if activation == "relu":
        return torch.relu(u)
    return torch.tanh(u) if activation == "tanh" else u


def _blocks(x: Tensor, w: Tensor) -> list[slice]:
    """Slices over samples with at most `_BLOCK_ELEMENTS` elements in a projection; one (maybe empty) at least."""
    batch, per_sample = x.shape[0], x.shape[1] * w.shape[1]
    if batch * per_sample <= _BLOCK_ELEMENTS:
        return [slice(None)]
    step = max(1, _BLOCK_ELEMENTS // per_sample)
    return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]


def _product(projections: Sequence[Tensor], interaction: Sequence[int]) -> Tensor:
    return functools.reduce(operator.mul, (projections[m] for m in interaction))


def _leave_one_out(projections: Sequence[Tensor], interactions: Interactions, m: int, a: Tensor) -> Tensor:
    """``sum over (q, k) with T_q[k] = m of a_q * prod_{k' != k} U``: by multiplication, never by dividing by U."""
    terms = []
    for q, interaction in enumerate(interactions):
        for k, factor in enumerate(interaction):
            if factor == m:
                others = [projections[f] for j, f in enumerate(interaction) if j != k]
                terms.append(functools.reduce(operator.mul, others, a[:, q]))
    return functools.reduce(operator.add, terms).expand_as(projections[m])


def _select(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None or mask.dtype != torch.bool else torch.where(mask.unsqueeze(-1), x, x.new_zeros(()))


def _weigh(x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply a boolean mask by selection, a float mask by multiplication, over the positions of ``[B, L, D]``."""
    return _select(x, mask) if mask is None or mask.dtype == torch.bool else x * mask.unsqueeze(-1)


def _sum_positions(x: Tensor, mask: Tensor | None) -> Tensor:
    return _weigh(x, mask).sum(1)


def _activation_grad(u: Tensor, g: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.where(u <= 0, g.new_zeros(()), g)
    return g * (1 - u * u) if activation == "tanh" else g


def _total(parts: list[Tensor]) -> Tensor:
    return functools.reduce(operator.add, parts)

"""Pair-only pooling through Gram matrices: same result as the direct path, other cost.

For a pair (x, y) with projections U, V and biases a, b, and G = X' diag(w) Y, s_x = sum_i w_i x_i, s_y = sum_i w_i y_i,
N = sum_i w_i:

    p_j = U_j' G V_j + b_j (U_j' s_x) + a_j (V_j' s_y) + N a_j b_j

No tensor of size B L D exists; it pays when ``pairs * C * (L + D) < M * L * D``. Plain PyTorch on any device, Gram
matrices in the accumulation type. Interactions of length two only, no activation, no gradient for position weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .multilinear_pool import Grads, Interactions, _select, accumulation_dtype

_BLOCK_ELEMENTS = 2**24  # B' * C * D of one block of samples


def gram_fwd(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Interactions,
) -> Tensor:
    """features ``M x [B, L, C_m]``, weights ``M x [C_m, D]`` -> p ``[B, Q, D]`` for interactions that are all pairs."""
    dtype = accumulation_dtype(features[0].dtype)
    ws, bs = _operands(weights, biases, dtype)
    pooled = []
    for rows in _blocks(features, ws):
        xs, weighted, count = _positions(features, mask, rows, dtype)
        sums = [x.sum(1) for x in weighted]
        pairs = []
        for x, y in interactions:
            gram_y = xs[x].transpose(1, 2) @ weighted[y] @ ws[y]  # [B', C_x, D]
            p = (ws[x] * gram_y).sum(1)
            p = p + bs[y] * (sums[x] @ ws[x]) + bs[x] * (sums[y] @ ws[y]) + count * bs[x] * bs[y]
            pairs.append(p)
        pooled.append(torch.stack(pairs, dim=1))
    return torch.cat(pooled)


def gram_bwd(
    d_p: Tensor,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Interactions,
    needs: Sequence[bool],
) -> Grads:
    """Gradient of `gram_fwd`; the same outputs as `multilinear_pool_bwd`."""
    dtype = accumulation_dtype(features[0].dtype)
    count = len(features)
    need_x, need_w, need_b = (list(needs[k * count : (k + 1) * count]) for k in range(3))
    ws, bs = _operands(weights, biases, dtype)
    d_features: list[list[Tensor]] = [[] for _ in features]
    d_ws = [torch.zeros_like(w) for w in ws]
    d_bs = [torch.zeros_like(b) for b in bs]

    for rows in _blocks(features, ws):
        xs, weighted, positions = _positions(features, mask, rows, dtype)
        sums = [x.sum(1) for x in weighted]
        d_xs = [torch.zeros_like(x) for x in xs]
        for q, pair in enumerate(interactions):
            a = d_p[rows, q]  # [B', D]
            for x, y in (pair, (pair[1], pair[0])):  # each side of the pair in turn; a tied pair counts twice
                scaled = ws[y] * a.unsqueeze(1)  # [B', C_y, D]
                if need_w[x]:
                    gram = xs[x].transpose(1, 2) @ weighted[y]  # [B', C_x, C_y]
                    d_ws[x] = d_ws[x] + torch.einsum("bxy,byd->xd", gram, scaled) + sums[x].t() @ (a * bs[y])
                if need_x[x]:
                    d_gram = ws[x] @ scaled.transpose(1, 2)  # [B', C_x, C_y]
                    d_xs[x] = d_xs[x] + weighted[y] @ d_gram.transpose(1, 2)
                    d_xs[x] = d_xs[x] + _weights_of(mask, rows, d_xs[x]) * ((a * bs[y]) @ ws[x].t()).unsqueeze(1)
                if need_b[x]:
                    d_bs[x] = d_bs[x] + (a * (sums[y] @ ws[y] + positions * bs[y])).sum(0)
        for kept, d_x in zip(d_features, d_xs, strict=True):
            kept.append(d_x)

    return (
        [torch.cat(d).to(x.dtype) if n else None for d, x, n in zip(d_features, features, need_x, strict=True)],
        [d.to(w.dtype) if n else None for d, w, n in zip(d_ws, weights, need_w, strict=True)],
        [d if n else None for d, n in zip(d_bs, need_b, strict=True)],
        None,
    )


def _operands(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    ws = [w.to(dtype) for w in weights]
    return ws, [w.new_zeros(w.shape[1]) if b is None else b.to(dtype) for w, b in zip(ws, biases, strict=True)]


def _blocks(features: Sequence[Tensor], weights: Sequence[Tensor]) -> list[slice]:
    batch, per_sample = features[0].shape[0], max(w.numel() for w in weights)
    step = max(1, _BLOCK_ELEMENTS // max(1, per_sample))
    return [slice(start, start + step) for start in range(0, max(1, batch), step)]


def _weights_of(mask: Tensor | None, rows: slice, like: Tensor) -> Tensor:
    """Position weights ``[B', L, 1]`` (0 or 1 for a boolean mask)."""
    return like.new_ones(()) if mask is None else mask[rows].to(like.dtype).unsqueeze(-1)


def _positions(
    features: Sequence[Tensor], mask: Tensor | None, rows: slice, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Selected features, the same times their position weights, and N ``[B', 1]``."""
    selected = None if mask is None else mask[rows]
    xs = [_select(x[rows], selected).to(dtype) for x in features]
    if mask is None:
        return xs, xs, xs[0].new_full((xs[0].shape[0], 1), xs[0].shape[1])
    weights = _weights_of(mask, rows, xs[0])
    weighted = xs if mask.dtype == torch.bool else [x * weights for x in xs]
    return xs, weighted, weights.sum(1)

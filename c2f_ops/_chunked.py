"""Forward and backward of multilinear_pool in chunks: vendor GEMM for the projections, a small kernel for the products.

A chunk is ``chunk_b`` samples by ``chunk_d`` columns of the projections, small enough that its M buffers stay in L2.
The CUDA and the Triton room share this driver and pass in their two kernels:

    hadamard_reduce(projections, biases, mask, interactions, activation, p, first)
        writes ``p[:, :, first:first + width]`` (float32, all Q interactions) from M projections ``[B, L, width]``
    hadamard_grad(projections, biases, d_p, mask, interactions, activation, first, needs, grad_scale, want_bias)
        returns (G, d_bias): M tensors ``[B, L, width]`` of the operand type, contiguous, and M float32 sums over
        positions ``[B, width]``; entries not asked for (by ``needs`` and ``want_bias``, M booleans each) are None

Projections have ``stride(2) == 1`` and ``stride(0) == L * stride(1)``. ``biases`` is None where they already include
bias and activation, otherwise M entries, None or float32 ``[D]`` (the full width). ``p`` and ``d_p`` are ``[B, Q, D]``
contiguous. With ``grad_scale``, M powers of two in a float32 tensor on the device, G_m is stored times
``grad_scale[m]``; d_bias is not scaled. Positions that a boolean mask excludes are skipped by selection, their G is 0.

Nothing here reads a value back to the host, so a CUDA graph can capture it. Autocast must be off.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Interactions = Sequence[Sequence[int]]
Grads = tuple[list[Tensor | None], list[Tensor | None], list[Tensor | None], Tensor | None]
HadamardReduce = Callable[..., None]
HadamardGrad = Callable[..., tuple[list[Tensor | None], list[Tensor | None]]]


def chunked_fwd(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    save: bool,
    *,
    hadamard_reduce: HadamardReduce,
    chunk_d: int,
    chunk_b: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return ``p [B, Q, D]`` float32 and, if ``save``, the M projections ``[B, L, D]`` after bias and activation."""
    B, L, _ = features[0].shape
    D = weights[0].shape[1]
    p = features[0].new_zeros(B, len(interactions), D, dtype=torch.float32)
    saved = [x.new_empty(B, L, D) for x in features] if save else []
    if p.numel() == 0 or L == 0:
        return p, saved
    features = [_gemm_ready(x) for x in features]
    for rows in _spans(B, chunk_b or B):
        buffers = [] if save else _buffers(features, rows, min(chunk_d, D))
        for columns in _spans(D, chunk_d):
            if save:
                projections = [u[rows, :, columns] for u in saved]
            else:
                projections = [u[:, :, : columns.stop - columns.start] for u in buffers]
            _project([x[rows] for x in features], weights, columns, projections)
            if save:
                for u, bias in zip(projections, biases, strict=True):
                    _activate_(u, bias, columns, activation)
            hadamard_reduce(
                projections,
                None if save else biases,
                None if mask is None else mask[rows],
                interactions,
                activation,
                p[rows],
                columns.start,
            )
    return p, saved


def chunked_bwd(
    d_p: Tensor,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    projections: Sequence[Tensor],
    interactions: Interactions,
    activation: str,
    needs: Sequence[bool],
    *,
    hadamard_grad: HadamardGrad,
    chunk_d: int,
    chunk_b: int | None = None,
) -> Grads:
    """Return (d_features, d_weights, d_biases, None); ``projections`` as saved by the forward, or empty: recomputed.

    d_features is summed over column chunks and d_weights over samples in float32, and rounded once. The gradient of
    position weights is the reference's.
    """
    M = len(features)
    B, L, _ = features[0].shape
    D = weights[0].shape[1]
    need_x, need_w, need_b = needs[:M], needs[M : 2 * M], needs[2 * M : 3 * M]
    need_g = [x or w for x, w in zip(need_x, need_w, strict=True)]

    d_features = [torch.zeros_like(x) if need else None for x, need in zip(features, need_x, strict=True)]
    d_weights = [
        torch.zeros(w.shape, dtype=torch.float32, device=w.device) if need else None
        for w, need in zip(weights, need_w, strict=True)
    ]
    d_biases = [d_p.new_zeros(D) if need else None for need in need_b]
    empty = B == 0 or L == 0 or D == 0

    dense = [_select(_gemm_ready(x), mask) for x in features]
    for rows in [] if empty else _spans(B, chunk_b or B):
        x_rows, mask_rows, d_p_rows = [x[rows] for x in dense], None if mask is None else mask[rows], d_p[rows]
        sums = [
            torch.zeros_like(x, dtype=torch.float32) if need else None for x, need in zip(x_rows, need_x, strict=True)
        ]
        buffers = [] if projections else _buffers(dense, rows, min(chunk_d, D))
        for columns in _spans(D, chunk_d):
            if projections:
                chunk = [u[rows, :, columns] for u in projections]
            else:
                chunk = [u[:, :, : columns.stop - columns.start] for u in buffers]
                _project(x_rows, weights, columns, chunk)
            raw_biases = None if projections else biases
            grad_scale = None
            if features[0].dtype == torch.float16:
                grad_scale = _grad_scale(chunk, raw_biases, d_p_rows, mask_rows, columns, interactions, activation)
            grads, d_bias = hadamard_grad(
                chunk,
                raw_biases,
                d_p_rows,
                mask_rows,
                interactions,
                activation,
                columns.start,
                need_g,
                grad_scale,
                need_b,
            )
            for m, (g, d_b) in enumerate(zip(grads, d_bias, strict=True)):
                inverse = None if grad_scale is None else 1 / grad_scale[m]
                total, d_w, d_b_total = sums[m], d_weights[m], d_biases[m]
                if total is not None and g is not None:
                    _add_feature_grad(total, g, weights[m][:, columns], inverse)
                if d_w is not None and g is not None:
                    _add_weight_grad(d_w[:, columns], x_rows[m], g, inverse)
                if d_b_total is not None and d_b is not None:
                    d_b_total[columns] += d_b.sum(0)
        for d_x, total in zip(d_features, sums, strict=True):
            if d_x is not None and total is not None:
                d_x[rows] = total
    d_weights = [None if d_w is None else d_w.to(w.dtype) for d_w, w in zip(d_weights, weights, strict=True)]
    return d_features, d_weights, d_biases, None


def _spans(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _buffers(features: Sequence[Tensor], rows: slice, width: int) -> list[Tensor]:
    return [x.new_empty(rows.stop - rows.start, x.shape[1], width) for x in features]


def _gemm_ready(x: Tensor) -> Tensor:
    """``x`` itself where a GEMM can read it in place (channels or positions contiguous), else a contiguous copy."""
    _, L, C = x.shape
    if (x.stride(2) == 1 and x.stride(1) >= C) or (x.stride(1) == 1 and x.stride(2) >= L):
        return x
    return x.contiguous()


def _select(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the positions that a boolean mask excludes, by selection, keeping the strides."""
    if mask is None or mask.dtype != torch.bool:
        return x
    return x.clone().masked_fill_(~mask.unsqueeze(2), 0)


def _is_rows(x: Tensor) -> bool:
    """Whether ``x [B, L, C]`` is one matrix ``[B * L, C]`` with contiguous channels."""
    return x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)


def _rows(x: Tensor) -> Tensor:
    return x.view(x.shape[0] * x.shape[1], x.shape[2])


def _project(features: Sequence[Tensor], weights: Sequence[Tensor], columns: slice, out: Sequence[Tensor]) -> None:
    for x, weight, u in zip(features, weights, out, strict=True):
        w = weight[:, columns]
        if _is_rows(x):
            torch.mm(_rows(x), w, out=_rows(u))
        else:
            torch.bmm(x, w.expand(x.shape[0], -1, -1), out=u)


def _activate_(u: Tensor, bias: Tensor | None, columns: slice, activation: str) -> None:
    if bias is not None:
        u.add_(bias[columns])
    if activation == "relu":
        u.relu_()
    elif activation == "tanh":
        u.tanh_()


def _product_f32(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` (2-D or 3-D) accumulated and returned in float32."""
    matmul = torch.mm if a.dim() == 2 else torch.bmm
    if a.dtype == torch.float32:
        return matmul(a, b)
    if a.is_cuda:
        return matmul(a, b, out_dtype=torch.float32)
    return matmul(a.float(), b.float())


def _add(total: Tensor, term: Tensor, inverse: Tensor | None) -> None:
    if inverse is None:
        total.add_(term)
    else:
        total.addcmul_(term, inverse)


def _add_feature_grad(total: Tensor, g: Tensor, w: Tensor, inverse: Tensor | None) -> None:
    """``total [B, L, C] += g [B, L, width] @ w.T * inverse``, the product in the memory order of ``total``."""
    if _is_rows(total):
        _add(_rows(total), _product_f32(_rows(g), w.t()), inverse)
    elif total.stride(2) == 1:
        _add(total, _product_f32(g, w.t().expand(g.shape[0], -1, -1)), inverse)
    else:
        _add(total.transpose(1, 2), _product_f32(w.expand(g.shape[0], -1, -1), g.transpose(1, 2)), inverse)


def _add_weight_grad(total: Tensor, x: Tensor, g: Tensor, inverse: Tensor | None) -> None:
    """``total [C, width] += sum_b x[b].T @ g[b] * inverse``."""
    if _is_rows(x):
        term = _product_f32(_rows(x).t(), _rows(g))
    else:
        term = _product_f32(x.transpose(1, 2), g).sum(0)
    _add(total, term, inverse)


def _grad_scale(
    chunk: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    d_p: Tensor,
    mask: Tensor | None,
    columns: slice,
    interactions: Interactions,
    activation: str,
) -> Tensor:
    """Powers of two ``[M]`` that bring G_m of one chunk to the range of float16.

    ``S_m = 2 ** floor(log2(2 ** 15 / (A * R_m)))`` with A the largest |d_p| (times the largest position weight) and R_m
    the sum over leave-one-out products of the largest |U|. The largest raw |U| plus the largest |bias| bounds |U|
    before the activation, which never enlarges it. Values that are not finite do not count: one bad sample must not
    cost others their gradient. A chunk has one factor for all samples, because d_weights sums over them.
    """
    largest = []
    for m, u in enumerate(chunk):
        size = _finite_abs(u)
        if mask is not None and mask.dtype == torch.bool:
            size.masked_fill_(~mask.unsqueeze(2), 0)
        bound = size.amax().float()
        if biases is not None and (bias := biases[m]) is not None:
            bound = bound + _finite_abs(bias[columns]).amax()
        largest.append(bound.clamp(max=1) if activation == "tanh" else bound)
    top = _finite_abs(d_p[:, :, columns]).amax()
    if mask is not None and mask.dtype != torch.bool:
        top = top * _finite_abs(mask).amax()
    reach = []
    for m in range(len(chunk)):
        total = torch.zeros_like(top)
        for factors in interactions:
            for k, factor in enumerate(factors):
                others = [largest[f] for i, f in enumerate(factors) if i != k]
                total = total + math.prod(others, start=torch.ones_like(top)) if factor == m else total
        reach.append(top * total)
    exponent = torch.floor(15 - torch.log2(torch.stack(reach)))
    exponent = torch.where(exponent.isfinite(), exponent.clamp(-120, 120), 0)
    return ((exponent.int() + 127) << 23).view(torch.float32)  # the float32 bits of 2 ** exponent: exact


def _finite_abs(x: Tensor) -> Tensor:
    return x.abs().nan_to_num_(nan=0.0, posinf=0.0)

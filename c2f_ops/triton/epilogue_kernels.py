# mypy: ignore-errors
"""Triton kernels of signed_sqrt_normalize: one program a scope, which is a row. Importing this module needs Triton."""

import triton
import triton.language as tl


@triton.jit
def _hypot(a, eps):
    """``sqrt(a^2 + eps^2)`` without leaving the float32 range, for a >= 0."""
    large = tl.maximum(a, eps, propagate_nan=tl.PropagateNan.ALL)
    ratio = tl.minimum(a, eps) / tl.where(large > 0, large, 1.0)
    return large * tl.sqrt_rn(1.0 + ratio * ratio)


@triton.jit
def _signed_sqrt(p, eps, SQRT_MODE: tl.constexpr):
    a = tl.abs(p)
    if SQRT_MODE == "shifted":
        # sqrt(a + eps^2) - eps without the cancellation; inf / inf and, for eps = 0, 0 / 0 are left out
        root = tl.sqrt_rn(a + eps * eps)
        s = tl.where(a < float("inf"), a / tl.where(a > 0, root + eps, 1.0), a)
    elif SQRT_MODE == "caffe":
        s = tl.sqrt_rn(a)
    elif SQRT_MODE == "plus_eps":
        s = tl.where(a == 0, 0.0, tl.sqrt_rn(a + eps))
    elif SQRT_MODE == "smooth":
        radius = _hypot(a, eps)
        s = tl.where(a < float("inf"), a / tl.sqrt_rn(tl.where(radius > 0, radius, 1.0)), a)
    else:
        s = a
    return tl.where(p < 0, -s, s)


@triton.jit
def _slope(p, eps, SQRT_MODE: tl.constexpr):
    a = tl.abs(p)
    if SQRT_MODE == "shifted":
        slope = 0.5 / tl.sqrt_rn(a + eps * eps)
    elif SQRT_MODE == "caffe":
        slope = 0.5 / (tl.sqrt_rn(a) + eps)
    elif SQRT_MODE == "plus_eps":
        slope = tl.where(a == 0, 0.0, 0.5 / tl.sqrt_rn(a + eps))
    elif SQRT_MODE == "smooth":
        radius = _hypot(a, eps)
        x = a / radius
        e = eps / radius
        slope = (0.5 * x * x + e * e) / tl.sqrt_rn(radius)
    else:
        slope = tl.full(p.shape, 1.0, tl.float32)
    return slope


@triton.jit
def _norm(total, eps, L2_MODE: tl.constexpr):
    """The norm, and whether ``clamp`` holds it at eps."""
    if L2_MODE == "add":
        norm = tl.sqrt_rn(total + eps)
        held = total != total
        held = held & False
    else:
        held = total <= eps * eps
        norm = tl.where(held, eps, tl.sqrt_rn(total))
    return norm, held


@triton.jit
def signed_sqrt_normalize_fwd_kernel(
    p_ptr,  # [rows, length]
    out_ptr,  # [rows, length]
    length,
    sqrt_eps,
    l2_eps,
    SQRT_MODE: tl.constexpr,
    L2_MODE: tl.constexpr,  # "add", "clamp" or "none"
    BLOCK: tl.constexpr,
):
    """Two passes over the row: the norm, then the quotient. Grid: rows."""
    row = tl.program_id(0).to(tl.int64) * length
    norm = 1.0
    if L2_MODE != "none":
        squares = tl.zeros([BLOCK], tl.float32)
        for first in range(0, length, BLOCK):
            offs = first + tl.arange(0, BLOCK)
            p = tl.load(p_ptr + row + offs, mask=offs < length, other=0.0).to(tl.float32)
            s = _signed_sqrt(p, sqrt_eps, SQRT_MODE)
            squares += s * s
        norm, _ = _norm(tl.sum(squares, axis=0), l2_eps, L2_MODE)
    for first in range(0, length, BLOCK):
        offs = first + tl.arange(0, BLOCK)
        p = tl.load(p_ptr + row + offs, mask=offs < length, other=0.0).to(tl.float32)
        z = _signed_sqrt(p, sqrt_eps, SQRT_MODE) / norm
        tl.store(out_ptr + row + offs, z.to(out_ptr.dtype.element_ty), mask=offs < length)


@triton.jit
def signed_sqrt_normalize_bwd_kernel(
    d_out_ptr,  # [rows, length]
    p_ptr,  # [rows, length]
    d_p_ptr,  # [rows, length]
    length,
    sqrt_eps,
    l2_eps,
    SQRT_MODE: tl.constexpr,
    L2_MODE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``d_p = (d_out - z gamma) / n * slope`` with gamma = sum of z d_out over the row. Grid: rows."""
    row = tl.program_id(0).to(tl.int64) * length
    norm = 1.0
    gamma = 0.0
    if L2_MODE != "none":
        squares = tl.zeros([BLOCK], tl.float32)
        products = tl.zeros([BLOCK], tl.float32)
        for first in range(0, length, BLOCK):
            offs = first + tl.arange(0, BLOCK)
            p = tl.load(p_ptr + row + offs, mask=offs < length, other=0.0).to(tl.float32)
            g = tl.load(d_out_ptr + row + offs, mask=offs < length, other=0.0).to(tl.float32)
            s = _signed_sqrt(p, sqrt_eps, SQRT_MODE)
            squares += s * s
            products += s * g
        norm, held = _norm(tl.sum(squares, axis=0), l2_eps, L2_MODE)
        gamma = tl.where(held, 0.0, tl.sum(products, axis=0) / norm)
    for first in range(0, length, BLOCK):
        offs = first + tl.arange(0, BLOCK)
        p = tl.load(p_ptr + row + offs, mask=offs < length, other=0.0).to(tl.float32)
        g = tl.load(d_out_ptr + row + offs, mask=offs < length, other=0.0).to(tl.float32)
        if L2_MODE != "none":
            g = (g - _signed_sqrt(p, sqrt_eps, SQRT_MODE) / norm * gamma) / norm
        tl.store(
            d_p_ptr + row + offs, (g * _slope(p, sqrt_eps, SQRT_MODE)).to(d_p_ptr.dtype.element_ty), mask=offs < length
        )

# mypy: ignore-errors
"""Element-wise Triton kernels of multilinear_pool over projections that a GEMM made, and what the fused kernel shares.

Tiles are ``[BLOCK_L, BLOCK_D]``, positions by outputs. One program owns (sample, outputs) and walks over all positions,
so sums have one fixed order and no atomics. Importing this module needs Triton; the launchers do when they run.
"""

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    # (1 - t) / (1 + t) with t = exp(-2 |x|) cancels near 0, where the odd series is exact to float32
    t = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - t) / (1.0 + t)
    y = x * x
    near = x * (1.0 + y * (-1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """Apply "none", "relu" or "tanh"."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)  # NaN stays NaN
    elif ACTIVATION == "tanh":
        x = _tanh(x)
    return x


@triton.jit
def _activation_grad(u, g, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        g = tl.where(u <= 0, 0.0, g)
    elif ACTIVATION == "tanh":
        g = g * (1.0 - u * u)
    return g


@triton.jit
def product_of(us, INTERACTIONS: tl.constexpr, Q: tl.constexpr, SKIP: tl.constexpr):
    """Product of the factors of interaction Q, without the one at SKIP; None where nothing is left."""
    product = None
    for k in tl.static_range(len(INTERACTIONS[Q])):
        if k != SKIP:
            if product is None:
                product = us[INTERACTIONS[Q][k]]
            else:
                product = product * us[INTERACTIONS[Q][k]]
    return product


@triton.jit
def load_tile(ptrs, keep_rows, keep_columns):
    """Load a tile; rows and columns that are not kept read 0. None keeps all."""
    if keep_rows is None and keep_columns is None:
        tile = tl.load(ptrs)
    elif keep_columns is None:
        tile = tl.load(ptrs, mask=keep_rows[:, None], other=0.0)
    elif keep_rows is None:
        tile = tl.load(ptrs, mask=keep_columns[None, :], other=0.0)
    else:
        tile = tl.load(ptrs, mask=keep_rows[:, None] & keep_columns[None, :], other=0.0)
    return tile


@triton.jit
def _load_projections(projections, biases, rows, keep_l, offs_d, keep_d, first, row_stride, ACTIVATION: tl.constexpr):
    """M float32 tiles ``[BLOCK_L, BLOCK_D]`` with bias and activation; what lies outside reads as projection 0."""
    us = ()
    for m in tl.static_range(len(projections)):
        u = load_tile(projections[m] + rows[:, None] * row_stride + offs_d[None, :], keep_l, keep_d).to(tl.float32)
        if biases[m] is not None:
            u += tl.load(biases[m] + first + offs_d, mask=keep_d, other=0.0)[None, :]
        us = us + (activate(u, ACTIVATION),)
    return us


@triton.jit
def _position_weights(mask_ptr, rows, keep_l, MASK: tl.constexpr):
    """Weights of a float mask (None otherwise), and which positions count."""
    weight = None
    keep = keep_l
    if MASK != "none":
        weight = tl.load(mask_ptr + rows, mask=keep_l, other=0)
        if MASK == "bool":
            keep = weight != 0
    return weight, keep


@triton.jit
def hadamard_reduce_kernel(
    projections,  # M x [B, L, width], row stride `row_stride`
    biases,  # M x ([D] float32 or None)
    mask_ptr,  # [B, L] uint8 or float32, or None
    p_ptr,  # [B, Q, D] float32
    L,
    width,
    D,
    first,
    row_stride,
    INTERACTIONS: tl.constexpr,
    ACTIVATION: tl.constexpr,  # still to be applied
    MASK: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``p[b, q, first + j] = sum_i w[b, i] * prod U[b, i, j]``. Grid: B * cdiv(width, BLOCK_D)."""
    pid = tl.program_id(0)
    tiles_d = tl.cdiv(width, BLOCK_D)
    b = tl.cast(pid // tiles_d, tl.int64)
    offs_d = pid % tiles_d * BLOCK_D + tl.arange(0, BLOCK_D)
    keep_d = offs_d < width
    sums = ()
    for _ in tl.static_range(len(INTERACTIONS)):
        sums = sums + (tl.zeros([BLOCK_L, BLOCK_D], tl.float32),)
    for start in range(0, L, BLOCK_L):
        offs_l = start + tl.arange(0, BLOCK_L)
        rows = b * L + offs_l.to(tl.int64)
        us = _load_projections(projections, biases, rows, offs_l < L, offs_d, keep_d, first, row_stride, ACTIVATION)
        weight, keep = _position_weights(mask_ptr, rows, offs_l < L, MASK)
        added = ()
        for q in tl.static_range(len(INTERACTIONS)):
            product = product_of(us, INTERACTIONS, q, -1)
            if MASK == "float":
                product = product * weight[:, None]
            added = added + (sums[q] + tl.where(keep[:, None], product, 0.0),)
        sums = added
    for q in tl.static_range(len(INTERACTIONS)):
        ptrs = p_ptr + (b * len(INTERACTIONS) + q) * D + first + offs_d
        tl.store(ptrs, tl.sum(sums[q], axis=0), mask=keep_d)


@triton.jit
def hadamard_grad_kernel(
    projections,  # M x [B, L, width], row stride `row_stride`
    biases,  # M x ([D] float32 or None)
    mask_ptr,  # [B, L] uint8 or float32, or None
    d_p_ptr,  # [B, Q, D] float32
    scale_ptr,  # [M] float32, or None: 1
    grads,  # M x ([B, L, width] or None): G_m * scale[m]
    d_biases,  # M x ([B, width] float32 or None): sums of G_m over positions
    L,
    width,
    D,
    first,
    row_stride,
    INTERACTIONS: tl.constexpr,
    APPLY: tl.constexpr,  # the projections are still without bias and activation
    ACTIVATION: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of all factors in one pass over the projections. Grid: B * cdiv(width, BLOCK_D)."""
    pid = tl.program_id(0)
    tiles_d = tl.cdiv(width, BLOCK_D)
    b = tl.cast(pid // tiles_d, tl.int64)
    offs_d = pid % tiles_d * BLOCK_D + tl.arange(0, BLOCK_D)
    keep_d = offs_d < width
    d_ps = ()
    for q in tl.static_range(len(INTERACTIONS)):
        ptrs = d_p_ptr + (b * len(INTERACTIONS) + q) * D + first + offs_d
        d_ps = d_ps + (tl.load(ptrs, mask=keep_d, other=0.0)[None, :],)
    wanted = ()
    sums = ()
    for m in tl.static_range(len(projections)):
        if d_biases[m] is not None:
            wanted = wanted + (d_biases[m],)
            sums = sums + (tl.zeros([BLOCK_L, BLOCK_D], tl.float32),)

    for start in range(0, L, BLOCK_L):
        offs_l = start + tl.arange(0, BLOCK_L)
        keep_l = offs_l < L
        rows = b * L + offs_l.to(tl.int64)
        us = _load_projections(
            projections, biases, rows, keep_l, offs_d, keep_d, first, row_stride, ACTIVATION if APPLY else "none"
        )
        weight, keep = _position_weights(mask_ptr, rows, keep_l, MASK)
        added = ()
        for m in tl.static_range(len(projections)):
            if grads[m] is not None or d_biases[m] is not None:
                g = tl.zeros([BLOCK_L, BLOCK_D], tl.float32)
                for q in tl.static_range(len(INTERACTIONS)):
                    for k in tl.static_range(len(INTERACTIONS[q])):
                        if INTERACTIONS[q][k] == m:
                            others = product_of(us, INTERACTIONS, q, k)
                            if others is None:
                                g += d_ps[q]
                            else:
                                g += d_ps[q] * others
                if MASK == "float":
                    g = g * weight[:, None]
                g = tl.where(keep[:, None], _activation_grad(us[m], g, ACTIVATION), 0.0)
                if grads[m] is not None:
                    g_ptrs = grads[m] + rows[:, None] * width + offs_d[None, :]
                    scaled = g
                    if scale_ptr is not None:
                        scaled = g * tl.load(scale_ptr + m)
                    tl.store(g_ptrs, scaled.to(grads[m].dtype.element_ty), mask=keep_l[:, None] & keep_d[None, :])
                if d_biases[m] is not None:
                    added = added + (sums[len(added)] + g,)
        sums = added
    for k in tl.static_range(len(wanted)):
        tl.store(wanted[k] + b * width + offs_d, tl.sum(sums[k], axis=0), mask=keep_d)

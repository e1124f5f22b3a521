# mypy: ignore-errors
"""The fused forward of multilinear_pool in Triton. Importing this module needs Triton; the launcher does when it runs.

Tiles are ``[BLOCK_D, BLOCK_L]``, outputs by positions: the sum over positions then stays inside a thread and its quad,
and maps with contiguous positions (NCHW) feed the tensor cores without a transpose. A tile never holds positions of two
samples. Every sum runs in one fixed order inside one program: no atomics.
"""

import triton
import triton.language as tl

from .hadamard_kernels import activate, load_tile, product_of


@triton.jit
def _aligned(sizes, POSITIONS_INNER: tl.constexpr, VEC: tl.constexpr):
    """The sizes themselves, with what VEC divides made visible to the compiler: it decides the width of every load."""
    aligned = ()
    for v in tl.static_range(len(sizes)):
        C, stride_b, stride_l, stride_c, w_stride_c, w_stride_d = sizes[v]
        stride_b = stride_b // VEC * VEC
        if POSITIONS_INNER[v]:
            stride_c = stride_c // VEC * VEC
        else:
            C = C // VEC * VEC
            stride_l = stride_l // VEC * VEC
        aligned = aligned + ((C, stride_b, stride_l, stride_c, w_stride_c, w_stride_d),)
    return aligned


@triton.jit
def _step(
    acc,  # [BLOCK_D, BLOCK_L]
    x_ptr,  # feature at the first position of the tile
    w_ptr,  # weight at the first output of the tile
    c,
    keep_d,
    keep_l,
    sizes,
    WIDE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``acc += W[c : c + BLOCK_C, tile].T @ X[tile, c : c + BLOCK_C].T``."""
    C, _, stride_l, stride_c, w_stride_c, w_stride_d = sizes
    offs_c = tl.arange(0, BLOCK_C)
    offs_d = tl.arange(0, BLOCK_D)
    offs_l = tl.arange(0, BLOCK_L)
    keep_c = None
    if not EVEN:
        keep_c = offs_c < C - c
    if WIDE:
        offs_c, offs_d, offs_l = offs_c.to(tl.int64), offs_d.to(tl.int64), offs_l.to(tl.int64)
    wide_c = tl.cast(c, tl.int64)
    x = load_tile(x_ptr + wide_c * stride_c + (offs_c[:, None] * stride_c + offs_l[None, :] * stride_l), keep_c, keep_l)
    w = load_tile(
        w_ptr + wide_c * w_stride_c + (offs_d[:, None] * w_stride_d + offs_c[None, :] * w_stride_c), keep_d, keep_c
    )
    return tl.dot(w, x, acc, input_precision=PRECISION)


@triton.jit
def _project(
    features,
    weights,
    biases,
    b,
    d,
    first,
    keep_d,
    keep_l,
    sizes,
    VIEWS: tl.constexpr,
    WIDE: tl.constexpr,
    EVEN: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    JOINT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``act(X_m W_m + b_m)`` of all factors for one tile.

    JOINT: one loop over channels feeds all factors, which share their sizes. Otherwise one factor after the other, and
    finished 16-bit factors wait in 16 bits, which leaves registers for the factor in flight.
    """
    xs = ()
    ws = ()
    accs = ()
    for m in tl.static_range(len(features)):
        _, stride_b, stride_l, _, _, w_stride_d = sizes[VIEWS[m]]
        xs = xs + (features[m] + b * stride_b + first * stride_l,)
        ws = ws + (weights[m] + d * w_stride_d,)
        if biases[m] is None:
            accs = accs + (tl.zeros([BLOCK_D, BLOCK_L], tl.float32),)
        else:
            bias = tl.load(biases[m] + d + tl.arange(0, BLOCK_D), mask=keep_d)
            accs = accs + (tl.zeros([BLOCK_D, BLOCK_L], tl.float32) + bias[:, None],)

    us = ()
    if JOINT:
        for c in range(0, sizes[0][0], BLOCK_C):
            stepped = ()
            for m in tl.static_range(len(features)):
                stepped = stepped + (
                    _step(
                        accs[m], xs[m], ws[m], c, keep_d, keep_l, sizes[0],
                        WIDE, EVEN, PRECISION, BLOCK_D, BLOCK_L, BLOCK_C,
                    ),
                )  # fmt: skip
            accs = stepped
        for m in tl.static_range(len(features)):
            us = us + (activate(accs[m], ACTIVATION),)
    else:
        for m in tl.static_range(len(features)):
            acc = accs[m]
            for c in range(0, sizes[VIEWS[m]][0], BLOCK_C):
                acc = _step(
                    acc, xs[m], ws[m], c, keep_d, keep_l, sizes[VIEWS[m]],
                    WIDE, EVEN, PRECISION, BLOCK_D, BLOCK_L, BLOCK_C,
                )  # fmt: skip
            us = us + (activate(acc, ACTIVATION).to(features[m].dtype.element_ty),)
    return us


@triton.jit
def _pool_tile(
    sums,  # Q sums over positions, [BLOCK_D]
    first,
    features,
    weights,
    biases,
    mask_ptr,
    saved,
    b,
    d,
    L,
    D,
    keep_d,
    sizes,
    TAIL: tl.constexpr,
    INTERACTIONS: tl.constexpr,
    MASK: tl.constexpr,
    VIEWS: tl.constexpr,
    WIDE: tl.constexpr,
    EVEN: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    JOINT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Project the positions ``first : first + BLOCK_L`` of sample b and add their products to the sums."""
    first = tl.cast(first, tl.int64)
    offs_l = tl.arange(0, BLOCK_L)
    keep_l = None
    if TAIL:
        keep_l = offs_l < L - first
    us = _project(
        features, weights, biases, b, d, first, keep_d, keep_l, sizes,
        VIEWS, WIDE, EVEN, ACTIVATION, PRECISION, JOINT, BLOCK_D, BLOCK_L, BLOCK_C,
    )  # fmt: skip
    offs_d = tl.arange(0, BLOCK_D)
    for m in tl.static_range(len(saved)):
        ptrs = saved[m] + (b * L + first) * D + d + (offs_l[None, :].to(tl.int64) * D + offs_d[:, None])
        keep = (d + offs_d < D)[:, None] & (first + offs_l < L)[None, :]
        tl.store(ptrs, us[m].to(saved[m].dtype.element_ty), mask=keep)

    wide = ()
    for m in tl.static_range(len(features)):
        wide = wide + (us[m].to(tl.float32),)
    selected = keep_l
    if MASK != "none":
        weight = tl.load(mask_ptr + b * L + first + offs_l, mask=keep_l)
        if MASK == "bool":
            selected = weight != 0
            if TAIL:
                selected = selected & keep_l
    added = ()
    for q in tl.static_range(len(INTERACTIONS)):
        product = product_of(wide, INTERACTIONS, q, -1)
        if MASK == "float":
            product = product * weight[None, :]
        if selected is not None:
            product = tl.where(selected[None, :], product, 0.0)
        added = added + (sums[q] + tl.sum(product, axis=1),)
    return added


@triton.jit
def multilinear_pool_fwd_kernel(
    features,  # M x [B, L, C_m]
    weights,  # M x [C_m, D]
    biases,  # M x ([D] float32 or None)
    mask_ptr,  # [B, L] uint8 or float32, or None
    p_ptr,  # [B, Q, D] float32
    saved,  # M x [B, L, D], or ()
    B,
    L,
    D,
    group,  # samples that share the L2 cache
    sizes,  # per distinct view: (C, stride_b, stride_l, stride_c, weight stride_c, weight stride_d)
    INTERACTIONS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MASK: tl.constexpr,  # "none", "bool" or "float"
    VIEWS: tl.constexpr,  # M x index into sizes
    POSITIONS_INNER: tl.constexpr,  # per view: stride_l is 1
    VEC: tl.constexpr,  # power of two that divides outer strides and inner extent of every feature
    VEC_L: tl.constexpr,  # power of two that divides L
    WIDE: tl.constexpr,  # offsets inside a tile need 64 bits
    EVEN: tl.constexpr,  # BLOCK_C divides every C and BLOCK_D divides D
    PRECISION: tl.constexpr,  # of float32 operands: "ieee" or "tf32"
    JOINT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_TAIL: tl.constexpr,  # covers L % BLOCK_L; 0: no tail
    BLOCK_C: tl.constexpr,
):
    """One program owns ``p[b, :, d : d + BLOCK_D]`` and walks over all positions. Grid: B * cdiv(D, BLOCK_D)."""
    pid = tl.program_id(0)
    tiles_d = tl.cdiv(D, BLOCK_D)
    first_b = pid // (group * tiles_d) * group
    group_b = tl.minimum(B - first_b, group)
    rest = pid % (group * tiles_d)
    b = tl.cast(first_b + rest % group_b, tl.int64)
    d = tl.cast(rest // group_b, tl.int64) * BLOCK_D
    L = L // VEC_L * VEC_L
    sizes = _aligned(sizes, POSITIONS_INNER, VEC)
    offs_d = tl.arange(0, BLOCK_D)
    keep_d = None
    if not EVEN:
        keep_d = d + offs_d < D

    sums = ()
    for _ in tl.static_range(len(INTERACTIONS)):
        sums = sums + (tl.zeros([BLOCK_D], tl.float32),)
    full = L // BLOCK_L * BLOCK_L
    for first in range(0, full, BLOCK_L):
        sums = _pool_tile(
            sums, first, features, weights, biases, mask_ptr, saved, b, d, L, D, keep_d, sizes, False, INTERACTIONS,
            MASK, VIEWS, WIDE, EVEN, ACTIVATION, PRECISION, JOINT, BLOCK_D, BLOCK_L, BLOCK_C,
        )  # fmt: skip
    if BLOCK_TAIL:
        sums = _pool_tile(
            sums, full, features, weights, biases, mask_ptr, saved, b, d, L, D, keep_d, sizes, True, INTERACTIONS,
            MASK, VIEWS, WIDE, EVEN, ACTIVATION, PRECISION, JOINT, BLOCK_D, BLOCK_TAIL, BLOCK_C,
        )  # fmt: skip
    for q in tl.static_range(len(INTERACTIONS)):
        tl.store(p_ptr + (b * len(INTERACTIONS) + q) * D + d + offs_d, sums[q], mask=d + offs_d < D)

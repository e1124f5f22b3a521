# mypy: ignore-errors
"""Triton kernels of class_attentive_supcon, forward, and what the backward shares. Importing this module needs Triton.

Positions p number the anchors in the given order, by class; i = order[p]. What belongs to anchors comes by position,
and `class_attentive_anchors_kernel` writes u[p] = v_c o z_i, so that tiles of anchors are contiguous. The similarities
of a tile of anchors with a tile of keys are then one product, and the squared norms of the keys under each anchor's
weights another, v_c with x o x. With one class of weights (C = 1) the keys' norms are known beforehand.

Products of 16-bit rows take the tensor cores of their type; what is float32 (weights, squares, and all that meets
float16, whose range is short) takes PRECISION: "tf32" beside 16-bit operands, which it represents exactly or as well as
they are, and a float32-exact kind beside float32.
"""

import triton
import triton.language as tl

NOTHING = tl.constexpr(float("-inf"))


@triton.jit
def _finite(top):
    """0 in place of the maximum of nothing, so that exp(-inf - top) is 0 and not NaN."""
    return tl.where(top == NOTHING, 0.0, top)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a b`` in b's type where that is bfloat16, else in float32."""
    if b.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.bfloat16), b, acc)
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision=PRECISION)


@triton.jit
def load_anchors(order_ptr, classes_ptr, start, end, A, C, BLOCK_A: tl.constexpr):
    """Positions from ``start``, their anchors and classes, and which of them lie before ``end`` and have weights."""
    offs_p = start + tl.arange(0, BLOCK_A)
    inside = offs_p < tl.minimum(end, A)
    i = tl.load(order_ptr + offs_p, mask=inside, other=0)
    c = tl.load(classes_ptr + offs_p, mask=inside, other=-1)
    return offs_p, i, c, inside & (c >= 0) & (c < C)


@triton.jit
def load_keys(x_labels_ptr, start, end, N, K: tl.constexpr, BLOCK_N: tl.constexpr):
    """Keys from ``start``, and which of them lie before ``end`` and are not left out."""
    offs_j = start + tl.arange(0, BLOCK_N)
    mask_j = offs_j < tl.minimum(end, N)
    return offs_j, mask_j & (tl.load(x_labels_ptr + offs_j * K, mask=mask_j, other=-2) >= -1)


@triton.jit
def load_rows(x_ptr, rows, mask_rows, stride, offs_e, d):
    """A tile of rows of a matrix of width d; 0 where there is nothing."""
    mask = mask_rows[:, None] & (offs_e < d)[None, :]
    return tl.load(x_ptr + rows[:, None] * stride + offs_e[None, :], mask=mask, other=0.0)


@triton.jit
def pair_weights(
    z_labels_ptr, x_labels_ptr, p, i, j, mask_i, mask_j, first, attract_weight, repel_weight, K: tl.constexpr
):
    """Which pairs count, and their two weights. Anchors and keys lie along different axes."""
    agree = mask_i & mask_j
    present = agree & (j != tl.where(first < 0, -1, first + i))
    a = tl.where(agree, attract_weight[0], 0.0)
    r = tl.where(agree, repel_weight[0], 0.0)
    for k in tl.static_range(K):
        mine = tl.load(z_labels_ptr + p * K + k, mask=mask_i, other=-1)
        theirs = tl.load(x_labels_ptr + j * K + k, mask=mask_j, other=-2)
        agree = agree & (mine == theirs) & (mine >= 0)
        a = tl.where(agree, attract_weight[k + 1], a)
        r = tl.where(agree, repel_weight[k + 1], r)
    return present, a, r


@triton.jit
def pair_products(
    u_ptr,
    x_ptr,
    v_ptr,
    x_squares_ptr,
    offs_p,
    c,
    mask_i,
    offs_j,
    mask_j,
    u_stride,
    x_stride,
    d,
    KEYS_FIRST: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """<u_p, x_j> and n(x_j, c_p)^2 before it is clamped, ``[BLOCK_A, BLOCK_N]`` or, KEYS_FIRST, transposed."""
    if KEYS_FIRST:
        products = tl.zeros([BLOCK_N, BLOCK_A], tl.float32)
    else:
        products = tl.zeros([BLOCK_A, BLOCK_N], tl.float32)
    squares = products
    for e in range(0, BLOCK_K if ONE_BLOCK else d, BLOCK_K):  # one pass of a loop is none
        offs_e = e + tl.arange(0, BLOCK_K)
        u = load_rows(u_ptr, offs_p, mask_i, u_stride, offs_e, d)
        x = load_rows(x_ptr, offs_j, mask_j, x_stride, offs_e, d)
        if KEYS_FIRST:
            products = tl.dot(x, u.T, products, input_precision=PRECISION)
        else:
            products = tl.dot(u, x.T, products, input_precision=PRECISION)
        if x_squares_ptr is None:
            v = load_rows(v_ptr, c, mask_i, d, offs_e, d)
            x = x.to(tl.float32)
            if KEYS_FIRST:
                squares = tl.dot(x * x, v.T, squares, input_precision=PRECISION)
            else:
                squares = tl.dot(v, (x * x).T, squares, input_precision=PRECISION)
    if x_squares_ptr is not None:
        known = tl.load(x_squares_ptr + offs_j, mask=mask_j, other=0.0)
        squares += known[:, None] if KEYS_FIRST else known[None, :]
    return products, squares


@triton.jit
def class_attentive_anchors_kernel(
    z_ptr,  # [A, d]
    classes_ptr,  # [A] by position
    order_ptr,  # [A]
    v_ptr,  # [C, d]
    u_ptr,  # [A, d] by position, or None
    scale_ptr,  # [A] by position: <u, x> scale = <v o z, x> / n(z)
    squares_ptr,  # [A] by position: n(z)^2 before it is clamped
    z_stride,
    u_stride,
    A,
    d,
    C,
    eps_squared,
    HAS_SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """u, scale and squares of some positions; 0 without a class. Grid: blocks of positions.

    HAS_SCALE: u is divided by its largest element, which float16 needs. Without order and classes: rows of class 0.
    """
    offs_p = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask_p = offs_p < A
    i = offs_p if order_ptr is None else tl.load(order_ptr + offs_p, mask=mask_p, other=0)
    c = offs_p * 0 if classes_ptr is None else tl.load(classes_ptr + offs_p, mask=mask_p, other=-1)
    mask_i = mask_p & (c >= 0) & (c < C)
    squares = tl.zeros([ROWS], tl.float32)
    unit = tl.zeros([ROWS], tl.float32)
    for e in range(0, d, BLOCK):
        offs_e = e + tl.arange(0, BLOCK)
        z = load_rows(z_ptr, i, mask_i, z_stride, offs_e, d).to(tl.float32)
        vz = load_rows(v_ptr, c, mask_i, d, offs_e, d) * z
        squares += tl.sum(vz * z, axis=1)
        if HAS_SCALE:
            unit = tl.maximum(unit, tl.max(tl.abs(vz), axis=1))
    unit = tl.where(unit > 0, unit, 1.0)
    tl.store(squares_ptr + offs_p, squares, mask=mask_p)
    if u_ptr is not None:
        tl.store(scale_ptr + offs_p, unit * tl.rsqrt(tl.maximum(squares, eps_squared)), mask=mask_p)
        for e in range(0, d, BLOCK):
            offs_e = e + tl.arange(0, BLOCK)
            z = load_rows(z_ptr, i, mask_i, z_stride, offs_e, d).to(tl.float32)
            vz = load_rows(v_ptr, c, mask_i, d, offs_e, d) * z / unit[:, None]
            out = u_ptr + offs_p[:, None] * u_stride + offs_e[None, :]
            tl.store(out, vz.to(u_ptr.dtype.element_ty), mask=mask_p[:, None] & (offs_e < d)[None, :])


@triton.jit
def class_attentive_fwd_kernel(
    u_ptr,  # [A, d] by position
    scale_ptr,  # [A] by position
    x_ptr,  # [N, d]
    x_squares_ptr,  # [N] or None
    z_labels_ptr,  # [A, K] by position
    x_labels_ptr,  # [N, K]
    classes_ptr,  # [A] by position
    order_ptr,  # [A]
    v_ptr,  # [C, d]
    attract_ptr,  # [parts, A] by position
    total_ptr,  # [parts, A] by position
    top_ptr,  # [parts, A] by position; not used with HINGE
    u_stride,
    x_stride,
    A,
    N,
    d,
    C,
    first,
    keys_of_part,
    parameter,  # margin, or 1 / temperature
    eps_squared,
    attract_weight,
    repel_weight,
    K: tl.constexpr,
    HINGE: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Both sums of a tile of anchors over a part of the keys. Grid: tiles of anchors x parts."""
    pid_a, pid_part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    offs_p, i, c, mask_i = load_anchors(order_ptr, classes_ptr, pid_a * BLOCK_A, A, A, C, BLOCK_A)
    scale = tl.load(scale_ptr + offs_p, mask=mask_i, other=0.0)
    attract = tl.zeros([BLOCK_A], tl.float32)
    total = tl.zeros([BLOCK_A], tl.float32)
    top = tl.full([BLOCK_A], NOTHING, tl.float32)
    start = pid_part * keys_of_part
    some = tl.max(mask_i.to(tl.int32), axis=0)
    for begin in range(0, some * keys_of_part, BLOCK_N):
        offs_j, mask_j = load_keys(x_labels_ptr, start + begin, start + keys_of_part, N, K, BLOCK_N)
        products, squares = pair_products(
            u_ptr, x_ptr, v_ptr, x_squares_ptr, offs_p, c, mask_i, offs_j, mask_j, u_stride, x_stride, d,
            False, ONE_BLOCK, PRECISION, BLOCK_A, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        present, a, r = pair_weights(
            z_labels_ptr, x_labels_ptr, offs_p[:, None], i[:, None], offs_j[None, :], mask_i[:, None], mask_j[None, :],
            first, attract_weight, repel_weight, K,
        )  # fmt: skip
        sim = products * scale[:, None] * tl.rsqrt(tl.maximum(squares, eps_squared))
        attract += tl.sum(tl.where(present, a * sim, 0.0), axis=1)
        if HINGE:
            above = tl.where(sim <= parameter, 0.0, sim - parameter)  # NaN stays NaN
            total += tl.sum(tl.where(present, r * above, 0.0), axis=1)
        else:
            weighs = present & (r > 0)
            new = tl.maximum(top, tl.max(tl.where(weighs, sim, NOTHING), axis=1))
            terms = tl.where(weighs, r * tl.exp((sim - _finite(new)[:, None]) * parameter), 0.0)
            total = total * tl.exp((top - _finite(new)) * parameter) + tl.sum(terms, axis=1)
            top = new
    out = pid_part * A + offs_p
    tl.store(attract_ptr + out, attract, mask=offs_p < A)
    tl.store(total_ptr + out, total, mask=offs_p < A)
    if not HINGE:
        tl.store(top_ptr + out, top, mask=offs_p < A)


@triton.jit
def class_attentive_finish_kernel(
    attract_part_ptr,  # [parts, A] by position
    total_ptr,  # [parts, A] by position
    top_ptr,  # [parts, A] by position
    classes_ptr,  # [A] by position
    order_ptr,  # [A]
    attract_ptr,  # [A]
    repel_ptr,  # [A]
    A,
    C,
    parts,
    parameter,  # margin, or 1 / temperature
    HINGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """attract and repel from the parts, in their order. Grid: blocks of positions."""
    offs_p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask_p = offs_p < A
    i = tl.load(order_ptr + offs_p, mask=mask_p, other=0)
    c = tl.load(classes_ptr + offs_p, mask=mask_p, other=-1)
    attract = tl.zeros([BLOCK], tl.float32)
    repel = tl.zeros([BLOCK], tl.float32)
    top = tl.full([BLOCK], NOTHING, tl.float32)
    for part in range(parts):
        at = tl.cast(part, tl.int64) * A + offs_p
        attract += tl.load(attract_part_ptr + at, mask=mask_p, other=0.0)
        total = tl.load(total_ptr + at, mask=mask_p, other=0.0)
        if HINGE:
            repel += total
        else:
            here = tl.load(top_ptr + at, mask=mask_p, other=NOTHING)
            new = tl.maximum(top, here)
            repel = repel * tl.exp((top - _finite(new)) * parameter)
            repel += total * tl.exp((here - _finite(new)) * parameter)
            top = new
    if not HINGE:
        repel = top * parameter + tl.log(repel)
    poison = tl.where(c >= C, float("nan"), 0.0)
    tl.store(attract_ptr + i, tl.where(c < 0, 0.0, attract + poison), mask=mask_p)
    tl.store(repel_ptr + i, tl.where(c < 0, 0.0, repel + poison), mask=mask_p)

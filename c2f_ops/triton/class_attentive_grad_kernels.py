# mypy: ignore-errors
"""Triton kernels of class_attentive_supcon, backward. Importing this module needs Triton.

Each tile of similarities is computed again: once for the sums over keys, once for the sums over anchors.
"""

import triton
import triton.language as tl

from .class_attentive_kernels import dot, load_anchors, load_keys, load_rows, pair_products, pair_weights


@triton.jit
def _slopes(
    products, squares, scale, d_attract, d_repel, repel, present, a, r, parameter, eps_squared, HINGE: tl.constexpr
):
    """S, sim, 1 / n(x) and F of a tile, from what belongs to its anchors, broadcast along its keys."""
    inverse = tl.rsqrt(tl.maximum(squares, eps_squared))
    sim = products * scale * inverse
    if HINGE:
        slope = tl.where(sim <= parameter, 0.0, r)
    else:
        slope = tl.where(r > 0, r * (tl.exp(sim * parameter - repel) * parameter), 0.0)
    s = tl.where(present, d_attract * a + d_repel * slope, 0.0)
    return s, sim, inverse, tl.where(squares > eps_squared, s * sim * inverse * inverse, 0.0)


@triton.jit
def class_attentive_queries_kernel(
    d_attract_ptr,  # [A] by position
    d_repel_ptr,  # [A] by position
    repel_ptr,  # [A] by position
    u_ptr,  # [A, d] by position
    scale_ptr,  # [A] by position
    x_ptr,  # [N, d]
    x_squares_ptr,  # [N] or None
    z_labels_ptr,  # [A, K] by position
    x_labels_ptr,  # [N, K]
    classes_ptr,  # [A] by position
    order_ptr,  # [A]
    v_ptr,  # [C, d]
    q_ptr,  # [parts, A, d] by position: sum_j S x_j / n(x_j)
    f_ptr,  # [parts, A, d] by position: sum_j F x_j o x_j; or None
    rho_ptr,  # [parts, A] by position: sum_j S sim
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
    BLOCK_D: tl.constexpr,
):
    """Sums over a part of the keys for a tile of anchors. Grid: tiles of anchors x parts x blocks of d."""
    pid_a, pid_part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    offs_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_p, i, c, mask_i = load_anchors(order_ptr, classes_ptr, pid_a * BLOCK_A, A, A, C, BLOCK_A)
    scale = tl.load(scale_ptr + offs_p, mask=mask_i, other=0.0)[:, None]
    d_attract = tl.load(d_attract_ptr + offs_p, mask=mask_i, other=0.0)[:, None]
    d_repel = tl.load(d_repel_ptr + offs_p, mask=mask_i, other=0.0)[:, None]
    repel = tl.load(repel_ptr + offs_p, mask=mask_i, other=0.0)[:, None]
    q = tl.zeros([BLOCK_A, BLOCK_D], tl.float32)
    f = tl.zeros([BLOCK_A, BLOCK_D], tl.float32)
    rho = tl.zeros([BLOCK_A], tl.float32)
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
        s, sim, inverse, of_key = _slopes(
            products, squares, scale, d_attract, d_repel, repel, present, a, r, parameter, eps_squared, HINGE
        )
        rho += tl.sum(tl.where(present, s * sim, 0.0), axis=1)
        x = load_rows(x_ptr, offs_j, mask_j, x_stride, offs_d, d)
        q = dot(s * inverse, x, q, PRECISION)
        if f_ptr is not None:
            x = x.to(tl.float32)
            f = dot(of_key, x * x, f, PRECISION)
    out = pid_part * A + offs_p
    mask_out = (offs_p < A)[:, None] & (offs_d < d)[None, :]
    tl.store(q_ptr + out[:, None] * d + offs_d[None, :], q, mask=mask_out)
    if f_ptr is not None:
        tl.store(f_ptr + out[:, None] * d + offs_d[None, :], f, mask=mask_out)
    if tl.program_id(2) == 0:
        tl.store(rho_ptr + out, rho, mask=offs_p < A)


@triton.jit
def class_attentive_keys_kernel(
    d_attract_ptr,  # [A] by position
    d_repel_ptr,  # [A] by position
    repel_ptr,  # [A] by position
    u_ptr,  # [A, d] by position
    scale_ptr,  # [A] by position
    x_ptr,  # [N, d]
    x_squares_ptr,  # [N] or None
    z_labels_ptr,  # [A, K] by position
    x_labels_ptr,  # [N, K]
    classes_ptr,  # [A] by position
    order_ptr,  # [A]
    v_ptr,  # [C, d]
    d_x_ptr,  # [parts, N, d]
    u_stride,
    x_stride,
    A,
    N,
    d,
    C,
    first,
    anchors_of_part,
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
    BLOCK_D: tl.constexpr,
):
    """``d_x`` of a tile of keys from a part of the anchors. Grid: tiles of keys x parts x blocks of d."""
    pid_n, pid_part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    offs_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_j, mask_j = load_keys(x_labels_ptr, pid_n * BLOCK_N, N, N, K, BLOCK_N)
    d_x = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    weights = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)  # sum_i F v_c
    alone = tl.zeros([BLOCK_N], tl.float32)  # sum_i F, where v has one row
    start = pid_part * anchors_of_part
    for begin in range(0, anchors_of_part, BLOCK_A):
        offs_p, i, c, mask_i = load_anchors(
            order_ptr, classes_ptr, start + begin, start + anchors_of_part, A, C, BLOCK_A
        )
        products, squares = pair_products(
            u_ptr, x_ptr, v_ptr, x_squares_ptr, offs_p, c, mask_i, offs_j, mask_j, u_stride, x_stride, d,
            True, ONE_BLOCK, PRECISION, BLOCK_A, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        present, a, r = pair_weights(
            z_labels_ptr, x_labels_ptr, offs_p[None, :], i[None, :], offs_j[:, None], mask_i[None, :], mask_j[:, None],
            first, attract_weight, repel_weight, K,
        )  # fmt: skip
        scale = tl.load(scale_ptr + offs_p, mask=mask_i, other=0.0)[None, :]
        d_attract = tl.load(d_attract_ptr + offs_p, mask=mask_i, other=0.0)[None, :]
        d_repel = tl.load(d_repel_ptr + offs_p, mask=mask_i, other=0.0)[None, :]
        repel = tl.load(repel_ptr + offs_p, mask=mask_i, other=0.0)[None, :]
        s, _, inverse, of_key = _slopes(
            products, squares, scale, d_attract, d_repel, repel, present, a, r, parameter, eps_squared, HINGE
        )
        u = load_rows(u_ptr, offs_p, mask_i, u_stride, offs_d, d)
        d_x = dot(s * inverse * scale, u, d_x, PRECISION)
        if x_squares_ptr is None:
            weights = dot(of_key, load_rows(v_ptr, c, mask_i, d, offs_d, d), weights, PRECISION)
        else:
            alone += tl.sum(of_key, axis=1)
    if x_squares_ptr is not None:
        weights = alone[:, None] * tl.load(v_ptr + offs_d, mask=offs_d < d, other=0.0)[None, :]
    d_x -= weights * load_rows(x_ptr, offs_j, mask_j, x_stride, offs_d, d).to(tl.float32)
    out = (pid_part * N + offs_j)[:, None] * d + offs_d[None, :]
    tl.store(d_x_ptr + out, d_x, mask=(offs_j < N)[:, None] & (offs_d < d)[None, :])


@triton.jit
def class_attentive_d_z_kernel(
    z_ptr,  # [A, d]
    classes_ptr,  # [A] by position
    order_ptr,  # [A]
    v_ptr,  # [C, d]
    squares_ptr,  # [A] by position
    q_ptr,  # [parts, A, d] by position
    f_ptr,  # [parts, A, d] by position, or None
    rho_ptr,  # [parts, A] by position
    d_z_ptr,  # [A, d] or None
    z_stride,
    A,
    d,
    C,
    parts,
    eps_squared,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``d_z``; with f, each anchor's share of ``d_v`` goes to the first part of f. Grid: blocks of positions x of d."""
    offs_p = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    offs_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask_p = offs_p < A
    i = tl.load(order_ptr + offs_p, mask=mask_p, other=0)
    c = tl.load(classes_ptr + offs_p, mask=mask_p, other=-1)
    mask_i = mask_p & (c >= 0) & (c < C)
    z = load_rows(z_ptr, i, mask_i, z_stride, offs_d, d).to(tl.float32)
    q = tl.zeros([ROWS, BLOCK], tl.float32)
    f = tl.zeros([ROWS, BLOCK], tl.float32)
    rho = tl.zeros([ROWS], tl.float32)
    for part in range(parts):
        at = tl.cast(part, tl.int64) * A + offs_p
        q += load_rows(q_ptr, at, mask_i, d, offs_d, d)
        rho += tl.load(rho_ptr + at, mask=mask_i, other=0.0)
        if f_ptr is not None:
            f += load_rows(f_ptr, at, mask_i, d, offs_d, d)
    squares = tl.load(squares_ptr + offs_p, mask=mask_i, other=0.0)
    q *= tl.rsqrt(tl.maximum(squares, eps_squared))[:, None]
    e = tl.where(squares > eps_squared, rho / tl.maximum(squares, eps_squared), 0.0)[:, None]
    mask_out = mask_p[:, None] & (offs_d < d)[None, :]
    if d_z_ptr is not None:
        poison = tl.where(c >= C, float("nan"), 0.0)[:, None]
        d_z = load_rows(v_ptr, c, mask_i, d, offs_d, d) * (q - e * z) + poison
        tl.store(d_z_ptr + i[:, None] * d + offs_d[None, :], d_z.to(d_z_ptr.dtype.element_ty), mask=mask_out)
    if f_ptr is not None:
        share = z * q - (e * z * z + f) * 0.5
        tl.store(f_ptr + offs_p[:, None] * d + offs_d[None, :], share, mask=mask_out)


@triton.jit
def class_attentive_d_v_kernel(
    share_ptr,  # [A, d] by position
    bounds_ptr,  # [C + 1] positions between classes
    d_v_ptr,  # [C, d]
    d,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``d_v`` of one class: the sum of its anchors' shares. Grid: C x blocks of d."""
    pid = tl.program_id(0).to(tl.int64)
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start, end = tl.load(bounds_ptr + pid), tl.load(bounds_ptr + pid + 1)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(start, end, ROWS):
        rows = begin + tl.arange(0, ROWS)
        total += load_rows(share_ptr, rows, rows < end, d, offs, d)
    tl.store(d_v_ptr + pid * d + offs, tl.sum(total, axis=0), mask=offs < d)

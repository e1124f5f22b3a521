# mypy: ignore-errors
"""Triton kernels of falcon_loss: one program a row, in blocks of fine classes. Importing this module needs Triton.

A row of at most BLOCK classes is one block and stays in registers; a longer one is swept once for its statistics and
once for its results.
"""

import triton
import triton.language as tl

NOTHING = tl.constexpr(float("-inf"))
NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def _finite(top):
    """0 in place of the maximum of nothing, so that exp(-inf - top) is 0 and not NaN."""
    return tl.where(top == NOTHING, 0.0, top)


@triton.jit
def _extend(top, total, x, rate):
    """Statistics (maximum, sum of exp(rate (x - maximum))) of a row that goes on with the block ``x``."""
    new = tl.maximum(top, tl.max(x, axis=0))
    total = total * tl.exp((top - _finite(new)) * rate) + tl.sum(tl.exp((x - _finite(new)) * rate), axis=0)
    return new, total


@triton.jit
def _load_row(row_ptr, offs, K_F):
    return tl.load(row_ptr + offs, mask=offs < K_F, other=NOTHING).to(tl.float32)


@triton.jit
def _members(g_ptr, y_ptr, offs, first, alone, K_F, D: tl.constexpr):
    """Fine classes of a block under every label of a sample; ``alone`` = 1: under the one of data set ``first``."""
    inside = offs < K_F
    missed = tl.zeros(offs.shape, tl.int32) + (first == D).to(tl.int32)  # a sample without label has no group
    for d in tl.static_range(D):
        label = tl.load(y_ptr + d)
        counts = (label >= 0) & ((alone == 0) | (first == d))
        other = tl.load(g_ptr + d * K_F + offs, mask=inside, other=-1).to(tl.int64) != label
        missed += (other & counts).to(tl.int32)
    return inside & (missed == 0)


@triton.jit
def falcon_loss_fwd_kernel(
    z_ptr,  # [B, K_F]
    s_ptr,  # [B, K_F]
    t_ptr,  # [N, K_F]
    neighbours_ptr,  # [B, L]
    y_ptr,  # [B, D]
    g_ptr,  # [D, K_F]
    scale_ptr,  # [3]
    value_ptr,  # [B]
    terms_ptr,  # [B, 3]
    lse_ptr,  # [B]
    joint_ptr,  # [B, L, 2], statistics of z + t; not used with one block
    grad_ptr,  # [B, K_F]
    z_stride,
    s_stride,
    t_stride,
    K_F,
    L,
    N,
    inverse_temperature,
    tau,
    D: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """value, terms, lse and the gradient of one row. Grid: B."""
    row = tl.program_id(0).to(tl.int64)
    z_row, s_row, y_row = z_ptr + row * z_stride, s_ptr + row * s_stride, y_ptr + row * D
    neighbours_row, grad_row, joint_row = neighbours_ptr + row * L, grad_ptr + row * K_F, joint_ptr + row * L * 2
    block = tl.arange(0, BLOCK)
    end = BLOCK if ONE_BLOCK else K_F  # one pass of a loop is none, and what it loads is loaded once

    first = D
    for d in tl.static_range(D):
        first = tl.where((first == D) & (tl.load(y_row + d) >= 0), d, first)
    labelled = first < D
    alone = 0
    if D > 1:
        found = 0
        for begin in range(0, end, BLOCK):
            member = _members(g_ptr, y_row, begin + block, first, alone, K_F, D)
            found = tl.maximum(found, tl.max(member.to(tl.int32), axis=0))
        alone = (found == 0).to(tl.int32)

    count = 0
    beyond = 0
    for k in range(L):
        index = tl.load(neighbours_row + k)
        count += (index >= 0).to(tl.int32)
        beyond += (index >= N).to(tl.int32)
    share = 1.0 / tl.maximum(count, 1).to(tl.float32)

    nothing = tl.full([], NOTHING, tl.float32)
    z_max, group_max, hot_max = nothing, nothing, nothing
    z_sum, group_sum, hot_sum = 0.0, 0.0, 0.0
    hottest = NOWHERE
    for begin in range(0, end, BLOCK):
        offs = begin + block
        member = _members(g_ptr, y_row, offs, first, alone, K_F, D)
        z = _load_row(z_row, offs, K_F)
        s = tl.load(s_row + offs, mask=member, other=NOTHING).to(tl.float32)
        z_max, z_sum = _extend(z_max, z_sum, z, 1.0)
        group_max, group_sum = _extend(group_max, group_sum, tl.where(member, z, NOTHING), 1.0)
        top = tl.max(s, axis=0)
        here = tl.min(tl.where(member & (s == top), offs, NOWHERE), axis=0)
        hottest = tl.where(top > hot_max, here, hottest)
        hot_max, hot_sum = _extend(hot_max, hot_sum, s, inverse_temperature)
    log_z = tl.log(z_sum)
    empty = labelled & (group_max == NOTHING)
    nan = float("nan")
    poison = tl.where(empty | (beyond > 0), nan, 0.0)
    w_coarse = tl.where(labelled, tl.load(scale_ptr), 0.0)
    w_nn = tl.where(count > 0, tl.load(scale_ptr + 1), 0.0)
    w_conf = tl.where(labelled, tl.load(scale_ptr + 2), 0.0)

    nn = 0.0
    if not ONE_BLOCK:
        for k in range(L):
            index = tl.load(neighbours_row + k)
            valid = (index >= 0) & (index < N)
            t_max, joint_max = nothing, nothing
            t_sum, joint_sum = 0.0, 0.0
            for begin in range(0, end, BLOCK):
                t = _load_row(t_ptr + index * t_stride, begin + block, tl.where(valid, K_F, 0))
                joint = t + _load_row(z_row, begin + block, K_F)
                t_max, t_sum = _extend(t_max, t_sum, t, 1.0)
                joint_max, joint_sum = _extend(joint_max, joint_sum, joint, 1.0)
            nn += tl.where(valid, (z_max + t_max - joint_max) + (log_z + tl.log(t_sum) - tl.log(joint_sum)), 0.0)
            tl.store(joint_row + 2 * k, joint_max)
            tl.store(joint_row + 2 * k + 1, joint_sum)
        tl.debug_barrier()

    conf = 0.0
    of_p, of_group, of_q, of_nn = 1.0 / z_sum, w_coarse / group_sum, tau / hot_sum, w_nn * share
    for begin in range(0, end, BLOCK):
        offs = begin + block
        z = _load_row(z_row, offs, K_F)
        member = _members(g_ptr, y_row, offs, first, alone, K_F, D)
        s = tl.load(s_row + offs, mask=member, other=NOTHING).to(tl.float32)
        q = of_q * tl.exp((s - hot_max) * inverse_temperature) + tl.where(offs == hottest, 1.0 - tau, 0.0)
        conf += tl.sum(tl.where(member, q * (z_max - z), 0.0), axis=0)
        grad = (w_coarse + w_nn + w_conf) * of_p * tl.exp(z - z_max)
        grad -= tl.where(member, of_group * tl.exp(z - group_max) + w_conf * q, 0.0)
        for k in range(L):
            index = tl.load(neighbours_row + k)
            valid = (index >= 0) & (index < N)
            t = _load_row(t_ptr + index * t_stride, offs, tl.where(valid, K_F, 0))
            joint = z + t
            if ONE_BLOCK:
                t_max, t_sum = _extend(nothing, 0.0, t, 1.0)
                joint_max, joint_sum = _extend(nothing, 0.0, joint, 1.0)
                nn += tl.where(valid, (z_max + t_max - joint_max) + (log_z + tl.log(t_sum) - tl.log(joint_sum)), 0.0)
            else:
                joint_max, joint_sum = tl.load(joint_row + 2 * k), tl.load(joint_row + 2 * k + 1)
            grad -= tl.where(valid, of_nn / joint_sum * tl.exp(joint - joint_max), 0.0)
        if HAS_GRAD:
            tl.store(grad_row + offs, grad + poison, mask=offs < K_F)

    coarse = tl.where(labelled, (z_max - group_max) + (log_z - tl.log(group_sum)), 0.0)
    coarse = tl.where(empty, nan, coarse)
    conf = tl.where(empty, nan, tl.where(labelled, conf + log_z, 0.0))
    nn = tl.where(beyond > 0, nan, nn * share)
    tl.store(terms_ptr + row * 3, coarse)
    tl.store(terms_ptr + row * 3 + 1, nn)
    tl.store(terms_ptr + row * 3 + 2, conf)
    value = tl.load(scale_ptr) * coarse + tl.load(scale_ptr + 1) * nn + tl.load(scale_ptr + 2) * conf
    tl.store(value_ptr + row, value)
    tl.store(lse_ptr + row, z_max + log_z)


@triton.jit
def falcon_mass_kernel(
    x_ptr,  # [rows, K_F]
    lse_ptr,  # [rows] or None
    out_ptr,  # [parts, K_F]
    x_stride,
    rows,
    rows_of_part,
    K_F,
    HAS_LSE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of x, or of exp(x - lse), over parts of the rows. Grid: parts x blocks of classes."""
    part, first = tl.program_id(0).to(tl.int64) * rows_of_part, tl.program_id(1) * BLOCK
    offs = first + tl.arange(0, BLOCK)
    end = tl.minimum(part + rows_of_part, rows)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, rows_of_part, ROWS):
        row = part + begin + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & (offs < K_F)[None, :]
        x = tl.load(x_ptr + row[:, None] * x_stride + offs[None, :], mask=mask, other=0.0).to(tl.float32)
        if HAS_LSE:
            x = tl.exp(x - tl.load(lse_ptr + row, mask=row < end, other=0.0)[:, None])
        total += tl.where(mask, x, 0.0)
    tl.store(out_ptr + tl.program_id(0).to(tl.int64) * K_F + offs, tl.sum(total, axis=0), mask=offs < K_F)


@triton.jit
def falcon_loss_bwd_kernel(
    z_ptr,  # [B, K_F]
    lse_ptr,  # [B]
    grad_ptr,  # [B, K_F]
    d_value_ptr,  # [B]
    d_mass_ptr,  # [K_F]
    d_z_ptr,  # [B, K_F]
    z_stride,
    K_F,
    ONE_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``d_z = d_value grad + p (d_mass - <p, d_mass>)`` of one row. Grid: B."""
    row = tl.program_id(0).to(tl.int64)
    lse, d_value = tl.load(lse_ptr + row), tl.load(d_value_ptr + row)
    block = tl.arange(0, BLOCK)
    end = BLOCK if ONE_BLOCK else K_F
    dot = 0.0
    for begin in range(0, end, BLOCK):
        offs = begin + block
        p = tl.exp(_load_row(z_ptr + row * z_stride, offs, K_F) - lse)
        dot += tl.sum(p * tl.load(d_mass_ptr + offs, mask=offs < K_F, other=0.0), axis=0)
    for begin in range(0, end, BLOCK):
        offs = begin + block
        p = tl.exp(_load_row(z_ptr + row * z_stride, offs, K_F) - lse)
        d_mass = tl.load(d_mass_ptr + offs, mask=offs < K_F, other=0.0)
        grad = tl.load(grad_ptr + row * K_F + offs, mask=offs < K_F, other=0.0)
        d_z = d_value * grad + p * (d_mass - dot)
        tl.store(d_z_ptr + row * K_F + offs, d_z.to(d_z_ptr.dtype.element_ty), mask=offs < K_F)

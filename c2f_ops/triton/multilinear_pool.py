"""multilinear_pool in Triton: fused forward, and the element-wise kernels of the chunked forward and backward.

Which algorithm and which tiles run is a pure function of sizes, types and layout; nothing is timed when a call is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _chunked
from .._ops.problem import Problem
from . import unavailable, unsupported_device
from . import unvalidated as _unvalidated
from .plan import L2_BYTES, FusedPlan, chunk_sizes, fused_plan

__all__ = ["multilinear_pool_bwd", "multilinear_pool_fwd", "unavailable", "unsupported", "unvalidated"]

Interactions = Sequence[Sequence[int]]

_OP = "multilinear_pool"
MAX_FACTORS, MAX_DEGREE, MAX_INTERACTIONS = 4, 4, 16
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FUSED_MAX_CHANNELS = 1024  # modelled, not timed: wider features are bound by the GEMM


def unsupported(problem: Problem, algo: str = "direct") -> str | None:
    """Say in one line why this room cannot take ``problem``; None: it can."""
    if problem.dtype not in _DTYPES:
        return f"Triton kernels take float32, bfloat16 and float16, got {problem.dtype}"
    if len(problem.channels) > MAX_FACTORS:
        return f"Triton kernels take {MAX_FACTORS} factors, got {len(problem.channels)}"
    if len(problem.interactions) > MAX_INTERACTIONS:
        return f"Triton kernels take {MAX_INTERACTIONS} interactions, got {len(problem.interactions)}"
    if max(len(t) for t in problem.interactions) > MAX_DEGREE:
        return f"Triton kernels take interactions of {MAX_DEGREE} factors"
    return unsupported_device(problem.device)


def unvalidated(problem: Problem) -> str | None:
    """Say in one line why an automatic choice must not take this room yet; None: it may."""
    return _unvalidated(_OP, problem.device)


def algorithm(problem: Problem, algo: str = "direct") -> str:
    """Say what runs for ``algo``: "fused" or "chunked"."""
    return _algorithm(problem, algo)[0]


def describe(problem: Problem, algo: str = "direct", saves: bool = False) -> str:
    """The plan for ``problem`` and its reason, printable; they are the same where projections are saved."""
    name, reason = _algorithm(problem, algo)
    plan = str(_plan(problem, False)) if name == "fused" else "chunk_d={}, chunk_b={}".format(*chunk_sizes(problem))
    return f"triton {name} ({reason}): {plan}"


def _algorithm(problem: Problem, algo: str) -> tuple[str, str]:
    if algo != "direct":
        return algo, f"algo={algo!r} was asked for"
    if problem.device.type == "cuda" and (why := unvalidated(problem)):
        return "chunked", why
    if problem.dtype == torch.float32 and not _tf32_allowed():
        return "chunked", "strict float32 has no tensor cores to keep busy"
    if problem.layout == "strided":
        return "chunked", "neither positions nor channels are contiguous"
    if problem.layout == "positions" and problem.positions % 2 and problem.dtype.itemsize == 2:
        return "chunked", "an odd number of contiguous 16-bit positions cannot be copied asynchronously"
    if max(problem.channels) > _FUSED_MAX_CHANNELS:
        return "chunked", f"more than {_FUSED_MAX_CHANNELS} channels are bound by the GEMM"
    return "fused", "projections never leave the chip"


def multilinear_pool_fwd(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    save: bool,
    algo: str = "direct",
) -> tuple[Tensor, list[Tensor]]:
    """Pool: features ``M x [B, L, C_m]``, weights ``M x [C_m, D]`` -> p ``[B, Q, D]``, M projections if ``save``."""
    problem = Problem.of(features, weights, mask, interactions, activation)
    if algorithm(problem, algo) == "fused":
        return fused_fwd(features, weights, biases, mask, interactions, activation, save, _plan(problem, save))
    chunk_d, chunk_b = chunk_sizes(problem)
    return _chunked.chunked_fwd(
        features,
        weights,
        biases,
        mask,
        interactions,
        activation,
        save,
        hadamard_reduce=hadamard_reduce,
        chunk_d=chunk_d,
        chunk_b=chunk_b,
    )


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
) -> _chunked.Grads:
    """Gradients (features, weights, biases, mask) from d_p ``[B, Q, D]``; without saved ``projections``: recomputed."""
    chunk_d, chunk_b = chunk_sizes(Problem.of(features, weights, mask, interactions, activation))
    return _chunked.chunked_bwd(
        d_p.contiguous(),
        features,
        weights,
        biases,
        mask,
        projections,
        interactions,
        activation,
        needs,
        hadamard_grad=hadamard_grad,
        chunk_d=chunk_d,
        chunk_b=chunk_b,
    )


def fused_fwd(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    save: bool,
    plan: FusedPlan,
) -> tuple[Tensor, list[Tensor]]:
    """`multilinear_pool_fwd` in one kernel with the given tiles."""
    from . import fused_kernels

    x = features[0]
    B, L, _ = x.shape
    D = weights[0].shape[1]
    p = x.new_empty(B, len(interactions), D, dtype=torch.float32)
    saved = [x.new_empty(B, L, D) for _ in features] if save else []
    if p.numel() == 0:
        return p, saved
    sizes = [(x.shape[2], *x.stride(), *w.stride()) for x, w in zip(features, weights, strict=True)]
    views = list(dict.fromkeys(sizes))
    vec, vec_l = _alignment(features)
    tail = L % plan.block_l
    sample_bytes = sum(x.shape[2] for x in features) * L * x.element_size()
    with torch.cuda.device_of(x):
        fused_kernels.multilinear_pool_fwd_kernel[(B * _ceil_div(D, plan.block_d),)](
            tuple(features),
            tuple(weights),
            tuple(biases),
            _mask_data(mask),
            p,
            tuple(saved),
            B,
            L,
            D,
            max(1, min(B, L2_BYTES // 2 // max(1, sample_bytes))),
            tuple(views),
            INTERACTIONS=_frozen(interactions),
            ACTIVATION=activation,
            MASK=_mask_kind(mask),
            VIEWS=tuple(views.index(size) for size in sizes),
            POSITIONS_INNER=tuple(stride_l == 1 for _, _, stride_l, *_ in views),
            VEC=vec,
            VEC_L=vec_l,
            WIDE=any(max(strides) >= 2**22 for _, _, *strides in views),
            EVEN=D % plan.block_d == 0 and all(c % plan.block_c == 0 for c, *_ in views),
            PRECISION="tf32" if _tf32_allowed() else "ieee",
            JOINT=plan.joint and len(views) == 1,
            BLOCK_D=plan.block_d,
            BLOCK_L=plan.block_l,
            BLOCK_TAIL=tail and max(16, 1 << (tail - 1).bit_length()),
            BLOCK_C=plan.block_c,
            num_warps=plan.warps,
            num_stages=plan.stages,
        )
    return p, saved


def hadamard_reduce(
    projections: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    p: Tensor,
    first: int,
) -> None:
    """Write ``p[:, :, first : first + width]`` from M projections ``[B, L, width]``; see `_chunked`."""
    from . import hadamard_kernels

    B, L, width = projections[0].shape
    if B * width == 0:
        return
    block_d = 32
    with torch.cuda.device_of(p):
        hadamard_kernels.hadamard_reduce_kernel[(B * _ceil_div(width, block_d),)](
            tuple(projections),
            tuple(biases or [None] * len(projections)),
            _mask_data(mask),
            p,
            L,
            width,
            p.shape[2],
            first,
            projections[0].stride(1),
            INTERACTIONS=_frozen(interactions),
            ACTIVATION="none" if biases is None else activation,
            MASK=_mask_kind(mask),
            BLOCK_L=64,
            BLOCK_D=block_d,
            num_warps=8,
        )


def hadamard_grad(
    projections: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    d_p: Tensor,
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    first: int,
    needs: Sequence[bool],
    grad_scale: Tensor | None,
    want_bias: Sequence[bool],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """G_m ``[B, L, width]`` and its float32 sums over positions ``[B, width]``, where asked for; see `_chunked`."""
    from . import hadamard_kernels

    u = projections[0]
    B, L, width = u.shape
    grads = [u.new_empty(B, L, width) if need else None for need in needs]
    d_biases = [u.new_empty(B, width, dtype=torch.float32) if want else None for want in want_bias]
    if B * width == 0:
        return grads, d_biases
    block_d = 32
    with torch.cuda.device_of(u):
        hadamard_kernels.hadamard_grad_kernel[(B * _ceil_div(width, block_d),)](
            tuple(projections),
            tuple(biases or [None] * len(projections)),
            _mask_data(mask),
            d_p,
            grad_scale,
            tuple(grads),
            tuple(d_biases),
            L,
            width,
            d_p.shape[2],
            first,
            u.stride(1),
            INTERACTIONS=_frozen(interactions),
            APPLY=biases is not None,
            ACTIVATION=activation,
            MASK=_mask_kind(mask),
            BLOCK_L=64,
            BLOCK_D=block_d,
            num_warps=8,
        )
    return grads, d_biases


def _plan(problem: Problem, save: bool) -> FusedPlan:
    if problem.device.type != "cuda":
        return fused_plan(problem, save)
    return fused_plan(problem, save, torch.cuda.get_device_capability(problem.device))


def _tf32_allowed() -> bool:
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def _mask_kind(mask: Tensor | None) -> str:
    return "none" if mask is None else "bool" if mask.dtype == torch.bool else "float"


def _mask_data(mask: Tensor | None) -> Tensor | None:
    return mask.view(torch.uint8) if mask is not None and mask.dtype == torch.bool else mask


def _frozen(interactions: Interactions) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(t) for t in interactions)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _alignment(features: Sequence[Tensor]) -> tuple[int, int]:
    """Powers of two up to 16 that divide (outer strides and contiguous extents of all features, L where contiguous)."""
    vec, vec_l = 16, 1
    for x in features:
        (_, L, C), (stride_b, stride_l, stride_c) = x.shape, x.stride()
        if stride_l == 1:
            vec, vec_l = math.gcd(vec, stride_b, L, stride_c), 16
        else:
            vec = math.gcd(vec, stride_b, C, stride_l) if stride_c == 1 else 1
    return vec, math.gcd(vec, vec_l)

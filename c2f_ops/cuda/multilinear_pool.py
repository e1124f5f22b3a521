"""multilinear_pool on CUDA: a fused forward where a record validates it, else the chunked path of `_chunked`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._chunked import Grads, Interactions, chunked_bwd, chunked_fwd
from .._encoding import DTYPES, address, encode, size_obstacle, strided
from .._ops.problem import Problem, layout_of
from .._validated import unvalidated as _unvalidated
from .._validated import validated
from . import built_for, current_stream, device_facts, device_obstacle, unavailable

__all__ = [
    "algorithm",
    "describe",
    "multilinear_pool_bwd",
    "multilinear_pool_fwd",
    "unavailable",
    "unsupported",
    "unvalidated",
]

_OP = "multilinear_pool"
_SM90 = "90a"
Wish = tuple[int, int, int, int]  # a tile of the sm_90a kernel: FusedWish of c2f/multilinear_pool.h
_NO_WISH: Wish = (0, 0, 1, 1)
_LAYOUTS = {"positions": 0, "channels": 1, "strided": 2}  # Layout of c2f/multilinear_pool.h


def unsupported(problem: Problem, algo: str) -> str | None:
    """Say in one line why the kernels cannot take ``problem``; None: they can."""
    if problem.device.type != "cuda":
        return f"operands must be on a CUDA device, got {problem.device}"
    if why := size_obstacle(problem) or device_obstacle(problem.device):
        return why
    if algo == "fused":
        plan = plan_of(problem)
        return plan["reason"] if plan["fused"] == "chunked" else None
    return None


def unvalidated(problem: Problem) -> str | None:
    """Say in one line why ``auto`` must not take the kernels on this GPU yet; None: a record validates them."""
    return _unvalidated(_OP, "chunked", torch.cuda.get_device_capability(problem.device))


def algorithm(problem: Problem, algo: str) -> str:
    """The forward that runs for ``algo``: "direct" takes "fused" only where a record validates it."""
    if algo != "direct":
        return algo
    kernel = plan_of(problem)["kernel"]
    return "fused" if kernel != "chunked" and _is_validated(problem, kernel) else "chunked"


def describe(problem: Problem, algo: str, saves: bool = False) -> str:
    """The plan, printable; it is the same where projections are saved, but that runs chunked."""
    plan = {name: round(v, 3) if isinstance(v, float) else v for name, v in plan_of(problem).items()}
    return ", ".join(f"{name}={value}" for name, value in plan.items())


def plan_of(problem: Problem) -> dict[str, Any]:
    """The plan of the kernels for ``problem`` on its device, name -> value.

    Where two fused kernels can run and records validate only the older one, it is planned; else the newer one.
    """
    newer = _plan(problem, sm90a=built_for(_SM90))
    if newer["fused"] != "fused_sm90" or _is_validated(problem, "fused_sm90"):
        return newer
    older = _plan(problem, sm90a=False)
    return older if _is_validated(problem, older["fused"]) else newer


def _plan(problem: Problem, *, sm90a: bool) -> dict[str, Any]:
    facts = device_facts(problem.device)
    return _native.module().multilinear_pool_cuda_plan(encode(problem), _LAYOUTS[problem.layout], (*facts, sm90a))


def _is_validated(problem: Problem, kernel: str) -> bool:
    return validated(_OP, kernel, device_facts(problem.device)[:2])


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
    """Pool: features ``M x [B, L, C_m]``, weights ``M x [C_m, D]`` -> p ``[B, Q, D]``, projections ``M x [B, L, D]``.

    The fused kernel saves nothing and reads features of one layout: with ``save``, or where layouts differ, the chunked
    path runs. Without ``save`` there are no projections.
    """
    problem = Problem.of(features, weights, mask, interactions, activation)
    one_layout = all(layout_of(x) == problem.layout for x in features)
    with torch.cuda.device(problem.device):
        kernel = _fused_kernel(problem, features, weights) if algo == "fused" and one_layout and not save else "chunked"
        if kernel != "chunked":
            return fused_fwd(problem, features, weights, biases, mask, kernel), []
        plan = plan_of(problem)
        return chunked_fwd(
            features,
            weights,
            biases,
            mask,
            problem.interactions,
            activation,
            save,
            hadamard_reduce=hadamard_reduce,
            chunk_d=plan["chunk_d"],
            chunk_b=plan["chunk_b"],
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
) -> Grads:
    """Gradient of `multilinear_pool_fwd`: d_p ``[B, Q, D]`` -> (d_features, d_weights, d_biases, None).

    ``projections`` are the saved ones or empty (rebuilt). ``needs`` has 3 M + 1 entries: features, weights, biases,
    mask; what is not needed is None.
    """
    problem = Problem.of(features, weights, mask, interactions, activation)
    plan = plan_of(problem)
    with torch.cuda.device(problem.device):
        return chunked_bwd(
            d_p.contiguous(),
            features,
            weights,
            biases,
            mask,
            projections,
            problem.interactions,
            activation,
            needs,
            hadamard_grad=hadamard_grad,
            chunk_d=plan["chunk_d"],
            chunk_b=plan["chunk_b"],
        )


def fused_fwd(
    problem: Problem,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    kernel: str,
    wish: Wish = _NO_WISH,
) -> Tensor:
    """Pool by a fused kernel -> p ``[B, Q, D]``; raises RuntimeError where it cannot run.

    ``kernel``: "fused_sm80" or "fused_sm90". ``wish``: a tile of the latter to take, (positions, accumulators, blocks
    of a cluster along samples, along columns).
    """
    weights = [w if w.stride(1) == 1 else w.contiguous() for w in weights]
    p = features[0].new_empty((problem.batch, len(problem.interactions), problem.width), dtype=torch.float32)
    _native.module().multilinear_pool_cuda_fwd(
        encode(problem),
        [strided(x) for x in features],
        [strided(w) for w in weights],
        [address(b) for b in biases],
        address(mask),
        p.data_ptr(),
        _LAYOUTS[problem.layout],
        (*device_facts(problem.device), kernel == "fused_sm90"),
        wish,
        current_stream(problem.device),
    )
    return p


def _fused_kernel(problem: Problem, features: Sequence[Tensor], weights: Sequence[Tensor]) -> str:
    """The fused kernel for these operands, "chunked" where there is none.

    What the sm_90a kernel cannot read goes to that of sm_80, but not where records validate the newer one alone.
    """
    kernel = plan_of(problem)["fused"]
    # Weights whose rows are not contiguous are copied.
    if kernel != "fused_sm90" or all(map(_can_map, (*features, *(w for w in weights if w.stride(1) == 1)))):
        return kernel
    only_newer = _is_validated(problem, "fused_sm90") and not _is_validated(problem, "fused_sm80")
    return "chunked" if only_newer else "fused_sm80"


def _can_map(x: Tensor) -> bool:
    """Whether the copy engine of sm_90 can read ``x``, 16-bit: address and strides are multiples of 16 bytes."""
    strides = [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1 and stride != 1]
    return x.data_ptr() % 16 == 0 and all(stride > 0 and stride % 8 == 0 for stride in strides)


def hadamard_reduce(
    projections: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    p: Tensor,
    first: int,
) -> None:
    """Write the columns ``first``.. of ``p`` from one chunk of projections; see `c2f_ops._chunked`."""
    problem, chunk = _chunk(projections, biases, mask, interactions, activation, p.shape[2], first)
    _native.module().hadamard_reduce_cuda(
        encode(problem),
        chunk,
        _addresses(biases, len(projections)),
        address(mask),
        p.data_ptr(),
        current_stream(p.device),
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
    """Return G_m ``[B, L, width]`` and its float32 sums over positions ``[B, width]``; see `c2f_ops._chunked`."""
    problem, chunk = _chunk(projections, biases, mask, interactions, activation, d_p.shape[2], first)
    B, _, width = projections[0].shape
    grads = [u.new_empty(u.shape) if need else None for u, need in zip(projections, needs, strict=True)]
    d_biases = [d_p.new_empty((B, width)) if want else None for want in want_bias]
    _native.module().hadamard_grad_cuda(
        encode(problem),
        chunk,
        _addresses(biases, len(projections)),
        address(mask),
        d_p.data_ptr(),
        [address(g) for g in grads],
        address(grad_scale),
        [address(d) for d in d_biases],
        current_stream(d_p.device),
    )
    return grads, d_biases


def _chunk(
    projections: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    mask: Tensor | None,
    interactions: Interactions,
    activation: str,
    width: int,
    first: int,
) -> tuple[Problem, tuple[Any, ...]]:
    """The problem of one chunk (``width``: that of p) and where its projections are."""
    u = projections[0]
    problem = Problem(
        device=u.device,
        dtype=u.dtype,
        batch=u.shape[0],
        positions=u.shape[1],
        width=width,
        channels=(0,) * len(projections),
        interactions=tuple(tuple(t) for t in interactions),
        activation=activation,
        mask="none" if mask is None else "bool" if mask.dtype == torch.bool else "float",
    )
    return problem, (
        [x.data_ptr() for x in projections],
        DTYPES[u.dtype],
        u.stride(1),
        first,
        u.shape[2],
        biases is not None,
    )


def _addresses(tensors: Sequence[Tensor | None] | None, count: int) -> list[int]:
    return [0] * count if tensors is None else [address(x) for x in tensors]

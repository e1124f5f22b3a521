"""multilinear_pool on the CPU: the kernels of csrc/cpu, whatever the instruction set.

The forward is fused: a projection lives in cache, and only p is written (and the projections where they are saved).
The backward goes in steps of up to a thousand columns. Operands of any type are summed in float32. Where the processor
has AMX, bfloat16 operands are multiplied as they are and float16 ones as sums of two bfloat16; so are float32 ones if
`torch.set_float32_matmul_precision` says "high", and rounded to bfloat16 if it says "medium". AVX512_BF16 takes the
first and the last of these. Elsewhere all are widened to float32.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES, PRECISIONS, address, encode, encode_norm, size_obstacle, strided
from .._ops.problem import Problem
from . import num_threads

Grads = tuple[list[Tensor | None], list[Tensor | None], list[Tensor | None], Tensor | None]

_ALIGNMENT = 64
_KEPT_BYTES = 2**27
_kept = threading.local()


def unavailable() -> str | None:
    """Say in one line why there is no kernel on this machine; None: there is one."""
    return _native.unavailable()


def unsupported(problem: Problem, algo: str) -> str | None:
    """Say in one line why the kernels cannot take ``problem``; None: they can."""
    if problem.device.type != "cpu":
        return f"operands must be on the CPU, got {problem.device}"
    return size_obstacle(problem) or ("the CPU forward is fused" if algo == "chunked" else None)


def unvalidated(problem: Problem) -> str | None:
    """CPU kernels are covered by the tests of every machine: None."""
    return None


def matmul_precision() -> str:
    """What `torch.set_float32_matmul_precision` was told; "highest" where it and newer settings contradict."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"


def bfloat16_planes(dtype: torch.dtype) -> tuple[int, bool]:
    """How many bfloat16 an operand is where it is multiplied: one rounded, two that sum to it, 0: it is float32.

    And whether AMX multiplies them, not AVX512_BF16.
    """
    wide = {"highest": 0, "high": 2, "medium": 1}[matmul_precision()]
    planes = {torch.bfloat16: 1, torch.float16: 2, torch.float32: wide}.get(dtype, 0)
    isa = _native.module().cpu_isa()
    return (planes if isa == "amx" or (isa == "avx512_bf16" and planes == 1) else 0), isa == "amx"


def peak(dtype: torch.dtype, rounds: int) -> float:
    """Multiply register tiles as the kernels do, ``rounds`` times on every thread without memory; the flops done."""
    return _native.module().cpu_peak(DTYPES[dtype], PRECISIONS[matmul_precision()], rounds, num_threads())


def algorithm(problem: Problem, algo: str) -> str:
    """The forward is always "fused"."""
    return "fused"


def describe(problem: Problem, algo: str, saves: bool = False) -> str:
    """The plan, printable."""
    plan = _native.module().multilinear_pool_cpu_plan(encode(problem, matmul_precision()), saves, num_threads())
    return ", ".join(f"{name}={value}" for name, value in plan.items())


def multilinear_pool_fwd(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    interactions: Sequence[Sequence[int]],
    activation: str,
    save: bool,
    algo: str = "fused",
) -> tuple[Tensor, list[Tensor]]:
    """Pool features ``M x [B, L, C_m]`` with weights ``M x [C_m, D]``.

    Returns p ``[B, Q, D]`` float32 and, if ``save``, M projections ``[B, L, D]`` of the operand type, else none.
    """
    native, threads = _native.module(), num_threads()
    problem = Problem.of(features, weights, mask, interactions, activation)
    encoded = encode(problem, matmul_precision())
    p = features[0].new_empty((problem.batch, len(interactions), problem.width), dtype=torch.float32)
    shape = (problem.batch, problem.positions, problem.width)
    projections = [x.new_empty(shape) for x in features] if save else []
    with _scratch(native.multilinear_pool_cpu_plan(encoded, save, threads)["fwd_scratch_bytes"]) as scratch:
        native.multilinear_pool_cpu_fwd(
            encoded,
            *_operands(features, weights, biases, mask),
            p.data_ptr(),
            [u.data_ptr() for u in projections],
            scratch,
            threads,
        )
    return p, projections


def settings() -> tuple[Any, ...]:
    """What the kernels depend on besides their operands."""
    return num_threads(), matmul_precision()


def repeatable_fwd(
    problem: Problem,
    offsets: Sequence[int],
    strides: Sequence[tuple[int, ...]],
    norm: Sequence[Any],
    save: bool,
    out_dtype: torch.dtype,
) -> Callable[..., tuple[Tensor, Tensor, list[Tensor]]]:
    """A function of features, weights and biases -> out ``[B, Q D]``, p and projections, that checks nothing.

    ``offsets`` in bytes and ``strides`` say how the features it will be given are seen as ``[B, L, C_m]``, ``strides``
    goes on with those of the weights. Biases are float32, contiguous.
    """
    native, (threads, precision) = _native.module(), settings()
    encoded, options = encode(problem, precision), encode_norm(*norm)
    size = native.multilinear_pool_cpu_plan(encoded, save, threads)["fwd_scratch_bytes"]
    batch, count, width, factors = problem.batch, len(problem.interactions), problem.width, len(problem.channels)
    views, w_strides = [*zip(offsets, strides[:factors], strict=True)], strides[factors:]

    def run(
        features: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], mask: None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        x = [(t.data_ptr() + offset, *s) for t, (offset, s) in zip(features, views, strict=True)]
        w = [(t.data_ptr(), *s) for t, s in zip(weights, w_strides, strict=True)]
        b = [t.data_ptr() for t in biases] or [0] * factors
        out = torch.empty((batch, count * width), dtype=out_dtype)
        p = torch.empty((batch, count, width), dtype=torch.float32)
        saved = [torch.empty((batch, problem.positions, width), dtype=problem.dtype) for _ in features if save]
        with _scratch(size) as scratch:
            native.multilinear_pool_cpu_fwd(
                encoded, x, w, b, 0, p.data_ptr(), [u.data_ptr() for u in saved], scratch, threads
            )
        native.signed_sqrt_normalize_cpu_fwd(
            batch, count, width, *options, p.data_ptr(), DTYPES[out_dtype], out.data_ptr(), threads
        )
        return out, p, saved

    return run


def multilinear_pool_bwd(
    d_p: Tensor,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Tensor | None,
    projections: Sequence[Tensor],
    interactions: Sequence[Sequence[int]],
    activation: str,
    needs: Sequence[bool],
) -> Grads:
    """Gradient of `multilinear_pool_fwd` from d_p ``[B, Q, D]``: (d_features, d_weights, d_biases, None).

    ``projections`` are the saved ones, or empty: rebuilt. ``needs`` has 3 M + 1 entries: features, weights, biases,
    mask. What is not needed is None.
    """
    threads = num_threads()
    encoded = encode(Problem.of(features, weights, mask, interactions, activation), matmul_precision())
    plan = _native.module().multilinear_pool_cpu_plan(encoded, bool(projections), threads)
    operands = features, weights, biases, mask
    return _gradients(encoded, plan["bwd_scratch_bytes"], threads, d_p.contiguous(), operands, projections, needs)


def repeatable_bwd(problem: Problem, norm: Sequence[Any], saves: bool) -> Callable[..., Grads]:
    """A function of d_out, p, projections, features, weights, biases and ``needs`` that checks nothing.

    Operands are as the kernels take them, d_out ``[B, Q D]`` is contiguous.
    """
    native, (threads, precision) = _native.module(), settings()
    encoded, options = encode(problem, precision), encode_norm(*norm)
    size = native.multilinear_pool_cpu_plan(encoded, saves, threads)["bwd_scratch_bytes"]
    sizes, no_biases = (problem.batch, len(problem.interactions), problem.width), [None] * len(problem.channels)

    def run(
        d_out: Tensor,
        p: Tensor,
        projections: Sequence[Tensor],
        features: Sequence[Tensor],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        needs: Sequence[bool],
    ) -> Grads:
        d_p = torch.empty(sizes, dtype=torch.float32)
        native.signed_sqrt_normalize_cpu_bwd(
            *sizes, *options, p.data_ptr(), DTYPES[d_out.dtype], d_out.data_ptr(), d_p.data_ptr(), threads
        )
        operands = features, weights, biases or no_biases, None
        return _gradients(encoded, size, threads, d_p, operands, projections, needs)

    return run


def _gradients(
    encoded: tuple[Any, ...],
    scratch_size: int,
    threads: int,
    d_p: Tensor,
    operands: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor | None], Tensor | None],
    projections: Sequence[Tensor],
    needs: Sequence[bool],
) -> Grads:
    features, weights, *_ = operands
    count = len(features)
    need_x, need_w, need_b = (needs[k * count : (k + 1) * count] for k in range(3))
    d_features = [torch.empty_like(x) if need else None for x, need in zip(features, need_x, strict=True)]
    d_weights = [w.new_empty(w.shape) if need else None for w, need in zip(weights, need_w, strict=True)]
    d_biases = [d_p.new_empty(d_p.shape[2]) if need else None for need in need_b]
    with _scratch(scratch_size) as scratch:
        _native.module().multilinear_pool_cpu_bwd(
            encoded,
            *_operands(*operands),
            [u.data_ptr() for u in projections],
            d_p.data_ptr(),
            [(0, 0, 0, 0) if d is None else strided(d) for d in d_features],
            [address(d) for d in d_weights],
            [address(d) for d in d_biases],
            scratch,
            threads,
        )
    return d_features, d_weights, d_biases, None


def _operands(
    features: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor | None], mask: Tensor | None
) -> tuple[object, ...]:
    """What forward and backward read, as the native module takes it."""
    return [strided(x) for x in features], [strided(w) for w in weights], [address(b) for b in biases], address(mask)


@contextmanager
def _scratch(size: int) -> Iterator[int]:
    """The aligned address of ``size`` bytes. They are kept for the thread's next call: fresh memory is slow."""
    buffer = _kept.__dict__.pop("buffer", None)  # taken out: a signal handler may call the op within a call
    if buffer is None or len(buffer) < size + _ALIGNMENT:
        buffer = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    yield -(-buffer.data_ptr() // _ALIGNMENT) * _ALIGNMENT
    if len(buffer) <= _KEPT_BYTES:
        _kept.buffer = buffer


def release_scratch() -> None:
    """Give the calling thread's kept scratch back."""
    _kept.__dict__.pop("buffer", None)

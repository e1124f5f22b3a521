"""Multilinear pooling and its epilogue."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import (
    ACTIVATIONS,
    DTYPES,
    LAYOUTS,
    MAX_FACTORS,
    POOLINGS,
    check_biases,
    check_choice,
    check_interactions,
    check_mask,
    check_norm,
    check_operands,
    check_positions,
    check_prefix,
    check_tensor,
    names_of,
)
from .._ops import direct
from .._ops import multilinear_pool as _pool_op
from .._ops import signed_sqrt_normalize as _norm_op  # noqa: F401  (registers the op)
from .._ops.choice import ALGOS, BACKENDS, choose_algo, choose_backend, choose_recompute, room
from .._ops.problem import Problem

MLP = ((0, 1), (0, 2), (1, 2), (0, 1, 2))
"""Three pairs and the trilinear term: Coarse-to-Fine Grained Classification (SIGIR 2019), eq. (6)."""
HBP = ((0, 1), (0, 2), (1, 2))
"""Three pairs: Hierarchical Bilinear Pooling (ECCV 2018)."""
FBP = ((0, 1),)
"""One pair: factorized bilinear pooling."""
TRILINEAR = ((0, 1, 2),)
"""One triple: Coarse-to-Fine Grained Classification (SIGIR 2019), eq. (5)."""

__all__ = [
    "FBP",
    "HBP",
    "MAX_FACTORS",
    "MLP",
    "TRILINEAR",
    "Explanation",
    "decomposed",
    "explain",
    "multilinear_pool",
    "signed_sqrt_normalize",
]

_decomposed = False


@contextlib.contextmanager
def decomposed() -> Iterator[None]:
    """Compute with plain torch operations instead of the `c2f_ops` ops, for exporters without them (ONNX)."""
    global _decomposed
    before, _decomposed = _decomposed, True
    try:
        yield
    finally:
        _decomposed = before


def _needs_plain_torch() -> bool:
    """Whether an exporter, a transform of torch.func or forward-mode AD asks: they know plain operations only."""
    if _decomposed or torch.onnx.is_in_onnx_export():
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def multilinear_pool(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    *,
    interactions: Sequence[Sequence[int]] = MLP,
    layout: str = "NCHW",
    num_prefix_tokens: int = 0,
    mask: Tensor | None = None,
    activation: str = "none",
    pooling: str = "sum",
    sqrt_mode: str = "shifted",
    sqrt_eps: float = 0.03,
    norm_scope: str = "interaction",
    l2_mode: str = "add",
    l2_eps: float = 1e-7,
    algo: str = "auto",
    recompute: bool | str = "auto",
    backend: str = "auto",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Project M feature maps, multiply them by position, sum over positions, take signed square root and L2 norm.

        U_m = act(X_m W_m + b_m)     p_q = sum_i w_i prod_{m in T_q} U_m[i]     out = concat_q ssqrt(p_q) / |ssqrt(p_q)|

    Args:
        features: M tensors, 1 to 4: ``[B, C_m, H, W]`` ("NCHW", also channels_last), ``[B, H, W, C_m]`` ("NHWC") or
            ``[B, L, C_m]`` ("NLC"). float64, float32, bfloat16 or float16. The same tensor may appear more than once.
        weights: M projections ``[C_m, D]``.
        biases: None, or M entries ``[D]`` or None; used in float32.
        interactions: Tuples of 1 to 4 factor indices, repetition allowed; order within a tuple does not matter, order
            of tuples is the order of the output blocks. Every factor must be used.
        layout: Layout of the features: "NCHW", "NHWC" or "NLC".
        num_prefix_tokens: Leading tokens to drop ("NLC" only), class and register tokens, say.
        mask: ``[B, L]``; bool selects positions (an excluded one does not exist, NaN there has no effect), float
            weights them (finite, not negative; differentiable).
        activation: "none", "relu" or "tanh", on the projections.
        pooling: "sum" or "mean" over positions. Defined on the sum and scaled at the end, so they differ only with
            ``norm_scope="none"``: by ``N^(-1/2)`` for the square-root modes, ``1/N`` for ``sqrt_mode="none"``.
        sqrt_mode: "shifted" ``sign(p) (sqrt(|p| + eps^2) - eps)``; "caffe" (HBP's layer: no offset forward, offset
            backward); "plus_eps" ``sign(p) sqrt(|p| + eps)``; "smooth" ``p (p^2 + eps^2)^(-1/4)``; "none".
        sqrt_eps: Offset of the square root, in the units of its mode.
        norm_scope: L2 norm over each "interaction", over all of a sample ("joint"), or "none".
        l2_mode: "add" ``sqrt(sum s^2 + eps)`` or "clamp" ``max(sqrt(sum s^2), eps)``.
        l2_eps: Epsilon of the norm.
        algo: "auto", "fused", "chunked" or "gram" (pairs only, through channel-by-channel Gram matrices).
        recompute: True rebuilds the projections in the backward, False saves them in the operand type, "auto" by cost
            and size.
        backend: "auto", "reference", "cpu", "triton" or "cuda". C2F_BACKEND sets what "auto" means.
        out_dtype: Type of the result; default the promoted type of features and weights, float32 under autocast.

    Returns:
        ``[B, len(interactions) * D]``, contiguous.

    Raises:
        ValueError: an argument has a wrong shape, device or value; the message names it, what was expected and what
            came.
        TypeError: an argument has a wrong type.
        RuntimeError: the backend asked for is not available here; the message says why.

    Source: Coarse-to-Fine Grained Classification (SIGIR 2019), eq. (3) to (6); Hierarchical Bilinear Pooling (ECCV
    2018).
    """
    options = (interactions, layout, num_prefix_tokens, activation, pooling, algo, recompute, backend, out_dtype)
    norm = (sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
    rescaled = pooling == "mean" and norm_scope == "none"
    whole = mask is None and not rescaled and not _decomposed
    kind = direct.kind_of(features, weights, biases, (*options, *norm)) if whole else None
    if kind is not None and (run := direct.known(kind)):
        return run(features, weights, biases or ())

    call = _prepare(features, weights, biases, mask, *options)
    check_norm("multilinear_pool", *norm)
    norm = (sqrt_mode, float(sqrt_eps), norm_scope, l2_mode, float(l2_eps))
    op_dtype = _wide(call.features[0].dtype) if rescaled else call.out_dtype
    if _needs_plain_torch():
        out = _plain(call, activation, norm).to(op_dtype)
    else:
        op_options = (_pool_op.encode(call.interactions), activation, *norm, call.algo, backend)
        operands = (call.features, call.weights, call.biases)
        if kind is not None:
            view = functools.partial(_positions_first, layout=layout, num_prefix_tokens=num_prefix_tokens)
            given = (features, weights, biases or ())
            direct.remember(kind, given, operands, view, call.problem, op_options, call.save, op_dtype)
        out = torch.ops.c2f_ops.multilinear_pool(*operands, call.mask, *op_options, call.save, op_dtype)[0]
    if rescaled:
        out = (out * _mean_scale(call, sqrt_mode)).to(call.out_dtype)
    return out


@dataclass(frozen=True)
class Explanation:
    """How one call would run here. ``str()`` gives it line by line."""

    problem: Problem
    backend: str
    algo: str
    recompute: bool
    reason: str
    skipped: tuple[tuple[str, str], ...]
    plan: str

    def __str__(self) -> str:
        saving = "projections rebuilt in the backward" if self.recompute else "projections saved"
        lines = [f"multilinear_pool: backend {self.backend}, algo {self.algo}, {saving}", f"  why: {self.reason}"]
        lines += [f"  not {name}: {why}" for name, why in self.skipped]
        return "\n".join(lines + ([f"  plan: {self.plan}"] if self.plan else []))


def explain(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    *,
    interactions: Sequence[Sequence[int]] = MLP,
    layout: str = "NCHW",
    num_prefix_tokens: int = 0,
    mask: Tensor | None = None,
    activation: str = "none",
    algo: str = "auto",
    recompute: bool | str = "auto",
    backend: str = "auto",
) -> Explanation:
    """Say which backend and algorithm `multilinear_pool` would take for these arguments, and why; computes nothing.

    Arguments and errors are those of `multilinear_pool`; only what may change the choice is accepted.
    """
    options = (interactions, layout, num_prefix_tokens, activation, "sum", algo, recompute, backend, None)
    call = _prepare(features, weights, biases, mask, *options)
    choice = choose_backend(call.problem, backend, call.algo)
    saves = choice.algo != "gram" and not choose_recompute(call.problem, recompute)
    plan = (
        ""
        if choice.backend == "reference"
        else room(choice.backend, "multilinear_pool").describe(call.problem, choice.algo, saves)
    )
    reason = f"{choice.reason}; {call.algo_reason}"
    return Explanation(call.problem, choice.backend, choice.algo, not saves, reason, choice.skipped, plan)


def signed_sqrt_normalize(
    p: Tensor,
    *,
    sqrt_mode: str = "shifted",
    sqrt_eps: float = 0.03,
    norm_scope: str = "interaction",
    l2_mode: str = "add",
    l2_eps: float = 1e-7,
    backend: str = "auto",
) -> Tensor:
    """Signed square root and L2 normalisation, the epilogue of `multilinear_pool` alone.

    Args:
        p: ``[B, Q, D]``; float64, float32, bfloat16 or float16 (computed in float32).
        sqrt_mode: As for `multilinear_pool`.
        sqrt_eps: As for `multilinear_pool`.
        norm_scope: As for `multilinear_pool`.
        l2_mode: As for `multilinear_pool`.
        l2_eps: As for `multilinear_pool`.
        backend: As for `multilinear_pool`.

    Returns:
        ``[B, Q, D]`` in p's type, contiguous.

    Raises:
        ValueError: an argument has a wrong shape or value.
        TypeError: p is not a floating-point tensor.
    """
    check_norm("signed_sqrt_normalize", sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
    check_choice("signed_sqrt_normalize", "backend", backend, ("auto", *BACKENDS))
    check_tensor("signed_sqrt_normalize", "p", p, 3)
    wide = p.to(_wide(p.dtype)).contiguous()
    norm = (sqrt_mode, float(sqrt_eps), norm_scope, l2_mode, float(l2_eps))
    if _needs_plain_torch():
        return room("reference", "signed_sqrt_normalize").signed_sqrt_normalize_fwd(wide, *norm, p.dtype)
    return torch.ops.c2f_ops.signed_sqrt_normalize(wide, *norm, backend).to(p.dtype)


@dataclass(frozen=True)
class _Call:
    """Checked and converted arguments of one call."""

    features: list[Tensor]  # [B, L, C_m] views
    weights: list[Tensor]
    biases: list[Tensor]  # M or none
    mask: Tensor | None
    interactions: tuple[tuple[int, ...], ...]
    problem: Problem
    algo: str
    algo_reason: str
    save: bool
    out_dtype: torch.dtype


def _prepare(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    mask: Tensor | None,
    interactions: Sequence[Sequence[int]],
    layout: str,
    num_prefix_tokens: int,
    activation: str,
    pooling: str,
    algo: str,
    recompute: bool | str,
    backend: str,
    out_dtype: torch.dtype | None,
) -> _Call:
    op = "multilinear_pool"
    check_choice(op, "layout", layout, tuple(LAYOUTS))
    check_choice(op, "activation", activation, ACTIVATIONS)
    check_choice(op, "pooling", pooling, POOLINGS)
    check_choice(op, "algo", algo, ALGOS)
    check_choice(op, "backend", backend, ("auto", *BACKENDS))
    if recompute not in (True, False, "auto"):
        raise ValueError(f"{op}: recompute must be True, False or 'auto', got {recompute!r}")
    if out_dtype is not None and out_dtype not in DTYPES:
        raise TypeError(f"{op}: out_dtype must be one of {names_of(DTYPES)}, got {out_dtype}")

    features, weights = check_operands(features, weights, layout)
    tuples = check_interactions(interactions, len(features))
    check_prefix(features, layout, num_prefix_tokens)
    maps = [_positions_first(x, layout, num_prefix_tokens) for x in features]
    check_positions(maps)

    autocast = _autocast_dtype(maps[0].device)
    operands = [t if autocast is None or t.dtype == torch.float64 else t.to(autocast) for t in (*maps, *weights)]
    dtype = operands[0].dtype
    for t in operands[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    operands = [t.to(dtype) for t in operands]
    maps, weights = operands[: len(maps)], operands[len(maps) :]
    checked_biases = check_biases(biases, weights, _wide(dtype))
    checked_mask = check_mask(mask, maps[0], _wide(dtype))

    mask_grad = checked_mask is not None and checked_mask.requires_grad and torch.is_grad_enabled()
    problem = Problem.of(maps, weights, checked_mask, tuples, activation, mask_grad)
    resolved, reason = choose_algo(problem, algo)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (*operands, *checked_biases))
    save = wants_grad and resolved != "gram" and not choose_recompute(problem, recompute)
    if out_dtype is None:
        out_dtype = torch.float32 if autocast is not None and dtype != torch.float64 else dtype
    return _Call(maps, weights, checked_biases, checked_mask, tuples, problem, resolved, reason, save, out_dtype)


def _positions_first(x: Tensor, layout: str, num_prefix_tokens: int = 0) -> Tensor:
    """View as ``[B, L, C]``; copies (once) only what no view of that form can express."""
    if layout == "NCHW":
        return x.flatten(2).transpose(1, 2)
    if layout == "NHWC":
        return x.flatten(1, 2)
    return x[:, num_prefix_tokens:] if num_prefix_tokens else x


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    if device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def _mean_scale(call: _Call, sqrt_mode: str) -> Tensor:
    """``[B, 1]``: ``1 / N`` without square root, ``N^(-1/2)`` with one; 0 where no position is left."""
    x = call.features[0]
    if call.mask is None:
        count = torch.full((x.shape[0], 1), x.shape[1], dtype=_wide(x.dtype), device=x.device)
    else:
        count = call.mask.to(_wide(x.dtype)).sum(1, keepdim=True)
    safe = torch.where(count > 0, count, 1.0)
    return torch.where(count > 0, 1.0 / safe if sqrt_mode == "none" else safe.rsqrt(), 0.0)


def _plain(call: _Call, activation: str, norm: tuple[str, float, str, str, float]) -> Tensor:
    """The same result from plain torch operations."""
    biases: list[Tensor | None] = [*call.biases] or [None] * len(call.features)
    pool = room("reference", "multilinear_pool").multilinear_pool_fwd
    p, _ = pool(call.features, call.weights, biases, call.mask, call.interactions, activation, False)
    return room("reference", "signed_sqrt_normalize").signed_sqrt_normalize_fwd(p, *norm, p.dtype).flatten(1)

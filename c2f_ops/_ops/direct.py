"""The short way of `multilinear_pool`, forward and backward: calls on the CPU that repeat an earlier one.

Checks, plan and dispatcher take 0.15 ms, with gradient and backward 0.3, and what they find depends on shapes, strides,
types and options alone. So the first call of a kind leaves a function here that takes operands straight to the kernels,
for the next ones. Whatever wants to see a call on its way sends it the long way: autocast, torch.compile, function
transforms, modes, tracing, tensor subclasses, the profiler.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .choice import choose_backend, room
from .multilinear_pool import Gradient
from .problem import Problem

Run = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Any]], Tensor]

_TYPES = {Tensor, torch.nn.Parameter}
_KINDS = 256
_known: dict[Hashable, Run] = {}


def kind_of(features: Any, weights: Any, biases: Any, options: tuple[Any, ...]) -> Hashable | None:
    """What a call, its arguments unchecked, has in common with those that the same `Run` can serve.

    None: it goes the long way, as anything does that is odd about it.
    """
    if torch.compiler.is_compiling() or not {type(features), type(weights), type(biases)} <= {list, tuple, type(None)}:
        return None
    try:
        operands = (*features, *weights, *(biases or ()))
        if not _unobserved(operands):
            return None
        graded = torch.is_grad_enabled() and any(t.requires_grad for t in operands)
        kind = (
            len(features),
            len(weights),
            tuple(map(_described, operands)),
            graded,
            options,
            room("cpu", "multilinear_pool").settings(),
        )
        hash(kind)
    except (AttributeError, TypeError, RuntimeError):
        return None
    return kind, os.environ.get("C2F_BACKEND")


def known(kind: Hashable) -> Run | None:
    """What an earlier call of this kind left."""
    return _known.get(kind)


def remember(
    kind: Hashable,
    given: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor | None]],
    prepared: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    view: Callable[[Tensor], Tensor],
    problem: Problem,
    options: tuple[Any, ...],
    save: bool,
    out_dtype: torch.dtype,
) -> None:
    """Leave a function for the next calls of this kind, if none of their operands has to be converted.

    ``given`` and ``prepared`` are features, weights and biases as they came and as the op takes them, ``view`` leads
    from the first features to the second, ``options`` are those of the op before ``save``.
    """
    (features, weights, biases), (views, *others) = given, prepared
    _, _, *norm, algo, backend = options
    choice = choose_backend(problem, backend, algo)
    if choice.backend != "cpu" or choice.algo != "fused":
        return
    if any(x.dtype != v.dtype or _storage(x) != _storage(v) for x, v in zip(features, views, strict=True)):
        return
    if [id(t) for t in (*weights, *biases)] != [id(t) for group in others for t in group]:
        return
    operands = [t for group in prepared for t in group]
    graded = torch.is_grad_enabled() and any(t.requires_grad for t in operands)
    offsets = [0 if graded else v.data_ptr() - x.data_ptr() for x, v in zip(features, views, strict=True)]
    strides = [t.stride() for t in (*views, *weights)]
    cpu, counts = room("cpu", "multilinear_pool"), (len(features), len(biases), False)
    forward = cpu.repeatable_fwd(problem, offsets, strides, norm, save, out_dtype)
    gradients = cpu.repeatable_bwd(problem, norm, save)
    seen = [*map(_described, (*_made(problem, save, out_dtype), *operands))], cpu.settings()

    def backward(d_out: Tensor, p: Tensor, projections: Sequence[Tensor], *lists: Any) -> Any:
        features, weights, biases, _ = lists
        rest = p, *projections, *features, *weights, *biases
        if not _unobserved((d_out, *rest)):
            return None
        d_out = d_out.contiguous()
        now = [*map(_described, (d_out, *rest))], cpu.settings()
        return gradients(d_out, p, projections, *lists)[:3] if now == seen else None

    def with_gradient(features: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Any]) -> Tensor:
        return Gradient.apply(forward, backward, counts, options, *map(view, features), *weights, *biases)[0]

    def without(features: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Any]) -> Tensor:
        return forward(features, weights, biases)[0]

    if len(_known) >= _KINDS:
        _known.clear()
    _known[kind] = with_gradient if graded else without


def _made(problem: Problem, save: bool, out_dtype: torch.dtype) -> list[Tensor]:
    """What the backward is given besides operands, without data: d_out, p and projections."""
    batch, width, count = problem.batch, problem.width, len(problem.interactions)
    d_out = torch.empty((batch, count * width), dtype=out_dtype, device="meta")
    p = torch.empty((batch, count, width), dtype=torch.float32, device="meta")
    projection = torch.empty((batch, problem.positions, width), dtype=problem.dtype, device="meta")
    return [d_out, p, *[projection] * (save * len(problem.channels))]


def _described(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype


def _unobserved(tensors: Sequence[Any]) -> bool:
    """Nothing wants to see a call with these ``tensors``, which are of the CPU and have nothing special about them."""
    states, keys = _ordinary()
    return _state() in states and _TYPES.issuperset(map(type, tensors)) and keys.issuperset(map(_keys, tensors))


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _state() -> tuple[int, ...]:
    """What stands between the call of an op and its kernel in this thread."""
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    modes, level = torch._C._len_torch_function_stack(), torch.autograd.forward_ad._current_level
    return included.raw_repr(), excluded.raw_repr(), modes, level, torch.autograd._profiler_enabled()


def _keys(x: Tensor) -> int:
    return torch._C._dispatch_keys(x).raw_repr()


@functools.cache
def _ordinary() -> tuple[frozenset[tuple[int, ...]], frozenset[int]]:
    """States in which nothing does, and keys of tensors with nothing special about them.

    A torch without these names, which are not public, has none.
    """

    def look() -> tuple[frozenset[tuple[int, ...]], frozenset[int]]:
        states, keys = [_state()], [_keys(torch.empty(0, device="cpu"))]
        with torch.inference_mode():
            return frozenset([*states, _state()]), frozenset([*keys, _keys(torch.empty(0, device="cpu"))])

    try:
        with ThreadPoolExecutor(1) as fresh:  # a thread of its own: this one may be under autocast or a mode
            return fresh.submit(look).result()
    except (AttributeError, TypeError):
        return frozenset(), frozenset()

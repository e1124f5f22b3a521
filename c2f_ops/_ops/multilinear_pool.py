"""`c2f_ops::multilinear_pool`: schema, fake, autograd, kernel choice.

The op returns (out, p, projections): the result, and what its backward needs. ``save`` decides whether projections has
M entries or none, so it is settled by the caller, as is ``algo`` ("gram", "direct", "fused" or "chunked"); the room is
chosen when the kernel runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import signed_sqrt_normalize as epilogue
from .choice import choose_backend, room
from .library import define, refuse_tangents, without_autocast
from .problem import Problem

_OPTIONS = (
    "int[] interactions, str activation, str sqrt_mode, float sqrt_eps, str norm_scope, str l2_mode, float l2_eps, "
    "str algo, str backend"
)

define(
    "multilinear_pool",
    f"(Tensor[] features, Tensor[] weights, Tensor[] biases, Tensor? mask, {_OPTIONS}, bool save, ScalarType out_dtype)"
    " -> (Tensor out, Tensor p, Tensor[] projections)",
)
define(
    "multilinear_pool_bwd",
    "(Tensor d_out, Tensor p, Tensor[] projections, Tensor[] features, Tensor[] weights, Tensor[] biases, "
    f"Tensor? mask, {_OPTIONS}, bool[] needs)"
    " -> (Tensor[] d_features, Tensor[] d_weights, Tensor[] d_biases, Tensor[] d_mask)",
)

_DEGREE = 4  # an interaction travels as four integers, padded with -1


def encode(interactions: Sequence[Sequence[int]]) -> list[int]:
    """Interactions as the flat integer list of the schema."""
    return [i for t in interactions for i in (*t, *(-1,) * (_DEGREE - len(t)))]


def decode(flat: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Inverse of `encode`."""
    return tuple(tuple(i for i in flat[q : q + _DEGREE] if i >= 0) for q in range(0, len(flat), _DEGREE))


@torch.library.impl("c2f_ops::multilinear_pool", "CompositeExplicitAutograd")
@without_autocast
def _forward(features, weights, biases, mask, flat, activation, *options):
    *norm, algo, backend, save, out_dtype = options
    interactions = decode(flat)
    per_factor = biases or [None] * len(features)
    choice = choose_backend(Problem.of(features, weights, mask, interactions, activation), backend, algo)
    if choice.algo == "gram":
        p, projections = room("reference", "gram").gram_fwd(features, weights, per_factor, mask, interactions), []
    else:
        kernel = room(choice.backend, "multilinear_pool").multilinear_pool_fwd
        p, projections = kernel(features, weights, per_factor, mask, interactions, activation, save, choice.algo)
    out = epilogue.forward(p, norm, out_dtype, choice.backend)
    return out.flatten(1), p, projections


@torch.library.register_fake("c2f_ops::multilinear_pool")
def _forward_fake(features, weights, biases, mask, flat, activation, *options):
    *_, save, out_dtype = options
    x, (batch, length, _), width = features[0], features[0].shape, weights[0].shape[1]
    count = len(flat) // _DEGREE
    p_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = x.new_empty((batch, count * width), dtype=out_dtype)
    p = x.new_empty((batch, count, width), dtype=p_dtype)
    return out, p, [x.new_empty((batch, length, width)) for _ in features] if save else []


@torch.library.impl("c2f_ops::multilinear_pool_bwd", "CompositeExplicitAutograd")
@without_autocast
def _backward(d_out, p, projections, features, weights, biases, mask, flat, activation, *options):
    *norm, algo, backend, needs = options
    interactions = decode(flat)
    per_factor = biases or [None] * len(features)
    problem = Problem.of(features, weights, mask, interactions, activation, mask_grad=needs[-1])
    choice = choose_backend(problem, backend, "direct" if algo == "fused" else algo)
    p, *projections = (x.contiguous() for x in (p, *projections))  # hooks may save in another memory format
    d_p = epilogue.backward(d_out.contiguous().view_as(p), p, norm, choice.backend)
    if choice.algo == "gram":
        grads = room("reference", "gram").gram_bwd(d_p, features, weights, per_factor, mask, interactions, needs)
    else:
        kernel = room(choice.backend, "multilinear_pool").multilinear_pool_bwd
        grads = kernel(d_p, features, weights, per_factor, mask, projections, interactions, activation, needs)
    d_features, d_weights, d_biases, d_mask = grads
    return (
        [_strided_like(d, x) for d, x in zip(d_features, features, strict=True) if d is not None],
        [d.contiguous() for d in d_weights if d is not None],
        [d for d in d_biases if d is not None],
        [] if d_mask is None else [d_mask],
    )


@torch.library.register_fake("c2f_ops::multilinear_pool_bwd")
def _backward_fake(d_out, p, projections, features, weights, biases, mask, flat, activation, *options):
    needs = options[-1]
    count = len(features)
    return (
        [torch.empty_like(x) for x, need in zip(features, needs[:count], strict=True) if need],
        [w.new_empty(w.shape) for w, need in zip(weights, needs[count : 2 * count], strict=True) if need],
        [p.new_empty(p.shape[2]) for need in needs[2 * count : 3 * count] if need],
        [p.new_empty(mask.shape)] if needs[-1] else [],
    )


def _strided_like(d: Tensor, x: Tensor) -> Tensor:
    """The gradient in the memory format of its feature, copied only where a room could not write it there."""
    like = torch.empty_like(x, device="meta")
    return d if d.stride() == like.stride() else torch.empty_like(x).copy_(d)


class Gradient(torch.autograd.Function):
    """Any forward with the backward of the op. Operands come flat: autograd does not look into lists.

    ``short`` is a shorter way to the same gradients, as lists, that may refuse by None; or None.
    """

    @staticmethod
    def forward(ctx, forward, short, counts, options, *operands):
        out, p, projections = forward(*_grouped(operands, counts))
        ctx.save_for_backward(*operands, p, *projections)
        ctx.short, ctx.counts, ctx.options = short, counts, options
        ctx.mark_non_differentiable(p, *projections)
        ctx.set_materialize_grads(False)
        return out, p, *projections

    @staticmethod
    def backward(ctx, d_out, *_):
        needed = ctx.needs_input_grad[4:]
        if d_out is None:
            return (None,) * (4 + len(needed))
        count, bias_count, has_mask = ctx.counts
        operands, (p, *projections) = _split(ctx.saved_tensors, 2 * count + bias_count + has_mask)
        features, weights, biases, mask = _grouped(operands, ctx.counts)
        need_x, need_w, need_b, need_mask = _grouped(needed, ctx.counts)
        needs = [*need_x, *need_w, *(need_b or [False] * count), bool(need_mask)]
        if torch.is_grad_enabled():
            grads = _composed_backward(d_out, features, weights, biases, mask, ctx.options, needs)
        else:
            grads = ctx.short and ctx.short(d_out, p, projections, features, weights, biases, needs)
            grads = grads or torch.ops.c2f_ops.multilinear_pool_bwd(
                d_out, p, projections, features, weights, biases, mask, *ctx.options, needs
            )
        found = (d for group in grads for d in group if d is not None)
        return (None, None, None, None, *(next(found) if need else None for need in needed))


def _split(items, n):
    return list(items[:n]), list(items[n:])


def _grouped(items, counts):
    """What came flat as features, weights, biases and mask."""
    count, bias_count, has_mask = counts
    features, rest = _split(items, count)
    weights, rest = _split(rest, count)
    biases, rest = _split(rest, bias_count)
    return features, weights, biases, rest[0] if has_mask else None


@torch.library.impl("c2f_ops::multilinear_pool", "Autograd")
def _differentiable(features, weights, biases, mask, *options):
    def forward(*operands):
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.c2f_ops.multilinear_pool.default(*operands, *options)

    operands = (*features, *weights, *biases, *([] if mask is None else [mask]))
    refuse_tangents("multilinear_pool", operands)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in operands)):
        return forward(features, weights, biases, mask)
    counts = len(features), len(biases), mask is not None
    out, p, *projections = Gradient.apply(forward, None, counts, options[:-2], *operands)  # less save and out_dtype
    return out, p, projections


def _composed_backward(d_out, features, weights, biases, mask, options, needs):
    """The backward as differentiable torch operations, for create_graph: slow, exact, rebuilt from the inputs."""
    flat, activation, sqrt_mode, *norm_options, _algo, _backend = options
    if sqrt_mode == "caffe":
        raise RuntimeError(
            "multilinear_pool: sqrt_mode='caffe' is not twice differentiable (its backward is not the derivative of "
            "its forward); use sqrt_mode='shifted' for second derivatives"
        )
    pooling, norm = room("reference", "multilinear_pool"), room("reference", "signed_sqrt_normalize")
    interactions, per_factor = decode(flat), biases or [None] * len(features)
    p, projections = pooling.multilinear_pool_fwd(
        features, weights, per_factor, mask, interactions, activation, False, "chunked"
    )
    d_p = norm.signed_sqrt_normalize_bwd(d_out.reshape(p.shape), p, sqrt_mode, *norm_options)
    d_x, d_w, d_b, d_mask = pooling.multilinear_pool_bwd(
        d_p, features, weights, per_factor, mask, projections, interactions, activation, needs
    )
    lists = ([d for d in group if d is not None] for group in (d_x, d_w, d_b))
    return (*lists, [] if d_mask is None else [d_mask])

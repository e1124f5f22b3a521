"""`c2f_ops::class_attentive_supcon`: schema, fake, autograd, kernel choice."""

from __future__ import annotations

import torch

from .choice import choose_room, room
from .library import define, differentiable, without_autocast

_OPERANDS = (
    "Tensor z, Tensor x, Tensor z_labels, Tensor x_labels, Tensor classes, Tensor order, Tensor v,"
    " float[] attract_weight, float[] repel_weight, bool hinge, float parameter, float eps, int first"
)
_NAME = "class_attentive_supcon"

define(_NAME, f"({_OPERANDS}, str backend) -> (Tensor attract, Tensor repel)")
define(
    f"{_NAME}_bwd",
    f"(Tensor d_attract, Tensor d_repel, Tensor repel, {_OPERANDS}, bool[] needs, str backend)"
    " -> (Tensor d_z, Tensor d_x, Tensor d_v)",
)


@torch.library.impl(f"c2f_ops::{_NAME}", "CompositeExplicitAutograd")
@without_autocast
def _forward(z, *rest):
    *operands, backend = rest
    return room(choose_room(_NAME, z, backend), _NAME).class_attentive_supcon_fwd(z, *operands)


@torch.library.impl(f"c2f_ops::{_NAME}_bwd", "CompositeExplicitAutograd")
@without_autocast
def _backward(d_attract, d_repel, repel, z, *rest):
    x, z_labels, x_labels, classes, order, v, *options, needs, backend = rest
    kernel = room(choose_room(_NAME, z, backend), _NAME).class_attentive_supcon_bwd
    tensors = (d_attract, d_repel, repel, z, x, z_labels, x_labels, classes, order, v)
    return kernel(*(t.contiguous() for t in tensors), *options, needs)


@torch.library.register_fake(f"c2f_ops::{_NAME}")
def _forward_fake(z, *rest):
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    return z.new_empty(len(z), dtype=wide), z.new_empty(len(z), dtype=wide)


@torch.library.register_fake(f"c2f_ops::{_NAME}_bwd")
def _backward_fake(d_attract, d_repel, repel, z, x, z_labels, x_labels, classes, order, v, *rest):
    *_, needs, _backend = rest
    return tuple(t.new_empty((len(t) if need else 0, t.shape[1])) for t, need in zip((z, x, v), needs, strict=True))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, attract, repel, hinge, parameter, eps, first, backend = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.options, ctx.backend = (attract, repel, hinge, parameter, eps, first), backend


def _autograd(ctx, d_attract, d_repel):
    if torch.is_grad_enabled():
        raise RuntimeError(
            "class_attentive_loss: second derivatives are not implemented; call backward without create_graph"
        )
    repel, z, x, *rest, v = ctx.saved_tensors
    needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[6]]
    d_z, d_x, d_v = torch.ops.c2f_ops.class_attentive_supcon_bwd(
        d_attract, d_repel, repel, z, x, *rest, v, *ctx.options, needs, ctx.backend
    )
    grads = (d if need else None for d, need in zip((d_z, d_x, d_v), needs, strict=True))
    d_z, d_x, d_v = grads
    return (d_z, d_x, *[None] * 4, d_v, *[None] * 7)


differentiable(_NAME, _setup_context, _autograd)

"""`c2f_ops::falcon_loss`: schema, fake, autograd, kernel choice."""

from __future__ import annotations

import torch

from .choice import choose_room, room
from .library import define, differentiable, without_autocast
from .problem import falcon_loss_outputs

_INPUTS = "Tensor z, Tensor s, Tensor t, Tensor neighbours, Tensor y, Tensor g, Tensor scale"

define(
    "falcon_loss",
    f"({_INPUTS}, float temperature, float tau, str backend, bool save)"
    " -> (Tensor value, Tensor terms, Tensor mass, Tensor lse, Tensor grad)",
)
define(
    "falcon_loss_bwd",
    "(Tensor d_value, Tensor d_mass, Tensor z, Tensor lse, Tensor grad, str backend) -> Tensor",
)


@torch.library.impl("c2f_ops::falcon_loss", "CompositeExplicitAutograd")
@without_autocast
def _forward(z, s, t, neighbours, y, g, scale, temperature, tau, backend, save):
    kernel = room(choose_room("falcon_loss", z, backend), "falcon_loss").falcon_loss_fwd
    return kernel(z, s, t, neighbours, y, g, scale, temperature, tau, save)


@torch.library.impl("c2f_ops::falcon_loss_bwd", "CompositeExplicitAutograd")
@without_autocast
def _backward(d_value, d_mass, z, lse, grad, backend):
    kernel = room(choose_room("falcon_loss", z, backend), "falcon_loss").falcon_loss_bwd
    return kernel(*(x.contiguous() for x in (d_value, d_mass, z, lse, grad)))


@torch.library.register_fake("c2f_ops::falcon_loss")
def _forward_fake(z, s, t, neighbours, y, g, scale, temperature, tau, backend, save):
    return falcon_loss_outputs(z, save)


@torch.library.register_fake("c2f_ops::falcon_loss_bwd")
def _backward_fake(d_value, d_mass, z, lse, grad, backend):
    return z.new_empty(z.shape)


def _setup_context(ctx, inputs, output) -> None:
    z, *_, backend, save = inputs
    _value, terms, _mass, lse, grad = output
    ctx.save_for_backward(z, lse, grad)
    ctx.backend, ctx.saved = backend, save
    ctx.mark_non_differentiable(terms, lse, grad)


def _autograd(ctx, d_value, _d_terms, d_mass, _d_lse, _d_grad):
    if torch.is_grad_enabled():
        raise RuntimeError("falcon_loss: second derivatives are not implemented; call backward without create_graph")
    if not ctx.saved:
        raise RuntimeError("falcon_loss: the op was called with save=False, which leaves nothing for a backward")
    z, lse, grad = ctx.saved_tensors
    d_z = torch.ops.c2f_ops.falcon_loss_bwd(d_value, d_mass, z, lse, grad, ctx.backend)
    return (d_z, *[None] * 10)


differentiable("falcon_loss", _setup_context, _autograd)

"""`c2f_ops::signed_sqrt_normalize`: schema, fake, autograd, kernel choice."""

from __future__ import annotations

import torch
from torch import Tensor

from .choice import choose_room, room
from .library import define, differentiable, without_autocast

_OPTIONS = "str sqrt_mode, float sqrt_eps, str norm_scope, str l2_mode, float l2_eps"

define("signed_sqrt_normalize", f"(Tensor p, {_OPTIONS}, str backend) -> Tensor")
define("signed_sqrt_normalize_bwd", f"(Tensor d_out, Tensor p, {_OPTIONS}, str backend) -> Tensor")


def forward(p, norm, out_dtype, backend) -> Tensor:
    """z from p ``[B, Q, D]`` in the room ``backend``, resolved; ``norm`` holds the five options in order."""
    kernel = room(backend, "signed_sqrt_normalize").signed_sqrt_normalize_fwd
    return kernel(p, *norm, out_dtype)


def backward(d_out, p, norm, backend) -> Tensor:
    """d_p from d_out and p, both ``[B, Q, D]``, in the room ``backend``, resolved."""
    kernel = room(backend, "signed_sqrt_normalize").signed_sqrt_normalize_bwd
    return kernel(d_out, p, *norm)


@torch.library.impl("c2f_ops::signed_sqrt_normalize", "CompositeExplicitAutograd")
@without_autocast
def _forward(p, *options):
    *norm, backend = options
    return forward(p, norm, p.dtype, choose_room("signed_sqrt_normalize", p, backend))


@torch.library.impl("c2f_ops::signed_sqrt_normalize_bwd", "CompositeExplicitAutograd")
@without_autocast
def _backward(d_out, p, *options):
    *norm, backend = options
    return backward(d_out.contiguous(), p.contiguous(), norm, choose_room("signed_sqrt_normalize", p, backend))


@torch.library.register_fake("c2f_ops::signed_sqrt_normalize")
def _forward_fake(p, *_options):
    return p.new_empty(p.shape)


@torch.library.register_fake("c2f_ops::signed_sqrt_normalize_bwd")
def _backward_fake(d_out, p, *_options):
    return p.new_empty(p.shape)


def _setup_context(ctx, inputs, output) -> None:
    p, *options = inputs
    ctx.save_for_backward(p)
    ctx.options = options


def _autograd(ctx, d_out):
    (p,) = ctx.saved_tensors
    sqrt_mode, *_ = ctx.options
    if torch.is_grad_enabled():
        if sqrt_mode == "caffe":
            raise RuntimeError(
                "signed_sqrt_normalize: sqrt_mode='caffe' is not twice differentiable (its backward is not the "
                "derivative of its forward); use sqrt_mode='shifted' for second derivatives"
            )
        d_p = room("reference", "signed_sqrt_normalize").signed_sqrt_normalize_bwd(d_out, p, *ctx.options[:-1])
    else:
        d_p = torch.ops.c2f_ops.signed_sqrt_normalize_bwd(d_out, p, *ctx.options)
    return (d_p, *[None] * len(ctx.options))


differentiable("signed_sqrt_normalize", _setup_context, _autograd)

"""Shared by every op: definition in the `c2f_ops` namespace, gradient, kernels that ignore autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch


def define(name: str, schema: str) -> None:
    """Define ``c2f_ops::name`` for the PT2 stack: functional, exact strides honoured."""
    torch.library.define(f"c2f_ops::{name}", schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))


def without_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Run a kernel with autocast off, so that its own torch calls keep the types they were given."""

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        if not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"):
            return kernel(*args)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return kernel(*args)

    return run


def refuse_tangents(name: str, args: Iterable[Any]) -> None:
    """Raise where an argument carries a forward-mode derivative, which the op would drop without a word."""
    forward_ad = torch.autograd.forward_ad
    if forward_ad._current_level < 0:
        return
    if any(isinstance(a, torch.Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args):
        raise NotImplementedError(f"{name} has no forward-mode derivative; take the reverse mode")


def differentiable(name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Give ``c2f_ops::name``, without lists of tensors, a gradient.

    As `torch.library.register_autograd`, without what that does anew in each call to arguments with defaults: with
    sixteen arguments, 60 us.
    """
    op = getattr(torch.ops.c2f_ops, name).default

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    gradient: Any = type(f"{name}_gradient", (torch.autograd.Function,), methods)

    def kernel(*args: Any) -> Any:
        refuse_tangents(name, args)
        if torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
            return gradient.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    torch.library.impl(f"c2f_ops::{name}", "Autograd")(kernel)

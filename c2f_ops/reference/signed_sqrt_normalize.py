"""Signed square root and L2 normalisation in plain PyTorch, with the backward written out.

    s = ssqrt(p)        z = s / n        n: norm of s over one interaction, over all of a sample (joint), or 1

Signed square root modes follow Hierarchical Bilinear Pooling (ECCV 2018): "shifted" is the consistent form of its Caffe
layer, whose square root has no offset forward and one of 0.03 backward ("caffe").
"""

from __future__ import annotations

import torch
from torch import Tensor


def signed_sqrt_normalize_fwd(
    p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float, out_dtype: torch.dtype
) -> Tensor:
    """p ``[B, Q, D]`` -> z ``[B, Q, D]`` in ``out_dtype``; the arithmetic is that of p's type."""
    s = signed_sqrt(p, sqrt_mode, sqrt_eps)
    return (s / _norm(s, norm_scope, l2_mode, l2_eps)[0]).to(out_dtype)


def signed_sqrt_normalize_bwd(
    d_out: Tensor, p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float
) -> Tensor:
    """d_out ``[B, Q, D]``, p ``[B, Q, D]`` -> d_p in p's type: ``(d_out - z sum(z d_out)) / n * ds/dp``."""
    s = signed_sqrt(p, sqrt_mode, sqrt_eps)
    n, clamped = _norm(s, norm_scope, l2_mode, l2_eps)
    g = d_out.to(p.dtype)
    if norm_scope != "none":
        z = s / n
        gamma = (z * g).sum(_scope_dims(norm_scope), keepdim=True)
        if clamped is not None:
            gamma = torch.where(clamped, gamma.new_zeros(()), gamma)
        g = (g - z * gamma) / n
    return g * signed_sqrt_slope(p, sqrt_mode, sqrt_eps)


def signed_sqrt(p: Tensor, mode: str, eps: float) -> Tensor:
    """The signed square root, element by element. Zero stays zero, infinity stays infinite."""
    a = p.abs()
    if mode == "none":
        return p
    if mode == "shifted":
        root = torch.sqrt(a + eps * eps)
        # a / (root + eps) has no cancellation near 0, but is inf / inf at infinity (and 0 / 0 at 0 when eps is 0)
        ordinary = (a > 0) & (a < torch.inf)
        return _signed(torch.where(ordinary, torch.where(ordinary, a, 1.0) / (root + eps), root - eps), p)
    if mode == "caffe":
        return _signed(torch.sqrt(a), p)
    if mode == "plus_eps":
        return torch.where(p == 0, p, _signed(torch.sqrt(a + eps), p))
    radius = torch.hypot(p, p.new_full((), eps))  # smooth
    return torch.where(a < torch.inf, p * torch.where(radius > 0, radius, 1.0).rsqrt(), p)


def signed_sqrt_slope(p: Tensor, mode: str, eps: float) -> Tensor:
    """ds/dp as the backward uses it: the true derivative, except for "caffe" (which divides by ``2 (|s| + eps)``)."""
    a = p.abs()
    if mode == "none":
        return torch.ones_like(p)
    if mode == "shifted":
        return 0.5 * (a + eps * eps).rsqrt()
    if mode == "caffe":
        return 0.5 / (torch.sqrt(a) + eps)
    if mode == "plus_eps":
        return torch.where(p == 0, p.new_zeros(()), 0.5 * (a + eps).rsqrt())
    radius = torch.hypot(p, p.new_full((), eps))  # smooth
    return ((p / radius) ** 2 / 2 + (eps / radius) ** 2) * radius.rsqrt()


def _signed(size: Tensor, p: Tensor) -> Tensor:
    """``size`` with the sign of p; NaN and 0 keep theirs. Not `torch.copysign`, which ONNX does not have."""
    return torch.where(p < 0, -size, size)


def _scope_dims(norm_scope: str) -> tuple[int, ...]:
    return (2,) if norm_scope == "interaction" else (1, 2)


def _norm(s: Tensor, norm_scope: str, l2_mode: str, l2_eps: float) -> tuple[Tensor, Tensor | None]:
    """The norm, kept broadcastable, and for "clamp" where it is held at ``l2_eps`` (there it has no gradient)."""
    if norm_scope == "none":
        return s.new_ones(()), None
    total = (s * s).sum(_scope_dims(norm_scope), keepdim=True)
    if l2_mode == "add":
        return torch.sqrt(total + l2_eps), None
    clamped = total <= l2_eps * l2_eps
    return torch.where(clamped, l2_eps, torch.sqrt(torch.where(clamped, 1.0, total))), clamped

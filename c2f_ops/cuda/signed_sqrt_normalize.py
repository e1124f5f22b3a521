"""signed_sqrt_normalize on CUDA: launchers of csrc/cuda/signed_sqrt_normalize.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES, encode_norm
from .._validated import unvalidated as _unvalidated
from . import current_stream, device_obstacle, unavailable

__all__ = ["signed_sqrt_normalize_bwd", "signed_sqrt_normalize_fwd", "unavailable", "unvalidated"]


def unvalidated(device: torch.device) -> str | None:
    """Say in one line why ``auto`` must not take the kernels on ``device``; None: a record validates them there."""
    if device.type != "cuda":
        return f"operands must be on a CUDA device, got {device}"
    return device_obstacle(device) or _unvalidated(
        "signed_sqrt_normalize", "cuda", torch.cuda.get_device_capability(device)
    )


def signed_sqrt_normalize_fwd(
    p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float, out_dtype: torch.dtype
) -> Tensor:
    """Normalise p ``[B, Q, D]`` float32 -> z ``[B, Q, D]`` in ``out_dtype``."""
    p = p.contiguous()
    out = p.new_empty(p.shape, dtype=out_dtype)
    options = encode_norm(sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
    with torch.cuda.device(p.device):
        _native.module().signed_sqrt_normalize_cuda_fwd(
            *p.shape, *options, p.data_ptr(), DTYPES[out_dtype], out.data_ptr(), 0, 0, current_stream(p.device)
        )
    return out


def signed_sqrt_normalize_bwd(
    d_out: Tensor, p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float
) -> Tensor:
    """Gradient: d_out ``[B, Q, D]``, p ``[B, Q, D]`` float32 -> d_p ``[B, Q, D]`` float32."""
    p, d_out = p.contiguous(), d_out.contiguous()
    d_p = p.new_empty(p.shape)
    options = encode_norm(sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
    with torch.cuda.device(p.device):
        _native.module().signed_sqrt_normalize_cuda_bwd(
            *p.shape,
            *options,
            p.data_ptr(),
            DTYPES[d_out.dtype],
            0,
            d_out.data_ptr(),
            d_p.data_ptr(),
            current_stream(p.device),
        )
    return d_p

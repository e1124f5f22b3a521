"""signed_sqrt_normalize on the CPU: launchers of csrc/cpu/signed_sqrt_normalize.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES, encode_norm
from . import num_threads


def unavailable() -> str | None:
    """Say in one line why there is no kernel on this machine; None: there is one."""
    return _native.unavailable()


def unvalidated(device: torch.device) -> str | None:
    """CPU kernels are covered by the tests of every machine: None."""
    return None


def signed_sqrt_normalize_fwd(
    p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float, out_dtype: torch.dtype
) -> Tensor:
    """p ``[B, Q, D]`` float32 contiguous -> z ``[B, Q, D]`` in ``out_dtype``."""
    out = p.new_empty(p.shape, dtype=out_dtype)
    options = encode_norm(sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
    _native.module().signed_sqrt_normalize_cpu_fwd(
        *p.shape, *options, p.data_ptr(), DTYPES[out_dtype], out.data_ptr(), num_threads()
    )
    return out


def signed_sqrt_normalize_bwd(
    d_out: Tensor, p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float
) -> Tensor:
    """d_out ``[B, Q, D]`` contiguous, p ``[B, Q, D]`` float32 contiguous -> d_p ``[B, Q, D]`` float32."""
    d_p = p.new_empty(p.shape)
    options = encode_norm(sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps)
    _native.module().signed_sqrt_normalize_cpu_bwd(
        *p.shape, *options, p.data_ptr(), DTYPES[d_out.dtype], d_out.data_ptr(), d_p.data_ptr(), num_threads()
    )
    return d_p

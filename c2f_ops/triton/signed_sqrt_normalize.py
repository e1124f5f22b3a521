"""signed_sqrt_normalize in Triton: launchers of `epilogue_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import unavailable
from . import unvalidated as _unvalidated

__all__ = ["signed_sqrt_normalize_bwd", "signed_sqrt_normalize_fwd", "unavailable", "unvalidated"]


def unvalidated(device: torch.device) -> str | None:
    """Say in one line why an automatic choice must not take these kernels on ``device`` yet; None: it may."""
    return _unvalidated("signed_sqrt_normalize", device)


def signed_sqrt_normalize_fwd(
    p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float, out_dtype: torch.dtype
) -> Tensor:
    """p ``[B, Q, D]`` -> z ``[B, Q, D]`` in ``out_dtype``."""
    from . import epilogue_kernels

    out = torch.empty(p.shape, dtype=out_dtype, device=p.device)
    if p.numel():
        rows, length = _rows(p, norm_scope)
        with torch.cuda.device_of(p):
            epilogue_kernels.signed_sqrt_normalize_fwd_kernel[(rows,)](
                p.contiguous(),
                out,
                length,
                sqrt_eps,
                l2_eps,
                SQRT_MODE=sqrt_mode,
                L2_MODE=_l2(norm_scope, l2_mode),
                **_tiles(length),
            )
    return out


def signed_sqrt_normalize_bwd(
    d_out: Tensor, p: Tensor, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float
) -> Tensor:
    """d_out ``[B, Q, D]``, p ``[B, Q, D]`` -> d_p in p's type."""
    from . import epilogue_kernels

    d_p = torch.empty(p.shape, dtype=p.dtype, device=p.device)
    if p.numel():
        rows, length = _rows(p, norm_scope)
        with torch.cuda.device_of(p):
            epilogue_kernels.signed_sqrt_normalize_bwd_kernel[(rows,)](
                d_out.contiguous(),
                p.contiguous(),
                d_p,
                length,
                sqrt_eps,
                l2_eps,
                SQRT_MODE=sqrt_mode,
                L2_MODE=_l2(norm_scope, l2_mode),
                **_tiles(length),
            )
    return d_p


def _rows(p: Tensor, norm_scope: str) -> tuple[int, int]:
    """(number of scopes, entries of one)."""
    B, Q, D = p.shape
    return (B, Q * D) if norm_scope == "joint" else (B * Q, D)


def _l2(norm_scope: str, l2_mode: str) -> str:
    return "none" if norm_scope == "none" else l2_mode


def _tiles(length: int) -> dict[str, int]:
    block = min(2048, max(128, 1 << (length - 1).bit_length()))
    return {"BLOCK": block, "num_warps": 8 if block > 1024 else 4}

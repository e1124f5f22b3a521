"""falcon_loss in Triton: launchers of `falcon_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from .._ops.problem import falcon_loss_outputs
from . import unavailable
from . import unvalidated as _unvalidated

__all__ = ["falcon_loss_bwd", "falcon_loss_fwd", "unavailable", "unvalidated"]

LONGEST_BLOCK = 8192  # classes of a row that one program holds
_CHUNK = 2048  # classes of a step through a longer row
_MASS_ROWS, _MASS_BLOCK, _MASS_PARTS = 16, 128, 64


def unvalidated(device: torch.device) -> str | None:
    """Say in one line why an automatic choice must not take these kernels on ``device`` yet; None: it may."""
    return _unvalidated("falcon_loss", device)


def falcon_loss_fwd(
    z: Tensor,
    s: Tensor,
    t: Tensor,
    neighbours: Tensor,
    y: Tensor,
    g: Tensor,
    scale: Tensor,
    temperature: float,
    tau: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows z, s ``[B, K_F]`` and a bank t ``[N, K_F]`` -> value, terms, mass, lse and, if ``save``, the gradient."""
    from . import falcon_kernels

    batch, fine = z.shape
    count = neighbours.shape[1]
    tiles = _tiles(fine)
    value, terms, mass, lse, grad = falcon_loss_outputs(z, save)
    joint = lse.new_empty(0 if tiles["ONE_BLOCK"] else batch, count, 2)
    if batch:
        with torch.cuda.device_of(z):
            falcon_kernels.falcon_loss_fwd_kernel[(batch,)](
                z,
                s,
                t,
                neighbours,
                y,
                g,
                scale,
                value,
                terms,
                lse,
                joint,
                grad,
                z.stride(0),
                s.stride(0),
                t.stride(0),
                fine,
                count,
                len(t),
                1.0 / temperature,
                tau,
                D=y.shape[1],
                HAS_GRAD=save,
                **tiles,
            )
    _mass(z, lse, mass)
    return value, terms, mass, lse, grad


def falcon_loss_bwd(d_value: Tensor, d_mass: Tensor, z: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """Gradient with respect to z ``[B, K_F]``, contiguous, in z's type."""
    from . import falcon_kernels

    batch, fine = z.shape
    d_z = torch.empty((batch, fine), dtype=z.dtype, device=z.device)
    if batch:
        with torch.cuda.device_of(z):
            falcon_kernels.falcon_loss_bwd_kernel[(batch,)](
                z, lse, grad, d_value, d_mass, d_z, z.stride(0), fine, **_tiles(fine)
            )
    return d_z


def _mass(z: Tensor, lse: Tensor, mass: Tensor) -> None:
    """Write the sum of p over the rows, in a fixed order: parts of the rows, then the parts."""
    from . import falcon_kernels

    batch, fine = z.shape
    if batch == 0:
        mass.zero_()
        return
    rows = -(-batch // (_MASS_PARTS * _MASS_ROWS)) * _MASS_ROWS
    parts, blocks = -(-batch // rows), -(-fine // _MASS_BLOCK)
    partial = mass.new_empty(parts, fine)
    tiles = {"ROWS": _MASS_ROWS, "BLOCK": _MASS_BLOCK, "num_warps": 4}
    with torch.cuda.device_of(z):
        kernel = falcon_kernels.falcon_mass_kernel
        kernel[(parts, blocks)](z, lse, partial, z.stride(0), batch, rows, fine, HAS_LSE=True, **tiles)
        kernel[(1, blocks)](partial, None, mass, fine, parts, parts, fine, HAS_LSE=False, **tiles)


def _tiles(fine: int) -> dict[str, int | bool]:
    """One program a row: in one block, or in steps through a longer one."""
    one = fine <= LONGEST_BLOCK
    block = max(128, 1 << (fine - 1).bit_length()) if one else _CHUNK
    return {"ONE_BLOCK": one, "BLOCK": block, "num_warps": min(16, max(1, block // 128))}

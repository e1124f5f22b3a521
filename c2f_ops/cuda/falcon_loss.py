"""falcon_loss on CUDA: launchers of csrc/cuda/falcon_loss_fwd.cu and falcon_loss_bwd.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES
from .._ops.problem import falcon_loss_outputs
from .._validated import unvalidated as _unvalidated
from . import current_stream, device_obstacle, unavailable

__all__ = ["falcon_loss_bwd", "falcon_loss_fwd", "unavailable", "unvalidated"]


def unvalidated(device: torch.device) -> str | None:
    """Say in one line why ``auto`` must not take the kernels on ``device``; None: a record validates them there."""
    if device.type != "cuda":
        return f"operands must be on a CUDA device, got {device}"
    return device_obstacle(device) or _unvalidated("falcon_loss", "cuda", torch.cuda.get_device_capability(device))


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
    batch, fine = z.shape
    problem = batch, fine, neighbours.shape[1], len(t), y.shape[1], DTYPES[z.dtype]
    outputs = falcon_loss_outputs(z, save)
    with torch.cuda.device(z.device):
        native = _native.module()
        scratch = z.new_empty(native.falcon_loss_cuda_scratch(problem), dtype=torch.uint8)
        native.falcon_loss_cuda_fwd(
            problem,
            *((x.data_ptr(), x.stride(0)) for x in (z, s, t)),
            *(x.data_ptr() for x in (neighbours, y, g, scale)),
            temperature,
            tau,
            [x.data_ptr() for x in outputs[:4]] + [outputs[4].data_ptr() if save else 0],
            scratch.data_ptr(),
            current_stream(z.device),
        )
    return outputs


def falcon_loss_bwd(d_value: Tensor, d_mass: Tensor, z: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """Gradient with respect to z ``[B, K_F]``, contiguous, in z's type."""
    batch, fine = z.shape
    d_z = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    with torch.cuda.device(z.device):
        _native.module().falcon_loss_cuda_bwd(
            (batch, fine, 0, 0, 0, DTYPES[z.dtype]),
            (z.data_ptr(), z.stride(0)),
            *(x.data_ptr() for x in (lse, grad, d_value, d_mass, d_z)),
            current_stream(z.device),
        )
    return d_z

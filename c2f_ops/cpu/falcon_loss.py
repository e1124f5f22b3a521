"""falcon_loss on the CPU: launchers of csrc/cpu/falcon_loss_cpu.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES, address
from .._ops.problem import falcon_loss_outputs
from . import num_threads


def unavailable() -> str | None:
    """Say in one line why there is no kernel on this machine; None: there is one."""
    return _native.unavailable()


def unvalidated(device: torch.device) -> str | None:
    """CPU kernels are covered by the tests of every machine: None."""
    return None


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
    """Arguments and results as `c2f_ops.reference.falcon_loss.falcon_loss_fwd`, in float32.

    Raises:
        ValueError: a class in y has no fine class, or a neighbour is not a row of t.
    """
    batch, fine = z.shape
    module, threads = _native.module(), num_threads()
    value, terms, mass, lse, grad = falcon_loss_outputs(z, save)
    scratch = z.new_empty(module.falcon_loss_cpu_scratch(batch, fine, threads), dtype=torch.uint8)
    scale = scale.to(torch.float32)
    module.falcon_loss_cpu_fwd(
        batch, fine, neighbours.shape[1], len(t), len(g), DTYPES[z.dtype],
        *_rows(z), *_rows(s), *_rows(t), neighbours.data_ptr(), y.data_ptr(), g.data_ptr(), scale.data_ptr(),
        temperature, tau,
        value.data_ptr(), terms.data_ptr(), mass.data_ptr(), lse.data_ptr(), address(grad if save else None),
        scratch.data_ptr(), threads,
    )  # fmt: skip
    return value, terms, mass, lse, grad


def falcon_loss_bwd(d_value: Tensor, d_mass: Tensor, z: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """Gradient with respect to z: ``d_value_i grad_i + p_i (d_mass - <p_i, d_mass>)``, in z's type."""
    batch, fine = z.shape
    d_z = z.new_empty(z.shape)
    _native.module().falcon_loss_cpu_bwd(
        batch, fine, DTYPES[z.dtype], *_rows(z), lse.data_ptr(), grad.data_ptr(), d_value.data_ptr(),
        d_mass.data_ptr(), d_z.data_ptr(), num_threads(),
    )  # fmt: skip
    return d_z


def _rows(x: Tensor) -> tuple[int, int]:
    """Address and row stride in elements."""
    return x.data_ptr(), x.stride(0)

"""class_attentive_supcon on the CPU: launchers of csrc/cpu/class_attentive_cpu_fwd.cpp and _bwd.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES, address
from . import num_threads


def unavailable() -> str | None:
    """Say in one line why there is no kernel on this machine; None: there is one."""
    return _native.unavailable()


def unvalidated(device: torch.device) -> str | None:
    """CPU kernels are covered by the tests of every machine: None."""
    return None


def class_attentive_supcon_fwd(
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    attract_weight: list[float],
    repel_weight: list[float],
    hinge: bool,
    parameter: float,
    eps: float,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Arguments and results as `c2f_ops.reference.class_attentive_supcon.class_attentive_supcon_fwd`, in float32.

    Raises:
        ValueError: a class has no row of v.
    """
    module, threads = _native.module(), num_threads()
    attract, repel = (z.new_empty(len(z), dtype=torch.float32) for _ in range(2))
    problem = _problem(z, x, z_labels, v, attract_weight, repel_weight, hinge, parameter, eps, first)
    scratch = z.new_empty(module.class_attentive_supcon_cpu_fwd_scratch(problem, threads), dtype=torch.uint8)
    classes = classes.contiguous()  # a column of labels with several levels is not
    operands = _operands(z, x, z_labels, x_labels, classes, order, v)
    results = (t.data_ptr() for t in (attract, repel, scratch))
    module.class_attentive_supcon_cpu_fwd(problem, *operands, *results, threads)
    return attract, repel


def class_attentive_supcon_bwd(
    d_attract: Tensor,
    d_repel: Tensor,
    repel: Tensor,
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    attract_weight: list[float],
    repel_weight: list[float],
    hinge: bool,
    parameter: float,
    eps: float,
    first: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to z and x, in their type, and v; ``[0, d]`` where ``needs`` (of z, x, v) is False."""
    module, threads = _native.module(), num_threads()
    d_z, d_x, d_v = (t.new_empty((len(t) if need else 0, t.shape[1])) for t, need in zip((z, x, v), needs, strict=True))
    problem = _problem(z, x, z_labels, v, attract_weight, repel_weight, hinge, parameter, eps, first)
    scratch = z.new_empty(module.class_attentive_supcon_cpu_bwd_scratch(problem, threads), dtype=torch.uint8)
    classes = classes.contiguous()  # a column of labels with several levels is not
    operands = _operands(z, x, z_labels, x_labels, classes, order, v)
    given = (t.data_ptr() for t in (repel, d_attract, d_repel))
    results = (address(d if need else None) for d, need in zip((d_z, d_x, d_v), needs, strict=True))
    module.class_attentive_supcon_cpu_bwd(problem, *operands, *given, *results, scratch.data_ptr(), threads)
    return d_z, d_x, d_v


def _problem(z: Tensor, x: Tensor, labels: Tensor, v: Tensor, attract: Any, repel: Any, hinge: bool, *rest: Any) -> Any:
    sizes = len(z), len(x), z.shape[1], len(v), labels.shape[1], DTYPES[z.dtype]
    return _native.module().ClassAttentiveProblem(*sizes, hinge, *rest, attract, repel)


def _operands(z: Tensor, x: Tensor, *others: Tensor) -> tuple[int, ...]:
    """Addresses, those of embeddings with their row stride in elements."""
    return z.data_ptr(), z.stride(0), x.data_ptr(), x.stride(0), *(t.data_ptr() for t in others)

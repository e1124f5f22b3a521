"""class_attentive_supcon on CUDA: launchers of csrc/cuda/class_attentive_fwd.cu and class_attentive_bwd.cu."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._encoding import DTYPES
from .._validated import unvalidated as _unvalidated
from . import current_stream, device_obstacle, unavailable

__all__ = ["class_attentive_supcon_bwd", "class_attentive_supcon_fwd", "unavailable", "unvalidated"]


def unvalidated(device: torch.device) -> str | None:
    """Say in one line why ``auto`` must not take the kernels on ``device``; None: a record validates them there."""
    if device.type != "cuda":
        return f"operands must be on a CUDA device, got {device}"
    capability = torch.cuda.get_device_capability(device)
    return device_obstacle(device) or _unvalidated("class_attentive_supcon", "cuda", capability)


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
    """Arguments and results as `c2f_ops.reference.class_attentive_supcon.class_attentive_supcon_fwd`, in float32."""
    native = _native.module()
    problem = _problem(z, x, z_labels, v, hinge, parameter, eps, first, attract_weight, repel_weight)
    attract, repel = (z.new_empty(len(z), dtype=torch.float32) for _ in range(2))
    kept = _contiguous(z_labels, x_labels, classes, order, v)
    with torch.cuda.device(z.device):
        scratch = z.new_empty(native.class_attentive_supcon_cuda_scratch(problem)[0], dtype=torch.uint8)
        results = (t.data_ptr() for t in (attract, repel, scratch))
        stream = current_stream(z.device)
        native.class_attentive_supcon_cuda_fwd(problem, _operands(z, x, kept), *results, stream)
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
    native = _native.module()
    problem = _problem(z, x, z_labels, v, hinge, parameter, eps, first, attract_weight, repel_weight)
    d_z, d_x, d_v = (t.new_empty((len(t) if need else 0, t.shape[1])) for t, need in zip((z, x, v), needs, strict=True))
    kept = _contiguous(z_labels, x_labels, classes, order, v)
    with torch.cuda.device(z.device):
        scratch = z.new_empty(native.class_attentive_supcon_cuda_scratch(problem)[1], dtype=torch.uint8)
        given = (t.data_ptr() for t in (repel, d_attract, d_repel))
        results = [d.data_ptr() if need else 0 for d, need in zip((d_z, d_x, d_v), needs, strict=True)]
        stream = current_stream(z.device)
        operands = _operands(z, x, kept)
        native.class_attentive_supcon_cuda_bwd(problem, operands, *given, results, scratch.data_ptr(), stream)
    return d_z, d_x, d_v


def _problem(z: Tensor, x: Tensor, labels: Tensor, v: Tensor, *options: Any) -> tuple[Any, ...]:
    return len(z), len(x), z.shape[1], len(v), labels.shape[1], DTYPES[z.dtype], *options


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """A column of labels with several levels is not contiguous. What this returns must live until the launch."""
    return tuple(t.contiguous() for t in tensors)


def _operands(z: Tensor, x: Tensor, others: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Addresses, those of embeddings with their row stride in elements."""
    return z.data_ptr(), z.stride(0), x.data_ptr(), x.stride(0), *(t.data_ptr() for t in others)

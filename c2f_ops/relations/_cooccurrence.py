"""Co-occurrence of fine predictions and coarse labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_CHUNK = 1 << 18  # predictions that are widened to float64 at a time


def group_cost(
    p: Tensor, y: Tensor, num_coarse: int, *, out: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """Sum predictions by coarse label: ``out[:, j] += sum over i with y_i = j of p[i, :]``.

    Over the samples of a data set, divided by their number, this is the matrix C of `solve_relations`. Sums are float64
    in a fixed order: equal from run to run, on CPU and GPU.

    Args:
        p: ``[N, K_F]`` predictions, floating point.
        y: ``[N]`` integer coarse labels; samples of label -1 are left out.
        num_coarse: K_C.
        out: float64 ``[K_F, K_C]``, any strides, added to in place; default: zeros, columns contiguous, which is the
            fast layout.
        from_logits: ``p`` are logits, softmax (in float32 or wider) makes predictions of them.

    Returns:
        ``out``.

    Raises:
        TypeError: ``p`` is not floating point or ``y`` not integer.
        ValueError: shapes disagree, a label is out of range, or ``out`` is not float64 ``[K_F, K_C]``.
    """
    for name, value in (("p", p), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"group_cost: {name} must be a tensor, got {type(value).__name__}")
    if not p.is_floating_point():
        raise TypeError(f"group_cost: p must be a floating-point tensor, got {p.dtype}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"group_cost: y must be an integer tensor, got {y.dtype}")
    if y.device != p.device:
        raise ValueError(f"group_cost: y must be on {p.device} like p, got {y.device}")
    if not isinstance(num_coarse, (int, np.integer)):
        raise TypeError(f"group_cost: num_coarse must be an integer, got {type(num_coarse).__name__}")
    if p.ndim != 2:
        raise ValueError(f"group_cost: p must have shape [N, K_F], got {list(p.shape)}")
    if y.shape != p.shape[:1]:
        raise ValueError(f"group_cost: y must have shape [N] = [{p.shape[0]}], got {list(y.shape)}")
    if num_coarse < 1:
        raise ValueError(f"group_cost: num_coarse must be at least 1, got {num_coarse}")
    if len(y) and not -1 <= int(y.min()) <= int(y.max()) < num_coarse:
        raise ValueError(
            f"group_cost: y must be -1 or below num_coarse={num_coarse}, got {int(y.min())}..{int(y.max())}"
        )
    if out is None:
        out = torch.zeros(num_coarse, p.shape[1], dtype=torch.float64, device=p.device).T
    elif not isinstance(out, Tensor):
        raise TypeError(f"group_cost: out must be a tensor, got {type(out).__name__}")
    elif out.shape != (p.shape[1], num_coarse) or out.dtype != torch.float64:
        expected = [p.shape[1], num_coarse]
        raise ValueError(f"group_cost: out must be float64 {expected}, got {out.dtype} {list(out.shape)}")
    order = y.argsort(stable=True)
    order = order[y[order] >= 0]
    if len(order) == 0:
        return out
    for rows in order.split(max(1, _CHUNK // max(1, p.shape[1]))):
        labels, counts = torch.unique_consecutive(y[rows].long(), return_counts=True)
        part = p[rows].detach()
        if from_logits:
            part = part.to(torch.promote_types(part.dtype, torch.float32)).softmax(1)
        sums = torch.segment_reduce(part.double(), "sum", lengths=counts)
        out.T.index_add_(0, labels, sums)
    return out

"""What the machine can do, measured in the same run: matrix multiplication rate and copy bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .timing import interleave


@dataclass(frozen=True)
class Limits:
    """Best observed rates: flops/s of a large `torch.mm` at the operand type, bytes/s of a large copy."""

    gemm: float
    copy: float


def measure_limits(dtype: torch.dtype, device: str, *, seconds: float = 4.0, clock: str = "wall") -> Limits:
    """Time a square product and a copy that leaves the caches; the 20th percentile counts, as a ceiling should."""
    n = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.empty((2**30 if device.startswith("cuda") else 2**28) // 4, device=device).zero_()
    target = torch.empty_like(source)
    runs = {"mm": lambda: a @ b, "copy": lambda: target.copy_(source)}
    times = interleave(runs, device=device, seconds=seconds, clock=clock)
    return Limits(gemm=2 * n**3 / times["mm"].low, copy=2 * source.nbytes / times["copy"].low)

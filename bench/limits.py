"""What the machine can do, measured in the same run: multiplication in registers or by torch.mm, copy bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from c2f_ops._ops.choice import missing, room

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


def fresh(run: Callable[[], object], device: str) -> Callable[[], object]:
    """``run`` without the scratch that the CPU kernels keep between calls: it counts as memory."""
    if device != "cpu" or missing("cpu", "multilinear_pool"):
        return run
    release = room("cpu", "multilinear_pool").release_scratch
    return lambda: (release(), run(), release())


@dataclass(frozen=True)
class Peak:
    """A run of 10 to 20 ms that multiplies register tiles of the CPU kernels without memory, and the flops it does."""

    run: Callable[[], object]
    flops: float

    @classmethod
    def of(cls, dtype: torch.dtype, device: str) -> Peak | None:
        """The multiply-adds that `multilinear_pool` would use for ``dtype`` here; None without kernels."""
        if device != "cpu" or missing("cpu", "multilinear_pool"):
            return None
        probe = room("cpu", "multilinear_pool").peak
        rounds, seconds = 500, 0.0
        while seconds < 1e-2:
            rounds *= 2
            begin = time.perf_counter()
            flops = probe(dtype, rounds)
            seconds = time.perf_counter() - begin
        return cls(partial(probe, dtype, rounds), flops)

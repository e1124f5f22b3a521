"""Tiles of the fused forward and chunks of the chunked path: static tables over type and sizes.

The tiles were chosen by what compiles without spilled registers on Triton 3.6 and later; none has been timed yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._ops.problem import Problem

L2_BYTES = 40 * 2**20  # what one chunk, or the features of one group of samples, may take of the cache
_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class FusedPlan:
    """Tiles of the fused forward. ``joint``: one loop over channels for all factors, else one factor at a time."""

    block_d: int
    block_l: int
    block_c: int
    joint: bool
    warps: int
    stages: int


_LARGE = FusedPlan(block_d=128, block_l=128, block_c=64, joint=True, warps=8, stages=2)
_LARGE_DEEP = FusedPlan(block_d=128, block_l=128, block_c=64, joint=True, warps=8, stages=3)
_LARGE_SEQUENTIAL = FusedPlan(block_d=128, block_l=128, block_c=64, joint=False, warps=8, stages=3)
_MEDIUM = FusedPlan(block_d=128, block_l=64, block_c=64, joint=True, warps=8, stages=2)
_MEDIUM_DEEP = FusedPlan(block_d=128, block_l=64, block_c=64, joint=True, warps=8, stages=3)
_MEDIUM_NARROW = FusedPlan(block_d=128, block_l=64, block_c=32, joint=True, warps=8, stages=3)
_MEDIUM_SEQUENTIAL = FusedPlan(block_d=128, block_l=64, block_c=32, joint=False, warps=8, stages=4)
_SMALL = FusedPlan(block_d=64, block_l=64, block_c=32, joint=False, warps=4, stages=3)
_FLOAT32 = FusedPlan(block_d=64, block_l=64, block_c=16, joint=False, warps=8, stages=3)

# For 16-bit types on devices with 228 KiB of shared memory; a benchmark passes them to `fused_fwd`.
FUSED_CANDIDATES = (
    _LARGE,
    _LARGE_DEEP,
    _LARGE_SEQUENTIAL,
    _MEDIUM,
    _MEDIUM_DEEP,
    _MEDIUM_NARROW,
    _MEDIUM_SEQUENTIAL,
    _SMALL,
)


def fused_plan(problem: Problem, save: bool, capability: tuple[int, int] = (9, 0)) -> FusedPlan:
    """Choose the largest tiles that compile without spilled registers; test_triton_aot.py holds them to it."""
    if problem.dtype == torch.float32:
        return _FLOAT32
    factors = len(problem.channels)
    contiguous = (problem.positions,) if problem.layout == "positions" else problem.channels
    if problem.width % 16 or any(n % 4 for n in contiguous):
        return _SMALL  # narrow loads take registers for their addresses
    if capability[0] not in (9, 10) or len(set(problem.channels)) > 1:
        return _SMALL if save else _MEDIUM_SEQUENTIAL
    if save:  # so does the transpose before the store
        return _MEDIUM_NARROW if factors <= 3 else _SMALL
    if factors == 4:
        return _MEDIUM
    if capability[0] == 10:
        return _MEDIUM_NARROW
    return _LARGE_DEEP if factors <= 2 else _MEDIUM_DEEP


def chunk_sizes(problem: Problem) -> tuple[int, int]:
    """(chunk_d, chunk_b): the M projections of one chunk stay in the L2 cache of a data-centre GPU."""
    chunk_b = max(1, min(problem.batch, _CHUNK_ROWS // max(1, problem.positions)))
    column_bytes = len(problem.channels) * chunk_b * max(1, problem.positions) * problem.dtype.itemsize
    return max(256, L2_BYTES // column_bytes // 128 * 128), chunk_b

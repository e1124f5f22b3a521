"""The plan of multilinear_pool on the CPU, its scratch, and what the kernels refuse."""

from __future__ import annotations

import pytest
import torch

from c2f_ops import _native
from c2f_ops._ops.problem import Problem
from c2f_ops.cpu import multilinear_pool as kernel

from .cpu_cases import DTYPES, SHAPES, make_case, needs_native, plan_of

pytestmark = needs_native


def test_scratch_is_kept_and_released():
    kernel.release_scratch()
    with kernel._scratch(1000) as first, kernel._scratch(1000) as inner:  # a call within a call
        assert abs(first - inner) >= 1000 and first % 64 == inner % 64 == 0
    with kernel._scratch(500) as again:
        assert again == first
    with kernel._scratch(kernel._KEPT_BYTES + 1):
        pass
    assert not hasattr(kernel._kept, "buffer")


@pytest.mark.parametrize("saves", [False, True], ids=["rebuilt", "saved"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scratch_of_the_real_case(dtype, saves):
    """VGG at 448 x 448: scratch is a few per cent of the 1.6 GB (float32) that eager needs."""
    plan = plan_of(8, 784, (512,) * 3, 8192, dtype, saves=saves)
    assert plan["fwd_scratch_bytes"] < 0.03 * 0.4e9 * dtype.itemsize
    assert plan["bwd_scratch_bytes"] < 0.2 * 0.4e9 * dtype.itemsize


@pytest.mark.parametrize("saves", [False, True], ids=["rebuilt", "saved"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch, channels", [(1, 2048), (8, 2048), (1, 512)])
def test_every_thread_has_columns(batch, channels, dtype, saves):
    """Chunks of packed weights are wide enough for all threads, however few rows there are."""
    for threads in (1, 2, 7, 16):
        plan = plan_of(batch, 196, (channels,) * 3, 8192, dtype, threads, saves=saves)
        assert plan["fwd_chunk_d"] >= plan["unit_d"] * threads


def test_plan_refuses_bad_input():
    plan = _native.module().multilinear_pool_cpu_plan
    good = (2, 9, 10, [5, 7], 0, 0, 0, 0, [[0, 1]])
    assert plan(good, False, 1)["chunk_d"] > 0
    with pytest.raises(RuntimeError, match="num_threads must be"):
        plan(good, False, 0)
    for bad in ([], [5] * 5):
        with pytest.raises(ValueError, match="factors"):
            plan((*good[:3], bad, *good[4:]), False, 1)
    for bad in ([[0, 2]], [[]], [[0] * 5], [[0]] * 17):
        with pytest.raises(ValueError, match="interactions"):
            plan((*good[:8], bad), False, 1)


def test_unsupported_says_why():
    case = make_case(SHAPES[1])

    def ask(algo="direct", **changes):
        problem = Problem.of(*case[:2], case[3], case[4], "none")
        return kernel.unsupported(Problem(**{**vars(problem), **changes}), algo)

    assert ask() is None
    assert "float64" in ask(dtype=torch.float64)
    assert "16" in ask(interactions=((0,),) * 17)
    assert "position weights" in ask(mask_grad=True)
    assert "cuda" in ask(device=torch.device("cuda"))
    assert "fused" in ask("chunked")

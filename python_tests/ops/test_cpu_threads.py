"""The CPU kernels give the same bits on any number of threads, to several callers, after a fork, in any batch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from c2f_ops.cpu import multilinear_pool as kernel

from .cpu_cases import DTYPES, SHAPES, equal, forward, in_child, make_case, needs_native, run_both

pytestmark = needs_native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[5], (5, 30, (64, 64), 2000, ((0, 1),))], ids=str)
def test_bits_do_not_depend_on_threads(shape, dtype):
    case = make_case(shape, dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = run_both(case)
        for threads in (2, 3, 7, 16):
            torch.set_num_threads(threads)
            for _ in range(3):
                assert equal(run_both(case), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_concurrent_callers(dtype):
    cases = [make_case(SHAPES[2], dtype, seed=seed) for seed in range(4)]
    want = [run_both(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            assert all(map(equal, pool.map(run_both, cases), want))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_after_fork(dtype):
    """A forked child computes the same, and with workers of its own (counted where the system shows them)."""
    case = make_case(SHAPES[2], dtype)
    before, threads = torch.get_num_threads(), "/proc/self/task"
    try:
        torch.set_num_threads(2)
        want = run_both(case)
        child = os.fork()
        if child == 0:
            same = equal(run_both(case), want)
            os._exit(0 if same and (not os.path.isdir(threads) or len(os.listdir(threads)) > 1) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert equal(run_both(case), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", [None, "bool"])
@pytest.mark.parametrize("shape", [*SHAPES[2:4], SHAPES[5], (3, 450, (20, 20), 40, ((0, 1),))], ids=str)
def test_batch_does_not_change_a_sample(shape, mask, dtype):
    features, weights, biases, keep, interactions = make_case(shape, dtype, mask=mask)
    d_p = torch.randn(shape[0], len(interactions), shape[3], generator=torch.Generator().manual_seed(1))
    needs = [*[True] * len(features), *[False] * (2 * len(features) + 1)]

    def both(part):
        x, w = [x[part] for x in features], None if keep is None else keep[part]
        p, _ = forward((x, weights, biases, w, interactions))
        d_x, *_ = kernel.multilinear_pool_bwd(d_p[part], x, weights, biases, w, (), interactions, "none", needs)
        return p, d_x

    p, d_x = both(slice(None))
    alone, d_alone = both(slice(1, 2))
    assert torch.equal(p[1:2], alone)
    assert all(torch.equal(a[1:2], b) for a, b in zip(d_x, d_alone, strict=True))


def test_denormal_mode_is_the_callers():
    """Workers compute in the caller's mode, and the caller keeps it."""
    features, weights, _, mask, interactions = make_case((4, 30, (32, 32), 512, ((0,), (0, 1))))
    case = [x * 1e-39 for x in features], weights, [None, None], mask, interactions
    before = torch.get_num_threads()
    kept, _ = forward(case)
    assert (kept[:, 0] != 0).any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert (forward(case)[0] == 0).all()
        assert (torch.full((4,), 1e-39) * 1.0 == 0).all()
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
    assert torch.equal(forward(case)[0], kept)


INTERRUPT = """
import os, signal, sys, threading, time, torch
from c2f_ops.cpu import multilinear_pool as kernel
torch.set_num_threads(int(sys.argv[1]))
def call(width):
    x = [torch.ones(8, 512, 784).transpose(1, 2) for _ in range(3)]
    w = [torch.full((512, width), 1e-3) for _ in x]
    return kernel.multilinear_pool_fwd(x, w, [None] * 3, None, ((0, 1), (0, 1, 2)), "none", False)[0]
want = call(8)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
begin = time.perf_counter()
try:
    call(60_000)
except KeyboardInterrupt:
    print(time.perf_counter() - begin)
assert torch.equal(call(8), want)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_call_within_a_second(threads):
    child = in_child("-c", INTERRUPT, str(threads))
    assert child.returncode == 0, child.stderr
    assert 0.5 < float(child.stdout) < 2

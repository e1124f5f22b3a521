"""The CPU kernels give the same bits on any number of threads, to several callers, after a fork, in any batch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from c2f_ops._ops.problem import Problem
from c2f_ops.cpu import multilinear_pool as kernel

from .cpu_cases import SHAPES, backward, equal, forward, in_child, make_case, needs_native

pytestmark = needs_native

# One sample of several blocks, ragged ones, long ones, many columns
THREADED = ((1, 500, (40, 33), 100, ((0, 1), (0,))), SHAPES[2], SHAPES[5], (5, 30, (64, 64), 2000, ((0, 1),)))


@pytest.fixture(params=["bfloat16", "float16", "highest", "high", "medium"])
def dtype(request, set_precision):
    """Every way to multiply: 16-bit types, and float32 to each precision."""
    if request.param in ("bfloat16", "float16"):
        return getattr(torch, request.param)
    set_precision(request.param)
    if request.param != "highest" and not kernel.bfloat16_planes(torch.float32)[0]:
        pytest.skip("float32 is multiplied as such whatever the precision")
    return torch.float32


@pytest.fixture
def set_threads():
    """`torch.set_num_threads`, undone at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run_all(case):
    """Forward and backward, with projections that are saved and with projections that are built again."""
    p, projections = forward(case, save=True)
    return forward(case), p, projections, backward(case)[0], backward(case, projections=projections)[0]


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("shape", THREADED, ids=str)
def test_bits_do_not_depend_on_threads(shape, layout, dtype, set_threads):
    case = make_case(shape, dtype, layout)
    set_threads(1)
    want = run_all(case)
    assert torch.equal(want[0][0], want[1])
    for threads in (2, 7, 16):
        set_threads(threads)
        for _ in range(2):
            assert equal(run_all(case), want)


def test_bits_of_several_passes(dtype, set_threads):
    case = make_case((3, 14000, (8, 8), 512, ((0, 1),)), dtype)
    plan = kernel.describe(Problem.of(*case[:2], case[3], case[4], "none"), "direct")
    assert "chunk_b=3," not in plan
    set_threads(1)
    want = backward(case)[0]
    for threads in (2, 7, 16):
        set_threads(threads)
        assert equal(backward(case)[0], want)


def test_concurrent_callers(dtype, set_threads):
    """Two at once, who get the pool in turn, and more of them than cores."""
    set_threads(2)
    cases = [make_case(SHAPES[2], dtype, seed=seed) for seed in range(4)]
    want = [run_all(case) for case in cases]
    for callers in (2, 4):
        with ThreadPoolExecutor(callers) as pool:
            for _ in range(5):
                assert all(map(equal, pool.map(run_all, cases), want))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork(dtype, set_threads):
    """A forked child computes the same, and with workers of its own (counted where the system shows them)."""
    case, tasks = make_case(SHAPES[2], dtype), "/proc/self/task"
    set_threads(2)
    want = run_all(case)
    child = os.fork()
    if child == 0:
        same = equal(run_all(case), want)
        os._exit(0 if same and (not os.path.isdir(tasks) or len(os.listdir(tasks)) > 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert equal(run_all(case), want)


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


TEAM = """
import ctypes, os, torch
from c2f_ops import multilinear_pool
if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
    raise SystemExit("no OpenMP runtime in sight")
def threads():
    return len(os.listdir("/proc/self/task"))
torch.set_num_threads(3)
x = [torch.randn(4, 64, 14, 14) for _ in range(2)]
w = [torch.randn(64, 512, requires_grad=True) for _ in range(2)]
before = threads()
torch.zeros(2**20).exp()
made = threads()
assert made > before
multilinear_pool(x, w, interactions=((0,), (0, 1)), backend="cpu").sum().backward()
assert threads() == made, (before, made, threads())
"""


@pytest.mark.skipif("tsan" in os.environ.get("LD_PRELOAD", ""), reason="ThreadSanitizer gets a pool of its own")
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="the system does not show threads")
def test_threads_are_those_of_torch():
    """Its own would share their cores with torch's, which spin for some milliseconds after an operator."""
    child = in_child("-c", TEAM)
    if "no OpenMP runtime" in child.stderr:
        pytest.skip(child.stderr.strip())
    assert child.returncode == 0, child.stderr


INTERRUPT = """
import os, signal, sys, threading, time, torch
from c2f_ops._ops.problem import Problem
from c2f_ops.cpu import multilinear_pool as kernel
torch.set_num_threads(int(sys.argv[1]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
def call(width):
    x = [torch.ones(8, 512, 784).transpose(1, 2) for _ in range(3)]
    w = [torch.full((512, width), 1e-3) for _ in x]
    return kernel.multilinear_pool_fwd(x, w, [None] * 3, None, ((0, 1), (0, 1, 2)), "none", False)[0]
def stop():
    global begin
    begin = time.process_time()
    os.kill(os.getpid(), signal.SIGINT)
want = call(8)
threading.Timer(1, stop).start()
try:
    call(60_000)
except KeyboardInterrupt:
    print(time.process_time() - begin)
assert torch.equal(call(8), want)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_call_within_a_second(threads):
    """Processor time, because the machine may be doing other things; to its end the call takes some 10 s a thread."""
    child = in_child("-c", INTERRUPT, str(threads))
    assert child.returncode == 0, child.stderr
    sanitized = "san.so" in os.environ.get("LD_PRELOAD", "")
    assert float(child.stdout) < (20 if sanitized else threads)

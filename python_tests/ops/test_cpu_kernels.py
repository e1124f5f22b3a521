"""The C++ kernels of csrc/cpu against the float64 reference, called through their launchers."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import c2f_ops
from c2f_ops import _native
from c2f_ops._encoding import encode
from c2f_ops._ops.problem import Problem
from c2f_ops.cpu import multilinear_pool as kernel
from c2f_ops.cpu import signed_sqrt_normalize as norm_kernel
from c2f_ops.reference import multilinear_pool as reference
from c2f_ops.reference import signed_sqrt_normalize as norm_reference

pytestmark = pytest.mark.skipif(_native.unavailable() is not None, reason=str(_native.unavailable()))

MLP = ((0, 1), (0, 2), (1, 2), (0, 1, 2))
MIXED = ((0,), (0, 0), (1, 0), (1, 1, 0, 0), (0, 1, 1))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PRECISIONS = ("high", "medium")  # of float32 products
# Relative L2 error; operands are rounded first, so this is the error of the kernel and of the last rounding. Products
# of "high" err by up to 3 * 2^-18, of "medium" by 2^-8, as do those of G of bfloat16, whose results are rounded again.
P_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6, "high": 1.5e-5, "medium": 5e-3}
GRAD_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-3, torch.float16: 1e-3, "high": 4e-5, "medium": 1e-2}
SAVED_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3, torch.float16: 4e-4, "high": 1e-5, "medium": 5e-3}
# B, L, channels, D, interactions: tiny, ragged tiles everywhere, tiles of several samples, long k, one real shape
SHAPES = (
    (1, 1, (1,), 1, ((0,), (0, 0))),
    (2, 9, (5, 7, 3), 10, MLP),
    (3, 49, (40, 33, 64), 100, MLP),
    (33, 3, (16, 17), 64, ((0, 1),)),
    (2, 29, (300, 20), 333, MIXED),
    (2, 240, (24, 24, 24), 545, MLP),
    (1, 1, (2, 3, 4, 5), 7, ((0, 1, 2, 3), (3, 3))),
    (2, 196, (512, 512, 512), 256, MLP),
)
# Rows, channels and columns around the multiples of 16, 32 and 512 at which AMX cuts
EDGES = tuple(
    (2, length, (channels, 32, 5), width, MLP)
    for length, channels, width in (
        *((rows, 33, 33) for rows in (1, 15, 16, 17, 31, 32, 33, 48, 49, 65)),
        *((17, channels, 31) for channels in (1, 31, 32, 511, 512, 513)),
        *((33, 64, width) for width in (1, 15, 16, 17, 32, 64, 65, 1025)),
        (450, 20, 40),
    )
)
EMPTY = (
    (0, 9, (5, 7, 3), 10, MLP),
    (2, 0, (5, 7, 3), 10, MLP),
    (2, 9, (0, 7, 0), 10, MLP),
    (2, 9, (5, 7, 3), 0, MLP),
)


def make_case(shape, dtype=torch.float32, layout="NCHW", mask=None, seed=0):
    """Features [B, L, C] in the memory of ``layout``, weights [C, D], biases, mask, interactions."""
    batch, length, channels, width, interactions = shape
    g = torch.Generator().manual_seed(seed)
    features, weights, biases = [], [], []
    for m, c in enumerate(channels):
        x = torch.relu(torch.randn(batch, c, length, generator=g)).to(dtype).transpose(1, 2)
        features.append(x if layout == "NCHW" else x.contiguous())
        bound = (3 / max(c, 1)) ** 0.5
        weights.append(((torch.rand(c, width, generator=g) * 2 - 1) * bound).to(dtype))
        biases.append(None if m == 1 else torch.randn(width, generator=g))
    if mask == "bool":
        mask = torch.rand(batch, length, generator=g) > 0.3
    elif mask == "float":
        mask = torch.rand(batch, length, generator=g)
    return features, weights, biases, mask, interactions


def forward(case, activation="none", save=False):
    return kernel.multilinear_pool_fwd(*case, activation, save)


def backward(case, activation="none", projections=(), needs=None, seed=1):
    features, weights, biases, _, interactions = case
    shape = (features[0].shape[0], len(interactions), weights[0].shape[1])
    d_p = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if needs is None:
        needs = [*[True] * (2 * len(features)), *[b is not None for b in biases], False]
    return kernel.multilinear_pool_bwd(d_p, *case[:4], projections, interactions, activation, needs), d_p, needs


def widen(x):
    return x if x is None or x.dtype == torch.bool else x.double()


def expected(case, activation, d_p, needs):
    features, weights, biases, mask, interactions = case
    wide = [widen(x) for x in features], [widen(w) for w in weights], [widen(b) for b in biases], widen(mask)
    p, projections = reference.multilinear_pool_fwd(*wide, interactions, activation, True)
    grads = reference.multilinear_pool_bwd(d_p.double(), *wide, projections, interactions, activation, needs)
    return p, projections, grads


def error(got, want):
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


def check(case, dtype, activation="none", save=False, precision=None):
    """Forward and backward against the reference, with gradients in the memory format of their operands."""
    kind = precision or dtype
    p, projections = forward(case, activation, save)
    (d_features, d_weights, d_biases, d_mask), d_p, needs = backward(case, activation, projections)
    want_p, want_projections, want = expected(case, activation, d_p, needs)
    assert p.dtype == torch.float32 and p.shape == want_p.shape
    assert error(p, want_p) <= P_TOLERANCE[kind]
    features, mask = case[0], case[3]
    keep = mask.unsqueeze(-1) if mask is not None and mask.dtype == torch.bool else 1
    for u, want_u in zip(projections, want_projections, strict=False):
        assert u.dtype == dtype and error(u, want_u * keep) <= SAVED_TOLERANCE[kind]
    for got_group, want_group in zip((d_features, d_weights, d_biases), want[:3], strict=True):
        for got, wanted in zip(got_group, want_group, strict=True):
            assert (got is None) == (wanted is None)
            if got is not None:
                assert got.shape == wanted.shape and error(got, wanted) <= GRAD_TOLERANCE[kind]
    assert d_mask is None
    for d, x in zip(d_features, features, strict=True):
        assert d.dtype == x.dtype and d.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accuracy(shape, dtype, layout):
    check(make_case(shape, dtype, layout), dtype)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_of_options(dtype, save, activation, mask):
    for layout, shape in itertools.product(("NCHW", "NLC"), SHAPES[2:5]):
        check(make_case(shape, dtype, layout, mask), dtype, activation, save)


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("shape", EDGES, ids=str)
def test_edges(shape, layout):
    for dtype in (torch.bfloat16, torch.float16):
        check(make_case(shape, dtype, layout), dtype)
    check(make_case(shape, torch.float32, layout, mask="bool"), torch.float32, save=True)


@pytest.fixture
def set_precision():
    """`torch.set_float32_matmul_precision`, undone at the end."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_of_float32_products(precision, layout, set_precision):
    for shape, save in itertools.product((*SHAPES, *EDGES), (False, True)):
        case = make_case(shape, torch.float32, layout, mask="bool" if save else None)
        set_precision("highest")
        exact = run_both(case)
        set_precision(precision)
        check(case, torch.float32, "tanh" if save else "none", save, precision)
        assert kernel.amx_planes(torch.float32) or equal(run_both(case), exact)
        set_precision("highest")
        assert equal(run_both(case), exact)


def test_amx_is_what_runs(set_precision):
    """Float32 rounded to bfloat16 gives other bits, and the module has the instruction."""
    case = make_case(SHAPES[-1])
    exact = run_both(case)
    set_precision("medium")
    assert equal(run_both(case), exact) == (kernel.amx_planes(torch.float32) == 0)
    if not kernel.amx_planes(torch.float32):
        pytest.skip("no AMX here")
    if shutil.which("objdump") is None:
        pytest.skip("no objdump here")
    find = f"objdump -d --no-show-raw-insn {_native.module().__file__} | grep -c tdpbf16ps"
    assert int(subprocess.run(find, shell=True, capture_output=True, text=True).stdout) >= 24


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_bfloat16_cannot_hold(precision, set_precision):
    """Values beyond its range reach their own sample alone; a finite rest of an infinite one makes no NaN of zeros."""
    set_precision(precision)
    case = make_case((3, 20, (40, 33), 50, ((0,), (0, 1))))
    want, _ = forward(case)
    for value in (float("inf"), float("nan"), 3.4e38):
        features = [x.clone() for x in case[0]]
        features[0][1, 3, 5] = value
        p, _ = forward((features, *case[1:]))
        assert torch.equal(p[0], want[0]) and torch.equal(p[2], want[2]) and not p[1].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scratch_may_hold_anything(dtype, monkeypatch):
    """Operands are padded inside scratch, which comes as the allocator or the last call left it."""

    @contextlib.contextmanager
    def poisoned(size):
        buffer = torch.full((size + 64,), 255, dtype=torch.uint8)  # NaN in every type
        yield buffer.data_ptr() // 64 * 64 + 64

    cases = [make_case(shape, dtype, mask=mask) for shape in (*SHAPES[:6], *EDGES) for mask in (None, "bool")]
    want = [run_both(case) for case in cases]
    monkeypatch.setattr(kernel, "_scratch", poisoned)
    assert all(map(equal, map(run_both, cases), want))


def test_scratch_is_kept_and_released():
    kernel.release_scratch()
    with kernel._scratch(1000) as first, kernel._scratch(1000) as inner:  # a call within a call
        assert abs(first - inner) >= 1000 and first % 64 == inner % 64 == 0
    with kernel._scratch(500) as again:
        assert again == first
    with kernel._scratch(kernel._KEPT_BYTES + 1):
        pass
    assert not hasattr(kernel._kept, "buffer")


PRINT_ISA = """
import torch
from c2f_ops._encoding import encode
from c2f_ops._native import module
from c2f_ops._ops.problem import Problem
operands = [torch.empty(1, 1, 1, dtype=torch.bfloat16)], [torch.empty(1, 1, dtype=torch.bfloat16)]
print(module().multilinear_pool_cpu_plan(encode(Problem.of(*operands, None, ((0,),), "none")), 1)["isa"])
"""


def in_child(*arguments, **variables):
    """Run Python on the package that is tested here, wherever it stands."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(c2f_ops.__file__).parents[1]),
        "PYTEST_ADDOPTS": "",
        **variables,
    }
    return subprocess.run([sys.executable, *arguments], env=environment, cwd="/", capture_output=True, text=True)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "amx"])
def test_instruction_sets(isa):
    """Accuracy, edges, threads and batches, again with every instruction set of this machine."""
    probe = in_child("-c", PRINT_ISA, C2F_CPU_ISA=isa)
    if probe.returncode:
        assert "C2F_CPU_ISA" in probe.stderr, probe.stderr
        pytest.skip(probe.stderr.strip().splitlines()[-1])
    assert probe.stdout.strip() == isa
    chosen = "test_accuracy or edges or precision or empty or excluded or several_passes or several_chunks"
    chosen += " or on_threads or change_a_sample or only_what_is_needed"
    arguments = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen)
    tests = in_child(*arguments, C2F_CPU_ISA=isa, OMP_NUM_THREADS="1")
    assert tests.returncode == 0, tests.stdout[-2000:] + tests.stderr[-2000:]


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("mask", [None, "bool"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(dtype, mask, shape):
    case = make_case(shape, dtype, mask=mask)
    p, projections = forward(case, save=True)
    for saved in (projections, ()):
        (d_features, d_weights, d_biases, _), d_p, needs = backward(case, projections=saved)
        want_p, _, want = expected(case, "none", d_p, needs)
        assert p.shape == want_p.shape and error(p, want_p) <= P_TOLERANCE[dtype]
        for got, wanted in zip((*d_features, *d_weights, *d_biases), itertools.chain(*want[:3]), strict=True):
            if wanted is not None:
                assert got.shape == wanted.shape and error(got, wanted) <= GRAD_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_positions_excluded(dtype):
    case = make_case(SHAPES[2], dtype, mask="bool")
    case[3][1] = False
    p, _ = forward(case)
    (d_features, *_), _, _ = backward(case)
    assert (p[1] == 0).all() and all((d[1] == 0).all() for d in d_features)
    check(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layouts(dtype):
    """Unaligned, sliced, gapped and expanded features, transposed and sliced weights: bits of the contiguous run."""
    features, weights, biases, mask, interactions = make_case((3, 20, (18, 18, 18), 40, MLP), dtype, "NLC")
    p, _ = forward((features, weights, biases, mask, interactions))
    (want, want_w, _, _), _, _ = backward((features, weights, biases, mask, interactions))

    def offset(x):
        flat = torch.empty(x.numel() + 1, dtype=x.dtype)
        flat[1:] = x.flatten()
        return flat[1:].view(x.shape)

    def gaps(x):
        wide = torch.full((x.shape[0] * 2, x.shape[1] + 3, x.shape[2] + 5), float("nan"), dtype=x.dtype)
        wide[::2, 1:-2, 2:-3] = x
        return wide[::2, 1:-2, 2:-3]

    def every_second_channel(x):
        wide = torch.full((*x.shape[:2], x.shape[2] * 2), float("nan"), dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]

    for change in (offset, gaps, every_second_channel, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)):
        case = [change(x) for x in features], weights, biases, mask, interactions
        assert torch.equal(forward(case)[0], p)
        (d_features, d_weights, _, _), _, _ = backward(case)
        assert all(torch.equal(got, w) for got, w in zip((*d_features, *d_weights), (*want, *want_w), strict=True))
    for change in (offset, lambda w: w.t().contiguous().t(), lambda w: torch.stack((w, w), -1)[..., 1]):
        case = features, [change(w) for w in weights], biases, mask, interactions
        assert torch.equal(forward(case)[0], p)
        (d_features, d_weights, _, _), _, _ = backward(case)
        assert all(torch.equal(got, w) for got, w in zip((*d_features, *d_weights), (*want, *want_w), strict=True))
        assert all(d.is_contiguous() for d in d_weights)
    expanded = [x[:1].expand(3, -1, -1) for x in features]
    copied = [x.contiguous() for x in expanded]
    assert torch.equal(forward((expanded, *case[1:]))[0], forward((copied, *case[1:]))[0])


@pytest.mark.parametrize("needed", [0, 4, 8, None])
def test_only_what_is_needed(needed):
    case = make_case(SHAPES[1])
    needs = [i == needed for i in range(9)]
    everything, _, _ = backward(case)
    some, _, _ = backward(case, needs=[*needs, False])
    for got, full, need in zip(itertools.chain(*some[:3]), itertools.chain(*everything[:3]), needs, strict=True):
        assert torch.equal(got, full) if need else got is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_in_several_passes(dtype):
    """Samples too long for one pass: weight gradients are carried from pass to pass in float32."""
    case = make_case((3, 20000, (8, 9), 520, ((0, 1), (0,))), dtype, "NLC")
    plan = kernel.describe(Problem.of(*case[:2], case[3], case[4], "none"), "direct")
    assert "chunk_b=3," not in plan
    check(case, dtype)


def tensors_of(result):
    """All tensors of a nested result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [] if result is None else [t for item in result for t in tensors_of(item)]


def equal(a, b):
    return all(map(torch.equal, tensors_of(a), tensors_of(b)))


def run_both(case):
    return forward(case, save=True), backward(case)[0]


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
@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[3]], ids=str)
def test_nan_stays_in_its_sample(shape, layout, dtype):
    case = make_case(shape, dtype, layout)
    p, _ = forward(case)
    (d_features, *_), _, _ = backward(case)
    case[0][0][1, 0, 0] = float("nan")
    p_nan, _ = forward(case)
    (d_nan, *_), _, _ = backward(case)
    others = [b for b in range(shape[0]) if b != 1]
    touched = [q for q, t in enumerate(shape[4]) if 0 in t]
    assert torch.isnan(p_nan[1, touched]).all()
    assert torch.equal(p_nan[others], p[others])
    assert all(torch.equal(a[others], b[others]) for a, b in zip(d_nan, d_features, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
def test_nan_at_excluded_positions(layout, dtype):
    case = make_case(SHAPES[2], dtype, layout, mask="bool")
    want = run_both(case)
    for x in case[0]:
        x.masked_fill_(~case[3].unsqueeze(-1), float("nan"))
    assert equal(run_both(case), want)
    assert all((d[~case[3]] == 0).all() for d in want[1][0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_excluded_positions_do_not_exist(dtype):
    features, weights, biases, _, interactions = make_case(SHAPES[2], dtype)
    mask = torch.zeros(3, 49, dtype=torch.bool)
    mask[:, 5:35:2] = True
    p, _ = forward((features, weights, biases, mask, interactions))
    compact, _ = forward(([x[:, 5:35:2] for x in features], weights, biases, None, interactions))
    assert torch.equal(p, compact)


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


def test_float16_products_beyond_its_range():
    features, weights, biases, mask, interactions = make_case((1, 784, (8, 8, 8), 16, MLP), torch.float16)
    features = [x * 10 for x in features]
    p, _ = forward((features, weights, biases, mask, interactions))
    assert p.isfinite().all() and p.abs().max() > 65504


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


def plan_of(batch, length, channels, width, dtype=torch.float32, threads=2, interactions=MLP, precision="highest"):
    features = [torch.empty(batch, c, length, dtype=dtype, device="meta").transpose(1, 2) for c in channels]
    weights = [torch.empty(c, width, dtype=dtype, device="meta") for c in channels]
    problem = Problem.of(features, weights, None, interactions, "none")
    return _native.module().multilinear_pool_cpu_plan(encode(problem, precision), threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scratch_of_the_real_case(dtype):
    """VGG at 448 x 448: scratch is a few per cent of the 1.6 GB (float32) that eager needs."""
    plan = plan_of(8, 784, (512,) * 3, 8192, dtype)
    assert plan["fwd_scratch_bytes"] < 0.03 * 0.4e9 * dtype.itemsize
    assert plan["bwd_scratch_bytes"] < 0.2 * 0.4e9 * dtype.itemsize


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch, channels", [(1, 2048), (8, 2048), (1, 512)])
def test_every_thread_has_columns(batch, channels, dtype):
    """Chunks of packed weights are wide enough for all threads, however few rows there are."""
    for threads in (1, 2, 7, 16):
        plan = plan_of(batch, 196, (channels,) * 3, 8192, dtype, threads)
        assert plan["fwd_chunk_d"] >= plan["unit_d"] * threads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_chunks(dtype):
    """More channels than L2 holds, and more weights than are packed at a time."""
    shape = (1, 17, (7900, 9), 1600, ((0, 1), (0,)))
    plan = plan_of(*shape[:4], dtype, interactions=shape[4])
    assert plan["fwd_chunk_d"] < 1600 and plan["chunk_d"] < 1600 and not plan["staged"]
    for layout in ("NCHW", "NLC"):
        check(make_case(shape, dtype, layout), dtype)


def test_plan_refuses_bad_input():
    plan = _native.module().multilinear_pool_cpu_plan
    good = (2, 9, 10, [5, 7], 0, 0, 0, 0, [[0, 1]])
    assert plan(good, 1)["chunk_d"] > 0
    with pytest.raises(RuntimeError, match="num_threads must be"):
        plan(good, 0)
    for bad in ([], [5] * 5):
        with pytest.raises(ValueError, match="factors"):
            plan((*good[:3], bad, *good[4:]), 1)
    for bad in ([[0, 2]], [[]], [[0] * 5], [[0]] * 17):
        with pytest.raises(ValueError, match="interactions"):
            plan((*good[:8], bad), 1)


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


MODES = ("none", "shifted", "caffe", "plus_eps", "smooth")
EPS = {"none": 0.0, "shifted": 0.03, "caffe": 0.03, "plus_eps": 1e-5, "smooth": 1e-2}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", ["none", "interaction", "joint"])
@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_signed_sqrt_normalize(mode, scope, l2_mode, dtype):
    tolerance = {torch.float32: 5e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}[dtype]
    g = torch.Generator().manual_seed(0)
    for shape in ((1, 1, 1), (2, 3, 1000), (3, 4, 33), (1, 2, 3000)):
        p = torch.randn(shape, generator=g) * 10 ** torch.linspace(-6, 3, shape[2])
        p[..., ::7] = 0
        d_out = torch.randn(shape, generator=g).to(dtype)
        options = mode, EPS[mode], scope, l2_mode, 1e-7
        z = norm_kernel.signed_sqrt_normalize_fwd(p, *options, dtype)
        d_p = norm_kernel.signed_sqrt_normalize_bwd(d_out, p, *options)
        want = norm_reference.signed_sqrt_normalize_fwd(p.double(), *options, torch.float64)
        want_d = norm_reference.signed_sqrt_normalize_bwd(d_out.double(), p.double(), *options)
        assert z.dtype == dtype and d_p.dtype == torch.float32
        assert error(z, want) <= tolerance and error(d_p, want_d) <= 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_signed_sqrt_of_special_values(mode):
    """Zero, infinity, NaN, subnormal and huge values, with and without eps, as the reference in float32."""
    values = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 3e38, -3e38, 1.0, -1e-12]
    p = torch.tensor(values).view(1, 1, -1)
    for eps in (EPS[mode], 0.0):
        z = norm_kernel.signed_sqrt_normalize_fwd(p, mode, eps, "none", "add", 1e-7, torch.float32)
        want = norm_reference.signed_sqrt_normalize_fwd(p, mode, eps, "none", "add", 1e-7, torch.float32)
        torch.testing.assert_close(z, want, rtol=1e-5, atol=1e-38, equal_nan=True)
        for scope in ("interaction", "joint"):
            part = p[..., [0, 2, 9]]
            z = norm_kernel.signed_sqrt_normalize_fwd(part, mode, eps, scope, "add", 1e-7, torch.float32)
            assert torch.isnan(z[0, 0, 1]) and z[0, 0, 0] == 0 and z[0, 0, 2] == 0


@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
def test_signed_sqrt_of_zero_rows(l2_mode):
    p, d_out = torch.zeros(2, 3, 40), torch.randn(2, 3, 40)
    options = "shifted", 0.03, "interaction", l2_mode, 1e-7
    assert (norm_kernel.signed_sqrt_normalize_fwd(p, *options, torch.float32) == 0).all()
    want = norm_reference.signed_sqrt_normalize_bwd(d_out, p, *options)
    torch.testing.assert_close(norm_kernel.signed_sqrt_normalize_bwd(d_out, p, *options), want)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_signed_sqrt_of_empty(shape):
    p = torch.empty(shape)
    options = "shifted", 0.03, "joint", "add", 1e-7
    assert norm_kernel.signed_sqrt_normalize_fwd(p, *options, torch.float32).shape == shape
    assert norm_kernel.signed_sqrt_normalize_bwd(p, p, *options).shape == shape

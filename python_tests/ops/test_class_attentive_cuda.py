"""The CUDA kernels of class_attentive_supcon against the float64 reference: on a GPU, and emulated on the CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch

from c2f_ops import _native
from c2f_ops.cuda import class_attentive_supcon as room
from c2f_ops.reference import class_attentive_supcon as reference
from c2f_ops.testing import relative_error

GPU = pytest.param(
    "gpu",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")],
)
KIB = 1024
SHARED = {"all rows": 227 * KIB, "chunks, two stages": 140 * KIB, "chunks, one stage": 99 * KIB}
FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
# Of sums of similarities, and of gradients. float16 is multiplied in float32, as float32 is; of bfloat16 v o z, v, x^2,
# T and the run sums of F are rounded to 8 bits before they are multiplied.
FORWARD = {FLOAT32: 3e-6, FLOAT16: 3e-6, BFLOAT16: 1e-2}
GRADIENT = {FLOAT32: 1e-5, FLOAT16: 1e-3, BFLOAT16: 1.5e-2}


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), GPU])
def device(request, monkeypatch) -> str:
    """Where the room's tensors live."""
    if request.param == "gpu":
        return "cuda"
    module = request.getfixturevalue("emulation")
    module.run_descending(False)
    module.limit_shared(227 * KIB)
    monkeypatch.setattr(_native, "module", lambda: module)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(room, "current_stream", lambda _: 0)
    return "cpu"


def operands(
    device, dtype=FLOAT32, *, A=70, N=90, d=40, C=5, K=1, first=-1, hinge=False, parameter=None, gap=0, size=1.0, seed=0
):
    """The op's operands. Rows of z and x are views into NaN, so reading beside them shows."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        buffer = torch.full((count + 1, d + gap), torch.nan)
        buffer[:count, :d] = size * torch.randn(count, d, generator=generator)
        return buffer.to(device, dtype)[:count, :d]

    def labels(count):
        fine = torch.randint(-1, C, (count,), generator=generator)
        levels = [torch.where(fine < 0, -1, fine // 2 ** (K - 1 - k)) for k in range(K)]
        return torch.stack(levels, 1)

    z, x = rows(A), rows(N)
    z_labels, x_labels = labels(A), labels(N)
    if N:
        x_labels[:: max(N // 7, 2)] = -2  # absent
    if first >= 0:
        x[first : first + A], x_labels[first : first + A] = z, z_labels
    classes = z_labels[:, -1].clone()
    v = torch.rand(C, d, generator=generator).add(0.05).square()
    tables = [0.0] + [(k + 1) / K for k in range(K)], [1.0] + [0.5] * K
    options = *tables, hinge, (0.3 if hinge else 0.2) if parameter is None else parameter, 1e-6, first
    tensors = (z, x, z_labels, x_labels, classes, classes.argsort(stable=True), v)
    return [*(t.to(device) for t in tensors), *options]


def exact(values):
    return [
        (t.cpu().double() if t.is_floating_point() else t.cpu()) if isinstance(t, torch.Tensor) else t for t in values
    ]


def check(values, *, forward=None, gradient=None):
    """Forward and backward against float64; returns what the kernels gave."""
    dtype, device = values[0].dtype, values[0].device
    result = room.class_attentive_supcon_fwd(*values)
    truth = reference.class_attentive_supcon_fwd(*exact(values))
    d = torch.randn(2, len(values[0]), generator=torch.Generator().manual_seed(1)) / max(len(values[0]), 1)
    grads = room.class_attentive_supcon_bwd(*d.to(device), result[1], *values, [True] * 3)
    expected = reference.class_attentive_supcon_bwd(*d.double(), truth[1], *exact(values), [True] * 3)
    forward, gradient = forward or FORWARD[dtype], gradient or GRADIENT[dtype]
    for name, a, e in zip(("attract", "repel"), result, truth, strict=True):
        assert a.dtype == FLOAT32 and a.isfinite().equal(e.isfinite().to(device)), name
        assert relative_error(a.nan_to_num(0, 0, 0), e.nan_to_num(0, 0, 0)) <= forward, name
    for name, a, e, like in zip(("d_z", "d_x", "d_v"), grads, expected, (dtype, dtype, FLOAT32), strict=True):
        assert a.dtype == like and a.shape == e.shape and relative_error(a, e) <= gradient, name
    return [*result, *grads]


SIZES = [  # A, N, d, C
    (1, 1, 1, 1),
    (3, 65, 7, 2),
    (64, 64, 64, 64),  # a class for each anchor
    (70, 130, 33, 1),
    (200, 70, 128, 9),  # anchors of a class in several tiles
    (65, 63, 129, 40),  # two blocks of features
    (5, 66, 300, 3),
]


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, FLOAT16], ids=str)
@pytest.mark.parametrize(("A", "N", "d", "C"), SIZES)
def test_against_float64(device, dtype, A, N, d, C):
    check(operands(device, dtype, A=A, N=N, d=d, C=C))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize(("A", "N", "d", "C"), [SIZES[1], SIZES[4]])
def test_hinge(device, dtype, A, N, d, C):
    """In bfloat16 with a margin below all similarities: pairs within rounding of it would have a gradient, or none."""
    check(operands(device, dtype, A=A, N=N, d=d, C=C, hinge=True, parameter=0.3 if dtype == FLOAT32 else -1.5))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("K", [2, 3, 4])
def test_levels(device, dtype, K):
    check(operands(device, dtype, K=K, C=9, first=4))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, FLOAT16], ids=str)
@pytest.mark.parametrize(("gap", "first"), [(0, 0), (3, 20), (8, 0)])
def test_strides_and_own_keys(device, dtype, gap, first):
    check(operands(device, dtype, gap=gap, first=first))


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(("dtype", "d"), [(FLOAT32, 40), (FLOAT32, 130), (BFLOAT16, 70), (BFLOAT16, 200)], ids=str)
def test_what_is_kept_in_shared_memory_changes_no_bit(device, emulation_of, dtype, d, shared):
    """The ways in which a block is fed, and in each of them the order of the threads."""
    values = operands(device, dtype, A=140, N=135, d=d, C=7)
    expected = check(values)
    if emulation_of is not None:
        emulation_of.limit_shared(SHARED[shared])
        emulation_of.run_descending(True)
    assert all(torch.equal(a, b) for a, b in zip(check(values), expected, strict=True))


@pytest.fixture
def emulation_of(device, request):
    """The emulation, where the device is emulated."""
    return request.getfixturevalue("emulation") if device == "cpu" else None


@pytest.mark.parametrize(
    ("dtype", "size"), [(FLOAT32, 1e-4), (FLOAT32, 1e4), (BFLOAT16, 1e-4), (BFLOAT16, 1e4), (FLOAT16, 1e-2)], ids=str
)
def test_any_size_of_embeddings(device, dtype, size):
    """Gradients of large float16 embeddings are below what float16 can hold."""
    check(operands(device, dtype, size=size))


def test_weights_without_overlap(device):
    """A class sees features that are small beside the others: no type's range is left on the way."""
    for dtype in (FLOAT32, BFLOAT16, FLOAT16):
        values = operands(device, dtype, C=2)
        for rows in values[:2]:
            rows[:, ::2] *= 300
        values[6][:] = torch.tensor([[1e-12, 1.0], [4.0, 1e-12]]).repeat(1, 20).to(device)
        check(values)


def test_temperatures(device):
    check(operands(device, parameter=0.005), forward=1e-5, gradient=1e-4)
    check(operands(device, parameter=5.0))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_zero_vectors(device, dtype):
    """Norms that are clamped have no gradient of their own."""
    values = operands(device, dtype)
    values[0][3], values[1][5] = 0, 0
    check(values)


@pytest.mark.parametrize("change", [{"A": 0}, {"N": 0}, {"d": 0}, {"A": 0, "N": 0}])
def test_empty_sizes(device, change):
    for dtype in (FLOAT32, BFLOAT16):
        check(operands(device, dtype, **change))
        check(operands(device, dtype, hinge=True, **change))


def test_without_anchors_that_have_a_class(device):
    values = operands(device)
    values[4][:] = -1
    assert all((t == 0).all() for t in check(values))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_a_class_without_weights_is_nan_in_its_anchors_alone(device, dtype):
    values = operands(device, dtype, first=0)
    wrong = values[4] == 3
    clean = room.class_attentive_supcon_fwd(*values)
    values[6] = values[6][:3].contiguous()
    values[4] = torch.where(values[4] > 3, 0, values[4])
    values[5] = values[4].argsort(stable=True)
    kept = values[2][:, -1] < 3
    for a, b in zip(room.class_attentive_supcon_fwd(*values), clean, strict=True):
        assert a[wrong].isnan().all() and relative_error(a[kept], b[kept]) < 1e-6
    d = torch.ones(len(wrong), device=device)
    d_z, _, d_v = room.class_attentive_supcon_bwd(d, d, d, *values, [True] * 3)
    assert d_z[wrong].isnan().all() and d_z[~wrong].isfinite().all() and d_v.isfinite().all()


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_nan(device, dtype):
    """Of an anchor in its results, of a key in those of all anchors, of an absent key nowhere."""
    values = operands(device, dtype)
    anchors = (values[4] >= 0).nonzero().flatten()
    clean = room.class_attentive_supcon_fwd(*values)
    values[1][0] = torch.nan
    assert values[3][0, 0] == -2
    assert all(torch.equal(a, b) for a, b in zip(room.class_attentive_supcon_fwd(*values), clean, strict=True))
    values[0][anchors[4], 2] = torch.nan
    for a, b in zip(room.class_attentive_supcon_fwd(*values), clean, strict=True):
        assert a.isnan().nonzero().flatten().tolist() == [anchors[4]]
        assert torch.equal(a.nan_to_num(0), torch.where(a.isnan(), 0, b))
    values[1][1] = torch.nan
    for a in room.class_attentive_supcon_fwd(*values):
        assert a.isnan().nonzero().flatten().equal(anchors)


def test_each_gradient_alone(device):
    values = operands(device, BFLOAT16)
    everything = check(values)
    d = torch.randn(2, 70, generator=torch.Generator().manual_seed(1)).to(device) / 70
    for k in range(3):
        needs = [n == k for n in range(3)]
        grads = room.class_attentive_supcon_bwd(*d, everything[1], *values, needs)
        assert torch.equal(grads[k], everything[2 + k]) and all(len(grads[n]) == 0 for n in range(3) if n != k)


def test_repeats_are_bit_equal(device):
    for dtype in (FLOAT32, BFLOAT16):
        values = operands(device, dtype, A=130, N=200, d=140, C=11, first=3)
        first = check(values)
        for _ in range(100 if device == "cuda" else 1):
            assert all(torch.equal(a, b) for a, b in zip(check(values), first, strict=True))


pure = pytest.mark.skipif(_native.unavailable() is not None, reason=str(_native.unavailable()))
GPUS = {"A10": 99, "A100": 163, "L4": 99, "H200": 227, "B200": 227, "RTX 5090": 99}  # KiB of shared memory of a block


def problem(A, N, d, dtype=1, K=1, C=100):
    return A, N, d, C, K, dtype, False, 0.1, 1e-6, 0, [0.0] * K + [1.0], [1.0] * (K + 1)


@pure
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dtype", [0, 1, 2])
@pytest.mark.parametrize("d", [0, 1, 128, 256, 512, 2048])
def test_every_plan_fits_its_gpu(gpu, dtype, d):
    plan = _native.module().class_attentive_supcon_cuda_plan(problem(1000, 70_000, d, dtype), GPUS[gpu] * KIB)
    assert plan["kernel"] == ("tensor cores" if dtype == 1 else "float32")
    assert plan["width"] % (64 if dtype == 1 else 32) == 0 and 0 <= plan["width"] - max(d, 1) < 64
    for name in ("forward", "anchors", "keys"):
        assert plan[name]["stages"] in (1, 2) and plan[name]["shared_bytes"] <= GPUS[gpu] * KIB
        assert plan[name]["blocks"] < 2**31


@pure
def test_plans_do_not_depend_on_the_gpu_but_for_feeding():
    module = _native.module()
    for d in (64, 300):
        small, large = (module.class_attentive_supcon_cuda_plan(problem(5000, 5000, d), kib * KIB) for kib in (99, 227))
        for name in ("forward", "anchors", "keys"):
            for key in ("splits", "blocks"):
                assert small[name][key] == large[name][key]
    assert large["out_blocks"] == 3 and large["anchors"]["blocks"] == large["out_blocks"] * 79 * 2


@pure
def test_small_problems_fill_a_gpu_and_large_ones_are_not_split():
    plan = _native.module().class_attentive_supcon_cuda_plan
    small, large = plan(problem(512, 8192, 128), 227 * KIB), plan(problem(32768, 32768, 128), 227 * KIB)
    assert small["forward"]["blocks"] == 128 and small["forward"]["splits"] == 16
    assert all(large[name]["splits"] == 1 for name in ("forward", "anchors", "keys"))
    assert large["forward"]["resident"] and large["anchors"]["resident"] and large["keys"]["resident"]


@pure
@pytest.mark.parametrize("dtype", [0, 1, 2])
def test_scratch_is_linear(dtype):
    """12 (A + N) d float32, of sizes filled up to tiles and chunks."""
    scratch = _native.module().class_attentive_supcon_cuda_scratch
    for A, N in ((64, 64), (4096, 4096), (64, 10**6), (10**6, 64), (10**6, 10**6)):
        for d in (64, 128, 512):
            assert max(scratch(problem(A, N, d, dtype))) <= 12 * (A + N) * d * 4 + 4096

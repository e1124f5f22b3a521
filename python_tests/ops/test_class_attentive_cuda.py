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
# Of sums of similarities, and of gradients. float16 is multiplied in float32, as float32 is; of bfloat16, v o z, v, x^2, T and the run
# sums of F are rounded to 8 bits before they are multiplied.
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
@pytest.mark.parametrize("hinge", [False, True])
def test_against_float64(device, dtype, A, N, d, C, hinge):
    check(operands(device, dtype, A=A, N=N, d=d, C=C, hinge=hinge))

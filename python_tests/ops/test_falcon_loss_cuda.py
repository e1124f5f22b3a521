"""The CUDA kernels of falcon_loss against the float64 reference: on a GPU, and emulated on the CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch

from c2f_ops import _native
from c2f_ops.cuda import falcon_loss as room
from c2f_ops.reference import falcon_loss as reference
from c2f_ops.testing import TOLERANCES, relative_error

GPU = pytest.param(
    "gpu",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")],
)
NAMES = ("value", "terms", "mass", "lse", "grad")


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), GPU])
def device(request, monkeypatch) -> str:
    """Where the room's tensors live."""
    if request.param == "gpu":
        return "cuda"
    module = request.getfixturevalue("emulation")
    module.run_descending(False)
    monkeypatch.setattr(_native, "module", lambda: module)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(room, "current_stream", lambda _: 0)
    return "cpu"


def operands(device, dtype=torch.float32, *, B=3, K=33, L=2, D=1, gap=0, seed=0):
    """z, s, t, neighbours, y, g, scale. Rows are views into NaN, so reading beside them shows."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        buffer = torch.full((count + 1, K + gap), torch.nan)
        buffer[:count, :K] = 3 * torch.randn(count, K, generator=generator)
        return buffer.to(device, dtype)[:count, :K]

    bank = 7 if L else 0
    classes = [min(K, 3 + d) for d in range(D)]
    g = torch.stack([torch.arange(K) * count // K if d % 2 == 0 else torch.arange(K) % count
                     for d, count in enumerate(classes)])  # fmt: skip
    y = torch.stack([torch.randint(-1, count, (B,), generator=generator) for count in classes], 1)
    neighbours = torch.randint(-1, max(bank, 1), (B, L), generator=generator)
    scale = torch.tensor([0.5, 0.7, 0.9])
    return [rows(B), rows(B), rows(bank), neighbours.to(device), y.to(device), g.int().to(device), scale.to(device)]


def exact(tensors):
    return [t.cpu().double() if t.is_floating_point() else t.cpu() for t in tensors]


def check(tensors, *, temperature=0.9, tau=0.4):
    """Forward and backward against float64; returns what the kernels gave."""
    result = room.falcon_loss_fwd(*tensors, temperature, tau, True)
    truth = reference.falcon_loss_fwd(*exact(tensors), temperature, tau, True)
    for name, actual, expected in zip(NAMES, result, truth, strict=True):
        assert actual.dtype == torch.float32
        # float32 arithmetic whatever the storage; softmax terms are exact to a few ulps
        assert relative_error(actual, expected) <= TOLERANCES[torch.float32]["p"], name
    z = tensors[0]
    d_value, d_mass = torch.randn(len(z)), torch.randn(z.shape[1])
    d_z = room.falcon_loss_bwd(d_value.to(z.device), d_mass.to(z.device), z, *result[3:])
    expected = reference.falcon_loss_bwd(d_value.double(), d_mass.double(), exact([z])[0], *truth[3:])
    assert d_z.dtype == z.dtype and relative_error(d_z, expected) <= TOLERANCES[z.dtype]["grad"]
    return [*result, d_z]


@pytest.mark.parametrize("K", [1, 2, 31, 32, 33, 608, 2052, 4097, 10000, 10244, 10245])
@pytest.mark.parametrize(("L", "D", "dtype"), [
    (0, 1, torch.float32), (5, 1, torch.float32), (1, 2, torch.float32), (5, 2, torch.bfloat16), (1, 1, torch.float16)
])  # fmt: skip
def test_against_float64(device, K, L, D, dtype):
    """608: vectors, two warps or more; 4097: no vectors; up to 10240 classes stay in registers, more are swept."""
    check(operands(device, dtype, B=5 if K < 1000 else 2, K=K, L=L, D=D))


@pytest.mark.parametrize(("K", "gap"), [(64, 4), (64, 3), (700, 1), (10244, 2)])
def test_row_strides(device, K, gap):
    check(operands(device, K=K, gap=gap))
    check(operands(device, torch.bfloat16, K=K, gap=gap))


@pytest.mark.parametrize(("B", "K"), [(1030, 2), (1500, 300), (9000, 1)])
def test_many_rows_share_blocks(device, B, K):
    """Several rows beside each other in a block, and several after each other."""
    if device == "cpu" and B > 1030:
        pytest.skip("takes long on emulated threads")
    tensors = operands(device, B=B, K=K, L=1)
    result = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    truth = reference.falcon_loss_fwd(*exact(tensors), 0.9, 0.4, True)
    for name, actual, expected in zip(NAMES[:4], result, truth, strict=False):
        assert relative_error(actual, expected) <= TOLERANCES[torch.float32]["p"], name
    assert (result[4].cpu() - truth[4]).abs().max() <= 1e-6  # with one class the truth is 0


def test_long_rows_share_blocks(device):
    """The second row of a block adds to the masses of the first."""
    module = _native.module()
    scratch = module.falcon_loss_cuda_scratch((1025, 10241, 0, 0, 1, 0))
    assert scratch // (4 * 10241) == 513
    if device == "cuda":
        check(operands(device, B=1025, K=10241, L=1))


@pytest.mark.parametrize("K", [3, 40, 700, 10300])
@pytest.mark.parametrize("gap", [200.0, 3e4])
def test_extreme_logits(device, K, gap):
    """Confident rows that disagree: nn is the gap of the logits, not infinity, and gradients are finite."""
    z, s, t = torch.zeros(2, K), torch.zeros(2, K), torch.zeros(2, K)
    z[:, 0], t[:, 1], s[:, 2], z[1, 2] = gap, gap, gap, -gap
    g = torch.tensor([[0, 0] + [1] * (K - 2)], dtype=torch.int32)
    tensors = [z, s, t, torch.tensor([[0, 1], [-1, 0]]), torch.tensor([[0], [1]]), g, torch.ones(3)]
    result = check([x.to(device) for x in tensors], tau=0.5)
    assert abs(result[1][0, 1].item() - (gap - torch.tensor(2.0).log().item())) <= 2**-23 * gap


@pytest.mark.parametrize("K", [40, 600, 10300])
def test_ties_go_to_the_lowest_class(device, K):
    tensors = operands(device, B=2, K=K, L=0)
    tensors[1].zero_()
    tensors[1][:, K // 2 :] = 1.0
    tensors[4][:, 0] = 1
    truth = reference.falcon_loss_fwd(*exact(tensors), 0.9, 0.0, True)
    result = room.falcon_loss_fwd(*tensors, 0.9, 0.0, True)
    assert relative_error(result[4], truth[4]) <= TOLERANCES[torch.float32]["p"]


@pytest.mark.parametrize("K", [1, 40, 600, 10300])
def test_errors_are_nan_in_their_row_alone(device, K):
    """A class without fine class, a neighbour beyond the bank; their masses, and all other rows, stay."""
    tensors = operands(device, B=4, K=K, L=2)
    tensors[3][:], tensors[4][:] = 0, 0
    clean = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    tensors[4][1, 0] = 99
    tensors[3][2, 1] = len(tensors[2])
    value, terms, mass, lse, grad = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    assert value[[1, 2]].isnan().all() and grad[[1, 2]].isnan().all()
    assert terms.isnan().tolist() == [[False] * 3, [True, False, True], [False, True, False], [False] * 3]
    for actual, expected in ((value, clean[0]), (terms, clean[1]), (grad, clean[4])):
        assert torch.equal(actual[[0, 3]], expected[[0, 3]])
    assert torch.equal(mass, clean[2]) and torch.equal(lse, clean[3])


@pytest.mark.parametrize("K", [40, 600, 10300])
def test_nan_stays_in_its_sample(device, K):
    tensors = operands(device, B=3, K=K, L=1)
    tensors[3][:], tensors[4][:] = 0, 0
    clean = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    tensors[0][1, K - 1] = torch.nan
    dirty = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    for k in (0, 1, 3, 4):
        assert dirty[k][1].isnan().all() and torch.equal(dirty[k][[0, 2]], clean[k][[0, 2]]), NAMES[k]
    assert dirty[2].isnan().all()


def test_a_row_without_label_does_not_read_s(device):
    tensors = operands(device, B=2, K=40)
    tensors[4][:] = -1
    tensors[1].fill_(torch.nan)
    result = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    assert result[0].isfinite().all() and result[4].isfinite().all() and not result[1][:, [0, 2]].any()


def test_without_gradient(device):
    tensors = operands(device, K=600)
    with_grad, without = (room.falcon_loss_fwd(*tensors, 0.9, 0.4, save) for save in (True, False))
    assert without[4].shape == (0, 600)
    assert all(torch.equal(a, b) for a, b in zip(with_grad[:4], without[:4], strict=True))


def test_no_samples(device):
    result = room.falcon_loss_fwd(*operands(device, B=0, K=7), 0.9, 0.4, True)
    assert [tuple(x.shape) for x in result] == [(0,), (0, 3), (7,), (0,), (0, 7)] and not result[2].any()
    z, zero = torch.empty(0, 7, device=device), torch.empty(0, device=device)
    assert room.falcon_loss_bwd(zero, result[2], z, zero, z).shape == (0, 7)


def everything(device):
    """Each kernel once: what a missing barrier would change from one order of the threads to another."""
    results = []
    for K in (40, 700, 2101, 10300):
        tensors = operands(device, B=2, K=K, L=3, D=2)
        forward = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
        results += [*forward, room.falcon_loss_bwd(forward[0], forward[2], tensors[0], *forward[3:])]
    return results


def test_repeats_are_bit_equal(device):
    first = everything(device)
    for _ in range(1000 if device == "cuda" else 1):
        assert all(torch.equal(a, b) for a, b in zip(first, everything(device), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["emulated"], indirect=True)
def test_order_of_threads_has_no_effect(device, emulation):
    ascending = everything(device)
    emulation.run_descending(True)
    assert all(torch.equal(a, b) for a, b in zip(ascending, everything(device), strict=True))


@pytest.mark.skipif(_native.unavailable() is not None, reason=str(_native.unavailable()))
def test_scratch_is_small_and_a_function_of_sizes():
    """Partial masses of at most 1024 blocks; for long rows (max, sum) of z + t for each neighbour of a block."""
    scratch = _native.module().falcon_loss_cuda_scratch
    assert scratch((256, 100, 5, 9, 1, 0)) == 256 * 100 * 4
    assert scratch((0, 100, 5, 9, 1, 0)) == 0
    for B in (1, 511, 4096, 10**6, 10**9):
        for K in (1, 257, 2049, 10240):
            assert 0 < scratch((B, K, 5, 9, 1, 0)) <= 1024 * K * 4 + 16
        assert scratch((B, 10241, 5, 9, 1, 0)) - scratch((B, 10241, 0, 9, 1, 0)) == 5 * 8 * min(
            B, -(-B // -(-B // 1024))
        )

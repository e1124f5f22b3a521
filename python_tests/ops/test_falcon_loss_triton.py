"""The Triton kernels of falcon_loss against the float64 reference, in Triton's interpreter: no GPU, no compiler.

As in test_triton.py the interpreter must be chosen before Triton is imported, so the first test runs this file again
in its own process.
"""

import os

import pytest
import torch

pytest.importorskip("triton", minversion="3.5")

pytestmark = pytest.mark.usefixtures("poisoned_empty")

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INSIDE, reason="runs in the interpreter's own process, see test_in_the_interpreter")
NAMES = ("value", "terms", "mass", "lse", "grad")


@pytest.mark.skipif(INSIDE, reason="already inside")
def test_in_the_interpreter(run_in_triton_interpreter):
    """Run this file with TRITON_INTERPRET=1."""
    run_in_triton_interpreter(__file__)


if INSIDE:
    from c2f_ops.reference import falcon_loss as reference
    from c2f_ops.testing import TOLERANCES, relative_error
    from c2f_ops.triton import falcon_loss as room


def operands(dtype=torch.float32, *, B=2, K=33, L=2, D=1, seed=0):
    """z, s, t, neighbours, y, g, scale; rows are views into NaN."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        buffer = torch.full((count + 1, K + 3), torch.nan)
        buffer[:count, :K] = 3 * torch.randn(count, K, generator=generator)
        return buffer.to(dtype)[:count, :K]

    bank, classes = 5 if L else 0, [min(K, 3 + d) for d in range(D)]
    g = torch.stack([torch.arange(K) % count for count in classes]).int()
    y = torch.stack([torch.randint(-1, count, (B,), generator=generator) for count in classes], 1)
    neighbours = torch.randint(-1, max(bank, 1), (B, L), generator=generator)
    return [rows(B), rows(B), rows(bank), neighbours, y, g, torch.tensor([0.5, 0.7, 0.9])]


def exact(tensors):
    return [t.double() if t.is_floating_point() else t for t in tensors]


def check(tensors, tau=0.4):
    result = room.falcon_loss_fwd(*tensors, 0.9, tau, True)
    truth = reference.falcon_loss_fwd(*exact(tensors), 0.9, tau, True)
    for name, actual, expected in zip(NAMES, result, truth, strict=True):
        assert actual.dtype == torch.float32
        # the logarithm of a sum near 1, of a confident row, errs by 2^-24 however small it is
        slack = 2**-23 / max(expected.norm().item(), 2**-23)
        assert relative_error(actual, expected) <= TOLERANCES[torch.float32]["p"] + slack, name
    z = tensors[0]
    d_value, d_mass = torch.randn(len(z)), torch.randn(z.shape[1])
    d_z = room.falcon_loss_bwd(d_value, d_mass, z, *result[3:])
    expected = reference.falcon_loss_bwd(d_value.double(), d_mass.double(), z.double(), *truth[3:])
    assert d_z.dtype == z.dtype and relative_error(d_z, expected) <= TOLERANCES[z.dtype]["grad"]
    return result


@inside
@pytest.mark.parametrize(
    ("K", "L", "D", "dtype"),
    [
        (1, 1, 1, torch.float32),
        (2, 0, 2, torch.float32),
        (31, 5, 2, torch.float32),
        (32, 1, 1, torch.float16),
        (33, 5, 1, torch.bfloat16),
        (608, 5, 2, torch.float32),
        (4097, 1, 1, torch.bfloat16),
        (10000, 2, 2, torch.float32),  # in steps
        (10000, 0, 1, torch.float16),
    ],
)
def test_against_float64(K, L, D, dtype):
    check(operands(dtype, K=K, L=L, D=D))


@inside
def test_mass_of_many_rows():
    z = torch.randn(2100, 3)
    lse = z.logsumexp(1)
    mass = torch.empty(3)
    room._mass(z, lse, mass)
    assert relative_error(mass, z.double().softmax(1).sum(0)) <= 1e-6


@inside
@pytest.mark.parametrize("K", [40, 8300])
def test_extreme_logits_and_ties(K):
    z, s, t = torch.zeros(2, K), torch.zeros(2, K), torch.zeros(2, K)
    z[:, 0], t[:, 1], z[1, 2] = 1e4, 1e4, -1e4
    g = torch.tensor([[0, 0] + [1] * (K - 2)], dtype=torch.int32)
    result = check([z, s, t, torch.tensor([[0, 1], [-1, 0]]), torch.tensor([[0], [1]]), g, torch.ones(3)], tau=0.0)
    assert abs(result[1][0, 1].item() - 1e4 + 0.693147) <= 2e-3


@inside
@pytest.mark.parametrize("K", [40, 8300])
def test_errors_are_nan_in_their_row_alone(K):
    tensors = operands(B=4, K=K)
    tensors[3][:], tensors[4][:] = 0, 0
    clean = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    tensors[4][1, 0], tensors[3][2, 1] = 99, len(tensors[2])
    value, terms, mass, lse, grad = room.falcon_loss_fwd(*tensors, 0.9, 0.4, True)
    assert value[[1, 2]].isnan().all() and grad[[1, 2]].isnan().all()
    assert terms.isnan().tolist() == [[False] * 3, [True, False, True], [False, True, False], [False] * 3]
    for actual, expected in ((value, clean[0]), (terms, clean[1]), (grad, clean[4])):
        assert torch.equal(actual[[0, 3]], expected[[0, 3]])
    assert torch.equal(mass, clean[2]) and torch.equal(lse, clean[3])


@inside
def test_no_samples_and_no_gradient():
    result = room.falcon_loss_fwd(*operands(B=0, K=7), 0.9, 0.4, True)
    assert [tuple(x.shape) for x in result] == [(0,), (0, 3), (7,), (0,), (0, 7)] and not result[2].any()
    assert room.falcon_loss_bwd(result[0], result[2], result[4], result[3], result[4]).shape == (0, 7)
    tensors = operands(K=40)
    with_grad, without = (room.falcon_loss_fwd(*tensors, 0.9, 0.4, save) for save in (True, False))
    assert without[4].shape == (0, 40)
    assert all(torch.equal(a, b) for a, b in zip(with_grad[:4], without[:4], strict=True))

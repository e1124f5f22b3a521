"""The CUDA room against the float64 reference: on a GPU, and emulated on the CPU (`python_tests/cuda_emulation`)."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from c2f_ops import FBP, HBP, MLP, TRILINEAR, _native
from c2f_ops.cuda import multilinear_pool as room
from c2f_ops.cuda import signed_sqrt_normalize as norm_room
from c2f_ops.reference import multilinear_pool as reference
from c2f_ops.reference import signed_sqrt_normalize as norm_reference
from c2f_ops.testing import TOLERANCES, relative_error

GPU = pytest.param(
    "gpu",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")],
)


def emulate(module, patch) -> None:
    """Put the emulation in the place of the native module and of the CUDA device."""
    module.run_descending(False)
    patch.setattr(_native, "module", lambda: module)
    patch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    for launcher in (room, norm_room):
        patch.setattr(launcher, "current_stream", lambda _: 0)
    patch.setattr(room, "device_facts", lambda _: (8, 0, 108, 163 << 10, 1 << 20))
    patch.setattr(room, "built_for", lambda _: False)


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), GPU])
def device(request, monkeypatch) -> str:
    """Where the room's tensors live."""
    if request.param == "gpu":
        return "cuda"
    emulate(request.getfixturevalue("emulation"), monkeypatch)
    return "cpu"


def operands(device, dtype, *, B=2, L=9, C=(8, 8, 8), D=16, layout="positions", mask="none", seed=0):
    """Features are views into buffers of NaN, so that reading beside them shows."""
    generator = torch.Generator().manual_seed(seed)
    features, weights, biases = [], [], []
    for c in C:
        x = torch.rand(B, L, c, generator=generator)
        if layout == "positions":
            buffer = torch.full((B + 1, c, L), torch.nan)
            buffer[:B] = x.transpose(1, 2)
            features.append(buffer.to(device, dtype)[:B].transpose(1, 2))
        else:
            buffer = torch.full((B + 1, L + 1, c), torch.nan)
            buffer[:B, 1:] = x
            features.append(buffer.to(device, dtype)[:B, 1:])
        w = (torch.rand(c, D, generator=generator) * 2 - 1) * (3 / max(c, 1)) ** 0.5
        weights.append(torch.cat([w, torch.full((1, D), torch.nan)]).to(device, dtype)[:c])
        biases.append(torch.randn(D, generator=generator).mul_(0.1).to(device))
    if len(C) > 1:
        biases[1] = None
    masks = {"bool": torch.rand(B, L, generator=generator) < 0.6, "float": torch.rand(B, L, generator=generator)}
    return features, weights, biases, None if mask == "none" else masks[mask].to(device)


def exact(features, weights, biases, mask):
    double = [[None if t is None else t.double().cpu() for t in group] for group in (features, weights, biases)]
    return *double, None if mask is None else mask.cpu() if mask.dtype == torch.bool else mask.double().cpu()


FUSED = [  # B, L, C, D, layout, interactions, activation, mask
    (1, 1, (16, 16), 8, "positions", FBP, "none", "none"),
    (2, 49, (32, 32, 32), 128, "positions", MLP, "none", "none"),  # rows of 98 bytes: copies of single elements
    (2, 100, (40, 33, 7), 136, "positions", MLP, "relu", "bool"),  # rows of 200 bytes: copies of 8
    (1, 120, (64, 16, 40), 130, "positions", HBP, "none", "float"),  # two tiles of 112, weights by element
    (1, 128, (32, 32, 32), 8, "positions", TRILINEAR, "tanh", "none"),
    (9, 64, (8, 8), 256, "positions", FBP, "none", "bool"),  # two groups of samples, two tiles of columns
    (2, 60, (32, 32, 32), 128, "channels", MLP, "none", "none"),
    (1, 113, (48, 97, 12), 100, "channels", MLP, "relu", "float"),  # 97: rows of 194 bytes
    (1, 130, (24, 24, 24), 7, "channels", ((2, 1), (2, 1, 0), (0, 2)), "tanh", "bool"),
    (3, 16, (128, 64, 96), 64, "channels", ((1, 0), (0, 1)), "none", "none"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("B", "L", "C", "D", "layout", "interactions", "activation", "mask"), FUSED)
def test_fused_forward(device, dtype, B, L, C, D, layout, interactions, activation, mask):
    count = 1 + max(itertools.chain(*interactions))
    tensors = operands(device, dtype, B=B, L=L, C=C[:count], D=D, layout=layout, mask=mask)
    p, saved = room.multilinear_pool_fwd(*tensors, interactions, activation, False, "fused")
    truth, _ = reference.multilinear_pool_fwd(*exact(*tensors), interactions, activation, False)
    assert saved == [] and p.dtype == torch.float32 and p.shape == truth.shape
    for q in range(len(interactions)):
        assert relative_error(p[:, q], truth[:, q]) <= TOLERANCES[dtype]["p"], f"interaction {q}"


def test_fused_forward_keeps_nan_in_its_sample_and_out_of_masked_positions(device):
    features, weights, biases, mask = operands(device, torch.bfloat16, B=3, L=70, D=16, mask="bool")
    mask[1, 5], mask[:, 6] = True, False
    clean, _ = room.multilinear_pool_fwd(features, weights, biases, mask, MLP, "none", False, "fused")
    for x in features:
        x[:, 6] = torch.nan
    excluded, _ = room.multilinear_pool_fwd(features, weights, biases, mask, MLP, "none", False, "fused")
    assert torch.equal(clean, excluded)
    features[0][1, 5, 2] = torch.nan
    dirty, _ = room.multilinear_pool_fwd(features, weights, biases, mask, MLP, "none", False, "fused")
    assert torch.equal(clean[[0, 2]], dirty[[0, 2]]) and torch.equal(clean[1, 2], dirty[1, 2])
    assert dirty[1, [0, 1, 3]].isnan().all()


SQUARES = ((0,), (1, 1), (0, 2, 2, 1))
MANY = tuple(itertools.combinations(range(4), 2)) + ((0, 1, 2, 3),)
CHUNKED = [  # C, D, interactions, activation, mask
    ((8, 12, 16), 1088, MLP, "none", "none"),  # several chunks, the last one narrower
    ((8, 12, 16), 72, HBP, "relu", "bool"),
    ((8, 12), 64, FBP, "tanh", "float"),
    ((8, 12, 16), 64, TRILINEAR, "none", "bool"),
    ((8, 12, 16), 64, SQUARES, "none", "float"),
    ((5, 6, 7), 37, MLP, "none", "bool"),  # nothing aligned
    ((4, 4, 4, 4), 40, MANY, "none", "none"),  # more than four interactions
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("C", "D", "interactions", "activation", "mask"), CHUNKED)
@pytest.mark.parametrize("save", [False, True])
def test_chunked(device, dtype, C, D, interactions, activation, mask, save):
    features, weights, biases, position_mask = operands(device, dtype, B=3, L=75, C=C, D=D, mask=mask)
    d_p = torch.randn(3, len(interactions), D, generator=torch.Generator().manual_seed(1)).to(device)
    needs = [True] * (2 * len(C)) + [b is not None for b in biases] + [False]
    tensors = features, weights, biases, position_mask
    p, saved = room.multilinear_pool_fwd(*tensors, interactions, activation, save, "chunked")
    grads = room.multilinear_pool_bwd(d_p, *tensors, saved, interactions, activation, needs)
    truth, projections = reference.multilinear_pool_fwd(*exact(*tensors), interactions, activation, True)
    expected = reference.multilinear_pool_bwd(
        d_p.double().cpu(), *exact(*tensors), projections, interactions, activation, needs
    )
    assert relative_error(p, truth) <= TOLERANCES[dtype]["p"]
    for kind, group, wanted in zip(("feature", "weight", "bias"), grads, expected, strict=False):
        for m, (actual, w) in enumerate(zip(group, wanted, strict=True)):
            assert (actual is None) == (w is None)
            assert actual is None or relative_error(actual, w) <= TOLERANCES[dtype]["grad"], f"{kind} {m}"


@pytest.mark.parametrize("sqrt_mode", ["none", "shifted", "caffe", "plus_eps", "smooth"])
@pytest.mark.parametrize("scope", ["none", "interaction", "joint"])
@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signed_sqrt_normalize(device, sqrt_mode, scope, l2_mode, dtype):
    p = torch.randn(2, 3, 700, generator=torch.Generator().manual_seed(0)) * 3
    p[0, 1] = 0  # a zero row, where clamp is active
    p[1, 2, :3] = torch.tensor([0.0, 1e-20, -1e15])
    d_out = torch.randn(2, 3, 700, generator=torch.Generator().manual_seed(1)).to(dtype)
    options = sqrt_mode, 0.03, scope, l2_mode, 1e-7
    z = norm_room.signed_sqrt_normalize_fwd(p.to(device), *options, dtype)
    d_p = norm_room.signed_sqrt_normalize_bwd(d_out.to(device), p.to(device), *options)
    expected = norm_reference.signed_sqrt_normalize_fwd(p.double(), *options, torch.float64)
    expected_d_p = norm_reference.signed_sqrt_normalize_bwd(d_out.double(), p.double(), *options)
    bound = TOLERANCES[dtype]["z"]
    for row in itertools.product(range(2), range(3)):
        assert relative_error(z[row], expected[row]) <= bound
        assert relative_error(d_p[row], expected_d_p[row]) <= TOLERANCES[torch.float32]["grad"]
    assert z.dtype == dtype and d_p.dtype == torch.float32


def test_signed_sqrt_normalize_propagates_what_is_not_finite(device):
    p = torch.rand(2, 2, 40)
    p[0, 0, 3], p[1, 1, 4] = torch.inf, torch.nan
    z = norm_room.signed_sqrt_normalize_fwd(p.to(device), "shifted", 0.03, "interaction", "add", 1e-7, torch.float32)
    expected = norm_reference.signed_sqrt_normalize_fwd(p, "shifted", 0.03, "interaction", "add", 1e-7, torch.float32)
    assert torch.equal(z.isnan().cpu(), expected.isnan())
    assert torch.allclose(z.cpu(), expected, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("sizes", [{"B": 0}, {"L": 0}, {"D": 0}, {"C": (8, 0, 8)}])
def test_empty_sizes(device, sizes):
    tensors = operands(device, torch.float32, **sizes)
    p, saved = room.multilinear_pool_fwd(*tensors, MLP, "none", True, "chunked")
    truth, _ = reference.multilinear_pool_fwd(*exact(*tensors), MLP, "none", False)
    grads = room.multilinear_pool_bwd(
        torch.ones_like(p), *tensors, saved, MLP, "none", [True] * 7 + [False, True, False]
    )
    assert p.shape == truth.shape and relative_error(p, truth) < 1e-6
    assert [d.shape for d in grads[0] + grads[1]] == [t.shape for t in tensors[0] + tensors[1]]
    z = norm_room.signed_sqrt_normalize_fwd(p, "shifted", 0.03, "joint", "add", 1e-7, torch.float32)
    assert z.shape == p.shape


def everything(device):
    """Each kernel once: what a missing barrier would change from one order of the threads to another."""
    tensors = operands(device, torch.bfloat16, B=2, L=121, C=(40, 40, 40), D=136)
    d_p = torch.randn(2, 4, 136, generator=torch.Generator().manual_seed(0)).to(device)
    fused, _ = room.multilinear_pool_fwd(*tensors, MLP, "none", False, "fused")
    p, _ = room.multilinear_pool_fwd(*tensors, MLP, "none", False, "chunked")
    grads = room.multilinear_pool_bwd(d_p, *tensors, [], MLP, "none", [True] * 7 + [False, True, False])
    options = "shifted", 0.03, "joint", "add", 1e-7
    z = norm_room.signed_sqrt_normalize_fwd(p, *options, torch.float32)
    d_z = norm_room.signed_sqrt_normalize_bwd(z, p, *options)
    return [fused, p, z, d_z, *(d for group in grads[:3] for d in group if d is not None)]


def test_repeats_are_bit_equal(device):
    first = everything(device)
    for _ in range(100 if device == "cuda" else 1):
        assert all(torch.equal(a, b) for a, b in zip(first, everything(device), strict=True))


@pytest.mark.slow
def test_order_of_threads_has_no_effect(emulation, monkeypatch):
    emulate(emulation, monkeypatch)
    ascending = everything("cpu")
    emulation.run_descending(True)
    assert all(torch.equal(a, b) for a, b in zip(ascending, everything("cpu"), strict=True))

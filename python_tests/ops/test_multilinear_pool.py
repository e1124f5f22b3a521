"""Every backend against the float64 reference: types, shapes, layouts, options; forward and every gradient."""

from __future__ import annotations

import functools

import pytest
import torch

import c2f_ops
from c2f_ops.testing import TOLERANCES, assert_as_accurate, make_pool_inputs, relative_error, truth_of, value_and_grads

MIXED = ((3, 0, 0, 2), (1,), (2, 2), (1, 3, 0))
SHAPES = {  # B, H, W, channels, D
    "one": (1, 1, 1, (1, 1, 1), 1),
    "two": (2, 1, 2, (3, 1, 2), 7),
    "ragged": (3, 7, 7, (13, 8, 97), 100),
    "primes": (2, 1, 97, (131, 3, 17), 33),
    "square": (4, 14, 14, (32, 32, 32), 64),
    "batch": (33, 3, 3, (16, 16, 16), 24),
    "wide": (2, 2, 3, (8, 8, 8), 1024),
    "deep": (1, 5, 5, (1025, 16, 64), 40),
    "tall": (1, 5, 157, (16, 16, 16), 48),
}
OPTIONS = {
    "mlp": {},
    "hbp": {"interactions": c2f_ops.HBP, "bias": False},
    "trilinear-nhwc": {"interactions": c2f_ops.TRILINEAR, "layout": "NHWC"},
    "channels-last": {"layout": "channels_last", "recompute": True},
    "tokens": {"layout": "NLC", "num_prefix_tokens": 2},
    "mixed": {"interactions": MIXED, "mask": "weights"},
    "bool-joint": {"mask": "bool", "norm_scope": "joint", "l2_mode": "clamp", "l2_eps": 1e-12},
    "relu-plus": {"activation": "relu", "sqrt_mode": "plus_eps", "sqrt_eps": 1e-2},
    "tanh-smooth": {"activation": "tanh", "sqrt_mode": "smooth", "sqrt_eps": 0.1, "recompute": True},
    "caffe-mean": {"sqrt_mode": "caffe", "pooling": "mean", "norm_scope": "none"},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _inputs(shape, options, dtype, device="cpu"):
    batch, height, width, channels, dim = SHAPES[shape]
    named = dict(OPTIONS[options])
    if dim < 10:  # the gradient of the norm of so few entries is all cancellation
        named["norm_scope"] = "none"
    interactions = named.get("interactions", c2f_ops.MLP)
    count = 1 + max(max(t) for t in interactions)
    channels = (*channels, *channels)[:count]
    return make_pool_inputs(batch, height, width, channels, dim, dtype=dtype, device=device, **named)


@functools.cache
def _truth(shape, options, dtype):
    return truth_of(_inputs(shape, options, dtype))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_the_numerics_contract(backend, device, dtype, shape, options, poisoned_empty):
    dtype = DTYPES[dtype]
    inputs, truth = _inputs(shape, options, dtype, device), _truth(shape, options, dtype)
    few = 4 if truth.value.numel() < 30 else 1  # roundings of so few entries do not average out
    for algo in {"reference": ["chunked"], "cpu": ["fused"]}.get(backend, ["chunked", "fused"]):
        try:
            out, grads = value_and_grads(inputs, backend=backend, algo=algo)
        except ValueError as error:  # a fused kernel need not take everything; chunked does
            assert algo == "fused" and backend != "cpu" and "cannot run here" in str(error)
            continue
        assert out.dtype == dtype and out.is_contiguous()
        for what, actual, expected, bound in zip(
            ["result", *(f"gradient of a leaf {tuple(t.shape)}" for t in inputs.leaves())],
            [out, *grads],
            [truth.value, *truth.grads],
            truth.bounds(dtype),
            strict=True,
        ):
            error = relative_error(actual, expected)
            assert error <= few * bound, f"{algo}, {what}: relative error {error:.2e} exceeds {few * bound:.2e}"
        for leaf, grad in zip(inputs.leaves(), grads, strict=True):
            assert grad.dtype == leaf.dtype and grad.shape == leaf.shape
        plain = {"sqrt_mode": "none", "norm_scope": "none", "pooling": "sum", "out_dtype": torch.float32}
        p = inputs.run(backend=backend, algo=algo, **plain)
        assert relative_error(p, truth.pooled) <= few * TOLERANCES[dtype]["p"]


def _eager(inputs):
    us = [
        x.flatten(2).transpose(1, 2) @ w + b
        for x, w, b in zip(inputs.features, inputs.weights, inputs.biases, strict=True)
    ]
    products = (us[0] * us[1], us[0] * us[2], us[1] * us[2], us[0] * us[1] * us[2])
    return torch.cat([product.sum(1) for product in products], 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_as_accurate_as_eager(backend, device, dtype):
    inputs = make_pool_inputs(2, 14, 14, (96, 64, 80), 128, dtype=DTYPES[dtype], device=device)
    truth = _eager(inputs.to(dtype=torch.float64, device="cpu"))
    ours = inputs.run(backend=backend, sqrt_mode="none", norm_scope="none", out_dtype=torch.float32)
    assert_as_accurate(ours, truth, _eager(inputs))
    weights = inputs.weights
    truth_inputs = inputs.to(dtype=torch.float64, device="cpu")
    expected = torch.autograd.grad(_eager(truth_inputs).sum(), truth_inputs.weights)
    peers = torch.autograd.grad(_eager(inputs).sum(), weights)
    actual = torch.autograd.grad(inputs.run(backend=backend, sqrt_mode="none", norm_scope="none").sum(), weights)
    for a, e, p in zip(actual, expected, peers, strict=True):
        assert_as_accurate(a, e, p, what="d_weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mask_gradient(backend, device, dtype):
    inputs = make_pool_inputs(
        2, 3, 4, (5, 6, 7), 9, dtype=dtype, mask="float", device=device, norm_scope="none", pooling="mean"
    )
    truth = value_and_grads(inputs.to(dtype=torch.float64, device="cpu"), backend="reference")[1]
    grads = value_and_grads(inputs, backend=backend)[1]
    assert relative_error(grads[-1], truth[-1]) <= TOLERANCES[dtype]["grad"]


@pytest.mark.parametrize("subset", range(1, 8))
def test_only_wanted_gradients(backend, device, subset):
    inputs = make_pool_inputs(2, 3, 4, (5, 6, 7), 9, device=device)
    full = dict(zip(map(id, inputs.leaves()), value_and_grads(inputs, backend=backend)[1], strict=True))
    for bit, group in enumerate((inputs.features[:2], inputs.weights[1:], inputs.biases[:1])):
        for t in (*inputs.features, *inputs.weights, *inputs.biases) if bit == 0 else ():
            t.requires_grad_(False)
        for t in group:
            t.requires_grad_(bool(subset >> bit & 1))
    wanted = [t for t in inputs.leaves() if t.requires_grad]
    out = inputs.run(backend=backend)
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).bfloat16().to(out.device, out.dtype)
    grads = torch.autograd.grad(out, wanted, d_out)
    assert wanted and all(relative_error(g, full[id(t)]) < 1e-6 for t, g in zip(wanted, grads, strict=True))


def test_same_tensor_on_both_sides(backend, device):
    x = torch.randn(3, 6, 2, 5, device=device, requires_grad=True)
    w = torch.randn(6, 8, device=device, requires_grad=True)
    out = c2f_ops.multilinear_pool([x, x], [w, w], interactions=c2f_ops.FBP, backend=backend)
    square = c2f_ops.multilinear_pool([x], [w], interactions=((0, 0),), backend=backend)
    r = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, (x, w), r), torch.autograd.grad(square, (x, w), r), strict=True):
        assert relative_error(a, b) < 1e-5
    assert relative_error(out, square) < 1e-6


def _layout_cases():
    base = torch.relu(torch.randn(3, 12, 6, 5))
    big = torch.relu(torch.randn(4, 20, 9, 12))
    tokens = torch.relu(torch.randn(3, 33, 24))
    return {
        "contiguous": (base, "NCHW"),
        "channels_last": (base.to(memory_format=torch.channels_last), "NCHW"),
        "sliced": (big[1:, 3:15, 2:8, 1:6], "NCHW"),
        "strided": (big[:3, ::2, 1:7, ::2][:, :10], "NCHW"),
        "offset": (torch.randn(3 * 12 * 30 + 1)[1:].view(3, 12, 6, 5), "NCHW"),
        "expanded": (base[:1].expand(3, -1, -1, -1), "NCHW"),
        "flipped": (base.flip(2, 3), "NCHW"),
        "transposed": (base.transpose(2, 3), "NCHW"),
        "NHWC": (base.permute(0, 2, 3, 1).contiguous(), "NHWC"),
        "NHWC of NCHW": (base.permute(0, 2, 3, 1), "NHWC"),
        "NLC": (tokens, "NLC"),
        "NLC sliced": (tokens[:, 3:, 4:16], "NLC"),
        "NLC transposed": (tokens.transpose(1, 2).contiguous().transpose(1, 2), "NLC"),
    }


@pytest.mark.parametrize("case", _layout_cases())
def test_layouts_are_bit_equal_to_the_contiguous_run(backend, device, case):
    x, layout = _layout_cases()[case]
    x = x.to(device).requires_grad_()
    channels = x.shape[1] if layout == "NCHW" else x.shape[-1]
    w = [(torch.randn(channels, 19) / channels**0.5).to(device).requires_grad_() for _ in range(2)]
    if x.stride(1 if layout != "NCHW" else 2) == 1 or case in ("channels_last", "NHWC", "NLC", "NLC sliced"):
        plain = x.detach().clone(memory_format=torch.preserve_format)
    else:
        plain = x.detach().contiguous()
    plain.requires_grad_()
    results = []
    for feature in (x, plain):
        out = c2f_ops.multilinear_pool(
            [feature, feature], w, interactions=((0, 1), (0, 0)), layout=layout, backend=backend
        )
        results.append((out, *torch.autograd.grad(out.square().sum() + out.sum(), (feature, *w))))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < (
            0 if backend in ("reference", "cpu") and _same_family(x, plain) else 1e-6
        ) or torch.equal(a, b)
    assert results[0][1].shape == x.shape
    if case in ("contiguous", "channels_last", "NHWC", "NLC"):
        assert results[0][1].stride() == x.stride()


def _same_family(x, plain):
    return [s == 1 for s in x.stride()] == [s == 1 for s in plain.stride()]


@pytest.mark.parametrize(
    "sizes", [(0, 4, 5, 6), (3, 0, 5, 6), (3, 4, 0, 6), (3, 4, 5, 0), (0, 0, 0, 0)], ids=["B", "L", "C", "D", "all"]
)
def test_empty_sizes(backend, device, sizes):
    batch, length, channels, dim = sizes
    inputs = make_pool_inputs(batch, 1, length, (channels, 3), dim, device=device, interactions=((0, 1), (0,)))
    out, grads = value_and_grads(inputs, backend=backend)
    truth, truth_grads = value_and_grads(inputs.to(dtype=torch.float64, device="cpu"), backend="reference")
    assert out.shape == (batch, 2 * dim) and relative_error(out, truth) < 1e-5
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(grads, truth_grads, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_nan_stays_in_its_sample(backend, device, layout, value):
    inputs = make_pool_inputs(4, 7, 7, (40, 24, 16), 70, layout=layout, device=device)
    clean, clean_grads = value_and_grads(inputs, backend=backend)
    with torch.no_grad():
        inputs.features[0][1].view(-1)[5] = value
    out, grads = value_and_grads(inputs, backend=backend)
    others = [0, 2, 3]
    assert torch.equal(out[others], clean[others])
    for m in range(3):
        assert torch.equal(grads[m][others], clean_grads[m][others])
    if value != value:
        q = out.view(4, 4, 70)[1].isnan()
        assert q[[0, 1, 3]].all() and not q[2].any()


def test_excluded_positions_do_not_exist(backend, device):
    inputs = make_pool_inputs(3, 5, 7, (24, 16, 8), 33, mask="bool", device=device)
    inputs.mask[0] = False  # no position left
    clean, clean_grads = value_and_grads(inputs, backend=backend)
    with torch.no_grad():
        for x in inputs.features:
            x.masked_fill_(~inputs.mask.view(3, 1, 5, 7), float("nan"))
    for recompute in (True, False):
        out, grads = value_and_grads(inputs, backend=backend, recompute=recompute)
        assert torch.equal(out, clean) and all(torch.equal(a, b) for a, b in zip(grads, clean_grads, strict=True))
    assert (clean[0] == 0).all() and all((g[0] == 0).all() for g in clean_grads[:3])
    assert (clean_grads[0] == 0).masked_select(~inputs.mask.view(3, 1, 5, 7)).all()


def test_extreme_values(backend, device):
    zeros = [torch.zeros(2, 4, 3, 3, device=device, requires_grad=True) for _ in range(2)]
    weights = [torch.randn(4, 6, device=device) for _ in range(2)]
    out = c2f_ops.multilinear_pool(zeros, weights, interactions=c2f_ops.FBP, backend=backend)
    assert (out == 0).all() and all((g == 0).all() for g in torch.autograd.grad(out.sum(), zeros))
    tiny = [x.detach() + 1e-39 for x in zeros]  # subnormal
    assert c2f_ops.multilinear_pool(tiny, weights, interactions=c2f_ops.FBP, backend=backend).isfinite().all()
    large = [torch.full((1, 4, 28, 28), 2.0, dtype=torch.float16, device=device) for _ in range(3)]
    ones = [torch.full((4, 5), 0.7, dtype=torch.float16, device=device) for _ in range(3)]
    p = c2f_ops.multilinear_pool(
        large, ones, backend=backend, sqrt_mode="none", norm_scope="none", out_dtype=torch.float32
    )
    assert p.max() > 65504 and p.isfinite().all()
    assert c2f_ops.multilinear_pool(large, ones, backend=backend).isfinite().all()


@pytest.mark.parametrize("scale", [1e-4, 1e-8])
def test_float16_backward_of_tiny_gradients(backend, device, scale):
    inputs = make_pool_inputs(4, 14, 14, (64, 48, 32), 96, dtype=torch.float16, device=device, out_dtype=torch.float32)
    d_out = torch.randn(4, 4 * 96).bfloat16().float() * scale
    d_out[2] /= 128
    truth = inputs.to(dtype=torch.float64, device="cpu")
    expected = torch.autograd.grad(
        truth.run(backend="reference", out_dtype=torch.float64), truth.weights, d_out.double()
    )
    actual = torch.autograd.grad(inputs.run(backend=backend), inputs.weights, d_out.to(device))
    assert max(e.abs().max() for e in expected) > 0
    for a, e in zip(actual, expected, strict=True):
        if e.abs().max() > 1e-4:  # below that the result itself is not representable in float16
            assert relative_error(a, e) <= 2 * TOLERANCES[torch.float16]["grad"]


def test_invariants(backend, device):
    inputs = make_pool_inputs(3, 5, 5, (12, 9, 17), 40, device=device)
    out = inputs.run(backend=backend)
    assert relative_error(inputs.run(backend=backend, pooling="mean"), out) < 1e-6
    hbp = inputs.run(backend=backend, interactions=c2f_ops.HBP, algo="auto" if backend == "reference" else "fused")
    assert relative_error(out[:, : 3 * 40], hbp) < 1e-6
    order = torch.randperm(25).to(device)
    moved = [x.detach().flatten(2)[..., order].view_as(x) for x in inputs.features]
    permuted = c2f_ops.multilinear_pool(moved, inputs.weights, inputs.biases, backend=backend)
    assert relative_error(permuted, out) < 2e-6
    plain = {"sqrt_eps": 0.0, "l2_eps": 0.0, "backend": backend}
    doubled = [inputs.features[0] * 2, *inputs.features[1:]]
    a = c2f_ops.multilinear_pool(inputs.features, inputs.weights, interactions=c2f_ops.TRILINEAR, **plain)
    b = c2f_ops.multilinear_pool(doubled, inputs.weights, interactions=c2f_ops.TRILINEAR, **plain)
    assert relative_error(b, a) < 1e-6


def test_repeats_are_bit_equal(backend, device):
    inputs = make_pool_inputs(3, 9, 11, (33, 20, 64), 130, device=device)
    first, first_grads = value_and_grads(inputs, backend=backend)
    for _ in range(10 if backend == "reference" else 1000):
        out, grads = value_and_grads(inputs, backend=backend)
        assert torch.equal(out, first) and all(torch.equal(a, b) for a, b in zip(grads, first_grads, strict=True))


@pytest.mark.slow
def test_more_than_2_to_the_31_virtual_elements(backend, device):
    if backend == "reference":
        pytest.skip("the reference makes the projections")
    batch, side, dim = 335, 28, 8192
    assert batch * side * side * dim > 2**31
    features = [torch.rand(batch, 1, side, side, device=device) for _ in range(2)]
    weights = [torch.rand(1, dim, device=device) for _ in range(2)]
    plain = {"sqrt_mode": "none", "norm_scope": "none", "algo": "auto" if backend == "cuda" else "fused"}
    p = c2f_ops.multilinear_pool(features, weights, interactions=c2f_ops.FBP, backend=backend, **plain)
    sums = (features[0] * features[1]).double().sum((1, 2, 3))
    expected = sums[:, None] * (weights[0] * weights[1]).double()
    assert relative_error(p[-1], expected[-1]) < 1e-5 and relative_error(p, expected) < 1e-5

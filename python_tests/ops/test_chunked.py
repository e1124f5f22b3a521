"""The d-chunked driver, with plain torch in place of the two GPU kernels, against the float64 reference."""

from __future__ import annotations

import math

import pytest
import torch

from c2f_ops import HBP, MLP, _chunked
from c2f_ops.reference import multilinear_pool as reference
from c2f_ops.testing import TOLERANCES, relative_error

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OTHER = ((0,), (1, 1), (0, 2, 2, 1))  # single, squared, repeated


def activated(projections, biases, activation, first):
    us = [u.float() for u in projections]
    if biases is None:
        return us
    width = us[0].shape[2]
    us = [u if b is None else u + b[first : first + width] for u, b in zip(us, biases, strict=True)]
    return [torch.relu(u) if activation == "relu" else torch.tanh(u) if activation == "tanh" else u for u in us]


def weighed(x, mask):
    if mask is None:
        return x
    return torch.where(mask[..., None], x, 0.0) if mask.dtype == torch.bool else x * mask[..., None]


def check_chunk(projections):
    assert all(u.stride(2) == 1 and u.stride(0) == u.shape[1] * u.stride(1) for u in projections)
    assert len({u.stride(1) for u in projections}) == 1


def hadamard_reduce(projections, biases, mask, interactions, activation, p, first):
    check_chunk(projections)
    assert p.is_contiguous() and p.dtype == torch.float32
    us = activated(projections, biases, activation, first)
    for q, t in enumerate(interactions):
        p[:, q, first : first + us[0].shape[2]] = weighed(math.prod(us[m] for m in t), mask).sum(1)


def hadamard_grad(projections, biases, d_p, mask, interactions, activation, first, needs, grad_scale, want_bias):
    check_chunk(projections)
    us = activated(projections, biases, activation, first)
    width, grads, d_biases = us[0].shape[2], [], []
    for m, u in enumerate(us):
        g = torch.zeros_like(u)
        for q, t in enumerate(interactions):
            for k, factor in enumerate(t):
                if factor == m:
                    others = (us[f] for j, f in enumerate(t) if j != k)
                    g = g + math.prod(others, start=d_p[:, q, None, first : first + width])
        slope = (u > 0) if activation == "relu" else 1 - u * u if activation == "tanh" else 1.0
        g = weighed(g * slope, mask)
        scale = 1.0 if grad_scale is None else grad_scale[m]
        grads.append((g * scale).to(projections[m].dtype) if needs[m] else None)
        d_biases.append(g.sum(1) if want_bias[m] else None)
    return grads, d_biases


def layout(x, name):
    """``x [B, L, C]`` with the same values in another memory layout."""
    B, _, C = x.shape
    if name == "positions":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if name == "prefix":  # tokens behind two that a view drops
        return torch.cat([x.new_full((B, 2, C), torch.nan), x], 1)[:, 2:]
    if name == "sliced":  # neither dimension contiguous
        return torch.stack([x, x.new_full(x.shape, torch.nan)], 3)[..., 0]
    return x.contiguous()


def problem(dtype, *, name="channels", mask=None, factors=3, B=3, L=11, channels=(7, 5, 9), D=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = [layout(torch.rand(B, L, c, generator=generator).to(dtype), name) for c in channels[:factors]]
    weights = [
        ((torch.rand(c, D, generator=generator) * 2 - 1) * (3 / max(c, 1)) ** 0.5).to(dtype) for c in channels[:factors]
    ]
    biases = [torch.randn(D, generator=generator) * 0.1 for _ in range(factors)]
    biases[1] = None
    masks = {"bool": torch.rand(B, L, generator=generator) < 0.6, "float": torch.rand(B, L, generator=generator)}
    return features, weights, biases, masks.get(mask)


def truth(features, weights, biases, mask, interactions, activation, d_p, needs):
    double = [[None if t is None else t.double() for t in group] for group in (features, weights, biases)]
    mask = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    p, projections = reference.multilinear_pool_fwd(*double, mask, interactions, activation, True)
    return (
        p,
        projections,
        reference.multilinear_pool_bwd(d_p.double(), *double, mask, projections, interactions, activation, needs),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["channels", "positions", "prefix", "sliced"])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize(("interactions", "activation"), [(MLP, "none"), (OTHER, "none"), (MLP, "relu"), (HBP, "tanh")])
@pytest.mark.parametrize("save", [False, True])
def test_against_reference(dtype, name, mask, interactions, activation, save):
    features, weights, biases, m = problem(dtype, name=name, mask=mask)
    d_p = torch.randn(3, len(interactions), 40)
    needs = [True] * 3 + [True] * 3 + [True, False, True] + [False]
    p, projections, grads = truth(features, weights, biases, m, interactions, activation, d_p, needs)

    got, saved = _chunked.chunked_fwd(
        features, weights, biases, m, interactions, activation, save,
        hadamard_reduce=hadamard_reduce, chunk_d=16, chunk_b=2,
    )  # fmt: skip
    assert got.shape == p.shape and got.dtype == torch.float32 and len(saved) == 3 * save
    assert relative_error(got, p) <= TOLERANCES[dtype]["p"]
    for u, expected in zip(saved, projections if save else [], strict=True):
        kept = slice(None) if mask != "bool" else m
        assert u.dtype == dtype
        assert relative_error(u[kept], expected[kept]) <= torch.finfo(dtype).eps  # rounded before and after the bias
    d_x, d_w, d_b, d_mask = _chunked.chunked_bwd(
        d_p, features, weights, biases, m, saved, interactions, activation, needs,
        hadamard_grad=hadamard_grad, chunk_d=16, chunk_b=2,
    )  # fmt: skip
    assert d_mask is None and d_b[1] is None
    for x, d in zip(features, d_x, strict=True):
        assert d.dtype == dtype and d.stride() == torch.empty_like(x).stride()
    for w, d in zip(weights, d_w, strict=True):
        assert d.dtype == dtype and d.is_contiguous() and d.shape == w.shape
    for actual, expected in zip(
        [*d_x, *d_w, d_b[0], d_b[2]], [*grads[0], *grads[1], grads[2][0], grads[2][2]], strict=True
    ):
        assert relative_error(actual, expected) <= TOLERANCES[dtype]["grad"]


@pytest.mark.parametrize("name", ["channels", "positions", "prefix", "sliced"])
def test_reads_features_in_place(name):
    x = problem(torch.float32, name=name)[0][0]
    ready = _chunked._gemm_ready(x)
    assert ready.is_contiguous() if name == "sliced" else ready is x


@pytest.mark.parametrize("which", range(6))
def test_computes_only_what_is_needed(which):
    features, weights, biases, _ = problem(torch.float32, factors=2)
    asked = []

    def grad(*args):
        asked.append((list(args[7]), list(args[9])))
        return hadamard_grad(*args)

    needs = [k == which for k in range(6)] + [False]
    d_p = torch.randn(3, 1, 40)
    groups = _chunked.chunked_bwd(
        d_p, features, weights, biases, None, [], ((0, 1),), "none", needs, hadamard_grad=grad, chunk_d=40
    )
    assert [d is not None for group in groups[:3] for d in group] == needs[:6]
    want_g = [needs[m] or needs[2 + m] for m in range(2)]
    assert asked == [(want_g, needs[4:6])]


def test_float16_scale_saves_what_rounding_would_lose(monkeypatch):
    """G_m near 1e-9 is 0 in float16; with the scale, the float32 sums of dX and dW meet the tolerance."""
    features, weights, biases, _ = problem(torch.float16, channels=(64, 48, 56), L=32)
    d_p = torch.randn(3, 4, 40) * 1e-8
    d_p[1] /= 100
    needs = [True] * 6 + [False] * 4
    _, _, expected = truth(features, weights, biases, None, MLP, "none", d_p, needs)

    def float32_sums():
        d_x, d_w = [], []
        add_x, add_w = _chunked._add_feature_grad, _chunked._add_weight_grad
        with monkeypatch.context() as patch:
            patch.setattr(_chunked, "_add_feature_grad", lambda total, *rest: (d_x.append(total), add_x(total, *rest)))
            patch.setattr(_chunked, "_add_weight_grad", lambda total, *rest: (d_w.append(total), add_w(total, *rest)))
            _chunked.chunked_bwd(
                d_p, features, weights, biases, None, [], MLP, "none", needs, hadamard_grad=hadamard_grad, chunk_d=40
            )
        return [*d_x, *d_w]

    bound = TOLERANCES[torch.float16]["grad"]
    sums = float32_sums()
    for actual, wanted in zip(sums, [*expected[0], *expected[1]], strict=True):
        assert relative_error(actual, wanted) <= bound
    for actual, wanted in zip(sums[:3], expected[0], strict=True):
        assert relative_error(actual[1], wanted[1]) <= bound
    monkeypatch.setattr(_chunked, "_grad_scale", lambda *args: torch.ones(3))
    assert all(relative_error(a, w) > 0.5 for a, w in zip(float32_sums(), [*expected[0], *expected[1]], strict=True))


def test_float16_scale_ignores_values_that_are_not_finite():
    chunk = [torch.tensor([[[2.0, torch.inf], [torch.nan, 3.0]]], dtype=torch.float16) for _ in range(2)]
    d_p = torch.tensor([[[0.25, torch.nan]]])
    scale = _chunked._grad_scale(chunk, None, d_p, None, slice(0, 2), ((0, 1),), "none")
    assert scale.tolist() == [2.0**15] * 2  # 2 ** floor(log2(2 ** 15 / (0.25 * 3)))
    assert _chunked._grad_scale(chunk, None, d_p * 0, None, slice(0, 1), ((0, 1),), "none").tolist() == [1.0, 1.0]
    excluded = torch.tensor([[True, False]])
    scale = _chunked._grad_scale(chunk, None, d_p, excluded, slice(0, 2), ((0, 1),), "none")
    assert scale.tolist() == [2.0**16] * 2  # the 3 does not exist


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_sample(dtype):
    features, weights, biases, _ = problem(dtype, B=4)
    features[0][1, 0, 0] = features[0][
        3
    ].amax()  # the largest value is elsewhere: float16 has the same scale with and without NaN
    d_p, needs = torch.randn(4, 4, 40), [True] * 3 + [False] * 7
    results = []
    for value in (0.5, torch.nan):
        features[0][2, 3, 1] = value
        p = _chunked.chunked_fwd(
            features, weights, biases, None, MLP, "none", False, hadamard_reduce=hadamard_reduce, chunk_d=16
        )[0]
        d_x = _chunked.chunked_bwd(
            d_p, features, weights, biases, None, [], MLP, "none", needs, hadamard_grad=hadamard_grad, chunk_d=16
        )[0]
        results.append([p, *d_x])
    for clean, dirty in zip(*results, strict=True):
        assert all(torch.equal(clean[b], dirty[b]) for b in (0, 1, 3))
    assert results[1][0][2].isnan().any()


def test_masked_nan_has_no_effect():
    # Even channel counts: torch's bfloat16 product on the CPU reads past the end of an odd row.
    features, weights, biases, mask = problem(torch.bfloat16, mask="bool", channels=(8, 6, 10))
    d_p, needs = torch.randn(3, 4, 40), [True] * 9 + [False]
    results = []
    for value in (0.5, torch.nan):
        dirty = [torch.where(mask[..., None], x, value) for x in features]
        p, _ = _chunked.chunked_fwd(
            dirty, weights, biases, mask, MLP, "none", False, hadamard_reduce=hadamard_reduce, chunk_d=16
        )
        d_x, d_w, d_b, _ = _chunked.chunked_bwd(
            d_p, dirty, weights, biases, mask, [], MLP, "none", [*needs[:7], False, True, False],
            hadamard_grad=hadamard_grad, chunk_d=16,
        )  # fmt: skip
        results.append([p, *d_x, *d_w, d_b[0], d_b[2]])
        assert all((d[~mask] == 0).all() for d in d_x)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("empty", ["B", "L", "D", "C"])
def test_empty_sizes(empty):
    sizes = {"B": 2, "L": 3, "D": 5, **{empty: 0}}
    channels = (4, 0 if empty == "C" else 3, 2)
    features, weights, biases, _ = problem(
        torch.float32, channels=channels, **{k: v for k, v in sizes.items() if k != "C"}
    )
    needs = [True] * 6 + [True, False, True, False]
    d_p = torch.randn(sizes["B"], 4, sizes["D"])
    p, saved = _chunked.chunked_fwd(
        features, weights, biases, None, MLP, "none", True, hadamard_reduce=hadamard_reduce, chunk_d=4
    )
    grads = _chunked.chunked_bwd(
        d_p, features, weights, biases, None, saved, MLP, "none", needs, hadamard_grad=hadamard_grad, chunk_d=4
    )
    expected_p, _, expected = truth(features, weights, biases, None, MLP, "none", d_p, needs)
    assert p.shape == expected_p.shape and relative_error(p, expected_p) < 1e-6
    for group, wanted in zip(grads[:3], expected[:3], strict=True):
        for actual, w in zip(group, wanted, strict=True):
            assert (actual is None) == (w is None)
            assert actual is None or (actual.shape == w.shape and relative_error(actual, w) < 1e-5)

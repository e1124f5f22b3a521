"""Sizes around the cuts of the CPU kernels, empty ones, excluded positions, NaN, values out of range."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from c2f_ops.cpu import multilinear_pool as kernel

from .cpu_cases import (
    DTYPES,
    EDGES,
    GRAD_TOLERANCE,
    MLP,
    P_TOLERANCE,
    SHAPES,
    backward,
    check,
    equal,
    error,
    expected,
    forward,
    make_case,
    needs_native,
    run_both,
)

pytestmark = needs_native

EMPTY = (
    (0, 9, (5, 7, 3), 10, MLP),
    (2, 0, (5, 7, 3), 10, MLP),
    (2, 9, (0, 7, 0), 10, MLP),
    (2, 9, (5, 7, 3), 0, MLP),
)


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("shape", EDGES, ids=str)
def test_edges(shape, layout):
    for dtype in (torch.bfloat16, torch.float16):
        check(make_case(shape, dtype, layout), dtype)
    check(make_case(shape, torch.float32, layout, mask="bool"), torch.float32, save=True)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_positions_excluded(dtype):
    case = make_case(SHAPES[2], dtype, mask="bool")
    case[3][1] = False
    p, _ = forward(case)
    (d_features, *_), _, _ = backward(case)
    assert (p[1] == 0).all() and all((d[1] == 0).all() for d in d_features)
    check(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_excluded_positions_do_not_exist(dtype):
    features, weights, biases, _, interactions = make_case(SHAPES[2], dtype)
    mask = torch.zeros(3, 49, dtype=torch.bool)
    mask[:, 5:35:2] = True
    p, _ = forward((features, weights, biases, mask, interactions))
    compact, _ = forward(([x[:, 5:35:2] for x in features], weights, biases, None, interactions))
    assert torch.equal(p, compact)


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


def test_float16_products_beyond_its_range():
    features, weights, biases, mask, interactions = make_case((1, 784, (8, 8, 8), 16, MLP), torch.float16)
    features = [x * 10 for x in features]
    p, _ = forward((features, weights, biases, mask, interactions))
    assert p.isfinite().all() and p.abs().max() > 65504

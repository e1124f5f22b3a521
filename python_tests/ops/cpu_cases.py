"""Cases for the CPU kernels of multilinear_pool, called through their launchers; the float64 reference beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import c2f_ops
from c2f_ops import _native
from c2f_ops._encoding import encode
from c2f_ops._ops.problem import Problem
from c2f_ops.cpu import multilinear_pool as kernel
from c2f_ops.reference import multilinear_pool as reference

needs_native = pytest.mark.skipif(_native.unavailable() is not None, reason=str(_native.unavailable()))

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
        *((220, channels, 33) for channels in (1, 33, 513)),
        *((220, 33, width) for width in (31, 65)),
    )
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


def run_both(case):
    return forward(case, save=True), backward(case)[0]


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


def tensors_of(result):
    """All tensors of a nested result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [] if result is None else [t for item in result for t in tensors_of(item)]


def equal(a, b):
    return all(map(torch.equal, tensors_of(a), tensors_of(b)))


def plan_of(
    batch, length, channels, width, dtype=torch.float32, threads=2, interactions=MLP, precision="highest", saves=False
):
    features = [torch.empty(batch, c, length, dtype=dtype, device="meta").transpose(1, 2) for c in channels]
    weights = [torch.empty(c, width, dtype=dtype, device="meta") for c in channels]
    problem = Problem.of(features, weights, None, interactions, "none")
    return _native.module().multilinear_pool_cpu_plan(encode(problem, precision), saves, threads)


def in_child(*arguments, **variables):
    """Run Python on the package that is tested here, wherever it stands."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(c2f_ops.__file__).parents[1]),
        "PYTEST_ADDOPTS": "",
        **variables,
    }
    return subprocess.run([sys.executable, *arguments], env=environment, cwd="/", capture_output=True, text=True)

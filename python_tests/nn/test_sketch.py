"""Tensor Sketch against explicit convolutions, and its statistics against the kernel that it estimates."""

from __future__ import annotations

import pytest
import torch

from c2f_ops import nn

RAW = {"sqrt_mode": "none", "norm_scope": "none"}


def explicit_sketch(sketch, vectors):
    """Circular convolution of the count sketches of single vectors, entry by entry."""
    result = torch.zeros(sketch.dim, dtype=torch.float64)
    result[0] = 1
    for k, x in enumerate(vectors):
        counts = torch.zeros(sketch.dim, dtype=torch.float64)
        for c in range(len(x)):
            counts[getattr(sketch, f"hash{k}")[c]] += getattr(sketch, f"sign{k}")[c] * x[c]
        shifted = torch.stack([counts.roll(j) for j in range(sketch.dim)], 1)  # column j: moved by j
        result = shifted @ result
    return result


@pytest.fixture
def transforms(monkeypatch):
    """Shapes that inverse transforms were asked for."""
    seen = []
    true = torch.fft.irfft
    monkeypatch.setattr(torch.fft, "irfft", lambda s, n: seen.append(s.shape) or true(s, n=n))
    return seen


@pytest.mark.parametrize(("dim", "by_spectra"), [(1, True), (3, True), (4, False), (16, False)])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_convolution_of_count_sketches(transforms, dim, by_spectra, weighted):
    x, y = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    weights = torch.rand(6, dtype=torch.float64) if weighted else None
    pool = nn.CompactBilinearPool((5, 4), dim, **RAW)
    expected = torch.zeros(dim, dtype=torch.float64)
    for i, vectors in enumerate(zip(x.flatten(1).T, y.flatten(1).T, strict=True)):
        expected += explicit_sketch(pool.sketch, vectors) * (weights[i] if weighted else 1)
    torch.testing.assert_close(pool([x[None], y[None]], weights[None] if weighted else None)[0], expected)
    assert transforms == [(1, dim // 2 + 1)] * by_spectra  # one for each sample, or none


def test_degrees_of_kernel_pooling():
    x = torch.randn(1, 5, 2, 2, dtype=torch.float64)
    pool = nn.KernelPool(5, (8, 9, 7), **RAW)
    blocks = pool(x)[0].split([5, 8, 9, 7])
    torch.testing.assert_close(blocks[0], x.sum((0, 2, 3)))
    for degree, (sketch, block) in enumerate(zip(pool.sketches, blocks[1:], strict=True), start=2):
        expected = sum(explicit_sketch(sketch, [v] * degree) for v in x[0].flatten(1).T)
        torch.testing.assert_close(block, expected)
    assert pool.out_features == 5 + 8 + 9 + 7
    norms = [b.norm() for b in nn.KernelPool(5, (8, 9, 7))(x)[0].split([5, 8, 9, 7])]
    torch.testing.assert_close(torch.stack(norms), torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        nn.KernelPool(5, norm_scope="joint")(x).norm(), torch.tensor(1.0).double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("degree", [2, 3])
def test_inner_products_estimate_the_kernel_without_bias(degree):
    # The mean over seeds lies within 4 of its own standard errors of the kernel. The variance: signs of two pairs of
    # entries match up in 3 ways in each factor; one of the 3^degree is the squared mean, the others collide in 1 of D.
    torch.manual_seed(3)
    x, y = torch.rand(2, 6, 1, 1, dtype=torch.float64)
    kernel = (x * y).sum() ** degree
    bound = (3**degree - 1) / 32 * (x.norm() * y.norm()) ** (2 * degree)
    rounds = 400
    estimates = []
    for seed in range(rounds):
        pool = nn.KernelPool(6, (32,) * (degree - 1), seed=seed, **RAW)
        a, b = (pool(v[None])[0, -32:] for v in (x, y))
        estimates.append(a @ b)
    spread = torch.stack(estimates).std()
    assert abs(torch.stack(estimates).mean() - kernel) < 4 * spread / rounds**0.5
    assert spread**2 < bound
    assert 4 * spread / rounds**0.5 < 0.2 * kernel  # so the first line says something


def test_compact_bilinear_estimates_the_inner_products_of_bilinear():
    torch.manual_seed(3)
    x = torch.relu(torch.randn(2, 8, 3, 3))
    a, b = nn.BilinearPool(8, **RAW)(x)
    estimates = []
    for seed in range(200):
        p, q = nn.CompactBilinearPool(8, 64, seed=seed, **RAW)(x)
        estimates.append(p @ q)
    error = torch.stack(estimates).std() / 200**0.5
    assert abs(torch.stack(estimates).mean() - a @ b) < 4 * error < 0.1 * a @ b


def test_buffers_survive_casts():
    pool = nn.CompactBilinearPool(5, 16).half()
    assert {str(b.dtype) for b in pool.state_dict().values()} == {"torch.int64", "torch.int8"}
    assert set(pool.state_dict()) == {"sketch.hash0", "sketch.sign0", "sketch.hash1", "sketch.sign1"}

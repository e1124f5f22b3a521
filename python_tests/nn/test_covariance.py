"""Matrix square roots by Newton-Schulz against eigenvectors."""

from __future__ import annotations

import pytest
import torch

from c2f_ops import nn
from c2f_ops.nn.covariance import newton_schulz_root


def covariance(x):
    """``[B, C, H, W]`` -> ``[B, C, C]``, divided by N."""
    return torch.stack([torch.cov(sample.flatten(1), correction=0) for sample in x])


def by_eigenvectors(matrix, function):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(function(values.clamp(min=0))) @ vectors.mT


def scalar_iterations(a, iterations):
    """The same iterations on numbers."""
    y, z = a, torch.ones_like(a)
    for _ in range(iterations):
        t = (3 - z * y) / 2
        y, z = y * t, z * t
    return y


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_iterations_act_on_the_eigenvalues(iterations):
    a = covariance(torch.randn(3, 6, 4, 4, dtype=torch.float64))
    a = a / a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    expected = by_eigenvectors(a, lambda v: scalar_iterations(v, iterations))
    torch.testing.assert_close(newton_schulz_root(a, iterations), expected)


def test_converges_to_the_square_root_of_the_covariance():
    x = (
        torch.randn(3, 6, 5, 5, dtype=torch.float64)
        * torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)[:, None, None, None]
    )
    expected = by_eigenvectors(covariance(x), torch.sqrt)
    rows, columns = torch.triu_indices(6, 6)
    exact = nn.CovariancePool(6, None, iterations=20)(x)
    torch.testing.assert_close(exact, expected[:, rows, columns], rtol=1e-8, atol=1e-8)
    five = nn.CovariancePool(6, None)(x)
    assert ((five - exact).norm(dim=1) < 0.05 * exact.norm(dim=1)).all()
    assert not nn.CovariancePool(6, None).state_dict()


def test_projects_first():
    pool, x = nn.CovariancePool(6, 3).double(), torch.randn(2, 6, 4, 4, dtype=torch.float64)
    projected = torch.einsum("bchw,cd->bdhw", x, pool.weight)
    torch.testing.assert_close(pool(x), nn.CovariancePool(3, None)(projected))
    assert pool.out_features == 6 and pool.weight.abs().max() <= (3 / 6) ** 0.5


def test_constant_maps_and_few_positions_have_finite_gradients():
    pool = nn.CovariancePool(6, None)
    for x in (torch.ones(2, 6, 3, 3), torch.zeros(2, 6, 3, 3), torch.randn(2, 6, 1, 2)):
        x.requires_grad_()
        out = pool(x)
        out.sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all()
    assert pool(torch.ones(2, 6, 3, 3)).abs().max() < 1e-4


def test_shift_and_scale():
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    pool = nn.CovariancePool(6, None, eps=1e-30)
    torch.testing.assert_close(pool(4 * x + 7), 4 * pool(x))

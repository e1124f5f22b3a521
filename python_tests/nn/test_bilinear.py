"""Bilinear pooling against the outer product written out."""

from __future__ import annotations

import pytest
import torch

from c2f_ops import nn
from c2f_ops.reference.signed_sqrt_normalize import signed_sqrt


def outer(x, y):
    """``sum_i x_i y_i'``, position by position."""
    total = torch.zeros(x.shape[0], x.shape[1], y.shape[1], dtype=x.dtype)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            total += x[:, :, i, j, None] * y[:, None, :, i, j]
    return total.flatten(1)


def test_equals_the_explicit_outer_product():
    x, y = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randn(2, 7, 3, 4, dtype=torch.float64)
    for pool, maps, p in (
        (nn.BilinearPool(5), x, outer(x, x)),
        (nn.BilinearPool((5, 7)), [x, y], outer(x, y)),
    ):
        s = signed_sqrt(p, "shifted", 0.03)
        torch.testing.assert_close(pool(maps), s / (s.square().sum(1, keepdim=True) + 1e-7).sqrt())
        assert pool.out_features == p.shape[1]


def test_is_a_multilinear_pool_of_channel_pairs():
    x = torch.randn(2, 3, 4, 4)
    rows, columns = torch.eye(3).repeat_interleave(3, 1), torch.eye(3).repeat(1, 3)
    factorized = nn.FactorizedBilinearPool(3, 9, bias=False)
    with torch.no_grad():
        factorized.weights[0].copy_(rows)
        factorized.weights[1].copy_(columns)
    torch.testing.assert_close(nn.BilinearPool(3)(x), factorized(x))


def test_sum_and_mean():
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(nn.BilinearPool(5, pooling="mean")(x), nn.BilinearPool(5)(x))
    plain = nn.BilinearPool(5, pooling="mean", norm_scope="none", sqrt_mode="none")
    torch.testing.assert_close(plain(x), outer(x, x) / 12)
    rooted = nn.BilinearPool(5, pooling="mean", norm_scope="none")
    torch.testing.assert_close(rooted(x), signed_sqrt(outer(x, x), "shifted", 0.03) / 12**0.5)


@pytest.mark.parametrize("norm", ["interaction", "none"])
def test_triangle_has_the_inner_products_of_the_whole(norm):
    x = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    whole, triangle = nn.BilinearPool(5, norm_scope=norm), nn.BilinearPool(5, triangle=True, norm_scope=norm)
    a, b = whole(x), triangle(x)
    assert b.shape == (4, 15) and triangle.out_features == 15 and not triangle.state_dict()
    torch.testing.assert_close(b @ b.T, a @ a.T)
    torch.testing.assert_close(b[:, [0, 5, 9, 12, 14]], a.view(4, 5, 5).diagonal(dim1=1, dim2=2))

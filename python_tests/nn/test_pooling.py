"""Layers: presets, initialisation, state, agreement with the function."""

from __future__ import annotations

import pytest
import torch

import c2f_ops
from c2f_ops import nn


def _maps(*channels):
    return [torch.relu(torch.randn(2, c, 4, 3)) for c in channels]


def test_presets_and_output_sizes():
    maps = _maps(5, 6, 7)
    mlp, hbp = nn.MultiLinearPool((5, 6, 7), 16), nn.HierarchicalBilinearPool((5, 6, 7), 16)
    assert mlp.interactions == c2f_ops.MLP and mlp(maps).shape == (2, mlp.out_features) == (2, 64)
    assert hbp.interactions == c2f_ops.HBP and hbp(maps).shape == (2, hbp.out_features) == (2, 48)
    hbp.load_state_dict(mlp.state_dict())
    assert torch.allclose(hbp(maps), mlp(maps)[:, :48], atol=1e-6)
    assert torch.allclose(mlp(maps).view(2, 4, 16).norm(dim=2), torch.ones(2, 4), atol=1e-3)


def test_factorized_pool_takes_one_map_or_two():
    x, y = _maps(5, 6)
    one, two = nn.FactorizedBilinearPool(5, 8), nn.FactorizedBilinearPool((5, 6), 8, activation="tanh")
    assert one(x).shape == one([x]).shape == (2, 8) and two([x, y]).shape == (2, 8)
    expected = c2f_ops.multilinear_pool([x, x], list(one.weights), list(one.biases), interactions=c2f_ops.FBP)
    assert torch.equal(one(x), expected)


def test_initialisations():
    torch.manual_seed(0)
    caffe, plain = nn.MultiLinearPool((512,) * 3, 4096), nn.MultiLinearPool((512,) * 3, 4096, init="torch")
    assert caffe.weights[0].std().item() == pytest.approx(0.0442, rel=0.01)
    assert caffe.weights[0].abs().max().item() <= 0.0765466 and not caffe.biases[0].any()
    assert plain.weights[0].std().item() == pytest.approx(0.0255, rel=0.01) and plain.biases[0].any()


def test_random_maclaurin_estimates_the_polynomial_kernel():
    x, y = torch.randn(1, 6, 1, 2), torch.randn(1, 6, 1, 2)
    pool = nn.RandomMaclaurinPool(6, 200_000, degree=2, seed=1, sqrt_mode="none", norm_scope="none")
    estimate = (pool(x) * pool(y)).sum().item()
    kernel = (x.flatten(2)[0].t() @ y.flatten(2)[0]).pow(2).sum().item()
    assert estimate == pytest.approx(kernel, abs=0.05 * x.square().sum().item() * y.square().sum().item())
    assert (
        not list(pool.parameters())
        and set(pool.state_dict()) == {"signs"}
        and set(pool.signs.unique().tolist()) == {-1.0, 1.0}
    )


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="MultiLinearPool: init must be one of"):
        nn.MultiLinearPool((5, 6, 7), 8, init="xavier")
    with pytest.raises(ValueError, match="HierarchicalBilinearPool: interactions must use each of the 2 feature maps"):
        nn.HierarchicalBilinearPool((5, 6), 8)
    with pytest.raises(ValueError, match="MultiLinearPool: dim must be positive, got 0"):
        nn.MultiLinearPool((5, 6, 7), 0)
    with pytest.raises(ValueError, match="degree must be between 2 and 4, got 5"):
        nn.RandomMaclaurinPool(5, 8, degree=5)


def test_repr_shows_the_configuration():
    text = repr(nn.MultiLinearPool((5, 6, 7), 8, activation="relu"))
    assert "dim=8" in text and "activation='relu'" in text

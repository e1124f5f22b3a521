"""MLPH: heads, initial values, the step from MLP to HBP, statistics per resolution."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("timm")

import c2f_ops
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.models import MLPH

BACKBONE = {
    "backbone": "timm/resnet10t",
    "taps": ("layer3.0", "layer3.1", "layer3.2"),
    "backbone_options": {"layers": (1, 1, 3, 1), "channels": (8, 8, 16, 16), "stem_width": 8},
    "image_size": 32,
    "dim": 12,
}


def make(**changes: object) -> MLPH:
    torch.manual_seed(0)
    return MLPH((2, 3, 5), **{**BACKBONE, **changes})


def test_logits_of_all_levels_or_some() -> None:
    model, x = make().eval(), torch.randn(4, 3, 32, 32)
    logits = model(x)
    assert [tuple(level.shape) for level in logits] == [(4, 2), (4, 3), (4, 5)]
    (last,) = model(x, levels=[2])
    assert torch.equal(last, logits[2])
    fine, coarse = model(x, levels=[2, 0])
    assert torch.equal(fine, logits[2]) and torch.equal(coarse, logits[0])


def test_takes_a_hierarchy_or_its_sizes() -> None:
    tree = Hierarchy(("a", "b"), (("x", "y"), ("p", "q", "r", "s")), (None, (0, 0, 1, 1)))
    assert MLPH(tree, **BACKBONE).num_classes == (2, 4)
    with pytest.raises(ValueError, match="hierarchy must have at least one level"):
        MLPH((), **BACKBONE)


def test_initial_values_are_those_of_the_released_network() -> None:
    model = make(dim=64)
    for head in model.heads:
        bound = math.sqrt(3 / (4 * 64))
        assert 0.9 * bound < head.weight.abs().max() <= bound and not head.bias.any()
    for weight in model.pool.weights:
        assert 0.9 * math.sqrt(3 / 16) < weight.abs().max() <= math.sqrt(3 / 16)


def test_without_the_trilinear_columns_mlp_is_hbp() -> None:
    mlp, hbp = make().eval(), make(interactions=c2f_ops.HBP).eval()
    pairs = 3 * BACKBONE["dim"]
    hbp.backbone.load_state_dict(mlp.backbone.state_dict())
    hbp.pool.load_state_dict(mlp.pool.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(mlp.heads, hbp.heads, strict=True):
            ours.weight[:, pairs:] = 0
            theirs.weight.copy_(ours.weight[:, :pairs])
            theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 3, 32, 32)
    for ours, theirs in zip(mlp(x), hbp(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_each_resolution_has_its_own_statistics() -> None:
    model = make(resolution_statistics=3).train()
    before = model.statistics.mean.clone()
    model(2 + torch.randn(4, 3, 32, 32), resolution=1)
    assert torch.equal(model.statistics.mean[0], before[0]) and torch.equal(model.statistics.mean[2], before[2])
    assert not torch.equal(model.statistics.mean[1], before[1])
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    kept = model.statistics.mean.clone()
    fine, middle = model(x)[0], model(x, resolution=1)[0]
    assert not torch.equal(fine, middle)
    assert torch.equal(model(x, resolution=2)[0], fine), "the default is the finest"
    assert torch.equal(model.statistics.mean, kept), "evaluation changes nothing"
    with pytest.raises(ValueError, match=r"resolution must be in 0..2, got 3"):
        model(x, resolution=3)


def test_statistics_per_resolution_need_batch_norm() -> None:
    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    with pytest.raises(ValueError, match="resolution_statistics must be None"):
        make(backbone="timm/vit_tiny_patch16_224", taps=None, backbone_options=vit, resolution_statistics=3)


def test_state_survives_a_round_trip() -> None:
    model, other = make(resolution_statistics=3), make(resolution_statistics=3)
    model.train()
    model(torch.randn(4, 3, 32, 32), resolution=0)
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(x, resolution=0)[0], other.eval()(x, resolution=0)[0])


def test_heads_and_pooled_vector_stay_in_float32_under_autocast() -> None:
    model, x = make().eval(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.embed(x).dtype == torch.float32
        assert all(logits.dtype == torch.float32 for logits in model(x))

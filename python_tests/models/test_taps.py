"""Backbones: where they are tapped, where they end, and what they refuse."""

from __future__ import annotations

import urllib.error

import pytest
import torch
from torch import nn

pytest.importorskip("timm")
pytest.importorskip("torchvision")

import timm
import torchvision

from c2f_ops.models import TappedBackbone, taps

TINY_RESNET = {"layers": (1, 1, 3, 1), "channels": (8, 8, 16, 16), "stem_width": 8}
TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2}


@pytest.fixture(scope="module")
def vgg() -> TappedBackbone:
    return TappedBackbone("torchvision/vgg16", image_size=32, options={"init_weights": False})


def test_vgg16_taps_are_the_relus_of_block_five(vgg: TappedBackbone) -> None:
    assert vgg.taps == ("features.25", "features.27", "features.29")
    assert vgg.channels == (512, 512, 512) and vgg.layout == "NCHW" and vgg.positions == 4
    x = torch.randn(2, 3, 32, 32)
    expected, y, layer = [], x, dict(vgg.body.named_parameters())
    for index in (0, 2, "pool", 5, 7, "pool", 10, 12, 14, "pool", 17, 19, 21, "pool", 24, 26, 28):
        if index == "pool":
            y = nn.functional.max_pool2d(y, 2)
            continue
        weight, bias = layer[f"features.{index}.weight"], layer[f"features.{index}.bias"]
        y = torch.relu(nn.functional.conv2d(y, weight, bias, padding=1))
        if index in (24, 26, 28):
            expected.append(y)
    for got, want in zip(vgg(x), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_vgg16_ends_at_its_last_tap(vgg: TappedBackbone) -> None:
    names = [name for name, _ in vgg.named_parameters()]
    assert len(names) == 26 and names[-1] == "body.features.28.bias"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("torchvision/vgg16_bn", ("features.36", "features.39", "features.42")),
        ("timm/vgg16_bn", ("features.36", "features.39", "features.42")),
        ("torchvision/resnet50", ("layer4.0", "layer4.1", "layer4.2")),
        ("timm/resnet101", ("layer4.0", "layer4.1", "layer4.2")),
        ("timm/resnet18", ("layer4.0", "layer4.1", "layer4.1")),
        ("timm/regnetx_002", ("s4.b5", "s4.b6", "s4.b7")),
        ("timm/vit_base_patch16_224", ("blocks.9", "blocks.10", "blocks.11")),
        ("torchvision/vit_b_16", tuple(f"encoder.layers.encoder_layer_{i}" for i in (9, 10, 11))),
    ],
)
def test_default_taps(model: str, expected: tuple[str, ...]) -> None:
    library, name = model.split("/")
    with torch.device("meta"):
        network = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    assert taps.default_taps(network, model) == expected


def test_transformer_tokens_lose_their_prefix_and_get_their_own_norm() -> None:
    backbone = TappedBackbone("timm/vit_tiny_patch16_224", image_size=32, options=TINY_VIT)
    assert backbone.layout == "NLC" and backbone.taps == ("blocks.1", "blocks.2", "blocks.3")
    assert backbone.num_prefix_tokens == 1 and backbone.positions == 16
    assert backbone.norms is not None and len(backbone.norms) == 3
    x = torch.randn(2, 3, 32, 32)
    backbone.eval()
    for tokens, raw, norm in zip(backbone(x), backbone.body(x).values(), backbone.norms, strict=True):
        torch.testing.assert_close(tokens, norm(raw[:, 1:]))
    assert not any(name.startswith(("body.norm", "body.head")) for name, _ in backbone.named_parameters())


def test_any_modules_can_be_named_also_twice() -> None:
    backbone = TappedBackbone("timm/resnet10t", ("layer3.1", "layer3.1.act1"), image_size=32, options=TINY_RESNET)
    block, inner = backbone(torch.randn(1, 3, 32, 32))
    assert block.shape == inner.shape == (1, 16, 2, 2) and not torch.equal(block, inner)
    assert not any("layer3.2" in name or "layer4" in name for name, _ in backbone.named_parameters())
    twice = TappedBackbone("timm/resnet10t", ("layer3.1", "layer3.1"), image_size=32, options=TINY_RESNET)
    first, second = twice(torch.randn(1, 3, 32, 32))
    assert first is second


def test_a_tap_before_an_inplace_relu_keeps_its_values(vgg: TappedBackbone) -> None:
    backbone = TappedBackbone("vgg11", ("features.16", "features.18"), image_size=32, options={"init_weights": False})
    assert backbone(torch.randn(1, 3, 32, 32))[0].min() < 0


def test_unequal_maps_need_a_word() -> None:
    names = ("layer2.0", "layer3.0")
    with pytest.raises(ValueError, match=r"maps of one size, got layer2.0 4x4, layer3.0 2x2"):
        TappedBackbone("timm/resnet10t", names, image_size=32, options=TINY_RESNET)
    backbone = TappedBackbone("timm/resnet10t", names, image_size=32, options=TINY_RESNET, unequal="pool").eval()
    x = torch.randn(1, 3, 32, 32)
    pooled, kept = backbone(x)
    torch.testing.assert_close(pooled, nn.functional.avg_pool2d(backbone.body(x)["layer2.0"], 2))
    assert kept.shape[2:] == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nosuchnet"}, "name must be a model of torchvision or timm, got 'nosuchnet'"),
        ({"name": "elsewhere/net"}, "name must start with torchvision/ or timm/"),
        ({"taps": ("layer3.9",)}, r"taps must be modules of timm/resnet10t, got 'layer3.9'; near it are layer3.0"),
        ({"taps": ()}, "taps must be 1 to 4 module names"),
        ({"taps": ("layer3.0",) * 5}, "taps must be 1 to 4 module names"),
        ({"options": {"nonsense": 1}}, "options must suit timm/resnet10t"),
        ({"layout": "CHW"}, "layout must be one of"),
        ({"image_size": 0}, "image_size must be positive"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    given = {"name": "timm/resnet10t", "image_size": 32, "options": TINY_RESNET, **arguments}
    with pytest.raises(ValueError, match=message):
        TappedBackbone(**given)


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(RuntimeError, match=r"weights 'default' of torchvision/vgg16 .* give its path"):
        TappedBackbone("torchvision/vgg16", weights="default")


def test_weights_from_a_file(tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    full = timm.create_model("resnet10t", **TINY_RESNET)
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(full.state_dict(), path)
    given = {"image_size": 32, "options": TINY_RESNET, "taps": ("layer3.0",)}
    backbone = TappedBackbone("timm/resnet10t", weights=str(path), **given)
    own = full.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in backbone.body.state_dict().items())
    safetensors.save_file({"conv1.0.weight": own["conv1.0.weight"]}, path)
    with pytest.raises(ValueError, match="weights must hold"):
        TappedBackbone("timm/resnet10t", weights=str(path), **given)
    with pytest.raises(FileNotFoundError, match="weights must be a file"):
        TappedBackbone("timm/resnet10t", weights=str(tmp_path / "none.pth"), **given)

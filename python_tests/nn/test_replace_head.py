"""A pooling layer and a classifier in place of the heads of networks of timm and torchvision, without weights."""

from __future__ import annotations

import copy

import pytest
import torch

from c2f_ops import nn

models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")

SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 2}
# library, name, options, side of the images, width of the last map, the last linear layer where the old head is an
# average and that layer alone
NETWORKS = [
    ("torchvision", "vgg11", {"init_weights": False}, 64, 512, None),
    ("torchvision", "resnet18", {}, 64, 512, "fc"),
    ("torchvision", "regnet_y_400mf", {}, 64, 440, "fc"),
    ("torchvision", "shufflenet_v2_x0_5", {}, 64, 1024, "fc"),
    ("torchvision", "mnasnet0_5", {}, 64, 1280, "classifier.1"),
    ("torchvision", "mobilenet_v3_small", {}, 64, 576, None),
    ("torchvision", "efficientnet_b0", {}, 64, 1280, "classifier.1"),
    ("torchvision", "densenet121", {}, 64, 1024, "classifier"),
    ("torchvision", "convnext_tiny", {}, 64, 768, None),
    ("torchvision", "swin_t", {}, 64, 768, "head"),
    ("torchvision", "vit", {}, 32, 16, None),
    ("timm", "vgg11", {"mlp_ratio": 0.01}, 64, 512, None),
    ("timm", "resnet10t", {}, 64, 512, "fc"),
    ("timm", "regnetx_002", {}, 64, 368, "head.fc"),
    ("timm", "efficientnet_b0", {}, 64, 1280, "classifier"),
    ("timm", "mobilenetv3_small_050", {}, 64, 288, None),
    ("timm", "convnext_atto", {}, 64, 320, None),
    ("timm", "swin_tiny_patch4_window7_224", {"img_size": 64, **SWIN}, 64, 192, "head.fc"),
    ("timm", "vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, 64, 192, None),
    ("timm", "deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}, 64, 192, None),
    ("timm", "vit_tiny_patch16_224", {"img_size": (32, 64), "depth": 1, "global_pool": "avg"}, (32, 64), 192, None),
]
POOLS = [
    lambda c: nn.GeMPool(c),
    lambda c: nn.MultiLinearPool(c, 8),
    lambda c: nn.CovariancePool(c, 8),
    lambda c: nn.CompactBilinearPool(c, 32),
    lambda c: nn.RandomMaclaurinPool(c, 16),
]


def build(library, name, options):
    if name == "vit":
        return models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    if library == "timm":
        return timm.create_model(name, pretrained=False, **options)
    return models.get_model(name, weights=None, **options)


@pytest.mark.parametrize(
    ("network", "pool"),
    [(n, POOLS[i % len(POOLS)]) for i, n in enumerate(NETWORKS)],
    ids=[f"{n[0]}-{n[1]}{'-avg' * ('global_pool' in n[2])}" for n in NETWORKS],
)
def test_networks(network, pool):
    library, name, options, side, width, last = network
    model = build(library, name, options).eval()
    images = torch.randn(2, 3, *(side if isinstance(side, tuple) else (side, side)))
    pixels = {id(p) for p in model.parameters()}
    linear = copy.deepcopy(model.get_submodule(last)) if last else None
    expected = model(images).detach() if last else None

    with pytest.raises(ValueError, match=rf"replace_head: pool must have in_channels={width}, .*, got 7"):
        nn.replace_head(model, nn.AveragePool(7), 3)
    if last:  # the average of what the body returns must be what the old classifier saw
        replaced = nn.replace_head(copy.deepcopy(model), nn.AveragePool(width), linear.out_features)
        replaced.classifier.load_state_dict(linear.state_dict())
        torch.testing.assert_close(replaced.eval()(images), expected, rtol=1e-4, atol=1e-5)

    replaced = nn.replace_head(model, pool(width), 3)
    assert list(dict(replaced.named_children())) == ["body", "pool", "classifier"]
    assert {id(p) for p in replaced.body.parameters()} < pixels and not replaced.body.training
    assert replaced(images).shape == (2, 3)
    replaced.train()(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in replaced.parameters())
    assert any(p.grad.any() for p in replaced.body.parameters())


def test_class_and_register_tokens_are_not_pooled():
    model = timm.create_model("vit_small_patch14_reg4_dinov2", pretrained=False, img_size=56, depth=1, embed_dim=48)
    replaced = nn.replace_head(model, nn.AveragePool(48), 3).eval()
    assert (replaced.pool.layout, replaced.pool.num_prefix_tokens) == ("NLC", 5)
    tokens = replaced.body(torch.randn(1, 3, 56, 56))
    torch.testing.assert_close(replaced.pool(tokens), tokens[:, 5:].mean(1))


def test_frozen_and_converted_networks_keep_their_state():
    model = models.resnet18(weights=None).to(torch.bfloat16)
    model.requires_grad_(False)
    model.bn1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    replaced = nn.replace_head(model, nn.CompactBilinearPool(512, 32), 3)
    assert {p.dtype for p in replaced.parameters()} == {torch.bfloat16}
    assert not replaced.body.bn1.training and replaced.body.layer1.training
    assert all(torch.equal(v, before[k]) for k, v in replaced.body.state_dict().items())
    replaced(torch.randn(2, 3, 64, 64, dtype=torch.bfloat16)).sum().backward()
    assert all((p.grad is None) == name.startswith("body") for name, p in replaced.named_parameters())


def test_state_dict_round_trip_and_compile():
    def build_one(seed):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1, embed_dim=12)
        return nn.replace_head(model, nn.KernelPool(12, (16,), seed=seed), 3)

    first, second, images = build_one(1), build_one(2), torch.randn(2, 3, 32, 32)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))
    compiled = torch.compile(copy.deepcopy(first), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), first(images), rtol=1e-4, atol=1e-5)


def test_other_numbers_of_input_channels():
    model = timm.create_model("resnet10t", pretrained=False, in_chans=1)
    assert nn.replace_head(model, nn.MaxPool(512), 3)(torch.randn(2, 1, 64, 64)).shape == (2, 3)


class _Neck(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.neck, self.fc = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 5, 1), torch.nn.Linear(5, 2)


def test_errors_say_what_to_do():
    with pytest.raises(
        ValueError, match=r"network of timm or torchvision that it knows, got _Neck with children feat.*"
    ):
        nn.replace_head(_Neck(), nn.MaxPool(5), 3)
    with pytest.raises(
        ValueError, match=r"put it together by hand, .*torch.nn.Sequential\(body, pool, torch.nn.Linear"
    ):
        nn.replace_head(torch.nn.Linear(3, 4), nn.MaxPool(4), 3)
    resnet = models.resnet18(weights=None).eval()
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        nn.replace_head(resnet, nn.MaxPool(512), 0)
    with pytest.raises(ValueError, match="pool must have out_features, the width of its result, got AdaptiveAvgPool2d"):
        nn.replace_head(resnet, torch.nn.AdaptiveAvgPool2d(1), 3)
    with pytest.raises(ValueError, match=r"pool must take one map, in_channels=512, got in_channels=\(512, 512, 512\)"):
        nn.replace_head(resnet, nn.MultiLinearPool((512,) * 3, 8), 3)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=1)
    with pytest.raises(ValueError, match=r"image_size must suit the network, got \(32, 32\)"):
        nn.replace_head(vit, nn.MaxPool(192), 3, image_size=32)
    assert resnet(torch.randn(1, 3, 32, 32)).shape == (1, 1000)  # nothing was taken apart
    assert vit.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 1000)

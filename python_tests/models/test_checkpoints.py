"""Backbones by name, and weights read from files in the formats of others."""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")
pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")

from c2f_ops.models.checkpoints import load_backbone_weights  # noqa: E402
from c2f_ops.models.resnet_cifar import CifarResNet, make_backbone  # noqa: E402
from c2f_ops.training.checkpoint import save_checkpoint  # noqa: E402


def small(seed: int = 0) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet((4, 8), (1, 1))


def weights(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in model.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- backbones -------------------------------------------------------------------------------------------------------


def test_cifar_resnet18_is_torchvisions_but_for_the_stem():
    from torchvision.models import resnet18

    theirs = resnet18()
    theirs.conv1, theirs.maxpool, theirs.fc = nn.Conv2d(3, 64, 3, 1, 2, bias=False), nn.Identity(), nn.Identity()
    ours = make_backbone("cifar_resnet18").eval()
    assert ours.num_features == 512
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("cifar_resnet_small", {}, 32),
        ("torchvision/resnet18", {}, 32),
        ("torchvision/mobilenet_v3_small", {}, 32),
        ("timm/resnet10t", {"channels": [8, 8, 16, 16], "stem_width": 8}, 32),
    ],
)
def test_a_backbone_gives_a_vector_per_image(name, options, size):
    model = make_backbone(name, options=options).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, model.num_features)
    assert len(model.mean) == len(model.std) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(name="resnet18"), "name must be one of cifar_resnet18"),
        (dict(name="torchvision/nonsense"), "name must be a model of torchvision"),
        (dict(name="torchvision/squeezenet1_0"), "linear classifier"),
        (dict(name="cifar_resnet18", weights="default"), "weights must be None"),
        (dict(name="cifar_resnet18", options={"colour": 1}), "options must suit"),
        (dict(name="cifar_resnet18", options={"widths": (8,)}), "one of each per stage"),
    ],
)
def test_bad_backbones_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(**call)


# ---- files -----------------------------------------------------------------------------------------------------------


def mocov3(model: nn.Module) -> dict:
    other = small(9)
    return {
        "epoch": 1000,
        "arch": "resnet18",
        "state_dict": {
            **weights(other, "module.momentum_encoder."),
            **weights(model, "module.base_encoder."),
            "module.base_encoder.fc.0.weight": torch.zeros(5, 8),
            "module.predictor.0.weight": torch.zeros(5, 5),
        },
    }


def solo(model: nn.Module) -> dict:
    heads = {"projector.0.weight": torch.zeros(5, 8), "classifier.weight": torch.zeros(3, 8)}
    return {"state_dict": {**weights(small(9), "momentum_backbone."), **weights(model, "backbone."), **heads}}


@pytest.mark.parametrize(
    ("source", "prefix", "content"),
    [
        ("mocov3", "module.base_encoder.", mocov3),
        ("mocov3", "module.encoder_q.", lambda m: {"state_dict": weights(m, "module.encoder_q.")}),
        ("solo", "backbone.", solo),
        ("timm", "", lambda m: {**weights(m), "fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10)}),
        ("torchvision", "", lambda m: {**weights(m), "fc.weight": torch.zeros(10, 8)}),
        ("torchvision", "module.", lambda m: {"model": weights(m, "module.")}),
    ],
    ids=["mocov3", "moco", "solo", "timm", "torchvision", "ddp"],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "auto"])
def test_weights_come_back_from_each_format(tmp_path, source, prefix, content, named):
    wanted, model = small(1), small(2)
    torch.save(content(wanted), tmp_path / "weights.pth")
    report = load_backbone_weights(model, tmp_path / "weights.pth", source=source if named else "auto")
    assert same(model, wanted)
    assert report.prefix == prefix
    assert (report.missing, report.unexpected) == ((), ())
    assert set(report.loaded) == set(model.state_dict())
    assert not any(key.startswith(prefix + "conv1") for key in report.dropped)


def test_our_own_checkpoints_and_a_named_prefix(tmp_path):
    wanted, model = small(1), small(2)
    tensors = {**weights(wanted, "backbone."), "projector.0.weight": torch.zeros(5, 8)}
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    assert load_backbone_weights(model, tmp_path, source="c2f").dropped == ("projector.0.weight",)  # the folder
    assert same(model, wanted)
    for step, seed in ((2, 3), (10, 4)):
        folder = save_checkpoint(tmp_path / "run", step, nn.ModuleDict({"backbone": small(seed)}), None, {}, "none")
    load_backbone_weights(model, tmp_path / "run")
    assert same(model, small(4))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000010 is damaged"):
        load_backbone_weights(model, tmp_path / "run")
    assert same(model, small(3))
    with pytest.raises(ValueError, match=r"path must hold an intact checkpoint, got .*model.safetensors is not as"):
        load_backbone_weights(model, folder)
    torch.save(mocov3(wanted), tmp_path / "moco.pth")
    load_backbone_weights(model, tmp_path / "moco.pth", prefix="module.momentum_encoder.")
    assert same(model, small(9))


def test_missing_and_unexpected_tensors_are_errors_or_reported(tmp_path):
    wanted = weights(small(1))
    del wanted["layer2.0.conv1.weight"]
    wanted["layer1.1.conv1.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save(wanted, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"1 missing \(layer2.0.conv1.weight \[8, 4, 3, 3\]\) and 1 unexpected"):
        load_backbone_weights(small(), tmp_path / "odd.pth")
    report = load_backbone_weights(small(), tmp_path / "odd.pth", strict=False)
    assert report.missing == ("layer2.0.conv1.weight",)
    assert report.unexpected == ("layer1.1.conv1.weight",)


def test_a_tensor_of_another_size_is_an_error(tmp_path):
    torch.save(
        weights(CifarResNet((4, 8), (1, 1), padding=1)) | {"conv1.weight": torch.zeros(4, 3, 7, 7)}, tmp_path / "w.pt"
    )
    with pytest.raises(ValueError, match=r"conv1.weight \[4, 3, 3, 3\]\).*conv1.weight \[4, 3, 7, 7\]"):
        load_backbone_weights(small(), tmp_path / "w.pt")


def test_files_that_need_code_or_hold_nothing_are_refused(tmp_path):
    torch.save({"state_dict": weights(small()), "args": argparse.Namespace(lr=1)}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"needs code to be run.*argparse\.Namespace"):
        load_backbone_weights(small(), tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="path must"):
        load_backbone_weights(small(), tmp_path / "text.pth")
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"weights of CifarResNet \(conv1.weight.*got other.weight"):
        load_backbone_weights(small(), tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        load_backbone_weights(small(), tmp_path / "none.pth")
    with pytest.raises(ValueError, match="source must be one of auto, mocov3"):
        load_backbone_weights(small(), tmp_path / "other.pth", source="moco")

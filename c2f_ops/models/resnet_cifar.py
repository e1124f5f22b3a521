"""Backbones that give one vector per image, by name: ResNets for 32 x 32 images, and those of torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .taps import _colours, _create, _import, _resolve

#: Arguments of `CifarResNet` by name of the backbone.
CIFAR_RESNETS: dict[str, dict[str, Any]] = {
    "cifar_resnet18": {},
    "cifar_resnet_small": {"widths": (64, 128, 256), "blocks": (1, 1, 1), "stride": 2, "padding": 1},
}


class CifarResNet(nn.Module):
    """A ResNet of basic blocks for small images: a 3 x 3 stem and no max-pooling; parameters named as in torchvision.

    Args:
        widths: channels of the stages; the stem has as many as the first.
        blocks: basic blocks of each stage; every stage but the first halves the maps.
        stride, padding: of the stem.

    Attributes:
        num_features: d, the last width. mean, std: colours of CIFAR-100's training images, RGB in 0..1.

    Shapes:
        images ``[B, 3, S, S]`` -> features ``[B, d]``.

    Source: He et al. 2016; stem with padding 2 as in solo-learn, whose CIFAR weights FALCON starts from.
    """

    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        *,
        stride: int = 1,
        padding: int = 2,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(blocks) or min(*widths, *blocks) < 1:
            raise ValueError(
                f"CifarResNet: widths and blocks must be positive, one of each per stage, "
                f"got {tuple(widths)} and {tuple(blocks)}"
            )
        block = _import("torchvision.models.resnet").BasicBlock
        self.conv1 = nn.Conv2d(3, widths[0], 3, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.num_stages, self.num_features = len(widths), widths[-1]
        channels = widths[0]
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
            layers = []
            for i in range(count):
                step = 2 if i == 0 and number > 1 else 1
                shortcut = None
                if step > 1 or channels != width:
                    shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, step, bias=False), nn.BatchNorm2d(width))
                layers.append(block(channels, width, step, shortcut))
                channels = width
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` -> features ``[B, d]``, means over the last maps."""
        x = self.relu(self.bn1(self.conv1(x)))
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean((2, 3))


def make_backbone(name: str, *, weights: str | None = None, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a backbone without classifier: images ``[B, 3, S, S]`` -> features ``[B, num_features]``.

    Args:
        name: ``"cifar_resnet18"``, ``"cifar_resnet_small"`` (a fourteenth of its cost, for CPUs),
            ``"torchvision/<model>"`` or ``"timm/<model>"``.
        weights: None for random ones, ``"default"`` or a name that the library knows.
            `c2f_ops.models.load_backbone_weights` reads files.
        options: arguments for the constructor of the model.

    Returns:
        A module with the attributes ``num_features``, ``mean`` and ``std`` (colours that it expects, RGB in 0..1).

    Raises:
        ValueError: unknown model, or options or weights that do not suit it.
    """
    if name in CIFAR_RESNETS:
        if weights is not None:
            raise ValueError(f"make_backbone: weights must be None for {name}, got {weights!r}")
        try:
            return CifarResNet(**{**CIFAR_RESNETS[name], **(options or {})})
        except TypeError as error:
            raise ValueError(f"make_backbone: options must suit {name}, got: {error}") from error
    if "/" not in name:
        known = ", ".join([*CIFAR_RESNETS, "torchvision/<model>", "timm/<model>"])
        raise ValueError(f"make_backbone: name must be one of {known}, got {name!r}")
    library, model_name = _resolve(name)
    if library == "timm":
        model = _create(library, model_name, weights, {**(options or {}), "num_classes": 0})
        features = _timm_features(model)
    else:
        model = _create(library, model_name, weights, dict(options or {}))
        features = _drop_classifier(model, name)
    mean, std = _colours(model)
    for attribute, value in (("num_features", features), ("mean", mean), ("std", std)):
        setattr(model, attribute, value)
    return model


def _timm_features(model: Any) -> int:
    """Return the width before the classifier, which some networks widen after the last stage."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def _drop_classifier(model: nn.Module, name: str) -> int:
    """Replace the last linear layer of a model of torchvision, its classifier; return the number of its inputs."""
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"make_backbone: name must be a model with a linear classifier, got {name!r}")
    classifier = model.get_submodule(linear[-1])
    assert isinstance(classifier, nn.Linear)
    model.set_submodule(linear[-1], nn.Identity())
    return classifier.in_features

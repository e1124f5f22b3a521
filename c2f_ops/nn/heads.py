"""Put a pooling layer and a linear classifier in place of the head of a network of timm or torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

# Modules that torchvision's networks run one after the other before their head, a family a line; the first line whose
# modules a network has is taken. Swin's maps are channels-last.
_CHAINS = (
    ("features", "norm"),  # Swin
    ("features",),  # VGG, EfficientNet, MobileNet, ConvNeXt, DenseNet, SqueezeNet, AlexNet
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # ResNet, ResNeXt
    ("stem", "trunk_output"),  # RegNet
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),  # ShuffleNet
    ("layers",),  # MNASNet
)
_HEADS = {"fc", "classifier", "head"}  # children with parameters that may follow a chain
_SIDE = 128  # of the image that tries a network out, if it takes any


class _Trunk(NamedTuple):
    """The part of a network before its head, and what it returns."""

    body: nn.Module
    layout: str
    num_prefix_tokens: int


class _ForwardFeatures(nn.Module):
    """A network of timm up to its head."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` -> last map or tokens."""
        return self.model.forward_features(x)


class _Tokens(_ForwardFeatures):
    """A vision transformer of torchvision up to its head."""

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` -> class token and patch tokens ``[B, 1 + L, C]``."""
        patches = self.model._process_input(x)
        return self.model.encoder(torch.cat([self.model.class_token.expand(x.shape[0], -1, -1), patches], 1))


def replace_head(
    model: nn.Module, pool: nn.Module, num_classes: int, *, image_size: int | None = None
) -> nn.Sequential:
    """Pool the last feature map of a network and classify the result: a module of ``body``, ``pool``, ``classifier``.

    Knows the networks of timm (by ``forward_features``) and those of torchvision with ``features``, and its ResNet,
    RegNet, ShuffleNet, MNASNet, Swin and ViT. One image passes through the network, in evaluation mode, to settle
    shapes and to find the modules that only the old head uses, which are dropped. The network is taken apart: use the
    result in its place. For any other network, put the three together by hand, with a body that returns its last map:
    ``nn.Sequential(body, pool, nn.Linear(pool.out_features, num_classes))``.

    Args:
        model: Network of timm or torchvision, with or without weights.
        pool: Layer of `c2f_ops.nn` for one map (``in_channels`` a number), or any module with ``out_features`` that
            takes what the network returns. ``layout`` and ``num_prefix_tokens`` of the pool are set to what the network
            gives; class and register tokens are not pooled. It takes the device and type of the network.
        num_classes: Width of the classifier, a `torch.nn.Linear`.
        image_size: Side of the image that tries the network out; default what the network says it needs, or 128.

    Returns:
        `torch.nn.Sequential` of ``body``, ``pool`` and ``classifier``: images ``[B, 3, H, W]`` -> logits
        ``[B, num_classes]``.

    Raises:
        ValueError: the network is not understood, or the pool does not fit it; nothing is changed.
    """
    if num_classes < 1:
        raise ValueError(f"replace_head: num_classes must be positive, got {num_classes}")
    width: Any = getattr(pool, "out_features", None)
    if not isinstance(width, int):
        raise ValueError(
            f"replace_head: pool must have out_features, the width of its result, got {type(pool).__name__}"
        )
    trunk = _trunk(model)
    maps, used = _try_out(trunk.body, (image_size, image_size) if image_size else _image_size(model))
    layout = "NLC" if maps.ndim == 3 else trunk.layout
    _check_channels(model, pool, maps.shape[1 if layout == "NCHW" else -1])
    settings: Any = pool
    if hasattr(pool, "layout"):
        settings.layout = layout
        settings.num_prefix_tokens = trunk.num_prefix_tokens if layout == "NLC" else 0
    if isinstance(trunk.body, _ForwardFeatures):
        for name, child in model.named_children():
            parameters = [id(p) for p in child.parameters()]
            if parameters and used.isdisjoint(parameters):
                setattr(model, name, nn.Identity())
    classifier = nn.Linear(width, num_classes)
    for part in (pool, classifier):
        part.to(maps.device, maps.dtype).train(model.training)
    whole = nn.Sequential(OrderedDict(body=trunk.body, pool=pool, classifier=classifier))
    whole.training = trunk.body.training = model.training  # the modules of the network keep their own
    return whole


def _trunk(model: nn.Module) -> _Trunk:
    prefix = int(getattr(model, "num_prefix_tokens", getattr(model, "cls_token", None) is not None))
    if callable(getattr(model, "forward_features", None)):
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return _Trunk(_ForwardFeatures(model), "NHWC" if channels_last else "NCHW", prefix)
    if all(hasattr(model, name) for name in ("_process_input", "class_token", "encoder")):
        return _Trunk(_Tokens(model), "NLC", 1)
    children = dict(model.named_children())
    with_parameters = {name for name, child in children.items() if next(child.parameters(), None) is not None}
    for chain in _CHAINS:
        if all(name in children for name in chain) and with_parameters - set(chain) <= _HEADS:
            parts = OrderedDict((name, children[name]) for name in chain)
            if "norm5" in dict(children["features"].named_children() if chain == ("features",) else ()):
                parts["relu"] = nn.ReLU()  # DenseNet's forward has it as a function
            return _Trunk(nn.Sequential(parts), "NHWC" if "norm" in chain else "NCHW", 0)
    raise ValueError(
        f"replace_head: model must be a network of timm or torchvision that it knows, got {type(model).__name__} with "
        f"children {', '.join(children) or 'none'}; put it together by hand, with a body that returns the last map: "
        "torch.nn.Sequential(body, pool, torch.nn.Linear(pool.out_features, num_classes))"
    )


def _image_size(model: nn.Module) -> tuple[int, int]:
    """Height and width that a network is built for; any will do for most that are convolutional."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or getattr(model, "image_size", None)
    config = getattr(model, "pretrained_cfg", None) or {}
    if size is None and config.get("fixed_input_size"):
        size = config["input_size"][-2:]
    return (size, size) if isinstance(size, int) else tuple(size or (_SIDE, _SIDE))


def _try_out(body: nn.Module, image_size: tuple[int, int]) -> tuple[Tensor, set[int]]:
    """The last map of a black image, and the identities of the parameters that it depends on."""
    modes = [(module, module.training) for module in body.modules()]
    stand_ins = {name: p.detach().requires_grad_() for name, p in body.named_parameters()}  # frozen ones count too
    first = next((m for m in body.modules() if isinstance(m, nn.Conv2d)), None)
    image = next(iter(stand_ins.values())).new_zeros(1, first.in_channels if first else 3, *image_size)
    body.eval()
    try:
        with torch.enable_grad():
            maps = functional_call(body, stand_ins, (image,))
    except Exception as error:  # a foreign forward may fail in any way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"replace_head: image_size must suit the network, got {image_size}: {reason}") from error
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4):
        got = f"shape {list(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"replace_head: model must return a map or tokens before its head, got {got}")
    reached = _leaves(maps)
    parameters = dict(body.named_parameters())
    return maps.detach(), {id(parameters[name]) for name, p in stand_ins.items() if id(p) in reached}


def _leaves(result: Tensor) -> set[int]:
    """Identities of the tensors whose gradients a backward from ``result`` would fill."""
    seen, open_nodes = set(), [result.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            open_nodes += [parent for parent, _ in node.next_functions]
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


def _check_channels(model: nn.Module, pool: nn.Module, channels: int) -> None:
    given = getattr(pool, "in_channels", None)
    if given is None:
        return
    if not getattr(pool, "single_map", True):
        raise ValueError(f"replace_head: pool must take one map, in_channels={channels}, got in_channels={given}")
    expected = given if isinstance(given, int) else given[0]
    if expected != channels:
        raise ValueError(
            f"replace_head: pool must have in_channels={channels}, the width of the last map of "
            f"{type(model).__name__}, got {expected}"
        )

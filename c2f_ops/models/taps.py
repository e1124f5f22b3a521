"""Backbones of torchvision and timm that end at their last tap and return the tapped feature maps."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import MAX_FACTORS
from ._tensors import read_tensors

LIBRARIES = ("torchvision", "timm")
LAYOUTS = ("auto", "NCHW", "NHWC", "NLC")
UNEQUAL = ("error", "pool")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Where the last stage of a family keeps its blocks; the default taps are the last three.
_STAGES = (
    "layer4",  # ResNet of both libraries
    "s4",  # RegNet, timm
    "trunk_output.block4",  # RegNet, torchvision
    "stages.3.blocks",  # ConvNeXt and its kin, timm
    "layers.3.blocks",  # Swin, timm
    "encoder.layers",  # ViT, torchvision
    "blocks",  # ViT, timm
)


class TappedBackbone(nn.Module):
    """A network of torchvision or timm, cut off after the last of its taps.

    Maps ``[B, C, H, W]`` pass as they are; token sequences lose their prefix tokens and go through a LayerNorm of their
    own per tap, since the residual stream of a transformer grows with depth.

    Args:
        name: ``"torchvision/<model>"`` or ``"timm/<model>"``; without a prefix, torchvision is asked first.
        taps: one to four module names, the same one repeated if need be. None: the last three ReLUs of VGG (relu5_1,
            relu5_2 and relu5_3 of VGG-16), or the last three blocks of the last stage of a ResNet, RegNet, ConvNeXt,
            Swin or ViT; a stage of fewer blocks gives its last one several times.
        weights: None for random ones, ``"default"`` or a name that the library knows, or a ``.safetensors`` or ``.pth``
            file.
        options: arguments for the constructor of the model, such as ``{"output_stride": 16}``.
        image_size: side of the images that the model is built for and checked with.
        layout: of the tapped maps: ``"NCHW"``, ``"NHWC"``, ``"NLC"``, or ``"auto"`` to tell from their shapes.
        unequal: taps of different sizes are an ``"error"``, or the larger ones shrink by adaptive average pooling
            (``"pool"``).

    Attributes:
        taps: module names. channels: C of each tap. layout: settled. positions: L of the maps for ``image_size``.
        mean, std: of the colours, RGB in 0..1, that the network expects.

    Raises:
        ValueError: unknown model or tap, taps of unequal size, or weights that do not fit.
        RuntimeError: weights cannot be had on this machine; the message says what to do.
    """

    def __init__(
        self,
        name: str = "torchvision/vgg16",
        taps: Sequence[str] | None = None,
        *,
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
        image_size: int = 224,
        layout: str = "auto",
        unequal: str = "error",
    ) -> None:
        super().__init__()
        for argument, value, allowed in (("layout", layout, LAYOUTS), ("unequal", unequal, UNEQUAL)):
            if value not in allowed:
                raise ValueError(f"TappedBackbone: {argument} must be one of {', '.join(allowed)}, got {value!r}")
        library, model_name = _resolve(name)
        is_file = weights is not None and weights.endswith((".safetensors", ".pth", ".pt"))
        model = _create(library, model_name, None if is_file else weights, dict(options or {}))
        self.name = f"{library}/{model_name}"
        self.taps = _check_taps(default_taps(model, self.name) if taps is None else taps, model, self.name)
        self.unequal = unequal
        self.mean, self.std = _colours(model)
        prefix = int(getattr(model, "num_prefix_tokens", 1 if hasattr(model, "class_token") else 0))
        self.body = _cut(library, model, self.taps, self.name)
        if is_file:
            _load_file(self.body, Path(str(weights)))

        maps = self._probe(image_size)
        self.layout = _layout_of(maps, layout, self.name)
        self.num_prefix_tokens = prefix if self.layout == "NLC" else 0
        axis = 1 if self.layout == "NCHW" else -1
        self.channels = tuple(x.shape[axis] for x in maps)
        sizes = [self._grid(x) for x in maps]
        if len(set(sizes)) > 1 and (unequal == "error" or self.layout == "NLC"):
            listed = ", ".join(f"{tap} {'x'.join(map(str, s))}" for tap, s in zip(self.taps, sizes, strict=True))
            raise ValueError(
                f"TappedBackbone: taps of {self.name} must have maps of one size, got {listed}; "
                "name others, or use unequal='pool' (maps, not tokens)"
            )
        self.positions = min(_product(s) for s in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels) if self.layout == "NLC" else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images ``[B, 3, S, S]`` -> one map per tap, in ``layout``, all with the same number of positions."""
        found = self.body(x)
        maps = [found[tap] for tap in self.taps]
        if self.norms is not None:
            return [norm(m[:, self.num_prefix_tokens :]) for norm, m in zip(self.norms, maps, strict=True)]
        grids = [self._grid(m) for m in maps]
        if len(set(grids)) == 1:
            return maps
        smallest = min(grids, key=_product)
        if self.layout == "NCHW":
            return [F.adaptive_avg_pool2d(m, smallest) for m in maps]
        return [F.adaptive_avg_pool2d(m.permute(0, 3, 1, 2), smallest).permute(0, 2, 3, 1) for m in maps]

    def _grid(self, x: Tensor) -> tuple[int, int]:
        if self.layout == "NLC":
            return x.shape[1] - self.num_prefix_tokens, 1
        height, width = x.shape[2:] if self.layout == "NCHW" else x.shape[1:3]
        return height, width

    @torch.no_grad()
    def _probe(self, image_size: int) -> list[Tensor]:
        """Run one black image; where a later layer overwrites a tap in place, layers stop working in place."""
        if image_size < 1:
            raise ValueError(f"TappedBackbone: image_size must be positive, got {image_size}")
        training = self.body.training
        self.body.eval()
        run = _Watch(self.body, self.taps)
        try:
            run.run(torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"TappedBackbone: image_size must suit {self.name}, got {image_size}: {reason}") from None
        if any(x._version != version for x, version in run.seen.values()):
            for module in self.body.modules():
                if getattr(module, "inplace", False) is True:
                    module.inplace = False  # type: ignore[assignment]
        self.body.train(training)
        return [run.seen[tap][0] for tap in self.taps]

    def extra_repr(self) -> str:
        """Show what was tapped."""
        return f"name={self.name!r}, taps={self.taps}, channels={self.channels}, layout={self.layout!r}"


class _Watch(torch.fx.Interpreter):
    """Runs a cut network and notes each tap with its version counter at the time it was computed."""

    def __init__(self, body: nn.Module, taps: Sequence[str]) -> None:
        super().__init__(body)  # type: ignore[arg-type]
        output = next(node for node in body.graph.nodes if node.op == "output")  # type: ignore[union-attr]
        self._names = {output.args[0][tap]: tap for tap in taps}
        self.seen: dict[str, tuple[Tensor, int]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if n in self._names:
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"TappedBackbone: taps must give tensors, got {type(value).__name__} from {self._names[n]}"
                )
            self.seen[self._names[n]] = (value, value._version)
        return value


def default_taps(model: nn.Module, name: str) -> tuple[str, ...]:
    """Return the last three ReLUs of a VGG, or the last three blocks of the last stage of another network."""
    modules = dict(model.named_modules())
    features = modules.get("features")
    if isinstance(features, nn.Sequential) and "vgg" in name:
        return tuple(f"features.{i}" for i, m in enumerate(features) if isinstance(m, nn.ReLU))[-3:]
    for stage in _STAGES:
        if stage in modules:
            blocks = [f"{stage}.{child}" for child, _ in modules[stage].named_children()][-3:]
            return tuple(blocks + blocks[-1:] * (3 - len(blocks)))
    children = ", ".join(child for child, _ in model.named_children())
    raise ValueError(f"TappedBackbone: taps must be given for {name}, got None; its modules are {children}")


def _resolve(name: str) -> tuple[str, str]:
    library, _, model = name.rpartition("/")
    if library and library not in LIBRARIES:
        raise ValueError(f"TappedBackbone: name must start with torchvision/ or timm/, got {name!r}")
    known = {candidate: _lists(candidate) for candidate in ([library] if library else LIBRARIES)}
    for candidate, has in known.items():
        if has(model):
            return candidate, model
    raise ValueError(f"TappedBackbone: name must be a model of {' or '.join(known)}, got {model!r}")


def _lists(library: str) -> Callable[[str], bool]:
    """Whether the library knows a model, as a function of its name."""
    if library == "timm":
        timm = _import("timm")
        return lambda model: timm.is_model(model.partition(".")[0])
    models = _import("torchvision.models")
    listed = set(models.list_models(module=models))
    return lambda model: model in listed


def _import(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ImportError(f'TappedBackbone: {package} is not installed; pip install "c2f_ops[train]"') from None


def _create(library: str, model: str, weights: str | None, options: dict[str, Any]) -> nn.Module:
    try:
        if library == "timm":
            tagged = model if weights in (None, "default") else f"{model.partition('.')[0]}.{weights}"
            return _import("timm").create_model(tagged, pretrained=weights is not None, **options)
        return _import("torchvision.models").get_model(
            model, weights="DEFAULT" if weights == "default" else weights, **options
        )
    except (OSError, RuntimeError) as error:  # what download clients raise derives from OSError
        if weights is None:
            raise
        raise RuntimeError(
            f"TappedBackbone: weights {weights!r} of {library}/{model} must be in the local cache or downloadable, "
            f"got {type(error).__name__}: {str(error).splitlines()[0]}; "
            "without a network, fetch the file elsewhere and give its path"
        ) from error
    except (KeyError, TypeError) as error:
        reason = error.args[0] if error.args else error
        raise ValueError(f"TappedBackbone: weights and options must suit {library}/{model}, got: {reason}") from error


def _check_taps(taps: Sequence[str], model: nn.Module, name: str) -> tuple[str, ...]:
    if isinstance(taps, str) or not 1 <= len(taps) <= MAX_FACTORS:
        raise ValueError(f"TappedBackbone: taps must be 1 to {MAX_FACTORS} module names, got {taps!r}")
    known = {module for module, _ in model.named_modules()}
    for tap in taps:
        if tap not in known and re.sub(r"_\d+$", "", tap) not in known:  # relu_1: the second call of module relu
            parent = tap.rpartition(".")[0]
            while parent not in known:
                parent = parent.rpartition(".")[0]
            children = [f"{parent}.{child}".strip(".") for child, _ in model.get_submodule(parent).named_children()]
            names = ", ".join(children if len(children) < 8 else ["...", *children[-7:]])
            raise ValueError(f"TappedBackbone: taps must be modules of {name}, got {tap!r}; near it are {names}")
    return tuple(taps)


def _cut(library: str, model: nn.Module, taps: Sequence[str], name: str) -> nn.Module:
    """Trace the model and keep what the taps need."""
    if library == "timm":
        extract = _import("timm.models").create_feature_extractor
    else:
        extract = _import("torchvision.models.feature_extraction").create_feature_extractor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that training and evaluation trace differently (dropout) matters to no tap
            return extract(model, {tap: tap for tap in taps})
    except Exception as error:  # tracing runs foreign code, which may fail in any way
        raise ValueError(
            f"TappedBackbone: taps must be reachable by torch.fx in {name}, got {', '.join(taps)}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _load_file(body: nn.Module, path: Path) -> None:
    tensors = read_tensors(path, "TappedBackbone", "weights")
    missing = [key for key in body.state_dict() if key not in tensors and not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"TappedBackbone: weights must hold {missing[0]} and the other tensors kept, got {path}")
    try:
        body.load_state_dict({key: tensors[key] for key in body.state_dict() if key in tensors}, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"TappedBackbone: weights must have the shapes of the model, got {path}: {reason}") from None


def _colours(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = getattr(model, "pretrained_cfg", None) or {}
    return tuple(config.get("mean", _IMAGENET[0])), tuple(config.get("std", _IMAGENET[1]))


def _layout_of(maps: Sequence[Tensor], layout: str, name: str) -> str:
    ranks = {x.ndim for x in maps}
    if ranks == {3} and layout in ("auto", "NLC"):
        return "NLC"
    if ranks != {4} or layout == "NLC":
        shapes = ", ".join(str(list(x.shape)) for x in maps)
        raise ValueError(f"TappedBackbone: taps of {name} must give maps, or tokens, alike, got shapes {shapes}")
    if layout != "auto":
        return layout
    first = [x.shape[1] == x.shape[2] and x.shape[2] != x.shape[3] for x in maps]  # square images have square maps
    last = [x.shape[2] == x.shape[3] and x.shape[1] != x.shape[2] for x in maps]
    if any(first) == any(last):
        raise ValueError(f"TappedBackbone: layout must be given for {name}, got auto and shapes that fit NCHW and NHWC")
    return "NHWC" if any(first) else "NCHW"


def _product(sizes: tuple[int, int]) -> int:
    return sizes[0] * sizes[1]

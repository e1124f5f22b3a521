"""What a FALCON run is made of, as plain data that is saved with its results."""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...models import FalconConfig
from ..config import DEVICES, PRECISIONS, RESIZE_MODES, SCHEDULES, Stage, one_of

STARTS = ("none", "coarse", "selfsup")
TEACHER_VIEWS = ("random", "centre")
LAST_SOLVES = ("full_pass", "window", "none")


@dataclass(frozen=True)
class FalconRun:
    """A run: data, network, start, training, and the switches of FALCON.

    Attributes:
        data, root, train_images, test_images, data_seed, corrupt, resize_mode: as for `c2f_ops.data.load_dataset`.
        coarse_levels: Levels whose labels are learned from, each a taxonomy; (): those that the data set comes with,
            or else the level above ``fine_level``.
        fine_level: The level whose classes are to be found; used in evaluation alone. None: the finest.
        num_fine: K_F; None: as many as ``fine_level`` has.
        image_size: Side of the images, in memory and for the network.
        colour: False: the network sees luma alone.
        backbone, backbone_options: As for `c2f_ops.models.make_backbone`.
        init: None, weights that the library of the backbone knows by name, a file of weights, or the folder of a
            self-supervised run.
        start: What the backbone learns before: "none"; "coarse", the coarse labels, or "selfsup", contrastive views,
            for ``start_epochs`` at ``start_lr`` in batches of ``start_batch_size``.
        features, test_features: ``.npz`` files with ``X`` ``[N, d]``, a row per image, for neighbours and k-means;
            None: features of the backbone.
        confidence: Mean largest probability inside the coarse class that the k-means start is scaled to.
        epochs, batch_size: Passes over the images; images per step over all processes.
        lr, min_lr, momentum, weight_decay, schedule, milestones, gamma, warmup_epochs, restart_epochs: SGD.
            "constant"; "step": times ``gamma`` at each of ``milestones`` (epochs); "cosine": to ``min_lr``, over and
            over every ``restart_epochs`` where that is given.
        min_area, flip: Of the random crop of a view: least area, share of mirrored ones.
        jitter, jitter_share, grey_share, blur_share: Colours and blur, as for `c2f_ops.training.selfsup`.
        teacher_view: What the teacher sees, of samples and neighbours: "random" views like the student, or the whole
            image ("centre").
        last_solve: Relations at the end: solved from a pass over all images, from the window, or left alone.
        preset, falcon: The switches and the preset that they come from.
        precision, device, threads, seed, checkpoint_minutes: Of the run; ``"auto"`` is settled when it starts.
    """

    data: str = "birds"
    root: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    data_seed: int = 0
    corrupt: str = "raise"
    resize_mode: str = "shorter"
    coarse_levels: tuple[str, ...] = ()
    fine_level: str | None = None
    num_fine: int | None = None
    image_size: int = 224
    colour: bool = True
    backbone: str = "torchvision/resnet50"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    start: str = "none"
    start_epochs: float = 5.0
    start_lr: float = 0.1
    start_batch_size: int = 256
    features: str | None = None
    test_features: str | None = None
    confidence: float = 0.7
    epochs: int = 60
    batch_size: int = 256
    lr: float = 0.1
    min_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    restart_epochs: float | None = None
    min_area: float = 0.2
    flip: bool = True
    jitter: float = 0.0
    jitter_share: float = 0.8
    grey_share: float = 0.0
    blur_share: float = 0.0
    teacher_view: str = "random"
    last_solve: str = "full_pass"
    preset: str = "recommended"
    falcon: FalconConfig = field(default_factory=FalconConfig)
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        """Check what can be checked before the data is read."""
        for name, allowed in (
            ("resize_mode", RESIZE_MODES),
            ("start", STARTS),
            ("schedule", SCHEDULES),
            ("teacher_view", TEACHER_VIEWS),
            ("last_solve", LAST_SOLVES),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            one_of(name, getattr(self, name), allowed)
        for name in ("image_size", "epochs", "batch_size", "lr", "start_lr", "start_batch_size", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"falcon: {name} must be positive, got {getattr(self, name)}")
        for name in ("min_area", "confidence"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"falcon: {name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("jitter", "jitter_share", "grey_share", "blur_share", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"falcon: {name} must be in [0, 1], got {getattr(self, name)}")
        if self.falcon.cross_dataset_neighbours != "within":
            raise ValueError(
                "falcon: cross_dataset_neighbours must be 'within' in a run, which finds its neighbours once, "
                f"at its start; got {self.falcon.cross_dataset_neighbours!r}"
            )
        if self.restart_epochs is not None and not self.restart_epochs > 0:
            raise ValueError(f"falcon: restart_epochs must be None or positive, got {self.restart_epochs}")

    def stage(self, batches: int) -> Stage:
        """The schedule, above ``min_lr``, for epochs of ``batches`` steps."""
        return Stage(
            "falcon", lr=self.lr - self.min_lr if self.schedule == "cosine" else self.lr, schedule=self.schedule,
            milestones=tuple(round(m * batches) for m in self.milestones), gamma=self.gamma,
            warmup=round(self.warmup_epochs * batches),
        )  # fmt: skip

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the config, readable."""
        Path(path).write_text(json.dumps({"kind": "falcon", **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> FalconRun:
        """Read what `to_json` wrote."""
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.pop("kind", None) != "falcon":
            raise ValueError(f"falcon: {path} must hold the config of a FALCON run")
        return change(cls(), data)


def change(run: FalconRun, values: Mapping[str, Any]) -> FalconRun:
    """Replace fields of a run, and switches of FALCON, by name; ``falcon`` may be a dict of switches.

    Raises:
        ValueError: there is no such field or switch, or a value does not suit it.
        TypeError: a value has a wrong type.
    """
    own, switches = {f.name for f in fields(FalconRun)}, {f.name for f in fields(FalconConfig)}
    given = {key: value for key, value in values.items() if key != "falcon"}
    chosen = {**values.get("falcon", {}), **{key: given[key] for key in given if key in switches}}
    unknown = sorted(given.keys() - own - switches) + sorted(chosen.keys() - switches)
    if unknown:
        raise ValueError(f"falcon: setting must be a field of the run or a switch of FALCON, got {', '.join(unknown)}")
    typed_switches = {key: _typed(FalconConfig, key, value) for key, value in chosen.items()}
    typed_fields = {key: _typed(FalconRun, key, value) for key, value in given.items() if key in own}
    return replace(run, **typed_fields, falcon=replace(run.falcon, **typed_switches))


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``switch=value``; the value is JSON, or else a word. Nothing is evaluated."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"falcon: --set must be switch=value, got {text!r}")
    try:
        return key.strip().replace("-", "_"), json.loads(value)
    except ValueError:
        return key.strip().replace("-", "_"), value


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of settings, ``.toml`` (Python 3.11 or later) or ``.json``; switches may stand under ``falcon``."""
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix == ".json":
        data = json.loads(text)
    else:
        try:
            import tomllib
        except ImportError:
            raise ImportError("falcon: a TOML file needs Python 3.11; use a .json file") from None
        data = tomllib.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"falcon: {path} must hold settings by name, got {type(data).__name__}")
    return {key: value for key, value in data.items() if key != "kind"}


def _typed(owner: type, name: str, value: Any) -> Any:
    """Return ``value`` as the type of the field; whole numbers serve as float, lists as tuples."""
    wanted = typing.get_type_hints(owner)[name]
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        kind = typing.get_origin(option) or option
        if kind is tuple and isinstance(value, list | tuple):
            item = typing.get_args(option)[0]
            if all(isinstance(v, (int, float) if item is float else item) and not isinstance(v, bool) for v in value):
                return tuple(item(v) for v in value)
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
    words = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise TypeError(f"falcon: {name} must be {words}, got {value!r}")

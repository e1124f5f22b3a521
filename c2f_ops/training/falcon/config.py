"""What a FALCON run is made of, as plain data that is saved with its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from ...models import FalconConfig
from .._typed import TypedConfig, typed_fields
from ..config import DEVICES, PRECISIONS, RESIZE_MODES, SCHEDULES, Stage

STARTS = ("none", "coarse", "selfsup")
TEACHER_VIEWS = ("random", "centre")
LAST_SOLVES = ("full_pass", "window", "none")


@dataclass(frozen=True)
class FalconRun(TypedConfig):
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

    OP: ClassVar[str] = "falcon"
    KIND: ClassVar[str | None] = "falcon"

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
        self.check_words(
            resize_mode=RESIZE_MODES, start=STARTS, schedule=SCHEDULES, teacher_view=TEACHER_VIEWS,
            last_solve=LAST_SOLVES, precision=PRECISIONS, device=DEVICES,
        )  # fmt: skip
        self.check_positive(
            "image_size", "epochs", "batch_size", "lr", "start_lr", "start_batch_size", "checkpoint_minutes"
        )
        self.check_shares("(0, 1]", "min_area", "confidence")
        self.check_shares("[0, 1]", "jitter", "jitter_share", "grey_share", "blur_share", "momentum")
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

    def changed(self, values: Mapping[str, Any]) -> FalconRun:
        """Replace fields of the run, and switches of FALCON, by name; ``falcon`` may be a dict of switches.

        Raises:
            ValueError: There is no such field or switch, or a value does not suit it.
            TypeError: A value has a wrong type.
        """
        own, switches = ({f.name for f in fields(owner)} for owner in (FalconRun, FalconConfig))
        given = {key: value for key, value in values.items() if key in own and key != "falcon"}
        chosen = {**values.get("falcon", {}), **{key: value for key, value in values.items() if key not in own}}
        if unknown := sorted(chosen.keys() - switches):
            raise ValueError(
                f"falcon: setting must be a field of the run or a switch of FALCON, got {', '.join(unknown)}"
            )
        falcon = replace(self.falcon, **typed_fields(self.OP, FalconConfig, chosen))
        return replace(self, **typed_fields(self.OP, FalconRun, given), falcon=falcon)

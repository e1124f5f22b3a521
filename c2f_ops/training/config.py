"""What a run is made of, as plain data that is saved with its results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..answering.calibration import nearest_side
from ._typed import TypedConfig

TRAINED = ("all", "head", "classifiers")
SCHEDULES = ("constant", "step", "cosine")
BATCH_NORMS = ("frozen", "shared", "per_resolution")
MODES = ("alternating", "joint")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
CROPS = ("crop", "resized_crop")
RESIZE_MODES = ("shorter", "squash")
RECIPES = ("scratch", "hbp")


@dataclass(frozen=True)
class Stage(TypedConfig):
    """One stage of training, plain SGD throughout.

    Attributes:
        trained: ``"all"``, ``"head"`` (projections and classifiers, backbone frozen) or ``"classifiers"``.
        epochs: passes over the images for each task; a cycle is one optimiser step per task.
        batch_size: images per task and step, over all processes.
        accumulate: pieces that a batch is cut into to save memory.
        lr, momentum, nesterov, weight_decay: of SGD.
        head_lr: factor on the rate of projections and classifiers.
        bias_lr, bias_decay: factors on rate and decay of vectors: biases, and scales of norms.
        schedule: ``"constant"``; ``"step"``: times ``gamma`` at each of ``milestones``; ``"cosine"``: to zero.
        milestones: in cycles.
        warmup: cycles of linear rise at the start.
        batch_norm: of the backbone: ``"frozen"`` statistics; live ones, ``"shared"`` by all resolutions or
            ``"per_resolution"``.
    """

    name: str
    trained: str = "all"
    epochs: float = 1.0
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    head_lr: float = 1.0
    bias_lr: float = 1.0
    bias_decay: float = 1.0
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    warmup: int = 0
    batch_norm: str = "frozen"

    def __post_init__(self) -> None:
        """Check the values."""
        self.check_words(trained=TRAINED, schedule=SCHEDULES, batch_norm=BATCH_NORMS)
        self.check_positive("epochs", "batch_size", "accumulate", "lr")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"training: accumulate must be at most batch_size {self.batch_size}, got {self.accumulate}"
            )
        object.__setattr__(self, "milestones", tuple(self.milestones))


@dataclass(frozen=True)
class Config(TypedConfig):
    """A run: data, model, training.

    Attributes:
        data, root, train_images, test_images, data_seed, corrupt, resize_mode: as for `c2f_ops.data.load_dataset`.
        held_out: share of the training images, the same in every finest class, that is kept from training and measured
            after each epoch.
        image_size: side S of what the network sees. load_size: side of the images in memory, from which S is cropped.
        padding: pixels of reflection around an image before a random crop.
        augment: ``"crop"``, or ``"resized_crop"`` with an area of at least ``min_area``. flip: mirror half of the
            images.
        levels: names of the levels of the data set that the run uses, in any order; None for all.
        resolutions: side per level, coarse to fine, rising; at most ``image_size``. Where each level is measured as at
            its own; may be empty where there are ``tasks``.
        tasks: (level, side) of each step of a cycle, in order; a level may have several or none, and a task may come
            more than once. Empty: each level at its resolution, fine to coarse.
        backbone, taps, weights, backbone_options, unequal, dim, interactions, sqrt_mode, sqrt_eps, norm_scope, pooling:
            as for `c2f_ops.models.MLPH`.
        recipe, stages: the name of the recipe and what it gave.
        mode: ``"alternating"``, one step per task in turn, or ``"joint"``, one step on the sum.
        level_weights: factor on the loss of each level, coarse to fine.
        label_smoothing: of the cross entropy.
        consistency: weight of the divergence between each trained head and the next finer one summed over children
            (`c2f_ops.training.consistency`); all trained heads then learn in every step.
        same_images: the tasks of a cycle see the same images, instead of independent shuffles.
        precision, device, threads, seed: of the computation; ``"auto"`` is settled when the run starts.
        checkpoint_minutes: time between checkpoints.
    """

    data: str = "birds"
    root: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    data_seed: int = 0
    corrupt: str = "raise"
    resize_mode: str = "shorter"
    held_out: float = 0.0
    image_size: int = 448
    load_size: int = 512
    padding: int = 0
    augment: str = "crop"
    min_area: float = 0.5
    flip: bool = True
    levels: tuple[str, ...] | None = None
    resolutions: tuple[int, ...] = ()
    tasks: tuple[tuple[str, int], ...] = ()
    backbone: str = "torchvision/vgg16"
    taps: tuple[str, ...] | None = None
    weights: str | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    unequal: str = "error"
    dim: int = 8192
    interactions: tuple[tuple[int, ...], ...] = ((0, 1), (0, 2), (1, 2), (0, 1, 2))
    sqrt_mode: str = "shifted"
    sqrt_eps: float = 0.03
    norm_scope: str = "interaction"
    pooling: str = "sum"
    recipe: str = "hbp"
    stages: tuple[Stage, ...] = ()
    mode: str = "alternating"
    level_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    consistency: float = 0.0
    same_images: bool = False
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        """Check what can be checked before the data is read."""
        self.check_words(
            recipe=RECIPES, mode=MODES, precision=PRECISIONS, device=DEVICES, augment=CROPS, resize_mode=RESIZE_MODES
        )
        self.check_positive("image_size", "load_size", "dim", "checkpoint_minutes")
        self.check_shares("[0, 1)", "held_out", "label_smoothing")
        self.check_shares("(0, 1]", "min_area")
        if self.load_size < self.image_size:
            raise ValueError(f"training: load_size must be at least image_size {self.image_size}, got {self.load_size}")
        if not 0 <= self.padding < self.load_size:
            raise ValueError(f"training: padding must be in 0..{self.load_size - 1}, got {self.padding}")
        if not 0 <= self.consistency < math.inf:
            raise ValueError(f"training: consistency must be a number from 0 up, got {self.consistency}")
        for name in ("levels", "resolutions", "taps", "level_weights"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "interactions", tuple(tuple(t) for t in self.interactions))
        object.__setattr__(self, "tasks", tuple((level, side) for level, side in self.tasks))
        object.__setattr__(self, "stages", tuple(self.stages))
        sets = {stage.batch_norm for stage in self.stages if stage.batch_norm != "frozen"}
        if len(sets) > 1:
            raise ValueError(f"training: stages must have one kind of live batch norm, got {', '.join(sorted(sets))}")

    def check_levels(self, levels: Sequence[str]) -> None:
        """Check resolutions, tasks and weights against the levels of a hierarchy, coarse to fine."""
        if self.resolutions or not self.tasks:
            self._check_resolutions(levels)
        for level, side in self.tasks:
            if level not in levels:
                raise ValueError(f"training: tasks must be of the levels {', '.join(levels)}, got {level!r}")
            if not 1 <= side <= self.image_size:
                raise ValueError(
                    f"training: tasks must have sides in 1..{self.image_size}, the image_size, got {level}@{side}"
                )
        if self.level_weights is not None and len(self.level_weights) != len(levels):
            raise ValueError(f"training: level_weights must be {len(levels)} numbers, got {len(self.level_weights)}")

    def _check_resolutions(self, levels: Sequence[str]) -> None:
        if len(self.resolutions) != len(levels):
            raise ValueError(
                f"training: resolutions must be one for each of the levels {', '.join(reversed(levels))}, "
                f"got {len(self.resolutions)}"
            )
        fine_to_coarse = self.resolutions[::-1]
        if any(a <= b for a, b in itertools.pairwise(fine_to_coarse)) or fine_to_coarse[-1] < 1:
            listed = ",".join(map(str, fine_to_coarse))
            raise ValueError(f"training: resolutions must decrease from the finest level to the coarsest, got {listed}")
        if fine_to_coarse[0] > self.image_size:
            raise ValueError(
                f"training: resolutions must be at most image_size {self.image_size}, got {fine_to_coarse[0]}"
            )

    def cycle(self, levels: Sequence[str]) -> tuple[tuple[int, int], ...]:
        """Return (index of the level, side) of each step of a cycle, for levels that `check_levels` has passed."""
        if self.tasks:
            return tuple((levels.index(level), side) for level, side in self.tasks)
        return tuple(enumerate(self.resolutions))[::-1]

    def trained_levels(self, levels: Sequence[str]) -> tuple[int, ...]:
        """Return the indices of the levels that some task trains, coarse to fine."""
        return tuple(sorted({level for level, _ in self.cycle(levels)}))

    def own_sides(self, levels: Sequence[str]) -> tuple[int | None, ...]:
        """Return the side at which each level is measured as at its own.

        It is its resolution, or else the largest side of its tasks, or None for a level without any.
        """
        if self.resolutions:
            return self.resolutions
        cycle = self.cycle(levels)
        return tuple(max((side for k, side in cycle if k == level), default=None) for level in range(len(levels)))

    @property
    def sides(self) -> tuple[int, ...]:
        """Distinct sides that training sees, rising; a set of batch-norm statistics belongs to each."""
        return tuple(sorted({side for _, side in self.tasks} or set(self.resolutions)))

    @property
    def measured_sides(self) -> tuple[int, ...]:
        """Sides that an evaluation covers, falling: those of training and of ``resolutions``."""
        return tuple(sorted({*self.sides, *self.resolutions}, reverse=True))

    def nearest_side(self, side: int) -> int:
        """Return the index in `sides` of the one nearest to ``side`` as a ratio, the smaller of two as near."""
        return nearest_side(self.sides, side)

    @property
    def has_idle_heads(self) -> bool:
        """Whether a backward pass leaves some trained head without a gradient."""
        trained = len({level for level, _ in self.tasks} or self.resolutions)
        return trained > 1 and not self.consistency

    @property
    def resolution_statistics(self) -> int | None:
        """Sets of batch-norm statistics that the model needs."""
        return len(self.sides) if any(s.batch_norm == "per_resolution" for s in self.stages) else None

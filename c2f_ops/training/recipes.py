"""Named ways to train, and defaults per data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ._typed import one_of
from .config import RECIPES, Config, Stage

FIRST_STAGES = ("head", "head_only")


def hbp_stages(batch_norm: str = "frozen", *, batch_size: int = 8, stage1: str = "head") -> tuple[Stage, ...]:
    """Two stages for a pretrained backbone: HBP's released solver; rate and decay of stage 2 as in the paper.

    Args:
        batch_norm: of stage 2, as for `Stage`.
        batch_size: of stage 2; its milestones follow, so that the rate falls after as many images.
        stage1: ``"head"`` trains projections and classifiers in stage 1; ``"head_only"``, the paper's words taken
            literally, the classifiers alone.
    """
    one_of(Config.OP, "stage1", stage1, FIRST_STAGES)
    head = Stage(
        "head",
        trained="classifiers" if stage1 == "head_only" else "head",
        epochs=480,
        batch_size=48,
        lr=1.0,
        weight_decay=5e-6,
        schedule="step",
        milestones=(20_000, 30_000, 40_000, 50_000),
        gamma=0.25,
    )
    full = Stage(
        "all",
        epochs=534,
        batch_size=16,
        lr=1e-3,
        weight_decay=5e-4,
        bias_lr=2.0,
        bias_decay=2.0,
        schedule="step",
        milestones=(50_000, 100_000, 150_000),
        batch_norm=batch_norm,
    )
    return head, with_batch_size(full, batch_size)


def with_batch_size(stage: Stage, batch_size: int) -> Stage:
    """Return the stage with another batch size and milestones after as many images; warm-up and rate stay."""
    scale = stage.batch_size / batch_size
    milestones = tuple(round(milestone * scale) for milestone in stage.milestones)
    return replace(stage, batch_size=batch_size, milestones=milestones)


def scratch_stages(epochs: float, batch_size: int = 32, lr: float = 0.05, head_lr: float = 10.0) -> tuple[Stage, ...]:
    """One stage for a small network from random weights: a frozen random backbone has nothing to teach a head.

    The pooled vector has norm 2 whatever D is, so the classifiers start with tiny logits; ``head_lr`` speeds them up.
    """
    return (
        Stage(
            "scratch",
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            nesterov=True,
            head_lr=head_lr,
            bias_decay=0.0,
            schedule="cosine",
            warmup=50,
            batch_norm="per_resolution",
        ),
    )


def _small(width: int, **options: Any) -> dict[str, Any]:
    """A ResNet of one block in the first two stages and three, the taps, in the third: L = (S / 16) squared."""
    return {
        "backbone": "timm/resnet10t",
        "backbone_options": {
            "layers": [1, 1, 3, 1],
            "channels": [width, 2 * width, 4 * width, 4 * width],
            "stem_width": width // 2,
            **options,
        },
        "taps": ("layer3.0", "layer3.1", "layer3.2"),
        "dim": 512,
        "recipe": "scratch",
        "threads": 1,  # its layers are too short for more: 1.25 times the speed on idle cores, an eighth on busy ones
    }


#: Defaults per data set; the ones of `Config` hold for everything else.
PRESETS: dict[str, dict[str, Any]] = {
    "birds": {
        **_small(16),
        "train_images": 2400,
        "test_images": 1000,
        "held_out": 0.1,
        "image_size": 128,
        "load_size": 128,
        "padding": 8,
        "resolutions": (24, 48, 128),
        "stages": scratch_stages(8),
    },
    "cub100": {
        **_small(32),
        "image_size": 112,
        "load_size": 128,
        "augment": "resized_crop",
        "resolutions": (28, 56, 112),
        "stages": scratch_stages(8),
    },
    "cifar100": {
        **_small(32, output_stride=8),
        "image_size": 32,
        "load_size": 32,
        "padding": 4,
        "resolutions": (16, 32),
        "stages": scratch_stages(15, batch_size=64),
    },
    "aircraft": {"resize_mode": "squash"},
    "cars": {"resize_mode": "squash"},
}


def make_config(
    data: str,
    changes: Mapping[str, Any],
    stage_changes: Mapping[str, Sequence[Any]] | None = None,
    *,
    stage1: str | None = None,
) -> Config:
    """Fill a config from the preset of a data set, then ``changes``, then values per stage.

    Args:
        data: name of a data set.
        changes: fields of `Config`; None leaves a field alone. ``recipe`` brings its stages, and
            ``levels`` or ``tasks`` take the place of the preset's resolutions.
        stage_changes: fields of `Stage` -> one value for all stages, or one per stage. Milestones follow the batch size
            as in `with_batch_size`, unless they are given too.
        stage1: as for `hbp_stages`; only for the recipe hbp.
    """
    preset = dict(PRESETS.get(data, {}))
    if changes.get("backbone"):  # another network has other taps and options
        preset = {key: value for key, value in preset.items() if key not in ("taps", "backbone_options")}
    if changes.get("levels") or changes.get("tasks"):
        preset.pop("resolutions", None)
    values = {**preset, **{key: value for key, value in changes.items() if value is not None}}
    recipe = values.setdefault("recipe", "hbp")
    one_of(Config.OP, "recipe", recipe, RECIPES)
    if stage1 is not None and recipe != "hbp":
        raise ValueError(f"training: stage1 must be None for recipe {recipe}, which has no first stage, got {stage1!r}")
    if changes.get("recipe") or not values.get("stages"):
        values["stages"] = scratch_stages(30) if recipe == "scratch" else hbp_stages(stage1=stage1 or "head")
    if changes.get("image_size") and not changes.get("load_size"):
        values["load_size"] = round(values["image_size"] * 8 / 7) if not values.get("padding") else values["image_size"]
    stages, stage_changes = list(values["stages"]), stage_changes or {}
    for key, given in stage_changes.items():
        if len(given) not in (1, len(stages)):
            raise ValueError(
                f"training: {key} must be one value, or one for each of {len(stages)} stages, got {len(given)}"
            )
        per_stage = list(given) * (len(stages) if len(given) == 1 else 1)
        if key == "batch_size" and "milestones" not in stage_changes:
            stages = [with_batch_size(stage, value) for stage, value in zip(stages, per_stage, strict=True)]
        else:
            stages = [replace(stage, **{key: value}) for stage, value in zip(stages, per_stage, strict=True)]
    return Config(data=data, **{**values, "stages": tuple(stages)})

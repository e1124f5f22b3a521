"""Defaults per data set, and configs from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...models import FalconConfig
from .config import FalconRun

_BIRDS: dict[str, Any] = {
    "train_images": 2400, "test_images": 1000, "image_size": 32, "colour": False, "backbone": "cifar_resnet_small",
    "backbone_options": {"widths": [32, 64, 128]}, "batch_size": 128, "lr": 0.05, "weight_decay": 5e-4,
    "min_area": 0.5, "jitter": 0.4, "threads": 1,
}  # fmt: skip
_CIFAR: dict[str, Any] = {
    "image_size": 32, "backbone": "cifar_resnet18", "epochs": 100, "batch_size": 256, "schedule": "step",
    "milestones": (60.0, 80.0), "min_area": 0.08,
}  # fmt: skip
_IMAGENET: dict[str, Any] = {
    "image_size": 224, "backbone": "torchvision/resnet50", "epochs": 60, "batch_size": 1024, "schedule": "cosine",
    "min_lr": 1e-3, "restart_epochs": 30.0, "min_area": 0.2, "jitter": 0.4, "grey_share": 0.2, "blur_share": 0.5,
    "teacher_view": "centre",
}  # fmt: skip
_ENTITY = {**_IMAGENET, "falcon": {"lambdas": (0.5, 0.5, 3.0)}}

#: Defaults per data set: for birds ours, for the others those of the published runs. `FalconRun` has the rest.
PRESETS: dict[str, dict[str, Any]] = {
    "birds": {
        **_BIRDS, "coarse_levels": ("family",), "fine_level": "genus", "start": "selfsup", "start_epochs": 30.0,
        "start_lr": 0.3, "epochs": 12, "falcon": {"neighbours_per_step": 3, "mstep_init": "random"},
    },
    "birds-two-keys": {
        **_BIRDS, "train_images": 4800, "start": "coarse", "start_epochs": 6.0, "start_batch_size": 128, "epochs": 8,
        "falcon": {"neighbours_per_step": 2, "mstep_every": 100},
    },
    **dict.fromkeys(("cifar100", "cifar100-t2", "cifar100-t1t2", "cifar100-si", "cifar-si", "cifar68"), _CIFAR),
    **dict.fromkeys(("living17", "nonliving26"), _IMAGENET),
    **dict.fromkeys(("entity13", "entity30"), _ENTITY),
    "tieredimagenet": {
        **_IMAGENET, "epochs": 90, "batch_size": 2048, "falcon": {"lambdas": (0.5, 0.5, 5.0), "lambda_m": 5e-5},
    },
}  # fmt: skip

#: The relations at the end of training, by preset of the switches.
LAST_SOLVE = {"recommended": "full_pass", "paper": "window", "reference": "none"}


def make_run(data: str, preset: str = "recommended", changes: Mapping[str, Any] | None = None) -> FalconRun:
    """Fill a config: a preset of switches, the defaults of a data set, then ``changes`` of fields and switches.

    Args:
        data: Name of a data set.
        preset: "recommended", "paper" or "reference". The last two keep the switches of the published method where the
            data set's defaults say otherwise; weights of the losses follow the data set.
        changes: As for `FalconRun.changed`; None leaves a field alone.
    """
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    defaults = dict(PRESETS.get(data, {}))
    if "backbone" in given:
        defaults.pop("backbone_options", None)
    if "init" in given:
        defaults.update(start="none")
    switches = dict(defaults.pop("falcon", {}))
    if preset != "recommended":
        for name in ("neighbours_per_step", "mstep_init", "mstep_every"):
            switches.pop(name, None)
    run = FalconRun(data=data, preset=preset, falcon=FalconConfig.preset(preset), last_solve=LAST_SOLVE[preset])
    return replace(run.changed({**defaults, "falcon": switches}).changed(given), data=data, preset=preset)

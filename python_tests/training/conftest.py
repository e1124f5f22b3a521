"""A tiny run: generated birds of 32 px, a network of a few thousand weights."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest

from c2f_ops.training import Config, make_config

for library in ("timm", "torchvision", "accelerate", "safetensors", "matplotlib", "rich"):
    pytest.importorskip(library)


def make_tiny(stage: dict[str, Any] | None = None, **changes: object) -> Config:
    """Make a config; arguments are changes to its stages and to itself."""
    fields = {
        "train_images": 40,
        "test_images": 12,
        "held_out": 0.0,
        "image_size": 32,
        "load_size": 32,
        "padding": 4,
        "resolutions": (8, 16, 32),
        "backbone": "timm/resnet10t",
        "taps": ("layer3.0", "layer3.1", "layer3.2"),
        "backbone_options": {
            "layers": [1, 1, 3, 1],
            "channels": [8, 8, 16, 16],
            "stem_width": 8,
            "drop_path_rate": 0.2,
        },
        "dim": 8,
        "recipe": "scratch",
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "checkpoint_minutes": 60.0,
    }
    per_stage = {"epochs": [2.0], "batch_size": [10], "warmup": [2], "lr": [0.05], **(stage or {})}
    return make_config(str(changes.pop("data", "birds")), {**fields, **changes}, per_stage)


@pytest.fixture(scope="session")
def tiny():
    """Give `make_tiny` to tests, which cannot import from each other."""
    return make_tiny


@pytest.fixture(scope="session")
def stop_after():
    """Let a run of a module be stopped after so many steps, as a signal would."""

    def patched(patch: pytest.MonkeyPatch, module: object, steps: int) -> None:
        @contextmanager
        def signals():
            left = iter(range(steps, 0, -1))
            yield lambda: next(left, 0) == 1

        patch.setattr(module, "stop_signals", signals)

    return patched

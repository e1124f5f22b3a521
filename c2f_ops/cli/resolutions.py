"""`c2f resolutions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ._common import (
    DATA,
    MACHINE,
    MODEL,
    TRAINING,
    Device,
    Precision,
    Resume,
    Root,
    Seed,
    Threads,
    TrainImages,
    given,
    listed,
    make_console,
    new_folder,
    option,
    stoppable,
)


def search(
    data: Annotated[str, option(DATA, "birds (generated), cub100, cub, cifar100, folder or another.")] = "birds",
    root: Root = None,
    train_images: TrainImages = None,
    image_size: Annotated[int | None, option(DATA, "Side of what the network sees, where the search starts.")] = None,
    levels: Annotated[str | None, option(DATA, "Levels of the data to use, comma-separated.")] = None,
    grid: Annotated[str | None, option(DATA, "Falling sides to measure at, the first that of the network.")] = None,
    backbone: Annotated[str | None, option(MODEL, "torchvision/<model> or timm/<model>.")] = None,
    weights: Annotated[str | None, option(MODEL, "default, a name the library knows, or a file.")] = None,
    dim: Annotated[int | None, option(MODEL, "Projection width d.")] = None,
    thresholds: Annotated[str, option(TRAINING, "Accuracy to keep: one number, or one per level, fine first.")] = "0.8",
    relative: Annotated[bool, option(TRAINING, "Thresholds are shares of the accuracy at full side.")] = False,
    retrain: Annotated[bool, option(TRAINING, "Train a network at every side.")] = False,
    fine_tune: Annotated[bool, option(TRAINING, "Train the backbone too when the head is replaced.")] = False,
    epochs: Annotated[str | None, option(TRAINING, "Epochs, one number or one per stage (10,20).")] = None,
    batch_size: Annotated[str | None, option(TRAINING, "Images per step, likewise.")] = None,
    lr: Annotated[str | None, option(TRAINING, "Learning rate, likewise.")] = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[Path | None, option(MACHINE, "Folder to write; default runs/resolutions-<data>.")] = None,
    resume: Resume = None,
) -> None:  # fmt: skip
    """Find the resolution of each level: where a finer level, trained at full side, falls below a threshold.

    Uses training images alone. Prints the sides as `c2f train mlph --resolutions` takes them.
    """
    from ..training import make_config
    from ..training.search import search_resolutions

    console = make_console()
    changes = given(
        root=root, train_images=train_images, image_size=image_size, backbone=backbone, weights=weights, dim=dim,
        levels=None if levels is None else listed("levels", levels, str), seed=seed, precision=precision,
        device=device, threads=threads,
    )  # fmt: skip
    per_stage = {"epochs": (epochs, float), "batch_size": (batch_size, int), "lr": (lr, float)}
    stages = {key: listed(key, text, kind) for key, (text, kind) in per_stage.items() if text is not None}
    config = make_config(data, changes, stages)
    run = resume or out or new_folder(f"resolutions-{data}")
    limits = listed("thresholds", thresholds, float)
    with stoppable(console, "resolutions", run):
        result = search_resolutions(
            config, run, thresholds=limits[0] if len(limits) == 1 else limits,
            mode="relative" if relative else "absolute", grid=None if grid is None else listed("grid", grid, int),
            retrain=retrain, fine_tune=fine_tune, resume=resume is not None, console=console,
        )  # fmt: skip
    console.print(f"c2f train mlph --data {data} --resolutions {result.option}", highlight=False)
    console.print(f"curves: {run}", highlight=False)

"""`c2f train falcon`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ._common import (
    DATA,
    MACHINE,
    MODEL,
    TRAINING,
    Backbone,
    CheckpointMinutes,
    Device,
    Precision,
    Resume,
    Root,
    Seed,
    TestImages,
    Threads,
    TrainImages,
    given,
    make_console,
    new_folder,
    option,
    stoppable,
)


def train_falcon(
    data: Annotated[str | None, option(DATA, "birds-two-keys, birds (generated), cifar100, csv, folder, ...")] = None,
    root: Root = None,
    train_images: TrainImages = None,
    test_images: TestImages = None,
    coarse_level: Annotated[str | None, option(DATA, "Level learned from; several, comma-separated.")] = None,
    fine_level: Annotated[str | None, option(DATA, "Level to be found; known to evaluation alone.")] = None,
    num_fine: Annotated[int | None, option(DATA, "Number of classes to find.")] = None,
    image_size: Annotated[int | None, option(DATA, "Side of the images.")] = None,
    backbone: Backbone = None,
    init: Annotated[str | None, option(MODEL, "Weights of the backbone: a file, a folder, or a name.")] = None,
    start: Annotated[str | None, option(MODEL, "What the backbone learns first: none, coarse or selfsup.")] = None,
    features: Annotated[Path | None, option(MODEL, "An .npz with X, for neighbours and k-means.")] = None,
    preset: Annotated[str | None, option(TRAINING, "Switches: recommended, paper or reference.")] = None,
    epochs: Annotated[int | None, option(TRAINING, "Passes over the images.")] = None,
    batch_size: Annotated[int | None, option(TRAINING, "Images per step, over all processes.")] = None,
    lr: Annotated[float | None, option(TRAINING, "Learning rate.")] = None,
    config: Annotated[Path | None, option(TRAINING, "Settings, .toml or .json.")] = None,
    settings: Annotated[
        list[str] | None, option(TRAINING, "Any setting or switch, repeatable: --set temperature=0.8.", "--set")
    ] = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    threads: Threads = None,
    checkpoint_minutes: CheckpointMinutes = None,
    out: Annotated[Path | None, option(MACHINE, "Run folder to write; default runs/falcon-<data>, numbered.")] = None,
    resume: Resume = None,
) -> None:  # fmt: skip
    """Find classes finer than the labels (FALCON): a classifier over fine classes, and the coarse class of each.

    Without options: generated birds, half of them labelled with one of 6 families, the others with one of 5 plumages;
    their 15 genera are found. A small network, a few minutes on two CPU cores.
    """
    from ..training._typed import parse_setting, read_settings
    from ..training.falcon import FalconRun, make_run
    from ..training.falcon import train_falcon as train
    from ..training.falcon.report import format_table

    console = make_console()
    if resume is not None:
        run, chosen = resume, FalconRun()
    else:
        changes = {} if config is None else read_settings("falcon", config)
        changes.pop("kind", None)  # of the config of a run
        changes |= dict(parse_setting("falcon", text) for text in settings or ())
        changes |= given(
            data=data, preset=preset, root=root, train_images=train_images, test_images=test_images,
            coarse_levels=None if coarse_level is None else [part.strip() for part in coarse_level.split(",")],
            fine_level=fine_level, num_fine=num_fine, image_size=image_size, backbone=backbone, init=init, start=start,
            features=features, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, precision=precision,
            device=device, threads=threads, checkpoint_minutes=checkpoint_minutes,
        )  # fmt: skip
        data, preset = changes.pop("data", "birds-two-keys"), changes.pop("preset", "recommended")
        chosen = make_run(data, preset, changes)
        run = out if out is not None else new_folder(f"falcon-{data}")
    with stoppable(console, "train falcon", run):
        metrics = train(chosen, run, resume=resume is not None, console=console)
    if metrics is not None:
        console.print()
        console.print(format_table(metrics))
        console.print(f"run folder: {run}", highlight=False)

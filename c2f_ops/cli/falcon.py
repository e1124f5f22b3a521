"""`c2f train falcon`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_DATA, _MODEL, _TRAINING, _MACHINE = "Data", "Model", "Training", "Machine and files"


def _option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def train_falcon(
    data: Annotated[str | None, _option(_DATA, "birds-two-keys, birds (generated), cifar100, csv, folder, ...")] = None,
    root: Annotated[Path | None, _option(_DATA, "Folder of the data.")] = None,
    train_images: Annotated[int | None, _option(_DATA, "Number of training images.")] = None,
    test_images: Annotated[int | None, _option(_DATA, "Number of test images.")] = None,
    coarse_level: Annotated[str | None, _option(_DATA, "Level learned from; several, comma-separated.")] = None,
    fine_level: Annotated[str | None, _option(_DATA, "Level to be found; known to evaluation alone.")] = None,
    num_fine: Annotated[int | None, _option(_DATA, "Number of classes to find.")] = None,
    image_size: Annotated[int | None, _option(_DATA, "Side of the images.")] = None,
    backbone: Annotated[
        str | None, _option(_MODEL, "cifar_resnet18, cifar_resnet_small, torchvision/<model> or timm/<model>.")
    ] = None,
    init: Annotated[str | None, _option(_MODEL, "Weights of the backbone: a file, a folder, or a name.")] = None,
    start: Annotated[str | None, _option(_MODEL, "What the backbone learns first: none, coarse or selfsup.")] = None,
    features: Annotated[Path | None, _option(_MODEL, "An .npz with X, for neighbours and k-means.")] = None,
    preset: Annotated[str | None, _option(_TRAINING, "Switches: recommended, paper or reference.")] = None,
    epochs: Annotated[int | None, _option(_TRAINING, "Passes over the images.")] = None,
    batch_size: Annotated[int | None, _option(_TRAINING, "Images per step, over all processes.")] = None,
    lr: Annotated[float | None, _option(_TRAINING, "Learning rate.")] = None,
    config: Annotated[Path | None, _option(_TRAINING, "Settings, .toml or .json.")] = None,
    settings: Annotated[
        list[str] | None, _option(_TRAINING, "Any setting or switch, repeatable: --set temperature=0.8.", "--set")
    ] = None,
    seed: Annotated[int | None, _option(_TRAINING, "Seed of everything random in training.")] = None,
    precision: Annotated[str | None, _option(_MACHINE, "auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str | None, _option(_MACHINE, "auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, _option(_MACHINE, "CPU threads.")] = None,
    checkpoint_minutes: Annotated[float | None, _option(_MACHINE, "Time between checkpoints.")] = None,
    out: Annotated[Path | None, _option(_MACHINE, "Run folder to write; default runs/falcon-<data>, numbered.")] = None,
    resume: Annotated[Path | None, _option(_MACHINE, "Run folder to go on with, options and all.")] = None,
) -> None:  # fmt: skip
    """Find classes finer than the labels (FALCON): a classifier over fine classes, and the coarse class of each.

    Without options: generated birds, half of them labelled with one of 6 families, the others with one of 5 plumages;
    their 15 genera are found. A small network, a few minutes on two CPU cores.
    """
    from ..training import Interrupted
    from ..training.falcon import FalconRun, make_run
    from ..training.falcon import train_falcon as train
    from ..training.falcon.config import parse_setting, read_settings
    from ..training.falcon.report import format_table
    from .commands import _console, _new_folder

    console = _console()
    if resume is not None:
        run, chosen = resume, FalconRun()
    else:
        given = {} if config is None else read_settings(config)
        given |= dict(parse_setting(text) for text in settings or ())
        data = data or given.pop("data", "birds-two-keys")
        preset = preset or given.pop("preset", "recommended")
        options = {
            "root": root, "train_images": train_images, "test_images": test_images, "fine_level": fine_level,
            "coarse_levels": None if coarse_level is None else [part.strip() for part in coarse_level.split(",")],
            "num_fine": num_fine, "image_size": image_size, "backbone": backbone, "init": init, "start": start,
            "features": features, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
            "precision": precision, "device": device, "threads": threads, "checkpoint_minutes": checkpoint_minutes,
        }  # fmt: skip
        given |= {key: str(v) if isinstance(v, Path) else v for key, v in options.items() if v is not None}
        given = {key: value for key, value in given.items() if key not in ("data", "preset")}
        chosen = make_run(data, preset, given)
        run = out if out is not None else _new_folder(Path("runs"), f"falcon-{data}")
    try:
        metrics = train(chosen, run, resume=resume is not None, console=console)
    except Interrupted:
        console.print(
            f"stopped; the checkpoint is written. Go on with:  c2f train falcon --resume {run}", highlight=False
        )
        raise typer.Exit(130) from None
    if metrics is not None:
        console.print()
        console.print(format_table(metrics))
        console.print(f"run folder: {run}", highlight=False)

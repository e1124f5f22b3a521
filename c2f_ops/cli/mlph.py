"""`c2f train mlph`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ._common import (
    DATA,
    MACHINE,
    MODEL,
    TRAINING,
    CheckpointMinutes,
    Device,
    Precision,
    Resume,
    Root,
    Seed,
    TestImages,
    TrainImages,
    given,
    json_object,
    listed,
    make_console,
    new_folder,
    option,
    stoppable,
)
from .evaluate import show


def train_mlph(
    data: Annotated[
        str, option(DATA, "birds (generated), cub, cub100, cars, aircraft, cifar100, folder or csv.")
    ] = "birds",
    root: Root = None,
    train_images: TrainImages = None,
    test_images: TestImages = None,
    held_out: Annotated[float | None, option(DATA, "Share of the training images measured after each epoch.")] = None,
    image_size: Annotated[int | None, option(DATA, "Side of what the network sees.")] = None,
    load_size: Annotated[int | None, option(DATA, "Side of the images in memory, cropped to image-size.")] = None,
    levels: Annotated[str | None, option(DATA, "Levels of the data to use, comma-separated: species,family.")] = None,
    resolutions: Annotated[str | None, option(DATA, "Side per level, fine to coarse: 128,48,24.")] = None,
    tasks: Annotated[str | None, option(DATA, "Steps of a cycle, where others: species@128,species@48.")] = None,
    augment: Annotated[str | None, option(DATA, "crop or resized_crop.")] = None,
    corrupt: Annotated[str | None, option(DATA, "What to do with broken images: raise, skip or substitute.")] = None,
    backbone: Annotated[str | None, option(MODEL, "torchvision/<model> or timm/<model>.")] = None,
    taps: Annotated[str | None, option(MODEL, "One to four module names, comma-separated.")] = None,
    weights: Annotated[str | None, option(MODEL, "default, a name the library knows, or a file.")] = None,
    backbone_options: Annotated[str | None, option(MODEL, 'JSON, such as {"output_stride": 16}.')] = None,
    unequal: Annotated[str | None, option(MODEL, "Taps of different sizes: error or pool.")] = None,
    dim: Annotated[int | None, option(MODEL, "Projection width d.")] = None,
    recipe: Annotated[str | None, option(TRAINING, "scratch (one stage) or hbp (two, pretrained).")] = None,
    stage1: Annotated[str | None, option(TRAINING, "Stage 1 of hbp: head, or head_only: classifiers alone.")] = None,
    mode: Annotated[str | None, option(TRAINING, "alternating or joint.")] = None,
    epochs: Annotated[str | None, option(TRAINING, "Epochs, one number or one per stage (10,20).")] = None,
    batch_size: Annotated[str | None, option(TRAINING, "Images per resolution and step, likewise.")] = None,
    lr: Annotated[str | None, option(TRAINING, "Learning rate, likewise.")] = None,
    head_lr: Annotated[str | None, option(TRAINING, "Factor on it for projections and classifiers.")] = None,
    weight_decay: Annotated[str | None, option(TRAINING, "Weight decay, likewise.")] = None,
    batch_norm: Annotated[str | None, option(TRAINING, "Statistics: frozen, shared or per_resolution.")] = None,
    label_smoothing: Annotated[float | None, option(TRAINING, "Label smoothing.")] = None,
    consistency: Annotated[float | None, option(TRAINING, "Weight of the loss that ties neighbouring heads.")] = None,
    same_images: Annotated[bool, option(TRAINING, "The same images for all tasks.", "--same-images")] = False,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    threads: Annotated[int | None, option(MACHINE, "CPU threads; the small presets use one.")] = None,
    checkpoint_minutes: CheckpointMinutes = None,
    out: Annotated[Path | None, option(MACHINE, "Run folder to write; default runs/<data>, numbered.")] = None,
    resume: Resume = None,
) -> None:  # fmt: skip
    """Train MLPH: one backbone, one multilinear pooling, one classifier per level, each at its resolution.

    Without options: 40 species of generated birds, a small network, a few minutes on two CPU cores.
    """
    from ..training import make_config, train
    from ..training.config import Config

    console = make_console()
    if resume is not None:
        run, config = resume, Config()
    else:
        changes = given(
            root=root, train_images=train_images, test_images=test_images, held_out=held_out, image_size=image_size,
            load_size=load_size, augment=augment, corrupt=corrupt, backbone=backbone, weights=weights, dim=dim,
            resolutions=None if resolutions is None else listed("resolutions", resolutions, int)[::-1],
            levels=None if levels is None else listed("levels", levels, str),
            tasks=None if tasks is None else _parsed_tasks(tasks),
            taps=None if taps is None else taps.split(","), unequal=unequal, recipe=recipe, mode=mode, seed=seed,
            backbone_options=json_object("backbone-options", backbone_options), label_smoothing=label_smoothing,
            same_images=same_images or None, precision=precision, device=device, threads=threads,
            checkpoint_minutes=checkpoint_minutes, consistency=consistency,
        )  # fmt: skip
        per_stage = {
            "epochs": (epochs, float), "batch_size": (batch_size, int), "lr": (lr, float), "head_lr": (head_lr, float),
            "weight_decay": (weight_decay, float), "batch_norm": (batch_norm, str),
        }  # fmt: skip
        stages = {key: listed(key, text, kind) for key, (text, kind) in per_stage.items() if text is not None}
        config = make_config(data, changes, stages, stage1=stage1)
        run = out if out is not None else new_folder(data)
    with stoppable(console, "train mlph", run):
        metrics = train(config, run, resume=resume is not None, console=console)
    if metrics is not None:
        show(console, metrics, f"{metrics['data']}, {metrics['images']} test images")
        console.print(f"run folder: {run}", highlight=False)


def _parsed_tasks(text: str) -> list[tuple[str, int]]:
    try:
        return [(level.strip(), int(side)) for level, _, side in (part.rpartition("@") for part in text.split(","))]
    except ValueError:
        raise ValueError(f"--tasks must be level@side separated by commas, got {text!r}") from None

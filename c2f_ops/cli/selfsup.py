"""`c2f train selfsup` and `c2f embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .commands import _DATA, _MACHINE, _MODEL, _TRAINING, _console, _new_folder, _option, app, train_app


@train_app.command("selfsup")
def train_selfsup(
    data: Annotated[str, _option(_DATA, "cifar100, birds (generated), or another data set.")] = "cifar100",
    root: Annotated[Path | None, _option(_DATA, "Folder of the data.")] = None,
    train_images: Annotated[int | None, _option(_DATA, "Number of training images.")] = None,
    image_size: Annotated[int | None, _option(_DATA, "Side of the images in memory and of those embedded.")] = None,
    view_size: Annotated[int | None, _option(_DATA, "Side of the views; default image-size.")] = None,
    blur: Annotated[float | None, _option(_DATA, "Share of blurred views, for images above 64 pixels.")] = None,
    backbone: Annotated[
        str | None, _option(_MODEL, "cifar_resnet18, cifar_resnet_small, torchvision/<model> or timm/<model>.")
    ] = None,
    epochs: Annotated[float | None, _option(_TRAINING, "Passes over the images.")] = None,
    batch_size: Annotated[int | None, _option(_TRAINING, "Images per step, two views of each.")] = None,
    lr: Annotated[float | None, _option(_TRAINING, "Learning rate.")] = None,
    warmup_epochs: Annotated[float | None, _option(_TRAINING, "Epochs in which it rises.")] = None,
    temperature: Annotated[float | None, _option(_TRAINING, "Temperature of the loss.")] = None,
    seed: Annotated[int | None, _option(_TRAINING, "Seed of everything random in training.")] = None,
    precision: Annotated[str | None, _option(_MACHINE, "auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str | None, _option(_MACHINE, "auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, _option(_MACHINE, "CPU threads.")] = None,
    checkpoint_minutes: Annotated[float | None, _option(_MACHINE, "Time between checkpoints.")] = None,
    out: Annotated[Path | None, _option(_MACHINE, "Run folder to write; default runs/selfsup-<data>.")] = None,
    resume: Annotated[Path | None, _option(_MACHINE, "Run folder to go on with, options and all.")] = None,
) -> None:  # fmt: skip
    """Train a backbone on images without labels (contrastive); its features start `c2f train falcon` and others."""
    from ..training import Interrupted
    from ..training.selfsup import SelfsupConfig, pretrain

    changes: dict[str, Any] = {
        "root": None if root is None else str(root), "train_images": train_images, "image_size": image_size,
        "view_size": view_size, "blur_share": blur, "backbone": backbone, "epochs": epochs, "batch_size": batch_size,
        "lr": lr, "warmup_epochs": warmup_epochs, "temperature": temperature, "seed": seed, "precision": precision,
        "device": device, "threads": threads, "checkpoint_minutes": checkpoint_minutes,
    }  # fmt: skip
    console = _console()
    config = SelfsupConfig(data=data, **{key: value for key, value in changes.items() if value is not None})
    run = resume or out or _new_folder(Path("runs"), f"selfsup-{data}")
    try:
        pretrain(config, run, resume=resume is not None, console=console)
    except Interrupted:
        console.print(
            f"stopped; the checkpoint is written. Go on with:  c2f train selfsup --resume {run}", highlight=False
        )
        raise typer.Exit(130) from None
    console.print(f"run folder: {run}", highlight=False)


@app.command("embed")
def embed_images(
    out: Annotated[Path, _option(_MACHINE, "File to write, .npz.")],
    run: Annotated[
        Path | None, _option(_MODEL, "Folder of a self-supervised run, or of one of its checkpoints.")
    ] = None,
    checkpoint: Annotated[Path | None, _option(_MODEL, "File with weights; with --backbone.")] = None,
    backbone: Annotated[str | None, _option(_MODEL, "As for train selfsup; for --checkpoint.")] = None,
    source: Annotated[
        str, _option(_MODEL, "Kind of the checkpoint: auto, mocov3, solo, timm, torchvision or c2f.")
    ] = "auto",
    data: Annotated[str | None, _option(_DATA, "Data set; default that of the run.")] = None,
    root: Annotated[Path | None, _option(_DATA, "Folder of the data; default that of the run.")] = None,
    split: Annotated[str, _option(_DATA, "train or test.")] = "train",
    images: Annotated[int | None, _option(_DATA, "Number of images.")] = None,
    image_size: Annotated[int | None, _option(_DATA, "Side of the images; default that of the run, else 32.")] = None,
    precision: Annotated[str | None, _option(_MACHINE, "fp32, bf16 or fp16; default that of the run.")] = None,
    device: Annotated[str, _option(_MACHINE, "auto, cpu or cuda.")] = "auto",
) -> None:
    """Write features, labels and ids of a data set as an .npz file."""
    from dataclasses import replace

    from ..models.checkpoints import load_backbone_weights
    from ..training.run import _device
    from ..training.selfsup import SelfsupConfig, SimCLR, embed, load_images, load_selfsup, write_features

    if (run is None) == (checkpoint is None):
        raise ValueError("embed: one of --run and --checkpoint must be given")
    if out.suffix != ".npz":
        raise ValueError(f"embed: --out must end in .npz, got {out}")
    if run is not None:
        if backbone is not None:
            raise ValueError(f"embed: --backbone must go with --checkpoint, got it with --run {run}")
        model, config = load_selfsup(run, device)
    else:
        if backbone is None:
            raise ValueError("embed: --backbone must be given with --checkpoint")
        config = SelfsupConfig(backbone=backbone, precision="fp32")
        model = SimCLR(config).to(_device(device)).eval()
        load_backbone_weights(model.backbone, Path(str(checkpoint)), source=source)
    changes = {"data": data, "root": None if root is None else str(root), "image_size": image_size}
    config = replace(config, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]
    dataset = load_images(config, split, images)
    features = embed(model, dataset.stacked(config.image_size), precision=precision or config.precision)
    write_features(out, features, dataset)
    _console().print(f"{out}: {len(features)} x {features.shape[1]}, {config.data} {split}", highlight=False)

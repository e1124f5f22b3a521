"""`c2f train selfsup` and `c2f embed`."""

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
    OnDevice,
    Precision,
    Resume,
    Root,
    Seed,
    Threads,
    TrainImages,
    given,
    make_console,
    new_folder,
    option,
    stoppable,
)


def train_selfsup(
    data: Annotated[str, option(DATA, "cifar100, birds (generated), or another data set.")] = "cifar100",
    root: Root = None,
    train_images: TrainImages = None,
    image_size: Annotated[int | None, option(DATA, "Side of the images in memory and of those embedded.")] = None,
    view_size: Annotated[int | None, option(DATA, "Side of the views; default image-size.")] = None,
    blur: Annotated[float | None, option(DATA, "Share of blurred views, for images above 64 pixels.")] = None,
    backbone: Backbone = None,
    epochs: Annotated[float | None, option(TRAINING, "Passes over the images.")] = None,
    batch_size: Annotated[int | None, option(TRAINING, "Images per step, two views of each.")] = None,
    lr: Annotated[float | None, option(TRAINING, "Learning rate.")] = None,
    warmup_epochs: Annotated[float | None, option(TRAINING, "Epochs in which it rises.")] = None,
    temperature: Annotated[float | None, option(TRAINING, "Temperature of the loss.")] = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    threads: Threads = None,
    checkpoint_minutes: CheckpointMinutes = None,
    out: Annotated[Path | None, option(MACHINE, "Run folder to write; default runs/selfsup-<data>.")] = None,
    resume: Resume = None,
) -> None:  # fmt: skip
    """Train a backbone on images without labels (contrastive); its features start `c2f train falcon` and others."""
    from ..training.selfsup import SelfsupConfig, pretrain

    changes = given(
        data=data, root=root, train_images=train_images, image_size=image_size, view_size=view_size, blur_share=blur,
        backbone=backbone, epochs=epochs, batch_size=batch_size, lr=lr, warmup_epochs=warmup_epochs,
        temperature=temperature, seed=seed, precision=precision, device=device, threads=threads,
        checkpoint_minutes=checkpoint_minutes,
    )  # fmt: skip
    console = make_console()
    config = SelfsupConfig().changed(changes)
    run = resume or out or new_folder(f"selfsup-{data}")
    with stoppable(console, "train selfsup", run):
        pretrain(config, run, resume=resume is not None, console=console)
    console.print(f"run folder: {run}", highlight=False)


def embed_images(
    out: Annotated[Path, option(MACHINE, "File to write, .npz.")],
    run: Annotated[Path | None, option(MODEL, "Folder of a self-supervised run, or of one of its checkpoints.")] = None,
    checkpoint: Annotated[Path | None, option(MODEL, "File with weights; with --backbone.")] = None,
    backbone: Annotated[str | None, option(MODEL, "As for train selfsup; for --checkpoint.")] = None,
    source: Annotated[
        str, option(MODEL, "Kind of the checkpoint: auto, mocov3, solo, timm, torchvision or c2f.")
    ] = "auto",
    data: Annotated[str | None, option(DATA, "Data set; default that of the run.")] = None,
    root: Annotated[Path | None, option(DATA, "Folder of the data; default that of the run.")] = None,
    split: Annotated[str, option(DATA, "train or test.")] = "train",
    images: Annotated[int | None, option(DATA, "Number of images.")] = None,
    image_size: Annotated[int | None, option(DATA, "Side of the images; default that of the run, else 32.")] = None,
    precision: Annotated[str | None, option(MACHINE, "fp32, bf16 or fp16; default that of the run.")] = None,
    device: OnDevice = "auto",
) -> None:
    """Write features, labels and ids of a data set as an .npz file."""
    from ..models.checkpoints import load_backbone_weights
    from ..training.machine import find_device
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
        model = SimCLR(config).to(find_device(device)).eval()
        load_backbone_weights(model.backbone, Path(str(checkpoint)), source=source)
    config = config.changed(given(data=data, root=root, image_size=image_size))
    dataset = load_images(config, split, images)
    features = embed(model, dataset.stacked(config.image_size), precision=precision or config.precision)
    write_features(out, features, dataset)
    make_console().print(f"{out}: {len(features)} x {features.shape[1]}, {config.data} {split}", highlight=False)

"""`c2f train contrastive`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ._common import (
    DATA,
    MACHINE,
    MODEL,
    TRAINING,
    Device,
    Resume,
    Root,
    TestImages,
    Threads,
    TrainImages,
    given,
    listed,
    make_console,
    new_folder,
    option,
)


def train_contrastive(
    data: Annotated[
        str | None,
        option(
            DATA,
            "circles (default), planted, digits, a file of features (npz, csv, parquet), or a set of images: cifar100, "
            "cub100, birds (generated), folder, csv, or another data set.",
        ),
    ] = None,
    test: Annotated[str | None, option(DATA, "File with test samples; default a fifth of the file.")] = None,
    root: Root = None,
    image_size: Annotated[int | None, option(DATA, "Side of images; default 32 for CIFAR, else 64.")] = None,
    coarse_classes: Annotated[
        int | None, option(DATA, "Of images: keep the classes of the first so many coarse ones.")
    ] = None,
    train_images: TrainImages = None,
    test_images: TestImages = None,
    min_area: Annotated[
        float | None, option(DATA, "Of images: least share of an image in the crops trained on; default 0.4.")
    ] = None,
    n_per_class: Annotated[int | None, option(DATA, "Samples of each class, of circles and planted.")] = None,
    angles: Annotated[str | None, option(DATA, "Of circles: fixed, phase or iid.")] = None,
    nuisance: Annotated[float | None, option(DATA, "Of planted: standard deviation of the other features.")] = None,
    standardize: Annotated[
        bool | None,
        option(DATA, "Scale each feature; default yes, but not for circles.", "--standardize/--raw"),
    ] = None,
    methods: Annotated[
        str | None,
        option(
            MODEL,
            "Comma-separated: attentive, plain, cross-entropy, paper, paper-plain, pairwise, pairwise-plain, "
            "attentive-embedding, attentive-fast, attentive-hard.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        option(
            MODEL,
            "Of features mlp (default), linear or identity; of images cifar_resnet_small (default), cifar_resnet18, "
            "torchvision/<model> or timm/<model>.",
        ),
    ] = None,
    hidden: Annotated[int | None, option(MODEL, "Width of the hidden layer.")] = None,
    dim: Annotated[int | None, option(MODEL, "Width of the embedding.")] = None,
    batch_norm: Annotated[bool | None, option(MODEL, "Batch normalisation.", "--batch-norm/--no-batch-norm")] = None,
    front_end: Annotated[str | None, option(MODEL, "polar: radii of interleaved coordinates.")] = None,
    seeds: Annotated[int | None, option(TRAINING, "Runs of each method.")] = None,
    epochs: Annotated[int | None, option(TRAINING, "Passes over the samples.")] = None,
    batch_size: Annotated[int | None, option(TRAINING, "Samples of a step.")] = None,
    lr: Annotated[float | None, option(TRAINING, "Learning rate of Adam.")] = None,
    attention_lr: Annotated[float | None, option(TRAINING, "Learning rate of the class weights.")] = None,
    temperature: Annotated[float | None, option(TRAINING, "Temperature of the loss.")] = None,
    precision: Annotated[str | None, option(MACHINE, "Of images: auto (default), fp32 or bf16.")] = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[Path | None, option(MACHINE, "Run folder to write; default runs/contrastive-<data>.")] = None,
    resume: Resume = None,
) -> None:  # fmt: skip
    """Compare class-attentive contrastive learning with its baselines over seeds; one page with tables and figures."""
    from ..training.contrastive import ContrastiveConfig, train

    changes = given(
        data=data, test=test, root=root, image_size=image_size, coarse_classes=coarse_classes,
        train_images=train_images, test_images=test_images, min_area=min_area, n_per_class=n_per_class, angles=angles,
        nuisance=nuisance, standardize=standardize,
        methods=None if methods is None else tuple(listed("methods", methods, str)), backbone=backbone, hidden=hidden,
        dim=dim, batch_norm=batch_norm, front_end=front_end, seeds=seeds, epochs=epochs, batch_size=batch_size, lr=lr,
        attention_lr=attention_lr, temperature=temperature, precision=precision, device=device, threads=threads,
    )  # fmt: skip
    config = ContrastiveConfig().changed(changes)
    run = resume or out or new_folder(f"contrastive-{Path(config.data).stem}")
    train(config, run, resume=resume is not None, console=make_console())

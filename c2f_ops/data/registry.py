"""Data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .images import LabeledImages

#: Names that :func:`load_dataset` knows, each in one line.
DATASETS = {
    "aircraft": "FGVC-Aircraft, official folder; levels manufacturer, family, variant",
    "birds": "generated bird-like images, 3 levels; needs no files",
    "birds-two-keys": "the same birds, 15 genera: even items labelled by their family, odd ones by their plumage",
    "cars": "Stanford Cars, official folders or cars.csv; levels body_type, make_body_type, model",
    "cifar100": "CIFAR-100, 20 / 100 classes: cifar100_<split>*.npz or the folder cifar-100-python",
    "cifar100-si": "CIFAR-100 with 32 to 99 % of each class; files of cifar100",
    "cifar-si": "cifar100-si by its name in the paper",
    "cifar100-t2": "CIFAR-100 under a second taxonomy, 20 / 100 classes; files of cifar100",
    "cifar100-t1t2": "CIFAR-100, even items labelled by the standard groups, odd ones by the second taxonomy",
    "cifar68": "68 classes of CIFAR-100 in 20 groups of 2 to 5; files of cifar100",
    "csv": "any index file (path, coarse..., fine, split, or with level:...): the file or a folder with index.csv",
    "cub": "CUB-200-2011, official folder with cub200_taxonomy.csv; levels family, genus, species",
    "cub100": "100 species of CUB: cub100_train.zip, cub100_test.zip, cub200_taxonomy.csv; family, genus, species",
    "entity13": "BREEDS, 13 / 260 classes: ImageNet folder with train and val",
    "entity30": "BREEDS, 30 / 240 classes: ImageNet folder with train and val",
    "folder": "any tree root/[<split>/]<coarse>/.../<fine>/<image>",
    "living17": "BREEDS, 17 / 68 classes: ImageNet folder with train and val",
    "nonliving26": "BREEDS, 26 / 104 classes: ImageNet folder with train and val",
    "tieredimagenet": "34 / 608 classes: ImageNet folder with train and val",
}

SPLITS = ("train", "test")
ANY_SPLIT = ("csv", "folder")  # splits are what the files say
BIRDS = 1000  # generated when n is not given
BIRDS_SIZE = 128


def load_dataset(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    n: int | None = None,
    corrupt: str = "raise",
    resize_mode: str = "shorter",
) -> LabeledImages:
    """Return a data set by name; see ``DATASETS``. Files are read from ``root``, never downloaded.

    Args:
        name: a key of ``DATASETS``.
        root: folder of the files (for ``"csv"`` also the file itself); not used for birds.
        split: ``"train"`` or ``"test"``; for ``"folder"`` the name of any sub-folder, for ``"csv"`` any in its column.
        size: side of the images given out; None leaves them as they are (128 for birds).
        seed: of the generated images, or of the choice of ``n`` images.
        n: number of images; None for all (1000 for birds).
        corrupt: ``"raise"``, ``"skip"`` or ``"substitute"``; see :class:`LabeledImages`.
        resize_mode: ``"shorter"`` (and centre crop) or ``"squash"``.

    Raises:
        ValueError: unknown name, split or option, or files that contradict each other.
        FileNotFoundError: a file is missing; the message names it.
    """
    if name not in DATASETS:
        raise ValueError(f"load_dataset: name must be one of {', '.join(DATASETS)}, got {name!r}")
    if split not in SPLITS and name not in ANY_SPLIT:
        raise ValueError(f"load_dataset: split must be one of {', '.join(SPLITS)}, got {split!r}")
    if n is not None and n < 1:
        raise ValueError(f"load_dataset: n must be at least 1, got {n}")
    if name in ("birds", "birds-two-keys"):
        from .birds import load_birds

        two_keys, size = name == "birds-two-keys", BIRDS_SIZE if size is None else size
        return load_birds(split, BIRDS if n is None else n, size=size, seed=seed, two_keys=two_keys)
    if root is None:
        raise ValueError(f"load_dataset: root must be the folder of {name}, got None")
    options: dict[str, Any] = {"size": size, "corrupt": corrupt, "resize_mode": resize_mode}
    dataset = _reader(name)(Path(root), split, **options)
    if n is None:
        return dataset
    if n > len(dataset):
        raise ValueError(f"load_dataset: n must be at most {len(dataset)}, the images of {name} {split}, got {n}")
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:n]
    return dataset.subset(chosen.sort().values)


def _reader(name: str) -> Callable[..., LabeledImages]:
    from . import aircraft, cars_files, cifar, cifar_variants, csv_index, cub, folder, imagenet

    if name in imagenet.SUBSETS:
        return partial(imagenet.load_imagenet_subset, name=name)
    return {
        "aircraft": aircraft.load_aircraft,
        "cars": cars_files.load_cars,
        "cifar100": cifar.load_cifar100,
        "cifar100-si": cifar_variants.load_cifar100_si,
        "cifar-si": cifar_variants.load_cifar100_si,
        "cifar100-t2": cifar_variants.load_cifar100_t2,
        "cifar100-t1t2": cifar_variants.load_cifar100_t1t2,
        "cifar68": cifar_variants.load_cifar68,
        "csv": csv_index.load_csv,
        "cub": cub.load_cub,
        "cub100": cub.load_cub100,
        "folder": folder.load_folder,
    }[name]

"""Views of CIFAR-100: 68 classes in uneven groups, subsampled classes, and a second taxonomy."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .cifar import load_cifar100
from .images import LabeledImages
from .taxonomies import grouping, mix_taxonomies, regroup, second_taxonomy

#: Images of a class in the standard training set, to which the counts of the table refer.
FULL_CLASS = 500


def load_cifar68(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read the 68 classes of CIFAR-100 in 20 groups of 2 to 5.

    Source: the classes of the reference implementation of Grcić et al., ICML 2024 (see docs/data.md).
    """
    data = load_cifar100(root, split, **options)
    kept = {row["fine"] for row in _table() if row["in_cifar68"] == "1"}
    groups = {fine: coarse for fine, coarse in grouping(data.hierarchy).items() if fine in kept}
    return regroup(data, groups, name="cifar68", drop=True)


def load_cifar100_si(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read CIFAR-100 with 32 to 99 % of each class, both splits alike: its first images in the order of the files.

    Source: the shares of the reference implementation of Grcić et al., ICML 2024 (see docs/data.md). The published
    choice of images needs the folder ``cifar-100-python``, which has the official order.
    """
    data = load_cifar100(root, split, **options)
    kept = {row["fine"]: int(row["si_images"]) for row in _table()}
    fine = data.labels[:, -1].numpy()
    chosen = [
        np.flatnonzero(fine == i)[: (fine == i).sum() * kept[name] // FULL_CLASS]
        for i, name in enumerate(data.hierarchy.names[-1])
    ]
    part = data.subset(np.sort(np.concatenate(chosen)).tolist())
    part.name = "cifar100-si"
    return part


def load_cifar100_t2(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read CIFAR-100 under a second taxonomy of 20 groups of 5, :func:`~c2f_ops.data.second_taxonomy`."""
    data = load_cifar100(root, split, **options)
    return regroup(data, second_taxonomy(data.hierarchy), name="cifar100-t2")


def load_cifar100_t1t2(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read CIFAR-100 with ``taxonomies``: the standard groups label even items, the second taxonomy odd ones."""
    data = load_cifar100(root, split, **options)
    mixed = mix_taxonomies(data, grouping(data.hierarchy), second_taxonomy(data.hierarchy))
    mixed.name = "cifar100-t1t2"
    return mixed


def _table() -> list[dict[str, str]]:
    text = (resources.files(__package__) / "tables" / "cifar100.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))

"""CUB-200-2011: the official folder, and a 100-species subset in zip files. Nothing is downloaded."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import torch

from .._hierarchy_checks import some
from ..hierarchy import Hierarchy
from .images import FileSource, LabeledImages, ZipSource

LEVELS = ("family", "genus", "species")
TAXONOMY = "cub200_taxonomy.csv"


def load_cub(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read the official folder: images.txt, classes.txt, image_class_labels.txt, train_test_split.txt and images/.

    ``root`` is that folder or the one that holds ``CUB_200_2011``; the taxonomy file stands in either.
    """
    folder = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    paths, classes, label_of, is_train = (
        _read_pairs(folder / name)
        for name in ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    unmatched = (paths.keys() ^ label_of.keys()) | (paths.keys() ^ is_train.keys())
    if unmatched:
        raise ValueError(
            f"load_dataset: the files of {folder} must list the same images, got {some(sorted(unmatched), 'ids')}"
        )
    class_ids = [int(i) for i in classes]
    taxonomy = _read_taxonomy(root, folder)
    for row in taxonomy:  # a shifted or re-sorted taxonomy would train on wrong families without any other sign
        official = classes.get(row["class_id"], "").partition(".")[2]
        if official and row.get("cub_name", official) != official:
            raise ValueError(
                f"load_dataset: class {row['class_id']} of {TAXONOMY} must have cub_name {official!r} "
                f"as in classes.txt, got {row['cub_name']!r}"
            )
    hierarchy = _hierarchy(taxonomy, class_ids)
    position = {class_id: i for i, class_id in enumerate(class_ids)}
    wanted = "1" if split == "train" else "0"
    chosen = [image for image in paths if is_train[image] == wanted]
    labels = hierarchy.from_fine(torch.tensor([position[int(label_of[image])] for image in chosen], dtype=torch.long))
    ids = [paths[image] for image in chosen]
    return LabeledImages(
        "cub", split, hierarchy, labels, ids, FileSource([folder / "images" / i for i in ids]), **options
    )


def load_cub100(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read cub100_train.zip or cub100_test.zip: JPEG members ``<class id, 001..200>/<file name>``."""
    path = root / f"cub100_{split}.zip"
    if not path.is_file():
        raise FileNotFoundError(f"load_dataset: root must hold {path.name}, got {root}")
    with zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if not name.endswith("/"))
    taxonomy = [row for row in _read_taxonomy(root) if row.get("subset_id")]
    taxonomy.sort(key=lambda row: int(row["subset_id"]))
    class_ids = [int(row["class_id"]) for row in taxonomy]
    hierarchy = _hierarchy(taxonomy, class_ids)
    position = {class_id: i for i, class_id in enumerate(class_ids)}
    stray = [member for member in members if not member[:3].isdigit() or int(member[:3]) not in position]
    if stray:
        raise ValueError(
            f"load_dataset: members of {path} must start with a class id that has a subset_id, got {stray[:5]}"
        )
    labels = hierarchy.from_fine([position[int(member[:3])] for member in members])
    return LabeledImages("cub100", split, hierarchy, labels, members, ZipSource(path, members), **options)


def _read_pairs(path: Path) -> dict[str, str]:
    """Read lines ``<number> <value>``."""
    if not path.is_file():
        raise FileNotFoundError(f"load_dataset: root must hold {path.name} of CUB-200-2011, got {path.parent}")
    pairs = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    bad = [i for i, pair in enumerate(pairs, 1) if len(pair) != 2 or not pair[0].isdigit()]
    if bad:
        raise ValueError(f"load_dataset: {path} must have lines '<number> <value>', got others ({some(bad, 'lines')})")
    return {number: value.strip() for number, value in pairs}


def _read_taxonomy(*folders: Path) -> list[dict[str, str]]:
    path = next((folder / TAXONOMY for folder in folders if (folder / TAXONOMY).is_file()), None)
    need = "class_id (1..200), family, genus and species (or cub_name)"
    if path is None:
        raise FileNotFoundError(
            f"load_dataset: root must hold {TAXONOMY}, as CUB-200-2011 has no taxonomy of its own, got {folders[0]}; "
            f"the file is a CSV with the columns {need}"
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = set(reader.fieldnames or ())
        if not {"class_id", "family", "genus"} <= header or not {"species", "cub_name"} & header:
            raise ValueError(f"load_dataset: {path} must have the columns {need}, got {', '.join(sorted(header))}")
        return list(reader)


def _hierarchy(taxonomy: list[dict[str, str]], class_ids: list[int]) -> Hierarchy:
    """Build family -> genus -> species with the species in the order of the class ids."""
    by_class = {int(row["class_id"]): row for row in taxonomy}
    absent = [i for i in class_ids if i not in by_class]
    if absent:
        raise ValueError(
            f"load_dataset: {TAXONOMY} must have every class of the data, got none for class_id {absent[:5]}"
        )
    rows = [by_class[i] for i in class_ids]
    return Hierarchy.from_rows(
        LEVELS,
        [(row["family"], row["genus"], row.get("species") or row["cub_name"]) for row in rows],
        meta={"source": TAXONOMY},
    )

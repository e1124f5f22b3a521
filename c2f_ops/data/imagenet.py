"""Subsets of ImageNet with a hierarchy: the four BREEDS sets and tieredImageNet. Nothing is downloaded."""

from __future__ import annotations

import csv
import io
import os
from importlib import resources
from pathlib import Path
from typing import Any

from .._hierarchy_checks import some
from ..hierarchy import Hierarchy
from .folder import SUFFIXES
from .images import FileSource, LabeledImages

#: Data sets with a class table in the package: coarse and fine classes.
SUBSETS = {
    "entity13": (13, 260),
    "entity30": (30, 240),
    "living17": (17, 68),
    "nonliving26": (26, 104),
    "tieredimagenet": (34, 608),
}
COLUMNS = ("wnid", "name", "coarse")


def load_imagenet_subset(
    root: Path, split: str, *, name: str, classes_csv: str | os.PathLike[str] | None = None, **options: Any
) -> LabeledImages:
    """Read ``root/<split>/<wnid>/<image>`` for the classes of a table; the split ``test`` may be the folder ``val``.

    Args:
        root: ImageNet folder with ``train`` and ``val`` (or ``test``).
        split: ``"train"`` or ``"test"``.
        name: a key of ``SUBSETS``, or any name with ``classes_csv``.
        classes_csv: CSV file with the columns wnid, name, coarse, a line per fine class; by default the package's.
        options: as for :class:`LabeledImages`.

    Raises:
        FileNotFoundError: the folder of a split or of a class is missing or empty.
        ValueError: the table is not one.
    """
    hierarchy, wnids = _read_classes(name, classes_csv)
    folder = root / split
    if split == "test" and not folder.is_dir():
        folder = root / "val"
    if not folder.is_dir():
        raise FileNotFoundError(f"load_dataset: root must hold the folder {folder.name} of ImageNet, got {root}")
    files = [_images(folder / wnid) for wnid in wnids]
    empty = [wnid for wnid, found in zip(wnids, files, strict=True) if not found]
    if empty:
        raise FileNotFoundError(
            f"load_dataset: {folder} must hold images of the {len(wnids)} classes of {name} in <wnid>/, "
            f"got none for {some(empty, 'classes')}"
        )
    ids = [f"{wnid}/{file}" for wnid, found in zip(wnids, files, strict=True) for file in found]
    labels = hierarchy.from_fine([i for i, found in enumerate(files) for _ in found])
    return LabeledImages(name, split, hierarchy, labels, ids, FileSource([folder / i for i in ids]), **options)


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # one listing per class; a stat of each of a million files takes minutes
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != ".")


def _read_classes(name: str, classes_csv: str | os.PathLike[str] | None) -> tuple[Hierarchy, list[str]]:
    """Return the tree (coarse, fine), in the order of the lines, and the WordNet id of each fine class."""
    if classes_csv is not None:
        text, source = Path(classes_csv).read_text(encoding="utf-8-sig"), Path(classes_csv).name
    elif name in SUBSETS:
        text = (resources.files(__package__) / "tables" / f"{name}.csv").read_text(encoding="utf-8")
        source = f"{name}.csv"
    else:
        raise ValueError(f"load_imagenet_subset: name must be one of {', '.join(SUBSETS)}, got {name!r}")
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or any(row.get(column) in (None, "") for row in rows for column in COLUMNS):
        raise ValueError(f"load_dataset: {source} must have lines with the columns {', '.join(COLUMNS)}")
    wnids = [row["wnid"] for row in rows]
    twice = sorted({wnid for wnid in wnids if wnids.count(wnid) > 1})
    if twice:
        raise ValueError(f"load_dataset: {source} must have each class once, got {some(twice, 'wnids')} again")
    tree = Hierarchy.from_rows(
        ("coarse", "fine"), [(row["coarse"], row["name"]) for row in rows], meta={"source": source, "wnids": wnids}
    )
    return tree, wnids

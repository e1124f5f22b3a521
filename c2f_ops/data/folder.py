"""A folder tree of images: ``<coarse>/.../<fine>/<image>``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..hierarchy import Hierarchy
from .images import FileSource, LabeledImages

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def load_folder(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read ``root/<split>/<coarse>/.../<fine>/<image>``, or ``root/<coarse>/...`` where there is no folder ``train``.

    The hierarchy is that of the train folder, classes in alphabetical order; other splits may lack classes, not add.
    """
    if (root / "train").is_dir():
        train, folder = root / "train", root / split
    elif split == "train":
        train = folder = root
    else:
        raise FileNotFoundError(f"load_dataset: root must hold the folders train and {split}, got {root}")
    if not folder.is_dir():
        raise FileNotFoundError(f"load_dataset: root must hold the folder {split}, got {root}")
    hierarchy = Hierarchy.from_paths(
        [_class_of(train, file) for file in _images(train)], meta={"source": "folder tree"}
    )
    files = _images(folder)
    labels = hierarchy.expand([_class_of(folder, file) for file in files])
    ids = [file.relative_to(folder).as_posix() for file in files]
    return LabeledImages("folder", split, hierarchy, labels, ids, FileSource(files), **options)


def _images(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise FileNotFoundError(f"load_dataset: {folder} must hold images ({', '.join(SUFFIXES)}), got none")
    loose = [file.name for file in files if file.parent == folder]
    if loose:
        raise ValueError(
            f"load_dataset: images must stand in class folders, got {', '.join(loose[:5])} directly in {folder}"
        )
    return files


def _class_of(folder: Path, file: Path) -> str:
    return file.parent.relative_to(folder).as_posix()

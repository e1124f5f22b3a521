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
    train, folder = _folders(root, split)
    hierarchy = Hierarchy.from_paths(
        [_class_of(train, file) for file in _images(train)], meta={"source": "folder tree"}
    )
    files = _images(folder)
    labels = hierarchy.expand([_class_of(folder, file) for file in files])
    ids = [file.relative_to(folder).as_posix() for file in files]
    return LabeledImages("folder", split, hierarchy, labels, ids, FileSource(files), **options)


def image_files(folder: Path) -> list[Path]:
    """Files of a folder, at any depth, whose names end as those of images do, sorted; none that are hidden."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and _shown(file, folder))


def folder_splits(root: Path) -> list[str]:
    """Names of the splits of a folder tree."""
    if not (root / "train").is_dir():
        return ["train"]
    return [folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]


def strays(root: Path, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of a split with other suffixes than images have, and its folders without images."""
    _, folder = _folders(root, split)
    found = [path for path in sorted(folder.rglob("*")) if _shown(path, folder)]
    images = [path for path in found if path.suffix.lower() in SUFFIXES]
    used = {parent for path in images for parent in (path, *path.parents)}
    strange = [path for path in found if path not in used]
    files, folders = ([path for path in strange if path.is_dir() == is_dir] for is_dir in (False, True))
    return _names(files, folder), _names(folders, folder)


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return the folders of the training images and of a split."""
    if (root / "train").is_dir():
        train, folder = root / "train", root / split
    elif split == "train":
        train = folder = root
    else:
        raise FileNotFoundError(f"load_dataset: root must hold the folders train and {split}, got {root}")
    if not folder.is_dir():
        raise FileNotFoundError(f"load_dataset: root must hold the folder {split}, got {root}")
    return train, folder


def _images(folder: Path) -> list[Path]:
    files = image_files(folder)
    if not files:
        raise FileNotFoundError(f"load_dataset: {folder} must hold images ({', '.join(SUFFIXES)}), got none")
    loose = [file.name for file in files if file.parent == folder]
    if loose:
        raise ValueError(
            f"load_dataset: images must stand in class folders, got {', '.join(loose[:5])} directly in {folder}"
        )
    return files


def _shown(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _names(paths: list[Path], folder: Path) -> tuple[str, ...]:
    return tuple(path.relative_to(folder).as_posix() for path in paths)


def _class_of(folder: Path, file: Path) -> str:
    return file.parent.relative_to(folder).as_posix()

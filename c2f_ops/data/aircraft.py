"""FGVC-Aircraft: the official folder. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._hierarchy_checks import some
from ..hierarchy import Hierarchy
from .images import FileSource, LabeledImages

LEVELS = ("manufacturer", "family", "variant")
SPLITS = {"train": "trainval", "test": "test"}


def load_aircraft(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read ``images_<level>_<trainval | test>.txt`` and ``images/``, below ``fgvc-aircraft-2013b/data`` or ``data``.

    The tree is what the lists of both splits say of each image: 30 manufacturers, 70 families, 100 variants. Variants
    are in alphabetical order as in the published lists; families and manufacturers follow their first variant.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: lists that are damaged, empty or contradict each other.
    """
    places = (root / "fgvc-aircraft-2013b" / "data", root / "data", root)
    folder = next((place for place in places if (place / "images").is_dir()), root)
    rows: dict[str, dict[str, tuple[str, ...]]] = {}
    for part in SPLITS.values():
        lists = [_read_list(folder / f"images_{level}_{part}.txt") for level in LEVELS]
        unmatched = set[str]().union(*lists) - set(lists[0]).intersection(*lists)
        if unmatched:
            raise ValueError(
                f"load_dataset: the lists of {part} in {folder} must name the same images, "
                f"got {some(sorted(unmatched), 'ids')}"
            )
        rows[part] = {image: tuple(names[image] for names in lists) for image in lists[-1]}
    both = sorted(rows["trainval"].keys() & rows["test"].keys())
    if both:
        raise ValueError(f"load_dataset: trainval and test in {folder} must share no image, got {some(both, 'ids')}")
    chosen = rows[SPLITS[split]]
    if not chosen:
        raise ValueError(f"load_dataset: images_variant_{SPLITS[split]}.txt in {folder} must have lines, got none")
    paths = sorted({row for part in rows.values() for row in part.values()}, key=lambda row: row[-1])
    hierarchy = Hierarchy.from_rows(LEVELS, paths, meta={"source": "lists of FGVC-Aircraft"})
    position = {name: i for i, name in enumerate(hierarchy.names[-1])}
    labels = hierarchy.from_fine([position[row[-1]] for row in chosen.values()])
    ids = [f"{image}.jpg" for image in chosen]
    files = FileSource([folder / "images" / name for name in ids])
    return LabeledImages("aircraft", split, hierarchy, labels, ids, files, **options)


def _read_list(path: Path) -> dict[str, str]:
    """Read lines ``<image id> <class name>``; names have blanks."""
    if not path.is_file():
        raise FileNotFoundError(f"load_dataset: root must hold {path.name} of FGVC-Aircraft, got {path.parent}")
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        image, _, name = line.strip().partition(" ")
        name = name.strip()
        if not image:
            continue
        if not name:
            raise ValueError(f"load_dataset: {path} must have lines '<image> <class>', got {line!r} (line {number})")
        if found.setdefault(image, name) != name:
            raise ValueError(
                f"load_dataset: {path} must give image {image} one class, got {found[image]!r} and {name!r} "
                f"(line {number})"
            )
    return found

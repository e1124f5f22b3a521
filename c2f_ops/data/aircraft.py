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

    The tree is what the lists of both splits say of each image: 30 manufacturers, 70 families, 100 variants, classes in
    alphabetical order as in the published lists.
    """
    places = (root / "fgvc-aircraft-2013b" / "data", root / "data", root)
    folder = next((place for place in places if (place / "images").is_dir()), root)
    rows: dict[str, dict[str, tuple[str, ...]]] = {}
    for part in SPLITS.values():
        lists = [_read_list(folder / f"images_{level}_{part}.txt") for level in LEVELS]
        unmatched = {image for names in lists for other in lists for image in names.keys() ^ other.keys()}
        if unmatched:
            raise ValueError(
                f"load_dataset: the lists of {part} in {folder} must name the same images, "
                f"got {some(sorted(unmatched), 'ids')}"
            )
        rows[part] = {image: tuple(names[image] for names in lists) for image in lists[-1]}
    paths = sorted({row for part in rows.values() for row in part.values()}, key=lambda row: row[-1])
    hierarchy = Hierarchy.from_rows(LEVELS, paths, meta={"source": "lists of FGVC-Aircraft"})
    position = {name: i for i, name in enumerate(hierarchy.names[-1])}
    chosen = rows[SPLITS[split]]
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
        if image and not name.strip():
            raise ValueError(f"load_dataset: {path} must have lines '<image> <class>', got {line!r} (line {number})")
        if image:
            found[image] = name.strip()
    return found

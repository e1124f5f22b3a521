"""What is wrong with a data set: files, classes and splits, before anything is trained on it."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..hierarchy import HierarchyWarning
from .csv_index import csv_splits
from .folder import folder_splits, strays
from .images import LabeledImages, decode_image, has_16_bits, in_threads, open_image, reason_of
from .registry import SPLITS, load_dataset

MIN_SIDE = 16


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        severity: ``"error"``: an image cannot be read, or an accuracy would be false. ``"warning"``: good to know.
        kind: a word or two, the same for all findings of this kind.
        split: where; ``"train, test"`` for what lies between splits.
        message: a sentence.
        items: ids of images, or names of classes, each with what belongs to it.
    """

    severity: str
    kind: str
    split: str
    message: str
    items: tuple[str, ...] = ()


class _Image(NamedTuple):
    """What was seen of an image: the hash of its bytes, why it cannot be read, and kind -> remark."""

    digest: str
    unreadable: str | None
    odd: dict[str, str]


#: Oddities of a single image: kind -> message.
ODD = {
    "wrong suffix": "the format is not the one of the suffix",
    "16 bits": "more than 8 bits: the upper 8 are kept",
    "CMYK": "CMYK is converted to RGB without a colour profile",
    "animated": "of several frames only the first is seen",
    "transparent": "transparency is ignored, the colour beneath is seen",
    "tiny": "the shorter side is small",
}


def check_dataset(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    splits: Sequence[str] | None = None,
    min_side: int = MIN_SIDE,
) -> list[Finding]:
    """Read every image of a data set and list what is wrong, errors first; nothing is changed.

    Errors: a split or an image cannot be read; the same bytes have different labels, or stand in several splits; a
    class has images in another split but none in training. Warnings: the same bytes twice in a split; a class without
    a training image, with a single one, or without one in another split; no labels at a level; files and folders that
    are not read; and images with a wrong suffix, 16 bits, CMYK, animation, transparency or a side below ``min_side``.

    Args:
        name: of the data set, as for :func:`~c2f_ops.data.load_dataset`.
        root: folder of the files, likewise.
        splits: names of the splits; None for those that the files have.
        min_side: shorter side in pixels below which an image is reported.

    Raises:
        ValueError, FileNotFoundError: no split can be loaded.
    """
    findings: list[Finding] = []
    loaded: dict[str, tuple[LabeledImages, list[_Image]]] = {}
    failed: Exception = ValueError(f"check_dataset: {name} in {root} must have a split with images, got none")
    for split in splits or _splits(name, root):
        try:
            dataset, missing = _load(name, root, split)
        except (ValueError, OSError) as error:
            failed = error
            findings.append(Finding("error", "split", split, str(error)))
            continue
        looks = in_threads(lambda i, dataset=dataset: _look(dataset, i, min_side), len(dataset))  # type: ignore[misc]
        loaded[split] = dataset, looks
        findings += _of_images(split, dataset, looks, missing)
        if name == "folder":
            findings += _of_strays(Path(str(root)), split)
    if not loaded:
        raise failed
    findings += _of_duplicates(loaded) + _of_classes(loaded)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _splits(name: str, root: str | os.PathLike[str] | None) -> Sequence[str]:
    if root is None or name not in ("csv", "folder"):
        return SPLITS
    found = csv_splits(Path(root)) if name == "csv" else folder_splits(Path(root))
    return sorted(found, key=lambda split: (split != "train", split))


def _load(name: str, root: str | os.PathLike[str] | None, split: str) -> tuple[LabeledImages, list[tuple[str, str]]]:
    """Load a split; where files that it names are missing, without them, and return these too."""

    def load(corrupt: str) -> LabeledImages:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Hierarchy: .* no training image", HierarchyWarning)  # found below
            return load_dataset(name, root=root, split=split, corrupt=corrupt)

    try:
        return load("raise"), []
    except FileNotFoundError:
        dataset = load("skip")
        return dataset, dataset.corrupt


def _look(dataset: LabeledImages, index: int, min_side: int) -> _Image:
    try:
        encoded = dataset.encoded(index)
    except Exception as error:  # files and zip files fail in many ways
        return _Image("", reason_of(error), {})
    if isinstance(encoded, Tensor):
        shape = repr(tuple(encoded.shape)).encode()
        return _Image(hashlib.sha256(shape + encoded.numpy().tobytes()).hexdigest(), None, _tiny(encoded, min_side))
    digest = hashlib.sha256(encoded).hexdigest()
    try:
        pixels = decode_image(encoded)
    except ImportError:
        raise
    except Exception as error:  # as do Pillow's decoders
        return _Image(digest, reason_of(error), {})
    return _Image(digest, None, {**_oddities(encoded, dataset.ids[index]), **_tiny(pixels, min_side)})


def _tiny(pixels: Tensor, min_side: int) -> dict[str, str]:
    height, width = pixels.shape[-2:]
    return {"tiny": f"{width} x {height}"} if min(height, width) < min_side else {}


def _oddities(encoded: bytes, image_id: str) -> dict[str, str]:
    """What is odd about a readable image, kind -> remark."""
    from PIL import Image

    with open_image(encoded) as image:
        suffix = PurePosixPath(image_id).suffix.lower()
        several = image.format == "MPO"  # a JPEG with previews, as telephones write
        expected, got = Image.registered_extensions().get(suffix), "JPEG" if several else image.format
        deep = has_16_bits(image) or (image.format == "PNG" and encoded[24] == 16)  # colour is 8 bits to Pillow
        found = {
            "wrong suffix": str(got) if expected not in (None, got) else "",
            "16 bits": image.mode if deep else "",
            "CMYK": image.mode if image.mode == "CMYK" else "",
            "animated": "" if several else _frames(image),
            "transparent": image.mode if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info else "",
        }
    return {kind: remark for kind, remark in found.items() if remark}


def _frames(image: Any) -> str:
    try:
        return f"{image.n_frames} frames" if getattr(image, "is_animated", False) else ""
    except Exception:  # the frames after the first, which nobody reads
        return "broken frames"


def _of_images(
    split: str, dataset: LabeledImages, looks: list[_Image], missing: list[tuple[str, str]]
) -> Iterator[Finding]:
    unreadable = [(i, look.unreadable) for i, look in zip(dataset.ids, looks, strict=True) if look.unreadable]
    items = tuple(f"{image_id}: {reason}" for image_id, reason in [*missing, *unreadable])
    if items:
        yield Finding("error", "unreadable", split, "images cannot be read", items)
    for kind, message in ODD.items():
        odd = [(i, look.odd[kind]) for i, look in zip(dataset.ids, looks, strict=True) if kind in look.odd]
        if odd:
            yield Finding("warning", kind, split, message, tuple(f"{image_id}: {remark}" for image_id, remark in odd))


def _of_strays(root: Path, split: str) -> Iterator[Finding]:
    files, folders = strays(root, split)
    if files:
        yield Finding("warning", "ignored", split, "files are not read: their suffix is not one of images", files)
    if folders:
        yield Finding("warning", "empty folder", split, "folders without images are no classes", folders)


def _of_duplicates(loaded: dict[str, tuple[LabeledImages, list[_Image]]]) -> list[Finding]:
    places: dict[str, list[tuple[str, str, Tensor]]] = {}
    for split, (dataset, looks) in loaded.items():
        for look, image_id, labels in zip(looks, dataset.ids, dataset.labels, strict=True):
            if look.unreadable is None:
                named = f"{image_id} [{_class_name(dataset, labels)}]"
                places.setdefault(look.digest, []).append((split, named, labels))
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for same in places.values():
        if len(same) == 1:
            continue
        splits = list(dict.fromkeys(split for split, _, _ in same))
        item = " = ".join(f"{split}/{named}" if len(splits) > 1 else named for split, named, _ in same)
        where = ", ".join(splits)
        if len(splits) > 1:
            key = ("error", "in several splits", where, "the same bytes stand in several splits")
        else:
            key = ("warning", "duplicate", where, "the same bytes stand in a split again")
        found.setdefault(key, []).append(item)
        if _contradict(torch.stack([labels for _, _, labels in same])):
            key = ("error", "contradiction", where, "the same bytes have different labels")
            found.setdefault(key, []).append(item)
    return [Finding(*key, tuple(items)) for key, items in found.items()]


def _class_name(dataset: LabeledImages, labels: Tensor) -> str:
    """Name of the finest class that is known."""
    known = (labels >= 0).nonzero()[:, 0].tolist()
    return dataset.hierarchy.names[known[-1]][int(labels[known[-1]])] if known else "?"


def _contradict(labels: Tensor) -> bool:
    """Whether rows ``[n, K]`` differ at a level where both are known."""
    return any(len(column[column >= 0].unique()) > 1 for column in labels.T)


def _of_classes(loaded: dict[str, tuple[LabeledImages, list[_Image]]]) -> list[Finding]:
    """Classes without images, level by level."""
    findings: list[Finding] = []

    def say(severity: str, kind: str, split: str, message: str, classes: Tensor, names: Sequence[str]) -> None:
        items = tuple(names[i] for i in classes.nonzero()[:, 0].tolist())
        if items:
            findings.append(Finding(severity, kind, split, message, items))

    for level in range(max((dataset.hierarchy.num_levels for dataset, _ in loaded.values()), default=0)):
        counts = {split: _count(dataset, looks, level) for split, (dataset, looks) in loaded.items()}
        for split, (dataset, _) in loaded.items():
            of_level = f"of level {dataset.hierarchy.levels[level]}"
            names = dataset.hierarchy.names[level]
            if not counts[split].any():
                findings.append(Finding("warning", "no labels", split, f"no image has a label {of_level}"))
                continue
            others = [count for other, count in counts.items() if other != split]
            elsewhere = sum(others, torch.zeros_like(counts[split])) > 0
            empty = counts[split] == 0
            if split == "train":
                unseen = f"classes {of_level} have images in another split, none in training"
                say("error", "no training image", split, unseen, empty & elsewhere, names)
                say("warning", "empty class", split, f"classes {of_level} have no image", empty & ~elsewhere, names)
                say("warning", "single image", split, f"classes {of_level} have one image", counts[split] == 1, names)
            else:
                say("warning", "missing class", split, f"classes {of_level} have no image in this split", empty, names)
    return findings


def _count(dataset: LabeledImages, looks: list[_Image], level: int) -> Tensor:
    """Readable images of each class of a level."""
    readable = torch.tensor([look.unreadable is None for look in looks], dtype=torch.bool)
    labels = dataset.labels[readable, level]
    return torch.bincount(labels[labels >= 0], minlength=dataset.hierarchy.sizes[level])

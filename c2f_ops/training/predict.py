"""Answers for image files and folders of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..answering import Calibration, answer, decode, posteriors
from ..answering.calibration import TARGET
from ..data.folder import SUFFIXES, image_files
from ..data.images import decode_image, resize_image
from ..hierarchy import Hierarchy
from ..models import MLPH
from .config import Config
from .evaluate import predict_logits

CHUNK = 64  # images decoded and held at a time


def predict_paths(
    model: MLPH,
    paths: Sequence[Path],
    hierarchy: Hierarchy,
    config: Config,
    calibration: Calibration | None = None,
    *,
    mode: str = "path",
    target: float = TARGET,
    resolution: int | None = None,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Name what is in images.

    Args:
        model: of a run.
        paths: image files, read by Pillow, and folders, searched for images at any depth.
        hierarchy: names of the classes.
        config: of the run.
        calibration: of the run; by default `Calibration.none`.
        mode: of `c2f_ops.answering.decode`.
        target: precision wanted of the answers; see `Calibration.thresholds_of`.
        resolution: side that the images are degraded to. None: the side of what the network sees in the image's own
            pixels (`native_side`).

    Returns:
        For each image ``image``, ``resolution``, ``trained_level`` (the finest one trained at the side nearest to that
        of the image), ``levels`` {level: name, id, probability} of the trained levels, and ``answer``, the fields of
        `c2f_ops.answering.Answer`, None except in mode ``"path"``. And (file, reason) for each unreadable file of a
        folder.

    Raises:
        ValueError: a file that was named is not readable, a folder holds no images, or an option is out of range.
    """
    heads = config.trained_levels(hierarchy.levels)
    calibration = Calibration.none(hierarchy, heads) if calibration is None else calibration
    thresholds = calibration.thresholds_of(target)
    unreadable: list[tuple[str, str]] = []
    results: list[dict[str, Any]] = []
    files = _decoded(paths, config, resolution)
    while chunk := list(itertools.islice(files, CHUNK)):
        by_side: dict[int, list[tuple[Path, Tensor]]] = {}
        for file, seen in chunk:
            if isinstance(seen, str):
                unreadable.append((str(file), seen))
            else:
                by_side.setdefault(seen[1], []).append((file, seen[0]))
        found: dict[Path, dict[str, Any]] = {}
        for side, members in by_side.items():
            batch = torch.stack([image for _, image in members])
            logits = predict_logits(model, batch, config, side, precision=config.precision)
            for (file, _), row in zip(
                members, _rows(logits, hierarchy, calibration, thresholds, mode, side), strict=True
            ):
                nearest = config.sides[config.nearest_side(side)]
                finest = max(k for k, task_side in config.cycle(hierarchy.levels) if task_side == nearest)
                row["levels"] = {hierarchy.levels[k]: row["levels"][k] for k in heads}
                found[file] = {
                    "image": str(file), "resolution": side, "trained_level": hierarchy.levels[finest], **row
                }  # fmt: skip
        results += [found[file] for file, _ in chunk if file in found]
    return results, unreadable


def _rows(
    logits: Sequence[Tensor],
    hierarchy: Hierarchy,
    calibration: Calibration,
    thresholds: Sequence[float],
    mode: str,
    side: int,
) -> list[dict[str, Any]]:
    """The nodes of each image with their probabilities, and the answer in words."""
    temperatures, weights = calibration.temperatures_of(side), calibration.weights_of(side)
    nodes = decode(logits, hierarchy, mode=mode, temperatures=temperatures, weights=weights)
    if mode in ("path", "best_leaf"):
        values: Sequence[Tensor] = posteriors(calibration.scores(logits, hierarchy, side), hierarchy)
    else:
        values = [(z.double() / t).softmax(1) for z, t in zip(logits, temperatures, strict=True)]
    answers = answer(values, hierarchy, thresholds) if mode == "path" else [None] * len(nodes)
    return [
        {
            "levels": [
                {"name": hierarchy.names[k][node], "id": node, "probability": float(values[k][i, node])}
                for k, node in enumerate(row)
            ],
            "answer": None if said is None else said.to_dict(),
        }
        for i, (row, said) in enumerate(zip(nodes.tolist(), answers, strict=True))
    ]


def _decoded(
    paths: Sequence[Path], config: Config, resolution: int | None
) -> Iterator[tuple[Path, tuple[Tensor, int] | str]]:
    """Yield each file once, with its image, uint8 ``[3, load, load]``, and side; or why it is unreadable."""
    seen: set[Path] = set()
    for path in paths:
        for file in _images_in(path) if path.is_dir() else [path]:
            if file in seen:
                continue
            seen.add(file)
            try:
                image = read_image(file)
            except ValueError as error:
                if file == path:
                    raise
                yield file, _why(error.__cause__)
                continue
            side = native_side(image, config) if resolution is None else resolution
            yield file, (resize_image(image, config.load_size, mode=config.resize_mode), side)


def _images_in(folder: Path) -> list[Path]:
    found = image_files(folder)
    if not found:
        raise ValueError(f"predict: folder must hold images ({', '.join(SUFFIXES)}), got {folder}")
    return found


def read_image(file: Path) -> Tensor:
    """Read an image, uint8 ``[3, H, W]``.

    Raises:
        ValueError: it is not readable; the cause says why.
    """
    try:
        return decode_image(file.read_bytes())
    except ImportError:
        raise
    except Exception as error:  # Pillow's decoders raise many types for broken input
        raise ValueError(f"predict: image must be a readable image file, got {file}: {_why(error)}") from error


def _why(error: BaseException | None) -> str:
    return getattr(error, "strerror", None) or str(error)


def native_side(image: Tensor, config: Config) -> int:
    """Return the side of what the network sees of an image, in the image's own pixels, at most the input size.

    A crop of the middle is seen, as in evaluation, of an image whose sides are ``load_size``.
    """
    native = min(image.shape[1:]) * config.image_size // config.load_size
    return min(max(1, native), config.image_size)

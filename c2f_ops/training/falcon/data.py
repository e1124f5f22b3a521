"""The images of a run, their coarse labels, and apart from both what evaluation alone may see."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from ...data import LabeledImages, load_dataset
from ...hierarchy import Hierarchy
from .config import FalconRun

_LUMA = (0.299, 0.587, 0.114)


class CoarseImages(NamedTuple):
    """What training sees.

    Attributes:
        images: uint8 ``[N, 3, S, S]``.
        y: int64 ``[N, D]``, coarse labels under each taxonomy, -1 for none.
        names: D tuples of the names of the coarse classes.
    """

    images: Tensor
    y: Tensor
    names: tuple[tuple[str, ...], ...]

    @property
    def num_coarse(self) -> tuple[int, ...]:
        """K_C of each taxonomy."""
        return tuple(len(names) for names in self.names)

    def sha256(self) -> str:
        """Hash of images and labels."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.y):
            digest.update(tensor.contiguous().numpy().data.cast("B"))
        return digest.hexdigest()


class Truth(NamedTuple):
    """What evaluation compares with.

    Attributes:
        fine: int64 ``[N]``, -1 for unknown.
        relations: int64 ``[D, K]``, parents of the fine classes, -1 where there is none.
        names: Of the fine classes.
    """

    fine: Tensor
    relations: Tensor
    names: tuple[str, ...]


def load_split(run: FalconRun, split: str) -> LabeledImages:
    """Load the images of a run."""
    return load_dataset(
        run.data,
        root=run.root,
        split=split,
        size=run.image_size,
        seed=run.data_seed,
        n=run.train_images if split == "train" else run.test_images,
        corrupt=run.corrupt,
        resize_mode=run.resize_mode,
    )


def coarse_part(dataset: LabeledImages, run: FalconRun) -> CoarseImages:
    """The images and labels that training may see."""
    images = dataset.stacked(run.image_size)
    if not run.colour:
        weights = torch.tensor(_LUMA)[:, None, None]
        images = torch.cat(
            [(part * weights).sum(1, keepdim=True).round().byte().expand(-1, 3, -1, -1) for part in images.split(1024)]
        ).contiguous()
    taxonomies = dataset.taxonomies
    if taxonomies is not None and not run.coarse_levels:
        return CoarseImages(images, taxonomies.y, taxonomies.names)
    levels = coarse_levels(dataset.hierarchy, run)
    names = tuple(dataset.hierarchy.names[k] for k in levels)
    return CoarseImages(images, dataset.labels[:, levels].contiguous(), names)


def truth_part(dataset: LabeledImages, run: FalconRun) -> Truth | None:
    """The fine classes and their parents; None for data without fine classes."""
    hierarchy, taxonomies = dataset.hierarchy, dataset.taxonomies
    own = taxonomies is not None and not run.coarse_levels
    if hierarchy.num_levels == 1 and (own or not run.coarse_levels):
        return None
    fine = fine_level(hierarchy, run)
    if own and taxonomies is not None:
        relations = taxonomies.relations.long()
    else:
        table, levels = hierarchy.ancestors, coarse_levels(hierarchy, run)
        relations = torch.full((len(levels), hierarchy.sizes[fine]), -1)
        relations[:, table[:, fine]] = table[:, levels].t()
    return Truth(dataset.labels[:, fine], relations, hierarchy.names[fine])


def fine_level(hierarchy: Hierarchy, run: FalconRun) -> int:
    """The level to be found."""
    return hierarchy.num_levels - 1 if run.fine_level is None else _level(hierarchy, "fine_level", run.fine_level)


def coarse_levels(hierarchy: Hierarchy, run: FalconRun) -> list[int]:
    """The levels learned from, by default the one above the level to be found."""
    if hierarchy.num_levels == 1:
        return [0]
    fine = fine_level(hierarchy, run)
    if not run.coarse_levels:
        if fine == 0:
            raise ValueError(f"falcon: fine_level must be below the first level, got {hierarchy.levels[0]}")
        return [fine - 1]
    levels = [_level(hierarchy, "coarse_levels", name) for name in run.coarse_levels]
    if max(levels) >= fine:
        given = ", ".join(run.coarse_levels)
        raise ValueError(f"falcon: coarse_levels must be above fine_level {hierarchy.levels[fine]}, got {given}")
    return levels


def _level(hierarchy: Hierarchy, name: str, level: str) -> int:
    if level not in hierarchy.levels:
        raise ValueError(f"falcon: {name} must be among {', '.join(hierarchy.levels)}, got {level!r}")
    return hierarchy.levels.index(level)

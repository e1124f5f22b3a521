"""Groupings of fine classes: another coarse level for a data set, and several taxonomies of the same fine classes."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._hierarchy_checks import clean, some
from ..hierarchy import Hierarchy

if TYPE_CHECKING:
    from .images import LabeledImages


@dataclass(frozen=True)
class Taxonomies:
    """Coarse labels of N samples under D taxonomies of the same K_F fine classes.

    Attributes:
        y: LongTensor ``[N, D]``, the coarse class under each taxonomy; -1 where the sample has no label of it.
        relations: IntTensor ``[D, K_F]``, the coarse class of each fine class; -1 where it is not known.
        names: D tuples of the names of the coarse classes; their lengths may differ.
    """

    y: Tensor
    relations: Tensor
    names: tuple[tuple[str, ...], ...]

    @property
    def meet_is_fine(self) -> bool:
        """Whether the meet of the taxonomies isolates every fine class: no two share all their coarse classes."""
        return len(self.relations.unique(dim=1).T) == self.relations.shape[1] and bool((self.relations >= 0).all())

    def subset(self, indices: list[int]) -> Taxonomies:
        """Return the labels of these samples, in this order."""
        return Taxonomies(self.y[indices], self.relations, self.names)


def grouping(hierarchy: Hierarchy, level: int = 0) -> dict[str, str]:
    """Return fine class -> its class in ``level``, by names, ordered by that class and then by the fine class."""
    if not 0 <= level < hierarchy.num_levels - 1:
        raise ValueError(f"grouping: level must be in 0..{hierarchy.num_levels - 2}, got {level}")
    paths = sorted(hierarchy.ancestors[:, [level, -1]].tolist())
    return {hierarchy.names[-1][fine]: hierarchy.names[level][coarse] for coarse, fine in paths}


def second_taxonomy(
    hierarchy: Hierarchy, *, level: int = 0, num_groups: int | None = None, seed: int = 0
) -> dict[str, str]:
    """Return a grouping of the fine classes that cuts across the one of ``level``.

    The groups of ``level``, and the fine classes in each, are put in an order drawn by ``seed``: that of the SHA-256 of
    ``"<seed>:<name>"``, the same on every platform. The fine classes are then dealt in that order, like cards, onto
    ``num_groups`` piles. Piles differ in size by at most one, and no pile gets two classes of one group: a class is
    known from its two coarse classes, that is, the meet of the two groupings isolates every fine class.

    Args:
        hierarchy: the tree of the fine classes.
        level: the level to cut across.
        num_groups: number of new groups, by default as many as ``level`` has.
        seed: of the order.

    Raises:
        ValueError: a group of ``level`` has more fine classes than there are piles.
    """
    members: dict[str, list[str]] = {}
    for fine, coarse in grouping(hierarchy, level).items():
        members.setdefault(coarse, []).append(fine)
    piles = len(members) if num_groups is None else num_groups
    largest = max(members, key=lambda name: len(members[name]))
    if piles < len(members[largest]):
        raise ValueError(
            f"second_taxonomy: num_groups must be at least {len(members[largest])}, the fine classes of {largest!r}, "
            f"got {piles}"
        )

    def shuffled(names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())

    dealt = [fine for coarse in shuffled(members) for fine in shuffled(members[coarse])]
    pile_of = {fine: i % piles for i, fine in enumerate(dealt)}
    return {fine: f"group {pile_of[fine]:02d}" for fine in sorted(dealt, key=lambda name: pile_of[name])}


def read_grouping(path: str | os.PathLike[str], *, fine: str = "fine", coarse: str = "coarse") -> dict[str, str]:
    """Read fine class -> coarse class from two columns of a CSV file with a header.

    Raises:
        ValueError: a column is missing, a name is empty, or a fine class has two coarse classes; with line numbers.
    """
    found: dict[str, tuple[str, int]] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in (fine, coarse) if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"read_grouping: {Path(path).name} must have the columns {fine}, {coarse}, got none named "
                f"{', '.join(missing)}"
            )
        for row in reader:
            name, group, line = clean(row[fine]), clean(row[coarse]), reader.line_num
            if not name or not group:
                raise ValueError(
                    f"read_grouping: line {line} of {Path(path).name} must name a fine and a coarse class, "
                    f"got {name!r}, {group!r}"
                )
            before = found.setdefault(name, (group, line))
            if before[0] != group:
                raise ValueError(
                    f"read_grouping: {name!r} must have one coarse class, got {before[0]!r} and {group!r} "
                    f"(lines {before[1]}, {line} of {Path(path).name})"
                )
    return {name: group for name, (group, _) in found.items()}


def regroup(
    dataset: LabeledImages, groups: Mapping[str, str], *, name: str | None = None, drop: bool = False
) -> LabeledImages:
    """Return the data set with the two levels (coarse, fine) that ``groups`` gives; images are shared, not copied.

    Fine classes keep their order, so that with all of them their ids stay the same; coarse classes come in the order of
    ``groups``. An item whose fine class is not known has no coarse class either.

    Args:
        dataset: any data set; its finest level is taken.
        groups: fine class -> coarse class, by names; see :func:`grouping`, :func:`read_grouping`.
        name: name of the new data set, by default unchanged.
        drop: leave out fine classes that ``groups`` does not have, with their images, instead of raising.

    Raises:
        ValueError: ``groups`` names no fine class of the data set, or lacks one and ``drop`` is false.
    """
    old, fine_level = dataset.hierarchy.names[-1], dataset.hierarchy.levels[-1]
    _check_names("regroup", groups, old)
    kept = [i for i, fine in enumerate(old) if fine in groups]
    if len(kept) < len(old) and not drop:
        absent = some((repr(fine) for fine in old if fine not in groups), "classes")
        raise ValueError(f"regroup: groups must have every fine class (or drop=True), got none for {absent}")
    position = {coarse: i for i, coarse in enumerate(dict.fromkeys(groups.values()))}
    new = Hierarchy(
        ("coarse", "fine" if fine_level == "coarse" else fine_level),
        (list(position), [old[i] for i in kept]),
        (None, [position[groups[old[i]]] for i in kept]),
        dataset.hierarchy.meta,
    )
    new_id = torch.full((len(old) + 1,), -1)  # the last entry serves the label -1
    new_id[kept] = torch.arange(len(kept))
    fine = dataset.labels[:, -1]
    chosen = ((fine < 0) | (new_id[fine] >= 0)).nonzero()[:, 0]
    part = dataset.subset(chosen)
    part.name, part.hierarchy, part.taxonomies = name or dataset.name, new, None
    part.labels = new.validate_labels(new.from_fine(new_id[fine[chosen]]), training=part.split == "train")
    return part


def mix_taxonomies(dataset: LabeledImages, *groupings: Mapping[str, str], alternate: bool = True) -> LabeledImages:
    """Return the data set with coarse labels under several taxonomies, in its attribute ``taxonomies``.

    With ``alternate`` item i has a label of taxonomy i mod D alone: even items the first, odd items the second of two.
    Without it every item has the labels of all. Hierarchy and labels of the data set stay as they are.

    Args:
        dataset: any data set; its finest level is taken.
        groupings: D mappings fine class -> coarse class, by names, with all fine classes.
        alternate: one label an item.

    Source:
        Grcić, Gadetsky, Brbić, "Fine-grained Classes and How to Find Them", ICML 2024, section 3.4 and Table 4.
    """
    if not groupings:
        raise ValueError("mix_taxonomies: groupings must hold at least one mapping, got none")
    fine_names = dataset.hierarchy.names[-1]
    relations, names = [], []
    for groups in groupings:
        _check_names("mix_taxonomies", groups, fine_names)
        absent = [fine for fine in fine_names if fine not in groups]
        if absent:
            raise ValueError(
                f"mix_taxonomies: groupings must have every fine class, got none for {some(absent, 'classes')}"
            )
        position = {coarse: i for i, coarse in enumerate(dict.fromkeys(groups.values()))}
        relations.append([position[groups[fine]] for fine in fine_names])
        names.append(tuple(position))
    table = torch.tensor(relations, dtype=torch.int32)  # [D, K_F]
    fine = dataset.labels[:, -1]
    y = torch.where(fine[:, None] < 0, -1, table.T[fine].long())
    if alternate:
        own = torch.arange(len(y))[:, None] % len(table) == torch.arange(len(table))
        y = torch.where(own, y, -1)
    mixed = dataset.subset(range(len(dataset)))
    mixed.taxonomies = Taxonomies(y, table, tuple(names))
    return mixed


def _check_names(function: str, groups: Mapping[str, str], fine_names: tuple[str, ...]) -> None:
    known = set(fine_names)
    strange = [name for name in groups if name not in known]
    if strange:
        raise ValueError(
            f"{function}: groups must be of fine classes of the data set, got {some(map(repr, strange), 'others:')}"
        )

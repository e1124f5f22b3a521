"""Index files with a column per level, ``level:<name>``, coarse to fine: any number of levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _hierarchy_tables as tables
from .._hierarchy_checks import some
from ..hierarchy import Hierarchy

PREFIX = "level:"
UNKNOWN = ("", "-1")

Row = dict[str, str]


def class_names(cells: Sequence[str]) -> list[str]:
    """Return the distinct known names: numbers in numeric order, others in alphabetical order."""
    distinct = set(cells).difference(UNKNOWN)
    numeric = all(name.isdecimal() for name in distinct)
    return sorted(distinct, key=lambda name: (int(name), name)) if numeric else sorted(distinct)


def read_levels(source: str, rows: list[Row], lines: list[int], columns: Sequence[str]) -> tuple[Hierarchy, Tensor]:
    """Return the tree of an index file and the labels of all its lines, LongTensor ``[N, K]``.

    The lines that name a class at every level make the tree. Others may leave cells empty, the finest ones or any.

    Raises:
        ValueError: a class with two parents, or one that no complete line names.
    """
    complete = [i for i, row in enumerate(rows) if not any(row[column] in UNKNOWN for column in columns)]
    if not complete:
        raise ValueError(f"load_dataset: {source} must have a line with a class at every level, got none")
    position = {
        column: {name: i for i, name in enumerate(class_names([rows[i][column] for i in complete]))}
        for column in columns
    }
    for column in columns:
        strange = [
            line
            for row, line in zip(rows, lines, strict=True)
            if row[column] not in UNKNOWN and row[column] not in position[column]
        ]
        if strange:
            raise ValueError(
                f"load_dataset: classes of {column} in {source} must stand in a line with a class at every level, "
                f"got others ({some(strange, 'lines')})"
            )
    levels = [column.removeprefix(PREFIX) for column in columns]
    tree = tables.tree_from_rows(
        levels,
        [[rows[i][column] for column in columns] for i in complete],
        ids=[[position[column][rows[i][column]] for column in columns] for i in complete],
        row_numbers=[lines[i] for i in complete],
    )
    labels = [[position[column].get(row[column], -1) for column in columns] for row in rows]
    return Hierarchy(levels, tree.names, tree.parents, {"source": source}), torch.tensor(labels, dtype=torch.long)

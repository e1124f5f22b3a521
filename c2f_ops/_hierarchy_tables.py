"""Build the levels of a :class:`~c2f_ops.Hierarchy` from tables: rows of names, child-parent links, CSV files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ._hierarchy_checks import clean, some

Node = tuple[int, str]  # (id of the parent, name): what makes a node of one level


class Tree(NamedTuple):
    """Names and parent ids per level, and what was done to the table to get them."""

    names: list[list[str]]
    parents: list[list[int] | None]
    notes: dict[str, Any]


def tree_from_rows(
    levels: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    ids: Sequence[Sequence[object]] | None = None,
    qualify_names: bool = False,
    pad: str | None = None,
    row_numbers: Sequence[int] | None = None,
) -> Tree:
    """Turn a table with one column per level, coarse to fine, into a tree.

    Args:
        levels: names of the K columns.
        rows: R rows of up to K names; a row may appear many times.
        ids: R rows of K class ids (``None``: unknown for that level), or None for ids in order of first appearance.
        qualify_names: rename a node found under two parents to ``parent:name`` instead of failing.
        pad: ``"repeat"`` repeats the last name of a short row at the finer levels.
        row_numbers: the numbers used for the rows in messages, by default 0, 1, 2, ...
    """
    if pad not in (None, "repeat"):
        raise ValueError(f"Hierarchy: pad must be None or 'repeat', got {pad!r}")
    table: list[list[str]] = []
    for row in rows:
        if isinstance(row, str):
            raise TypeError(f"Hierarchy: rows must be sequences of names, got {row!r} (row {len(table)})")
        table.append([clean(cell) for cell in row])
    numbers = list(range(len(table))) if row_numbers is None else list(row_numbers)
    if not table:
        raise ValueError("Hierarchy: rows must hold at least one row, got none")
    padded = _level_depths(levels, table, numbers, pad)
    notes: dict[str, Any] = {"padded": padded} if padded else {}
    names: list[list[str]] = []
    parents: list[list[int] | None] = []
    above = [0] * len(table)  # id of each row's node in the level above; 0 is the virtual root at first
    for k, level in enumerate(levels):
        nodes: list[Node] = [(parent, row[k]) for parent, row in zip(above, table, strict=True)]
        shared = _shared_names(nodes)
        if shared and not qualify_names:
            name, parent_ids = next(iter(shared.items()))
            found = []
            for p in parent_ids[:5]:
                there = (number for number, node in zip(numbers, nodes, strict=True) if node == (p, name))
                found.append(f"{names[-1][p]!r} ({some(there)})")
            raise ValueError(
                f"Hierarchy: level {level!r}: node {name!r} must have one parent, got {' and '.join(found)}; "
                "qualify_names=True prefixes the parent"
            )
        if shared:
            notes.setdefault("qualified", {})[level] = sorted(shared)
        given = None if ids is None else [row[k] for row in ids]
        if given is None or all(value is None for value in given):
            index = {node: i for i, node in enumerate(dict.fromkeys(nodes))}
        else:
            index = _given_ids(level, nodes, given, numbers)
        ordered = sorted(index, key=index.__getitem__)
        names.append([f"{names[-1][up]}:{name}" if name in shared else name for up, name in ordered])
        parents.append([up for up, _ in ordered] if k else None)
        above = [index[node] for node in nodes]
    return Tree(names, parents, notes)


def _level_depths(levels: Sequence[str], table: list[list[str]], numbers: list[int], pad: str | None) -> list[str]:
    """Give all rows the depth K in place, or raise; return the names of the repeated leaves."""
    depth = len(levels)
    inner = {tuple(row[:k]) for row in table for k in range(1, len(row)) if row[k]}
    padded: dict[str, None] = {}
    for number, row in zip(numbers, table, strict=True):
        while row and not row[-1]:
            row.pop()
        if len(row) > depth:
            raise ValueError(
                f"Hierarchy: rows must have {depth} cells (levels {', '.join(levels)}), "
                f"got {len(row)} with node {row[-1]!r} (row {number})"
            )
        if "" in row or not row:
            raise ValueError(
                f"Hierarchy: level {levels[row.index('') if row else 0]!r}: node name must not be empty, "
                f"got {'/'.join(row)!r} (row {number})"
            )
        if len(row) == depth:
            continue
        level = levels[len(row) - 1]
        if pad is None:
            short = [number for number, row in zip(numbers, table, strict=True) if len([c for c in row if c]) < depth]
            raise ValueError(
                f"Hierarchy: level {level!r}: node {row[-1]!r} must reach level {levels[-1]!r} (equal depth), "
                f"got a leaf above it ({some(short)}); pad='repeat' repeats the leaf"
            )
        if tuple(row) in inner:
            raise ValueError(
                f"Hierarchy: level {level!r}: node {row[-1]!r} must be a leaf to be padded, "
                f"got a node with children (row {number})"
            )
        padded[row[-1]] = None
        row.extend([row[-1]] * (depth - len(row)))
    return list(padded)


def _shared_names(nodes: Iterable[Node]) -> dict[str, list[int]]:
    """Return the names found under more than one parent, with the ids of those parents."""
    parents: dict[str, list[int]] = {}
    for parent, name in dict.fromkeys(nodes):
        parents.setdefault(name, []).append(parent)
    return {name: found for name, found in parents.items() if len(found) > 1}


def _given_ids(level: str, nodes: Sequence[Node], given: Sequence[Any], numbers: Sequence[int]) -> dict[Node, int]:
    """Check that the given ids are a numbering 0..n-1 of the nodes and return it."""
    by_node: dict[Node, int] = {}
    by_id: dict[int, Node] = {}
    for node, value, number in zip(nodes, given, numbers, strict=True):
        try:
            i = int(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"Hierarchy: level {level!r}: id of node {node[1]!r} must be an integer, got {value!r} (row {number})"
            ) from None
        if by_node.setdefault(node, i) != i:
            raise ValueError(
                f"Hierarchy: level {level!r}: node {node[1]!r} must have one id, "
                f"got {by_node[node]} and {i} (row {number})"
            )
        if by_id.setdefault(i, node) != node:
            raise ValueError(
                f"Hierarchy: level {level!r}: id {i} must name one node, "
                f"got {by_id[i][1]!r} and {node[1]!r} (row {number})"
            )
    n = len(by_id)
    gaps = sorted(set(range(n)) - by_id.keys())
    if gaps:
        wrong = {i for i in by_id if not 0 <= i < n}
        node = by_id[min(wrong)]
        rows = [number for number, value in zip(numbers, given, strict=True) if int(value) in wrong]
        raise ValueError(
            f"Hierarchy: level {level!r}: ids must be 0..{n - 1} without gaps, got no id {gaps[0]} "
            f"but id {min(wrong)} for node {node[1]!r} ({some(rows)})"
        )
    return by_node


def paths_from_edges(edges: Iterable[tuple[object, object]]) -> list[list[str]]:
    """Return one path of names, coarse to fine, per leaf of the links ``(child, parent)``; a root's parent is None."""
    parent: dict[str, str] = {}
    row_of: dict[str, int] = {}
    for row, (child_cell, up_cell) in enumerate(edges):
        child, up = clean(child_cell), clean(up_cell)
        if not child:
            raise ValueError(f"Hierarchy: edges must name a child, got {child_cell!r} (row {row})")
        if parent.setdefault(child, up) != up:
            raise ValueError(
                f"Hierarchy: node {child!r} must have one parent, got {parent[child]!r} and {up!r} "
                f"(rows {row_of[child]}, {row})"
            )
        row_of.setdefault(child, row)
    inner = set(parent.values())
    for node in inner - {""}:
        parent.setdefault(node, "")
    paths: dict[str, list[str]] = {"": []}
    for start in parent:
        chain: dict[str, None] = {}
        node = start
        while node not in paths:
            if node in chain:
                cycle = list(chain)[list(chain).index(node) :]
                raise ValueError(
                    f"Hierarchy: node {node!r} must have a link one level up, got a cycle "
                    f"{' -> '.join([*cycle[:5], node])} ({some(row_of[n] for n in cycle)})"
                )
            chain[node] = None
            node = parent[node]
        for node in reversed(chain):
            paths[node] = [*paths[parent[node]], node]
    return [paths[node] for node in parent if node not in inner]


class CsvTable(NamedTuple):
    """Names, ids (None where the file has no id column) and line numbers of a CSV file."""

    rows: list[list[str]]
    ids: list[list[str | None]]
    lines: list[int]


def read_csv(
    path: str | Path,
    columns: Sequence[str],
    id_columns: Mapping[str, str] | None,
    where: Callable[[dict[str, str]], bool] | None,
) -> CsvTable:
    """Read the name columns, coarse to fine, and their id columns (by default ``<column>_id`` where present)."""
    table = CsvTable([], [], [])
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or ())
        if id_columns is None:
            id_columns = {column: f"{column}_id" for column in columns if f"{column}_id" in header}
        missing = [column for column in (*columns, *id_columns.values()) if column not in header]
        if missing:
            raise ValueError(
                f"Hierarchy: columns must be among {', '.join(header)} of {path}, got {', '.join(missing)}"
            )
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"Hierarchy: line {reader.line_num} of {path} must have {len(header)} cells, as the header has"
                )
            if where is None or where(row):
                table.rows.append([row[column] for column in columns])
                table.ids.append([row[id_columns[column]] if column in id_columns else None for column in columns])
                table.lines.append(reader.line_num)
    return table

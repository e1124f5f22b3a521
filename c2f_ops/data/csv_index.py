"""An index file of images: a line per image with its path, coarse class or classes, and the fine class if known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from .._hierarchy_checks import clean, some
from ..hierarchy import Hierarchy
from .images import FileSource, LabeledImages
from .levels_csv import PREFIX, UNKNOWN, Row, class_names, read_levels
from .taxonomies import Taxonomies


def load_csv(root: Path, split: str, **options: Any) -> LabeledImages:
    """Read a CSV or TSV file, or ``index.csv`` in a folder; paths in it are relative to its own folder.

    Columns: ``path``; ``coarse``, or several that start with it (``coarse_habitat``), each a taxonomy; and, both
    optional, ``fine`` and ``split``. An empty cell or -1 is an unknown class. Class ids are those of the whole file,
    names in alphabetical order (numbers in numeric order). Levels are the first coarse column and ``fine``, or the
    first alone where no fine class is known. With several coarse columns the data set has ``taxonomies``. Instead of
    these columns there may be ``level:<name>`` ones, coarse to fine, for a tree of any depth.

    Raises:
        FileNotFoundError: no index file, or images that it names are missing.
        ValueError: a wrong column or line, or a fine class with two coarse classes; with line numbers.
    """
    path = _index(root)
    rows, lines, header = _read(path)
    taxonomies = None
    level_columns = [column for column in header if column.startswith(PREFIX)]
    if level_columns:
        hierarchy, labels = read_levels(path.name, rows, lines, level_columns)
    else:
        coarse_columns = [column for column in header if column.startswith("coarse")]
        hierarchy, labels, taxonomies = _two_levels(path.name, rows, lines, coarse_columns)
    chosen = [i for i, row in enumerate(rows) if row.get("split", "train") == split]
    if not chosen:
        raise ValueError(f"load_dataset: {path.name} must have lines of split {split!r}, got none")
    files = [path.parent / rows[i]["path"] for i in chosen]
    missing = [lines[i] for i, file in zip(chosen, files, strict=True) if not file.is_file()]
    if missing and options.get("corrupt", "raise") == "raise":
        raise FileNotFoundError(
            f"load_dataset: images of {path.name} must be files beside it, got none for {some(missing, 'lines')}"
        )
    labels, taxonomies = labels[chosen], taxonomies and taxonomies.subset(chosen)
    named = [rows[i]["path"] for i in chosen]
    return LabeledImages("csv", split, hierarchy, labels, named, FileSource(files), taxonomies=taxonomies, **options)


def _two_levels(
    source: str, rows: list[Row], lines: list[int], coarse_columns: list[str]
) -> tuple[Hierarchy, torch.Tensor, Taxonomies | None]:
    """Return the tree, and labels and taxonomies of all lines, of the columns coarse... and fine."""
    names = {column: class_names([row.get(column, "") for row in rows]) for column in (*coarse_columns, "fine")}
    for column in coarse_columns:
        if not names[column]:
            raise ValueError(f"load_dataset: column {column} of {source} must name a class, got none")
    relations = [_parents(source, rows, lines, column, names) for column in coarse_columns]
    hierarchy = _tree(source, names[coarse_columns[0]], names["fine"], relations[0])
    ids = {column: _ids(rows, column, names[column]) for column in names}
    columns = [coarse_columns[0]] + ["fine"] * (hierarchy.num_levels == 2)
    labels = torch.stack([ids[column] for column in columns], dim=1)
    if len(coarse_columns) == 1:
        return hierarchy, labels, None
    y = torch.stack([ids[column] for column in coarse_columns], dim=1)
    table = torch.tensor(relations, dtype=torch.int32).reshape(len(coarse_columns), -1)
    return hierarchy, labels, Taxonomies(y, table, tuple(tuple(names[column]) for column in coarse_columns))


def csv_splits(root: Path) -> set[str]:
    """Splits that an index file names; without the column ``split`` all images are of "train"."""
    return {row.get("split", "train") for row in _read(_index(root))[0]}


def _index(root: Path) -> Path:
    path = root if root.is_file() else root / "index.csv"
    if not path.is_file():
        raise FileNotFoundError(f"load_dataset: root must be an index file or hold index.csv, got {root}")
    return path


def _read(path: Path) -> tuple[list[Row], list[int], list[str]]:
    """Return lines with their numbers, and the header."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = list(reader.fieldnames or ())
        coarse = [column for column in header if column.startswith("coarse")]
        levels = [column for column in header if column.startswith(PREFIX) and column != PREFIX]
        known = ("path", "split", *levels) if levels else ("path", "split", "fine", *coarse)
        strange = [column for column in header if column not in known]
        if "path" not in header or not (coarse or levels) or strange or len(set(header)) < len(header):
            raise ValueError(
                f"load_dataset: {path.name} must have the columns path, coarse (or several coarse...) and may have "
                f"fine, split; or path, {PREFIX}<name> from coarse to fine, and maybe split; each once, "
                f"got {', '.join(header) or 'none'}"
            )
        rows, lines = [], []
        for row in reader:
            if None in row or None in row.values():
                cells = len(header) + len(row.get(None, ())) - list(row.values()).count(None)
                raise ValueError(
                    f"load_dataset: line {reader.line_num} of {path.name} must have {len(header)} cells, got {cells}"
                )
            row = {column: clean(cell) for column, cell in row.items()}
            empty = [column for column in ("path", "split") if row.get(column) == ""]
            if empty:
                raise ValueError(f"load_dataset: line {reader.line_num} of {path.name} must have a {empty[0]}, got ''")
            rows.append(row)
            lines.append(reader.line_num)
    return rows, lines, header


def _ids(rows: list[Row], column: str, names: list[str]) -> torch.Tensor:
    position = {**{name: i for i, name in enumerate(names)}, **dict.fromkeys(UNKNOWN, -1)}
    return torch.tensor([position[row.get(column, "")] for row in rows], dtype=torch.long)


def _parents(source: str, rows: list[Row], lines: list[int], column: str, names: dict[str, list[str]]) -> list[int]:
    """Return the coarse id of each fine class, -1 where no line says it."""
    found: dict[str, tuple[str, int]] = {}
    for row, line in zip(rows, lines, strict=True):
        fine, coarse = row.get("fine", ""), row[column]
        if fine in UNKNOWN or coarse in UNKNOWN:
            continue
        before = found.setdefault(fine, (coarse, line))
        if before[0] != coarse:
            raise ValueError(
                f"load_dataset: fine class {fine!r} must have one class in {column}, got {before[0]!r} and {coarse!r} "
                f"(lines {before[1]}, {line} of {source})"
            )
    position = {name: i for i, name in enumerate(names[column])}
    return [position[found[fine][0]] if fine in found else -1 for fine in names["fine"]]


def _tree(source: str, coarse: list[str], fine: list[str], parents: list[int]) -> Hierarchy:
    meta = {"source": source}
    if not fine:
        return Hierarchy(("coarse",), (coarse,), (None,), meta)
    orphans = [repr(name) for name, parent in zip(fine, parents, strict=True) if parent < 0]
    childless = [repr(name) for i, name in enumerate(coarse) if i not in parents]
    if orphans:
        raise ValueError(f"load_dataset: {source} must give a coarse class to {some(orphans, 'fine classes')}")
    if childless:
        raise ValueError(
            f"load_dataset: {source} must name a fine class (in one line at least, or leave the column fine empty) "
            f"of {some(childless, 'coarse classes')}"
        )
    return Hierarchy(("coarse", "fine"), (coarse, fine), (None, parents), meta)

"""The label hierarchy: a tree of classes with levels ordered coarse to fine, and labels ``[N, K]`` over it."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _hierarchy_tables as tables
from ._files import write_atomically
from ._hierarchy_checks import as_integers, check_levels, check_names, check_parents, clean, some

#: A node that holds more than this share of the finest classes dominates its level.
DOMINANT_SHARE = 0.6


class HierarchyWarning(UserWarning):
    """A tree that is valid but weak: a level that adds little, or a class without training images."""


class Hierarchy:
    """A tree of classes over K levels, coarse to fine, below a virtual root.

    The class ids of level k are ``0 .. n_k - 1``, the positions in ``names[k]``. Labels are integers ``[N, K]``,
    columns coarse to fine, with -1 for unknown. Names are kept in Unicode NFC without outer blanks.

    Args:
        levels: K distinct level names, coarse to fine.
        names: K sequences of distinct class names.
        parents: K entries; ``parents[0]`` is None, ``parents[k]`` holds for each class of level k the id of its parent
            in level k - 1.
        meta: source, licence, version, date and the like; plain JSON data, not part of the hash.

    Attributes:
        levels, names, meta: as given, names cleaned.
        parents: K entries, ``parents[k]`` a LongTensor ``[n_k]``, ``parents[0]`` None.

    Raises:
        ValueError: the tree is not valid; the message names level, node and up to five offending rows.

    Warns:
        HierarchyWarning: a level where most nodes have a single child, or that one node dominates.
    """

    levels: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    parents: tuple[Tensor | None, ...]
    meta: dict[str, Any]

    def __init__(
        self,
        levels: Sequence[str],
        names: Sequence[Sequence[str]],
        parents: Sequence[Any],
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.levels = check_levels(levels)
        for argument, value in (("names", names), ("parents", parents)):
            if isinstance(value, str) or len(value) != len(self.levels):
                raise ValueError(
                    f"Hierarchy: {argument} must have one entry for each of the {len(self.levels)} levels, "
                    f"got {len(value)}"
                )
        self.names = tuple(check_names(level, entry) for level, entry in zip(self.levels, names, strict=True))
        if parents[0] is not None:
            raise ValueError(
                f"Hierarchy: parents[0] must be None, as links go one level up and level {self.levels[0]!r} is the "
                f"coarsest, got {parents[0]!r}"
            )
        links: list[Tensor | None] = [None]
        for k in range(1, len(self.levels)):
            links.append(check_parents(self.levels[k - 1 : k + 1], self.names[k - 1 : k + 1], parents[k]))
        self.parents = tuple(links)
        self.meta = dict(meta or {})
        json.dumps(self.meta)  # TypeError here rather than when a checkpoint is written
        self._warn_weak_levels()

    # Derived, computed once.

    @property
    def num_levels(self) -> int:
        """K."""
        return len(self.levels)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of classes per level, coarse to fine."""
        return tuple(len(names) for names in self.names)

    @cached_property
    def ancestors(self) -> Tensor:
        """LongTensor ``[n_{K-1}, K]``: the path of each finest class, itself in the last column."""
        path = [torch.arange(self.sizes[-1])]
        for parent in reversed(self.parents[1:]):
            path.insert(0, parent[path[0]])  # type: ignore[index]
        return torch.stack(path, dim=1)

    @cached_property
    def children(self) -> tuple[tuple[Tensor, ...], ...]:
        """``children[k][j]``: ids in level k + 1 of the children of node j of level k, for k < K - 1."""
        return tuple(
            torch.argsort(parent, stable=True).split(torch.bincount(parent, minlength=n).tolist())  # type: ignore[arg-type]
            for n, parent in zip(self.sizes, self.parents[1:], strict=False)
        )

    @cached_property
    def lca_level(self) -> Tensor:
        """LongTensor ``[n_{K-1}, n_{K-1}]``: level of the lowest common ancestor of two finest classes; root -1."""
        level = torch.full((self.sizes[-1], self.sizes[-1]), -1)
        for path in self.ancestors.T:
            level += path[:, None] == path[None, :]
        return level

    @cached_property
    def _masks(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.nn.functional.one_hot(parent, n).bool()  # type: ignore[arg-type]
            for n, parent in zip(self.sizes, self.parents[1:], strict=False)
        )

    def mask(self, level: int) -> Tensor:
        """Return the BoolTensor ``[n_k, n_{k-1}]``, True where column is the parent of row, for k = ``level`` >= 1."""
        if not 1 <= level < self.num_levels:
            raise ValueError(f"Hierarchy.mask: level must be in 1..{self.num_levels - 1}, got {level}")
        return self._masks[level - 1]

    @cached_property
    def priors(self) -> tuple[Tensor, ...]:
        """K float tensors ``[n_k]``: the share of the finest classes below each node."""
        n = self.sizes[-1]
        return tuple(torch.bincount(self.ancestors[:, k], minlength=m) / n for k, m in enumerate(self.sizes))

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON of levels, names and parents; ``meta`` does not enter."""
        return hashlib.sha256(_canonical(self._tree()).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hierarchy) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{level}={n}" for level, n in zip(self.levels, self.sizes, strict=True))
        return f"Hierarchy({sizes}, sha256={self.sha256[:12]})"

    # Labels.

    def from_fine(self, fine: Any) -> Tensor:
        """Return the LongTensor ``[N, K]`` of finest labels ``[N]``; -1 gives a row of -1."""
        labels = as_integers("Hierarchy.from_fine", "fine", fine)
        if labels.ndim != 1:
            raise ValueError(f"Hierarchy.from_fine: fine must have shape [N], got {list(labels.shape)}")
        rest = labels.new_full((len(labels), self.num_levels - 1), -1)
        return self.validate_labels(torch.cat([rest, labels[:, None]], dim=1))

    def expand(self, labels: Any, *, order: str = "coarse_to_fine", sep: str = "/") -> Tensor:
        """Return LongTensor ``[N, K]`` coarse to fine, filled and validated, from any accepted form of labels.

        Args:
            labels: finest labels ``[N]``; or ``[N, K]`` in ``order``; or N path strings such as ``"Corvidae/Corvus"``,
                which may stop at a coarser level.
            order: ``"coarse_to_fine"`` or ``"fine_to_coarse"``, for ``[N, K]``.
            sep: what separates the names of a path.
        """
        if order not in ("coarse_to_fine", "fine_to_coarse"):
            raise ValueError(f"Hierarchy.expand: order must be 'coarse_to_fine' or 'fine_to_coarse', got {order!r}")
        if isinstance(labels, str):
            raise TypeError(f"Hierarchy.expand: labels must be a sequence of paths, got one string {labels!r}")
        if not isinstance(labels, (Tensor, np.ndarray)) and len(labels) and isinstance(labels[0], str):
            return self.validate_labels(self._ids_of_paths(labels, sep))
        values = as_integers("Hierarchy.expand", "labels", labels)
        if values.ndim == 1:
            return self.from_fine(values)
        return self.validate_labels(values.flip(-1) if order == "fine_to_coarse" else values)

    def validate_labels(self, labels: Any, *, training: bool = False) -> Tensor:
        """Check labels ``[N, K]`` against the tree and return them filled.

        A known label fixes all coarser ones: a missing coarse label is filled, a known one must agree. A row whose
        finer labels are unknown stays partial.

        Args:
            labels: integers ``[N, K]``, coarse to fine, -1 for unknown; anything that torch or NumPy holds.
            training: warn about classes that no row has.

        Returns:
            LongTensor ``[N, K]``, a new one, on the device of ``labels``.

        Raises:
            ValueError: wrong shape, a label out of range, or a row that contradicts the tree.
        """
        labels = self._check_range("Hierarchy.validate_labels", "labels", labels).clone()
        for k in range(self.num_levels - 1, 0, -1):
            parent = self.parents[k].to(labels.device)[labels[:, k].clamp(min=0)]  # type: ignore[union-attr]
            known, coarse = labels[:, k] >= 0, labels[:, k - 1]
            bad = (known & (coarse >= 0) & (coarse != parent)).nonzero()[:, 0].tolist()
            if bad:
                fine, got = self.names[k][labels[bad[0], k]], self.names[k - 1][coarse[bad[0]]]
                raise ValueError(
                    f"Hierarchy.validate_labels: level {self.levels[k]!r}: node {fine!r} must come with "
                    f"{self.levels[k - 1]} {self.names[k - 1][parent[bad[0]]]!r}, got {got!r} ({some(bad)})"
                )
            labels[:, k - 1] = torch.where(known, parent, coarse)
        if training:
            self._warn_empty_classes(labels)
        return labels

    def _check_range(self, function: str, argument: str, labels: Any) -> Tensor:
        """Return labels as LongTensor ``[N, K]`` with values in -1..n_k - 1."""
        labels = as_integers(function, argument, labels)
        if labels.numel() == 0:
            return labels.reshape(0, self.num_levels)
        if labels.ndim != 2 or labels.shape[1] != self.num_levels:
            raise ValueError(f"{function}: {argument} must have shape [N, {self.num_levels}], got {list(labels.shape)}")
        out = (labels < -1) | (labels >= torch.tensor(self.sizes, device=labels.device))
        if out.any():
            k = int(out.any(0).nonzero()[0])
            bad = out[:, k].nonzero()[:, 0].tolist()
            raise ValueError(
                f"{function}: {argument} of level {self.levels[k]!r} must be in -1..{self.sizes[k] - 1}, "
                f"got node {int(labels[bad[0], k])} ({some(bad)})"
            )
        return labels

    def _ids_of_paths(self, paths: Sequence[str], sep: str) -> Tensor:
        index = [{name: i for i, name in enumerate(names)} for names in self.names]
        rows = torch.full((len(paths), self.num_levels), -1)
        for row, path in enumerate(paths):
            cells = [clean(cell) for cell in path.split(sep)]
            if len(cells) > self.num_levels:
                raise ValueError(
                    f"Hierarchy.expand: labels must be paths of at most {self.num_levels} names, "
                    f"got {path!r} (row {row})"
                )
            for k, cell in enumerate(cells):
                if cell not in index[k]:
                    raise ValueError(
                        f"Hierarchy.expand: labels of level {self.levels[k]!r} must be names of that level, "
                        f"got node {cell!r} (row {row})"
                    )
                rows[row, k] = index[k][cell]
        return rows

    def match_names(self, other: Hierarchy) -> tuple[Tensor, ...]:
        """Return per level of ``self`` a LongTensor ``[n_k]``: the id in ``other`` of the class with that name, or -1.

        This is the explicit mapping for weights trained with another hierarchy; both must have the same level names.
        """
        if self.levels != other.levels:
            raise ValueError(f"Hierarchy.match_names: other must have levels {self.levels}, got {other.levels}")
        index = [{name: i for i, name in enumerate(names)} for names in other.names]
        return tuple(torch.tensor([index[k].get(name, -1) for name in names]) for k, names in enumerate(self.names))

    def select(self, levels: Sequence[str]) -> tuple[Hierarchy, tuple[int, ...]]:
        """Return the tree of some of the levels, and the columns of labels ``[N, K]`` that belong to them.

        Classes keep their names and ids; the parent of a class is its ancestor in the next coarser level that stays.

        Args:
            levels: names of distinct levels, in any order.
        """
        if isinstance(levels, str) or not levels or len(set(levels)) < len(levels) or set(levels) - set(self.levels):
            raise ValueError(
                f"Hierarchy.select: levels must be distinct ones of {', '.join(self.levels)}, got {levels!r}"
            )
        kept = tuple(k for k, level in enumerate(self.levels) if level in levels)
        if len(kept) == self.num_levels:
            return self, kept
        parents: list[Tensor | None] = [None]
        for above, k in itertools.pairwise(kept):
            parent = torch.arange(self.sizes[k])
            for link in reversed(self.parents[above + 1 : k + 1]):
                parent = link[parent]  # type: ignore[index]
            parents.append(parent)
        return Hierarchy([self.levels[k] for k in kept], [self.names[k] for k in kept], parents, self.meta), kept

    # Construction from tables and storage.

    @classmethod
    def from_rows(
        cls,
        levels: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        ids: Sequence[Sequence[object]] | None = None,
        qualify_names: bool = False,
        pad: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Hierarchy:
        """Build the tree from rows of names, coarse to fine; rows may repeat.

        Args:
            levels: K level names.
            rows: rows of K names; shorter ones need ``pad``.
            ids: rows of K class ids; by default ids follow the order of first appearance.
            qualify_names: rename a node found under two parents to ``parent:name`` (recorded in ``meta``).
            pad: ``"repeat"`` repeats the leaf of a short row at the finer levels (recorded in ``meta``).
            meta: see the class.
        """
        levels = check_levels(levels)
        tree = tables.tree_from_rows(levels, rows, ids=ids, qualify_names=qualify_names, pad=pad)
        return cls(levels, tree.names, tree.parents, {**(meta or {}), **tree.notes})

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[str],
        levels: Sequence[str] | None = None,
        *,
        sep: str = "/",
        qualify_names: bool = False,
        pad: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Hierarchy:
        """Build the tree from path strings such as ``"Boeing/Boeing 737/737-200"``; see :meth:`from_rows`."""
        rows = [path.split(sep) for path in paths]
        if levels is None:
            levels = [f"level{k}" for k in range(max(map(len, rows), default=0))]
        return cls.from_rows(levels, rows, qualify_names=qualify_names, pad=pad, meta=meta)

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[object, object]],
        levels: Sequence[str] | None = None,
        *,
        pad: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Hierarchy:
        """Build the tree from links ``(child, parent)`` between names; the parent of a coarsest node is None."""
        rows = tables.paths_from_edges(edges)
        if levels is None:
            levels = [f"level{k}" for k in range(max(map(len, rows), default=0))]
        return cls.from_rows(levels, rows, pad=pad, meta=meta)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        *,
        levels: Sequence[str] | None = None,
        id_columns: Mapping[str, str] | None = None,
        where: Callable[[dict[str, str]], bool] | None = None,
        qualify_names: bool = False,
        pad: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Hierarchy:
        """Build the tree from a CSV file with one name column per level; messages give line numbers of the file.

        Args:
            path: UTF-8 CSV file with a header.
            columns: K name columns, coarse to fine.
            levels: level names, by default the column names.
            id_columns: column -> column of its class ids; by default ``<column>_id`` where the file has it.
            where: keeps the rows for which it is true.
            qualify_names: see :meth:`from_rows`.
            pad: see :meth:`from_rows`.
            meta: see the class.
        """
        levels = check_levels(columns if levels is None else levels)
        table = tables.read_csv(Path(path), columns, id_columns, where)
        tree = tables.tree_from_rows(
            levels, table.rows, ids=table.ids, qualify_names=qualify_names, pad=pad, row_numbers=table.lines
        )
        return cls(levels, tree.names, tree.parents, {**(meta or {}), **tree.notes})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line per finest class, columns ``<level>, <level>_id`` coarse to fine; :meth:`from_csv` reads it."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([cell for level in self.levels for cell in (level, f"{level}_id")])
            for row in self.ancestors.tolist():
                writer.writerow([cell for k, i in enumerate(row) for cell in (self.names[k][i], i)])

    def _tree(self) -> dict[str, Any]:
        links = [None if parent is None else parent.tolist() for parent in self.parents]
        return {"levels": list(self.levels), "names": [list(names) for names in self.names], "parents": links}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data: levels, names, parents, meta, sha256."""
        return {**self._tree(), "meta": dict(self.meta), "sha256": self.sha256}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Hierarchy:
        """Rebuild what :meth:`to_dict` gave; a wrong sha256 is an error."""
        missing = [key for key in ("levels", "names", "parents") if key not in data]
        if missing:
            raise ValueError(
                f"Hierarchy.from_dict: data must have levels, names and parents, got no {', '.join(missing)}"
            )
        tree = cls(data["levels"], data["names"], data["parents"], data.get("meta"))
        if data.get("sha256", tree.sha256) != tree.sha256:
            raise ValueError(f"Hierarchy.from_dict: sha256 must be {tree.sha256} for this tree, got {data['sha256']}")
        return tree

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the canonical JSON: sorted keys, UTF-8, fixed separators."""
        write_atomically(path, _canonical(self.to_dict()).encode())

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Hierarchy:
        """Read what :meth:`to_json` wrote; ValueError where the file is anything else."""
        data = Path(path).read_bytes()
        try:
            return cls.from_dict(json.loads(data))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"Hierarchy.from_json: {path} must be what to_json wrote, got {error}") from None

    # Warnings.

    def _warn_weak_levels(self) -> None:
        for k, (level, n) in enumerate(zip(self.levels, self.sizes, strict=True)):
            top = int(self.priors[k].argmax())
            share = float(self.priors[k][top])
            if share > DOMINANT_SHARE:
                self._warn(f"level {level!r}: node {self.names[k][top]!r} holds {share:.0%} of the finest classes")
            if k + 1 < self.num_levels:
                single = sum(len(kids) == 1 for kids in self.children[k])
                if 2 * single > n:
                    self._warn(f"level {level!r}: {single} of {n} nodes have a single child, so it adds little")

    def _warn_empty_classes(self, labels: Tensor) -> None:
        for k, (level, n) in enumerate(zip(self.levels, self.sizes, strict=True)):
            known = labels[:, k][labels[:, k] >= 0]
            empty = (torch.bincount(known, minlength=n) == 0).nonzero()[:, 0].tolist()
            if empty:
                which = some((self.names[k][i] for i in empty), "nodes")
                self._warn(f"level {level!r}: {len(empty)} of {n} classes have no training image: {which}")

    @staticmethod
    def _warn(message: str) -> None:
        frame, depth = sys._getframe(1), 2
        while frame.f_back and str(frame.f_globals.get("__name__")).startswith("c2f_ops."):
            frame, depth = frame.f_back, depth + 1
        warnings.warn(f"Hierarchy: {message}", HierarchyWarning, stacklevel=depth)  # the caller of the package


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

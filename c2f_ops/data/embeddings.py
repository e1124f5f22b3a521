"""Embedding files: samples as vectors, with coarse labels and, where known, fine ones."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import _embedding_files as files
from .predictions import save_predictions

__all__ = ["Embeddings", "load_embeddings", "save_predictions"]

READERS = {
    ".csv": files.read_text,
    ".h5ad": files.read_h5ad,
    ".npy": files.read_npy,
    ".npz": files.read_npz,
    ".parquet": files.read_parquet,
    ".tsv": files.read_text,
}


@dataclass(frozen=True)
class Embeddings:
    """N samples of dimension d with labels.

    Attributes:
        X: float32 ``[N, d]``: an array, a SciPy CSR matrix, or a memory map in the type of the file.
        coarse: int64 ``[N]``, or ``[N, D]`` under D taxonomies, -1 for unknown; None where the file has none.
        coarse_names: names of the coarse classes, a tuple for each of the D taxonomies (D = 1 for ``[N]``).
        fine: int64 ``[N]``, -1 for unknown, or None.
        fine_names: names of the fine classes.
        ids: N strings, or None.
        source: the file.
    """

    X: Any
    coarse: np.ndarray | None
    coarse_names: tuple[tuple[str, ...], ...]
    fine: np.ndarray | None
    fine_names: tuple[str, ...]
    ids: np.ndarray | None
    source: str

    def __len__(self) -> int:
        return self.X.shape[0]


def load_embeddings(
    path: str | os.PathLike[str],
    *,
    x: str | Sequence[str] | None = None,
    coarse: str | Sequence[str] | None = None,
    fine: str | None = None,
    ids: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    unlabeled: str | None = None,
    mmap: bool = False,
) -> Embeddings:
    """Read embeddings and labels from ``.npz``, ``.npy``, ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad``.

    The classes of a label column are its distinct values, numbers in numeric order, others alphabetically. The
    categories of an h5ad or parquet column, or an array ``<column>_names`` in an npz file, fix names and order instead.
    -1, an empty cell, NaN and ``unlabeled`` are unknown.

    Args:
        path: the file; its suffix says the format.
        x: key of the matrix in npz (default ``"X"``; what ``scipy.sparse.save_npz`` wrote needs none). In csv, tsv and
            parquet the feature columns (default: all but labels and ids); one parquet column may hold lists.
        coarse: column or key of the coarse labels (of ``obs`` in h5ad), or several, one per taxonomy; by default
            ``"coarse"`` where the file has it.
        fine: the same for the fine labels, by default ``"fine"`` where the file has it.
        ids: column or key of the sample names, by default ``"id"`` where the file has it, in h5ad ``obs_names``.
        labels: csv or tsv file with the labels and ids, a line per sample, for npy and npz.
        layer: h5ad: ``layers[layer]`` instead of ``X``.
        obsm: h5ad: ``obsm[obsm]`` instead of ``X``.
        unlabeled: label that means unknown.
        mmap: map the matrix instead of reading it: npy, and ``X`` of an h5ad file where it lies in one piece (dense,
            neither chunked nor compressed); another ``X`` is read.

    Raises:
        ValueError: a format, column or value that is not as it must be; csv and tsv with line numbers.
        ImportError: parquet without pyarrow, or h5ad without anndata.
    """
    path = Path(path)
    _check_options(path, labels, layer, obsm, mmap)
    coarse_keys = (coarse,) if isinstance(coarse, str) else tuple(coarse or ())
    required = tuple(key for key in (*coarse_keys, fine, ids) if key is not None)
    wanted = files.Wanted((*required, "coarse", "fine", "id"), (x,) if isinstance(x, str) else x, layer, obsm, mmap)
    table = _read(READERS[path.suffix], path, wanted)
    if labels is not None:
        table = table._replace(columns=_read(files.read_text, Path(labels), wanted._replace(x=())).columns)
    n = table.X.shape[0]
    label_file = Path(labels or path).name
    for key in required:
        if key not in table.columns:
            raise ValueError(f"load_embeddings: {label_file} must have {', '.join(required)}, got none named {key}")
    for key, column in table.columns.items():
        if len(column.values) != n:
            raise ValueError(f"load_embeddings: {key} of {label_file} must have {n} values, got {len(column.values)}")
    if not coarse_keys and "coarse" in table.columns:
        coarse_keys = ("coarse",)
    encoded = [
        _encode(key, values, table.columns[key].names, unlabeled)
        for key in coarse_keys
        for values in np.atleast_2d(table.columns[key].values.T)  # a key may hold [N, D]
    ]
    coarse_ids = np.stack([ids for ids, _ in encoded], axis=1) if encoded else None
    fine_key = fine or "fine"
    fine_ids: np.ndarray | None = None
    fine_names: tuple[str, ...] = ()
    if fine_key in table.columns:
        fine_ids, fine_names = _encode(fine_key, *table.columns[fine_key], unlabeled)
    named = table.columns.get(ids or "id")
    return Embeddings(
        X=table.X,
        coarse=coarse_ids[:, 0] if coarse_ids is not None and len(encoded) == 1 else coarse_ids,
        coarse_names=tuple(names for _, names in encoded),
        fine=fine_ids,
        fine_names=fine_names,
        ids=None if named is None else _texts(named.values),
        source=str(path),
    )


def _read(reader: Any, path: Path, wanted: files.Wanted) -> files.Table:
    """The table of a file; what a library says of a broken one comes with the file's name."""
    try:
        return reader(path, wanted)
    except (csv.Error, EOFError, OSError, UnicodeDecodeError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, FileNotFoundError) or str(error).startswith("load_embeddings: "):
            raise
        kind = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"a readable {path.suffix} file"
        raise ValueError(f"load_embeddings: {path} must be {kind}, got one with: {error}") from error


def _check_options(path: Path, labels: Any, layer: str | None, obsm: str | None, mmap: bool) -> None:
    kind = path.suffix
    if kind not in READERS:
        raise ValueError(f"load_embeddings: path must end in {', '.join(READERS)}, got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"load_embeddings: path must be a file, got {path}")
    if labels is not None and kind not in (".npy", ".npz"):
        raise ValueError(f"load_embeddings: labels must be None for {kind}, which has its own, got {labels}")
    if kind != ".h5ad" and (layer is not None or obsm is not None):
        raise ValueError(f"load_embeddings: layer and obsm must be None for {kind}, got {layer!r}, {obsm!r}")
    if layer is not None and obsm is not None:
        raise ValueError(f"load_embeddings: layer or obsm must be None, got {layer!r}, {obsm!r}")
    if mmap and kind not in (".npy", ".h5ad"):
        raise ValueError(f"load_embeddings: mmap must be False for {kind} (.npy and .h5ad can be mapped), got True")


def _encode(
    key: str, values: np.ndarray, names: Sequence[str] | None, unlabeled: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class ids int64 ``[N]``, -1 for unknown, and the names of the classes."""
    unknown = {"", "-1", unlabeled}
    if names is not None and values.dtype.kind in "iu":  # ids into names
        if len(values) and not -1 <= values.min() <= values.max() < len(names):
            raise ValueError(
                f"load_embeddings: {key} must be in -1..{len(names) - 1}, as it has {len(names)} names, "
                f"got {values.min()}..{values.max()}"
            )
        found, inverse = np.asarray([*names, ""]), values  # id -1 takes the empty name
    else:
        found, inverse = np.unique(_texts(values), return_inverse=True)
    present = [name for name in found.tolist() if name not in unknown]
    if names is None:
        ordered = sorted(present, key=int) if all(name.isdecimal() for name in present) else present
    else:
        ordered = [name for name in names if name not in unknown]
        strange = sorted(set(present).difference(ordered))
        if strange:
            raise ValueError(f"load_embeddings: {key} must be among its {len(ordered)} names, got {strange[:5]}")
    position = {name: i for i, name in enumerate(ordered)}
    ids = np.asarray([position.get(name, -1) for name in found.tolist()], dtype=np.int64)
    return ids[inverse], tuple(ordered)


def _texts(values: np.ndarray) -> np.ndarray:
    """Return values as strings; None and NaN as empty ones, whole floats (integers beside NaN) as integers."""
    if values.dtype.kind == "f":
        known = ~np.isnan(values)
        numbers = values[known]
        whole = np.abs(numbers) < 2**53  # beyond, a float has no integer of its own
        whole[whole] = numbers[whole] % 1 == 0
        broken = numbers[~whole]
        if len(broken):
            raise ValueError(f"load_embeddings: labels must be integers or names, got {broken[0]}")
        texts = np.full(len(values), "", dtype="U24")
        texts[known] = values[known].astype(np.int64).astype(str)
        return texts
    if values.dtype.kind == "O":
        return np.asarray(
            ["" if value is None or value != value else str(value).strip() for value in values], dtype=str
        )
    return values.astype(str)

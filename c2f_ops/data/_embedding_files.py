"""The formats of embedding files: each reader returns the matrix and the label columns that were asked for."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._hierarchy_checks import clean

BLOCK = 4096  # lines of text that become numbers at once


class Wanted(NamedTuple):
    """What to read: label columns where the file has them, feature columns or key, place in h5ad, and how."""

    columns: tuple[str, ...]
    x: Sequence[str] | None
    layer: str | None
    obsm: str | None
    mmap: bool


class Column(NamedTuple):
    """Labels: names, or ids into ``names``."""

    values: np.ndarray
    names: tuple[str, ...] | None = None


class Table(NamedTuple):
    """The matrix ``[N, d]`` and the label columns found."""

    X: Any
    columns: dict[str, Column]


def _check_start(path: Path, magic: bytes) -> None:
    """The first bytes of the format: numpy takes whatever has others for a pickle, and says so."""
    with open(path, "rb") as file:
        start = file.read(len(magic))
    if start != magic:
        raise ValueError(
            f"load_embeddings: {path} must be a readable {path.suffix} file, got one that begins {start!r}"
        )


def read_npy(path: Path, wanted: Wanted) -> Table:
    """Read or map an array; labels stand in another file."""
    _check_start(path, b"\x93NUMPY")
    X = np.load(path, mmap_mode="r" if wanted.mmap else None, allow_pickle=False)
    return Table(_matrix(path, X), {})


def read_npz(path: Path, wanted: Wanted) -> Table:
    """Read arrays by key, or the matrix of ``scipy.sparse.save_npz``."""
    _check_start(path, b"PK")
    with np.load(path, allow_pickle=False) as archive:
        if {"format", "shape", "data"} <= set(archive.files):
            import scipy.sparse

            return Table(_matrix(path, scipy.sparse.load_npz(path)), {})
        key = wanted.x[0] if wanted.x else "X"
        if key not in archive.files:
            raise ValueError(f"load_embeddings: x must be among {', '.join(archive.files)} of {path.name}, got {key!r}")
        columns = {}
        for column in wanted.columns:
            if column in archive.files:
                names = archive[f"{column}_names"] if f"{column}_names" in archive.files else None
                columns[column] = Column(archive[column], None if names is None else tuple(map(str, names.tolist())))
        return Table(_matrix(path, archive[key]), columns)


def read_text(path: Path, wanted: Wanted) -> Table:
    """Read csv or tsv with a header: label columns as text, feature columns as numbers."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = [clean(cell) for cell in next(reader, [])]
        label_at = {column: header.index(column) for column in wanted.columns if column in header}
        features = [column for column in header if column not in label_at] if wanted.x is None else list(wanted.x)
        twice = sorted({column for column in [*features, *label_at] if header.count(column) > 1})
        if twice:
            raise ValueError(
                f"load_embeddings: columns of {path.name} must have different names, got {twice[0]!r} twice"
            )
        absent = [column for column in features if column not in header]
        if absent:
            raise ValueError(f"load_embeddings: x must be among the columns of {path.name}, got {', '.join(absent)}")
        feature_at = [header.index(column) for column in features]
        labels: dict[str, list[str]] = {column: [] for column in label_at}
        blocks: list[np.ndarray] = []
        cells: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"load_embeddings: line {reader.line_num} of {path.name} must have {len(header)} cells, "
                    f"got {len(row)}"
                )
            for column, i in label_at.items():
                labels[column].append(clean(row[i]))
            cells.append([row[i] for i in feature_at])
            lines.append(reader.line_num)
            if len(cells) == BLOCK:
                blocks.append(_numbers(path, features, cells, lines))
                cells, lines = [], []
        blocks.append(_numbers(path, features, cells, lines))
    columns = {column: Column(np.asarray(values, dtype=str)) for column, values in labels.items()}
    return Table(np.concatenate(blocks), columns)


def _numbers(path: Path, features: list[str], cells: list[list[str]], lines: list[int]) -> np.ndarray:
    try:
        return np.asarray(cells, dtype=np.float32).reshape(len(cells), len(features))
    except ValueError:
        for line, row in zip(lines, cells, strict=True):
            for column, cell in zip(features, row, strict=True):
                try:
                    float(cell)
                except ValueError:
                    raise ValueError(
                        f"load_embeddings: line {line} of {path.name} must have a number in column {column} "
                        f"(or name the feature columns in x), got {cell!r}"
                    ) from None
        raise


def read_parquet(path: Path, wanted: Wanted) -> Table:
    """Read numeric columns, or one column of lists, and label columns, whose dictionaries fix the order of classes."""
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(
            'load_embeddings: reading .parquet needs pyarrow, which is not installed; pip install "c2f_ops[sc]"'
        ) from None
    table = pq.read_table(path)
    columns = {}
    for name in wanted.columns:
        if name in table.column_names:
            column = table[name]
            if pa.types.is_dictionary(column.type):
                encoded = column.unify_dictionaries().combine_chunks()
                names = tuple(map(str, encoded.dictionary.to_pylist()))
                columns[name] = Column(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), names)
            else:
                columns[name] = Column(column.to_numpy())
    features = [name for name in table.column_names if name not in columns] if wanted.x is None else list(wanted.x)
    absent = [name for name in features if name not in table.column_names]
    if absent:
        raise ValueError(f"load_embeddings: x must be among the columns of {path.name}, got {', '.join(absent)}")
    for name in features:
        kind, lists = table[name].type, len(features) == 1 and _is_list(table[name].type)
        number = kind.value_type if lists else kind
        if not (pa.types.is_floating(number) or pa.types.is_integer(number)) or table[name].null_count:
            raise ValueError(
                f"load_embeddings: column {name} of {path.name} must hold numbers without gaps "
                f"(or name the feature columns in x), got {kind} with {table[name].null_count} nulls"
            )
    if len(features) == 1 and _is_list(table[features[0]].type):
        column = table[features[0]].combine_chunks()
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) > 1:
            raise ValueError(f"load_embeddings: lists of {features[0]} must have one length, got {sorted(lengths)[:5]}")
        X = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    else:
        X = np.stack([table[name].to_numpy().astype(np.float32) for name in features], axis=1)
    return Table(_matrix(path, X), columns)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def read_h5ad(path: Path, wanted: Wanted) -> Table:
    """Read an AnnData file: ``X``, a layer or an obsm, and columns of obs, whose categories keep their order."""
    try:
        import anndata
    except ImportError:
        raise ImportError(
            'load_embeddings: reading .h5ad needs anndata, which is not installed; pip install "c2f_ops[sc]"'
        ) from None
    data = anndata.read_h5ad(path, backed="r" if wanted.mmap else None)
    place, key = ("layers", wanted.layer) if wanted.layer else ("obsm", wanted.obsm)
    if key is None:
        X = _mapped(path, data.X) if wanted.mmap else data.X
    elif key not in getattr(data, place):
        known = ", ".join(getattr(data, place)) or "none"
        raise ValueError(f"load_embeddings: {place} of {path.name} must have {key!r}, got {known}")
    else:
        X = getattr(data, place)[key]
    if X is None:
        raise ValueError(f"load_embeddings: {path.name} must have an X, or layer or obsm be given, got none")
    columns = {"id": Column(data.obs_names.to_numpy(dtype=object))}
    for name in wanted.columns:
        if name in data.obs:
            series = data.obs[name]
            if series.dtype.name == "category":
                columns[name] = Column(series.cat.codes.to_numpy(), tuple(map(str, series.cat.categories)))
            elif isinstance(series.dtype, np.dtype):
                columns[name] = Column(series.to_numpy())
            else:  # an extension type, whose missing values are pandas.NA
                columns[name] = Column(series.astype(object).where(series.notna(), None).to_numpy())
    if data.isbacked:
        data.file.close()
    return Table(_matrix(path, X.to_numpy() if hasattr(X, "to_numpy") else X), columns)


def _mapped(path: Path, X: Any) -> Any:
    """Map a matrix of an open HDF5 file where it lies in one piece, else read it."""
    if not hasattr(X, "chunks"):
        return X.to_memory()  # sparse
    offset = X.id.get_offset()  # of data that are contiguous; None for others
    return X[:] if offset is None else np.memmap(path, X.dtype, "r", offset, X.shape)


def _matrix(path: Path, X: Any) -> Any:
    """Check ``[N, d]`` of numbers; float32, CSR where it is sparse; a memory map stays as it is."""
    if X.ndim != 2 or X.dtype.kind not in "fiub":
        raise ValueError(f"load_embeddings: X of {path.name} must be numbers [N, d], got {X.dtype} {list(X.shape)}")
    if isinstance(X, np.memmap):
        return X
    if isinstance(X, np.ndarray):
        return np.ascontiguousarray(X, dtype=np.float32)
    import scipy.sparse

    return scipy.sparse.csr_matrix(X, dtype=np.float32)

"""Predictions of fine classes in files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__

FORMATS = (".csv", ".h5ad", ".npz", ".parquet", ".tsv")


def save_predictions(
    path: str | os.PathLike[str],
    *,
    fine: Any,
    confidence: Any,
    ids: Sequence[str] | np.ndarray | None = None,
    coarse: Any | None = None,
    coarse_names: Sequence[Sequence[str]] = (),
    scores: Any | None = None,
    relations: Any | None = None,
    params: Mapping[str, Any] | None = None,
    source: str | os.PathLike[str] | None = None,
) -> None:
    """Write predicted fine classes as csv, tsv, parquet, npz or h5ad; the file appears whole or not at all.

    Columns (keys, ``obs``): ``c2f_fine``, ``c2f_fine_conf`` and, where given, ``c2f_coarse``. Parquet, npz and h5ad
    also hold ``X_c2f`` (in h5ad an ``obsm``); npz and h5ad hold ``relations`` and ``coarse_names_<d>``; parquet
    (metadata), npz and h5ad hold ``params`` as JSON. In h5ad all this is ``uns["c2f"] = {hierarchy, params, version}``,
    and ``c2f_fine`` has the categories 0..K_F - 1.

    Args:
        path: the file; its suffix says the format.
        fine: integers ``[N]``, the predicted fine class.
        confidence: floats ``[N]``, its probability.
        ids: N names; by default the row numbers, in h5ad those of ``source``.
        coarse: integers ``[N]``, the predicted coarse class of the first taxonomy.
        coarse_names: D sequences of names.
        scores: floats ``[N, K_F]``: logits or probabilities.
        relations: integers ``[D, K_F]`` (or ``[K_F]``), the coarse class of each fine class.
        params: of the run; JSON data.
        source: h5ad only: the file whose cells these are; its content is kept and ours is added.

    Raises:
        ValueError: a format or length that does not fit.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"save_predictions: path must end in {', '.join(FORMATS)}, got {path.name!r}")
    if source is not None and path.suffix != ".h5ad":
        raise ValueError(f"save_predictions: source must be None for {path.suffix}, got {source}")
    columns: dict[str, Any] = {
        "c2f_fine": np.asarray(fine, dtype=np.int64),
        "c2f_fine_conf": np.asarray(confidence, dtype=np.float32),
    }
    if coarse is not None:
        columns["c2f_coarse"] = np.asarray(coarse, dtype=np.int64)
    n = len(columns["c2f_fine"])
    matrix = None if scores is None else np.asarray(scores, dtype=np.float32)
    for name, values in {**columns, "ids": ids, "scores": matrix}.items():
        if values is not None and len(values) != n:
            raise ValueError(f"save_predictions: {name} must have {n} rows, as fine has, got {len(values)}")
    table = None if relations is None else np.atleast_2d(np.asarray(relations, dtype=np.int32))
    settings = json.dumps(dict(params or {}), sort_keys=True)
    draft = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        if path.suffix == ".h5ad":
            _write_h5ad(draft, columns, ids, matrix, table, coarse_names, settings, source)
        elif path.suffix == ".npz":
            _write_npz(draft, {"id": _names(ids, n), **columns}, matrix, table, coarse_names, settings)
        elif path.suffix == ".parquet":
            _write_parquet(draft, {"id": _names(ids, n), **columns}, matrix, settings)
        else:
            _write_text(draft, {"id": _names(ids, n), **columns})
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _names(ids: Any, n: int) -> np.ndarray:
    return np.asarray(range(n) if ids is None else ids).astype(str)


def _write_text(path: Path, columns: dict[str, np.ndarray]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _write_npz(
    path: Path,
    columns: dict[str, np.ndarray],
    matrix: np.ndarray | None,
    relations: np.ndarray | None,
    coarse_names: Sequence[Sequence[str]],
    settings: str,
) -> None:
    arrays: dict[str, Any] = {**columns, "params": settings, "version": __version__}
    arrays |= {f"coarse_names_{d}": np.asarray(names, dtype=str) for d, names in enumerate(coarse_names)}
    arrays |= {} if matrix is None else {"X_c2f": matrix}
    arrays |= {} if relations is None else {"relations": relations}
    np.savez(path, **arrays)


def _write_parquet(path: Path, columns: dict[str, np.ndarray], matrix: np.ndarray | None, settings: str) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(
            'save_predictions: writing .parquet needs pyarrow, which is not installed; pip install "c2f_ops[sc]"'
        ) from None
    arrays = {name: pa.array(values) for name, values in columns.items()}
    if matrix is not None:
        arrays["X_c2f"] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    record = json.dumps({"params": json.loads(settings), "version": __version__})
    pq.write_table(pa.table(arrays).replace_schema_metadata({"c2f": record}), path)


def _write_h5ad(
    path: Path,
    columns: dict[str, np.ndarray],
    ids: Any,
    matrix: np.ndarray | None,
    relations: np.ndarray | None,
    coarse_names: Sequence[Sequence[str]],
    settings: str,
    source: str | os.PathLike[str] | None,
) -> None:
    try:
        import anndata
        import pandas
    except ImportError:
        raise ImportError(
            'save_predictions: writing .h5ad needs anndata, which is not installed; pip install "c2f_ops[sc]"'
        ) from None
    n = len(columns["c2f_fine"])
    if source is None:
        data = anndata.AnnData(obs=pandas.DataFrame(index=_names(ids, n)))
    else:
        data = anndata.read_h5ad(source)
        if data.n_obs != n:
            raise ValueError(f"save_predictions: fine must have {data.n_obs} rows, the cells of source, got {n}")
        if ids is not None and not np.array_equal(data.obs_names.to_numpy(dtype=str), _names(ids, n)):
            raise ValueError("save_predictions: ids must be the obs_names of source in its order, got others")
    fine = columns["c2f_fine"]
    known = fine.max(initial=-1) + 1 if relations is None else relations.shape[1]
    data.obs["c2f_fine"] = pandas.Categorical.from_codes(fine, [str(i) for i in range(known)])
    for name, values in columns.items():
        if name == "c2f_coarse" and coarse_names:
            data.obs[name] = pandas.Categorical.from_codes(values, list(coarse_names[0]))
        elif name != "c2f_fine":
            data.obs[name] = values
    if matrix is not None:
        data.obsm["X_c2f"] = matrix
    hierarchy: dict[str, Any] = {} if relations is None else {"relations": relations}
    hierarchy |= {f"coarse_names_{d}": np.asarray(names, dtype=object) for d, names in enumerate(coarse_names)}
    data.uns["c2f"] = {"hierarchy": hierarchy, "params": settings, "version": __version__}
    data.write_h5ad(path)

"""FALCON on AnnData objects."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from .._version import __version__


def fit_anndata(
    model: Any, adata: Any, coarse_key: str, layer: str | None, obsm: str | None, unlabeled: Any, batch_key: str | None
) -> Any:
    """Train ``model`` on ``adata`` and write the result into it; see `FalconClusterer.fit_anndata`."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError('FalconClusterer: fit_anndata needs anndata; pip install "c2f_ops[sc]"') from None
    if layer is not None and obsm is not None:
        raise ValueError(f"FalconClusterer: layer or obsm must be None, got {layer!r} and {obsm!r}")
    for key in (coarse_key, batch_key):
        if key is not None and key not in adata.obs:
            raise ValueError(f"FalconClusterer: obs must have the column {key!r}, got {list(adata.obs.columns)}")
    x = _matrix(adata, layer, obsm)
    column = adata.obs[coarse_key].astype("category")
    kinds = [str(c) for c in column.cat.categories if c != unlabeled]
    names = column.astype(object)
    labels = np.where((column.isna() | (column == unlabeled)).to_numpy(bool), None, names.map(str).to_numpy(object))
    batches = None if batch_key is None else adata.obs[batch_key].astype(str).to_numpy(str)
    model.fit(x, labels, batches)

    # Fine classes in the order of the coarse categories, numbered inside them.
    first = [str(c) for c in model._classes[0]]
    parents = [first[j] for j in model.relations_[0]]
    order = sorted(range(model.n_fine_), key=lambda k: (kinds.index(parents[k]), k))
    seen: dict[str, int] = {}
    fine = {}
    for k in order:
        number = seen.get(parents[k], 0)
        seen[parents[k]] = number + 1
        fine[k] = f"{parents[k]}/{number}"
    logits = model.transform(x)
    shifted = logits - logits.max(1, keepdims=True)
    chosen = [fine[k] for k in logits.argmax(1)]
    adata.obs["c2f_fine"] = pd.Categorical(chosen, categories=[fine[k] for k in order])
    adata.obs["c2f_fine_conf"] = (1 / np.exp(shifted).sum(1)).astype(np.float32)
    adata.obsm["X_c2f"] = logits
    adata.uns["c2f"] = {
        "hierarchy": {
            "fine": np.array([fine[k] for k in range(model.n_fine_)], dtype=object),
            "coarse": {str(name): np.array([str(c) for c in own], dtype=object)
                       for name, own in zip(model.datasets_, model._classes, strict=True)},
            "relations": model.relations_[:, : model.n_fine_],
        },
        "params": _params(model),
        "version": __version__,
    }  # fmt: skip
    return model


def _matrix(adata: Any, layer: str | None, obsm: str | None) -> Any:
    """``[N, d]`` as an array or CSR matrix; a backed one is read into the same form it has on disk."""
    if obsm is not None:
        if obsm not in adata.obsm:
            raise ValueError(f"FalconClusterer: obsm must be one of {list(adata.obsm)}, got {obsm!r}")
        return np.asarray(adata.obsm[obsm])
    if layer is not None and layer not in adata.layers:
        raise ValueError(f"FalconClusterer: layer must be one of {list(adata.layers)}, got {layer!r}")
    x = adata.X if layer is None else adata.layers[layer]
    if hasattr(x, "to_memory"):
        x = x.to_memory()
    if hasattr(x, "tocsr"):
        return x.tocsr()
    return np.asarray(x)


def _params(model: Any) -> dict[str, Any]:
    """Settings in types that h5ad files hold: None and sequences as text."""
    given = model.get_params(deep=False) | {"config": asdict(model._falcon.config)}
    return {key: _storable(value) for key, value in given.items()}


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _storable(v) for k, v in value.items()}
    return value if isinstance(value, (bool, int, float, str)) else str(value)

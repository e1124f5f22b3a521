"""A fitted estimator in one safetensors file: tensors, and settings as JSON in its header."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..models import Falcon, FalconConfig
from ._inputs import Scaling
from ._loop import Loop, Plan, make_head

_KEY, _FORMAT = "c2f_ops.FalconClusterer", 1


def save(model: Any, path: Path) -> Path:
    """Write ``model`` to ``path``, atomically."""
    from safetensors.torch import save_file

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise OSError(f"FalconClusterer: path must be a file in a folder that exists, got {path}")
    tensors = {f"falcon.{k}": v.detach().cpu().contiguous() for k, v in model._falcon.state_dict().items()}
    tensors |= {"mean": torch.from_numpy(model._scaling.mean), "scale": torch.from_numpy(model._scaling.scale)}
    tensors["labels"] = torch.from_numpy(model.labels_)
    params = model.get_params(deep=False)
    config = model.config or FalconConfig.preset(model.preset)
    params |= {"config": asdict(config), "random_state": _plain(params["random_state"])}
    params["relations"] = _plain(params["relations"])
    types = [c.dtype.str for c in model._classes]
    meta = {
        "types": types, "format": _FORMAT, "version": __version__, "params": params, "plan": asdict(model._loop.plan),
        "epoch": model._loop.epoch, "n_features": model.n_features_in_, "n_fine": model.n_fine_,
        "names": getattr(model, "feature_names_in_", np.zeros(0)).tolist(), "datasets": model.datasets_.tolist(),
        "classes": [c.tolist() for c in model._classes], "history": model.history_, "gap": model.mstep_gap_,
        "forced": model.balance_forced_, "kept_start": model.kept_start_, "multi_parent": model.multi_parent_,
        "copies": model.copies_.tolist(),
        "estimate": None if model.n_fine_estimate_ is None else model.n_fine_estimate_.to_dict(),
    }  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {_KEY: json.dumps(meta, default=_plain)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def load(cls: Any, path: Path, device: str) -> Any:
    """Read an estimator of class ``cls`` from ``path``."""
    from safetensors import SafetensorError, safe_open

    from ._reports import MultiParent
    from .n_fine import FineCountEstimate

    try:
        opened = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"FalconClusterer: path must be a file that save wrote, got {path} ({error})") from None
    with opened as file:
        header = (file.metadata() or {}).get(_KEY)
        if header is None:
            raise ValueError(f"FalconClusterer: path must be a file that save wrote, got {path}")
        meta = json.loads(header)
        if meta["format"] != _FORMAT:
            raise ValueError(f"FalconClusterer: format of {path} must be {_FORMAT}, got {meta['format']}")
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    params = meta["params"]
    config = FalconConfig(**{**params["config"], "lambdas": tuple(params["config"]["lambdas"])})
    params |= {"config": config, "hidden": tuple(params["hidden"]), "device": device}
    model = cls(**params)
    place = model._find_device()
    copies, counts = meta["copies"], [len(c) for c in meta["classes"]]
    count = meta["n_fine"] + len(copies)
    head = make_head(meta["n_features"], count, params["hidden"], 0, place)
    if copies:
        config = replace(config, learn_relations=False)
    falcon = Falcon(head, count, counts, config, relations=tensors["falcon.criterion.relations"], group=None)
    falcon.load_state_dict({k.removeprefix("falcon."): v for k, v in tensors.items() if k.startswith("falcon.")})
    model._loop = Loop(falcon.to(place), Plan(**meta["plan"]))
    model._loop.epoch = meta["epoch"]
    model._device = place
    model._scaling = Scaling(tensors["mean"].numpy(), tensors["scale"].numpy())
    model._classes = [np.array(c, dtype=kind) for c, kind in zip(meta["classes"], meta["types"], strict=True)]
    model._start_streaming()
    model.classes_coarse_ = model._classes[0] if len(counts) == 1 else model._classes
    model.datasets_, model.n_fine_ = np.array(meta["datasets"]), meta["n_fine"]
    model.n_features_in_, model.history_ = meta["n_features"], meta["history"]
    if meta["names"]:
        model.feature_names_in_ = np.array(meta["names"], dtype=object)
    model.n_fine_estimate_ = None if meta["estimate"] is None else FineCountEstimate.from_dict(meta["estimate"])
    model.relations_, model.labels_ = falcon.relations.cpu().numpy(), tensors["labels"].numpy()
    model.mstep_gap_, model.balance_forced_ = meta["gap"], meta["forced"]
    model.copies_, model.kept_start_ = np.array(copies, dtype=np.int64), meta["kept_start"]
    model.multi_parent_ = [MultiParent(*row) for row in meta["multi_parent"]]
    return model


def _plain(value: Any) -> Any:
    """JSON for what JSON does not know; a generator's state is left out."""
    if isinstance(value, np.random.RandomState):
        return None
    if isinstance(value, (np.ndarray, torch.Tensor, np.generic)):
        return value.tolist()
    if isinstance(value, bytes):
        raise TypeError("FalconClusterer: labels must be integers, strings or booleans to be saved, got bytes")
    return str(value) if isinstance(value, torch.device) else value

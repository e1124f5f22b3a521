"""A fitted `ClassAttentiveClassifier` in one safetensors file: tensors, and settings as JSON in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..metrics import BoundReport, CollapseReport
from ._files import _plain
from ._inputs import Scaling, find_device

_WHO, _KEY, _FORMAT = "ClassAttentiveClassifier", "c2f_ops.ClassAttentiveClassifier", 1


def save(model: Any, path: Path) -> Path:
    """Write ``model`` to ``path``, atomically."""
    from safetensors.torch import save_file

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise OSError(f"{_WHO}: path must be a file in a folder that exists, got {path}")
    tensors = {
        f"{part}.{name}": value.detach().cpu().contiguous()
        for part, module in (("network", model._network), ("criterion", model._criterion))
        for name, value in module.state_dict().items()
    }
    tensors |= {"mean": torch.from_numpy(model._scaling.mean), "scale": torch.from_numpy(model._scaling.scale)}
    tensors["prototypes"] = torch.from_numpy(model.prototypes_)
    params = model.get_params(deep=False)
    params |= {"random_state": _plain(params["random_state"]), "device": "auto"}
    if callable(params["backbone"]):
        params["backbone"] = None
    meta = {
        "format": _FORMAT, "version": __version__, "params": params, "classes": model.classes_.tolist(),
        "type": model.classes_.dtype.str, "n_features": model.n_features_in_, "history": model.history_,
        "names": getattr(model, "feature_names_in_", np.zeros(0)).tolist(), "temperature": model.temperature_,
        "bound": None if model.bound_ is None else model.bound_.to_dict(),
        "collapse": None if model.collapse_report_ is None else model.collapse_report_.to_dict(),
    }  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {_KEY: json.dumps(meta, default=_plain)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def load(cls: Any, path: Path, device: Any, backbone: Any) -> Any:
    """Read an estimator of class ``cls`` from ``path``."""
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{_WHO}: path must be a file that save wrote, got {path} ({error})") from None
    with opened as file:
        header = (file.metadata() or {}).get(_KEY)
        if header is None:
            raise ValueError(f"{_WHO}: path must be a file that save wrote, got {path}")
        meta = json.loads(header)
        if meta["format"] != _FORMAT:
            raise ValueError(f"{_WHO}: format of {path} must be {_FORMAT}, got {meta['format']}")
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    params = meta["params"] | {"device": device}
    if params["backbone"] is None:
        if not callable(backbone):
            raise ValueError(f"{_WHO}: backbone must be the function that {path} was trained with, got {backbone!r}")
        params["backbone"] = backbone
    model = cls(**params)
    model.classes_ = np.array(meta["classes"], dtype=meta["type"])
    model._device = find_device(_WHO, device)
    model._scaling = Scaling(tensors["mean"].numpy(), tensors["scale"].numpy())
    model._build(0)
    for part, module in (("network", model._network), ("criterion", model._criterion)):
        module.load_state_dict({k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")})
        module.to(model._device)
    model.prototypes_, model.temperature_ = tensors["prototypes"].numpy(), meta["temperature"]
    model._note_weights()
    model.n_features_in_, model.history_ = meta["n_features"], meta["history"]
    if meta["names"]:
        model.feature_names_in_ = np.array(meta["names"], dtype=object)
    bound, collapse = meta["bound"], meta["collapse"]
    model.bound_ = None if bound is None else BoundReport(**{**bound, "priors": tuple(bound["priors"])})
    model.collapse_report_ = None if collapse is None else CollapseReport(**collapse)
    return model

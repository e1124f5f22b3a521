"""Checkpoints: tensors in safetensors, the rest in JSON, written so that a complete one exists at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hierarchy import Hierarchy

FOLDER = "checkpoints"
KEPT = 2
NO_HIERARCHY = "none"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    run: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: dict[str, Any], sha256: str
) -> Path:
    """Write ``run/checkpoints/step-XXXXXXXX`` and delete all but the newest two.

    Args:
        run: run folder.
        step: optimiser steps done; orders the checkpoints.
        model: its state dict is saved.
        optimizer: its tensors are saved under the names of the parameters.
        state: JSON data.
        sha256: hash of the hierarchy; `NO_HIERARCHY` for a model that knows no classes.
    """
    from safetensors.torch import save_file

    folder = run / FOLDER
    partial, final = folder / "partial", folder / f"step-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, partial / _MODEL, {"format": "pt", "hierarchy": sha256})
    if optimizer is not None:
        save_file(_optimizer_tensors(model, optimizer), partial / _OPTIMIZER, {"format": "pt"})
    hashes = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
    (partial / _STATE).write_text(
        json.dumps({**state, "step": step, "hierarchy": sha256, "files": hashes}, indent=2) + "\n", encoding="utf-8"
    )
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    _sync(folder)
    for old in _folders(run)[KEPT:]:
        shutil.rmtree(old)
    return final


def find_checkpoint(run: Path, hierarchy: Hierarchy | None) -> tuple[Path, dict[str, Any]]:
    """Return the newest intact checkpoint of a run and its state.

    Raises:
        FileNotFoundError: the run has none.
        ValueError: it belongs to another hierarchy.
    """
    for folder in _folders(run):
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            intact = all(_sha256(folder / name) == digest for name, digest in state["files"].items())
        except (OSError, ValueError, KeyError):
            intact = False
        if not intact:
            warnings.warn(f"checkpoint: {folder} is damaged; the one before it is taken", stacklevel=2)
            continue
        _check_hierarchy(folder, state["hierarchy"], hierarchy)
        return folder, state
    raise FileNotFoundError(f"checkpoint: run must hold an intact checkpoint, got none in {run / FOLDER}")


def load_model(folder: Path, model: nn.Module, hierarchy: Hierarchy | None) -> None:
    """Load the model of a checkpoint; the hash of its hierarchy is checked against the file itself."""
    from safetensors import safe_open

    with safe_open(folder / _MODEL, "pt") as file:
        _check_hierarchy(folder, (file.metadata() or {}).get("hierarchy", NO_HIERARCHY), hierarchy)
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    own = model.state_dict()
    odd = own.keys() ^ tensors.keys() or {key for key in own if own[key].shape != tensors[key].shape}
    if odd:
        raise ValueError(
            f"checkpoint: model must match config.json of the run, got another tensor {min(odd)} in {folder}"
        )
    model.load_state_dict(tensors)


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load what `save_checkpoint` wrote of an optimiser over the parameters of ``model``."""
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    for key, value in load_file(folder / _OPTIMIZER).items():
        entry, _, name = key.partition(":")
        parameter = parameters[name]
        optimizer.state[parameter][entry] = torch.empty_like(parameter).copy_(value)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{entry}:{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _folders(run: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    return sorted((run / FOLDER).glob("step-*"), reverse=True)


def _check_hierarchy(folder: Path, saved: str, hierarchy: Hierarchy | None) -> None:
    given = NO_HIERARCHY if hierarchy is None else hierarchy.sha256
    if saved != given:
        raise ValueError(
            f"checkpoint: hierarchy must be the one of {folder} with sha256 {saved[:12]}, got {given[:12]}"
        )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk, so that a rename cannot outrun its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

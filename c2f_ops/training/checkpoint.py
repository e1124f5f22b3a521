"""Checkpoints: tensors in safetensors, the rest in JSON, written so that a complete one exists at any moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import (
    CHECKPOINTS,
    MODEL,
    OPTIMIZER,
    STATE,
    checkpoint_folders,
    newest_checkpoint,
    replace_folder,
    sha256_of,
    signed,
)
from ..hierarchy import Hierarchy
from .folder import CONFIG, config_signature

KEPT = 2
NO_HIERARCHY = "none"


def save_checkpoint(
    run: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: dict[str, Any], sha256: str
) -> Path:
    """Write ``run/checkpoints/step-XXXXXXXX`` and delete all but this one and the one before it.

    Args:
        run: run folder.
        step: optimiser steps done; orders the checkpoints.
        model: its state dict is saved.
        optimizer: its tensors are saved under the names of the parameters.
        state: JSON data.
        sha256: hash of the hierarchy; `NO_HIERARCHY` for a model that knows no classes.
    """
    from safetensors.torch import save_file

    partial, final = run / CHECKPOINTS / "partial", run / CHECKPOINTS / f"step-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, partial / MODEL, {"format": "pt", "hierarchy": sha256})
    if optimizer is not None:
        save_file(_optimizer_tensors(model, optimizer), partial / OPTIMIZER, {"format": "pt"})
    hashes = {file.name: sha256_of(file) for file in sorted(partial.iterdir())}
    facts = {"step": step, "hierarchy": sha256, "config": config_signature(run), "files": hashes}
    (partial / STATE).write_bytes(json.dumps(signed({**state, **facts}), indent=2).encode())
    replace_folder(partial, final)
    folders = checkpoint_folders(run)
    current = folders.index(final)
    for other in folders[:current] + folders[current + KEPT :]:  # a newer one was passed over as damaged
        shutil.rmtree(other, ignore_errors=True)
    return final


def find_checkpoint(run: Path, hierarchy: Hierarchy | None) -> tuple[Path, dict[str, Any]]:
    """Return the newest intact checkpoint of a run and its state; damaged ones are passed over with a warning.

    Raises:
        FileNotFoundError: the run has none.
        ValueError: it belongs to another hierarchy or config.
    """
    found = newest_checkpoint(run)
    if found is None:
        raise FileNotFoundError(f"checkpoint: run must hold an intact checkpoint, got none in {run / CHECKPOINTS}")
    folder, state = found
    _check_hierarchy(folder, state["hierarchy"], hierarchy)
    wanted, given = state.get("config"), config_signature(run)
    if None not in (wanted, given) and wanted != given:
        raise ValueError(
            f"checkpoint: {run / CONFIG} must be the config that {folder.name} was trained with, got another one; "
            "where that is meant, take out its line sha256"
        )
    return folder, state


def load_model(folder: Path, model: nn.Module, hierarchy: Hierarchy | None) -> None:
    """Load the model of a checkpoint; the hash of its hierarchy is checked against the file itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / MODEL, "pt") as file:
            _check_hierarchy(folder, (file.metadata() or {}).get("hierarchy", NO_HIERARCHY), hierarchy)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {folder / MODEL} must be a safetensors file, got {error}") from None
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
    for key, value in load_file(folder / OPTIMIZER).items():
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


def _check_hierarchy(folder: Path, saved: str, hierarchy: Hierarchy | None) -> None:
    given = NO_HIERARCHY if hierarchy is None else hierarchy.sha256
    if saved != given:
        raise ValueError(
            f"checkpoint: hierarchy must be the one of {folder} with sha256 {saved[:12]}, got {given[:12]}"
        )

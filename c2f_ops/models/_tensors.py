"""Tensors of files that others made. Reading one never runs code: not of a pickle, not of anything."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_state_dict")


def read_tensors(path: Path, op: str, argument: str) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of one of `torch.save` that holds only plain data besides.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, of another kind, or asks for code to be run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{op}: {argument} must be a file, got {path}")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f'{op}: safetensors is not installed; pip install "c2f_ops[train]"') from None
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{op}: {argument} must be a safetensors file, got {path}: {_line(error)}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # reading a damaged pickle fails in any way
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
            raise ValueError(
                f"{op}: {argument} must hold only tensors and plain data, got {path} that needs code to be run "
                f"({_line(error)}); where you trust it, save its state dict alone with safetensors"
            ) from None
        raise ValueError(f"{op}: {argument} must be a file of torch.save, got {path}: {_line(error)}") from None
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    items: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    return {str(key): value for key, value in items.items() if isinstance(value, Tensor)}


def _line(error: Exception) -> str:
    """What an error says, its first sentence; where it is about a pickle, the one about what that asks for."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    chosen = next((line for line in lines if "unsupported" in line.lower()), lines[0])
    return re.split(r"(?<=\w)\. ", chosen)[0].rstrip(".")

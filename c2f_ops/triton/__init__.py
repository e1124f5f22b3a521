"""Triton kernels for CUDA devices; with TRITON_INTERPRET=1 they also run on CPU tensors, slowly, for tests.

Nothing here imports Triton before it is asked to run, so the package works where Triton is not installed.
"""

from __future__ import annotations

import importlib.util
import os

import torch

from .._validated import unvalidated as _unvalidated


def interpreted() -> bool:
    """Tell whether Triton's interpreter replaces the compiler in this process."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def unavailable() -> str | None:
    """Say in one line why these kernels cannot run on this machine; None: they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not interpreted() and not torch.cuda.is_available():
        return "Triton kernels need a CUDA device"
    return None


def unsupported_device(device: torch.device) -> str | None:
    """Say in one line why these kernels cannot run on ``device``; None: they can."""
    if device.type != "cuda" and not interpreted():
        return f"Triton kernels need CUDA tensors, got {device.type}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "Triton kernels need compute capability 8.0 or newer"
    return None


def unvalidated(op: str, device: torch.device) -> str | None:
    """Say in one line why an automatic choice must not take these kernels on ``device`` yet; None: it may."""
    if device.type != "cuda":
        return "Triton's interpreter is for tests"
    return _unvalidated(op, "triton", torch.cuda.get_device_capability(device))

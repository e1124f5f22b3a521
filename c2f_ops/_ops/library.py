"""Shared by every op: definition in the `c2f_ops` namespace, kernels that ignore autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def define(name: str, schema: str) -> None:
    """Define ``c2f_ops::name`` for the PT2 stack: functional, exact strides honoured."""
    torch.library.define(f"c2f_ops::{name}", schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))


def without_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Run a kernel with autocast off, so that its own torch calls keep the types they were given."""

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        if not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"):
            return kernel(*args)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return kernel(*args)

    return run

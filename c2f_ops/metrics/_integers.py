"""Checked integer arrays: labels and relations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
MOST_CELLS = 2**30  # of a table that ids index


def labels(name: str, argument: str, values: Any, **like: Any) -> Ints:
    """Integers of at least -1, ``[N]``, as many as those of ``like`` has."""
    array = _integers(name, argument, values)
    if array.ndim != 1:
        raise ValueError(f"{name}: {argument} must have shape [N], got {list(array.shape)}")
    for other, their in like.items():
        if len(array) != len(their):
            raise ValueError(f"{name}: {argument} must have {len(their)} entries as {other} has, got {len(array)}")
    return array


def check_ids(name: str, argument: str, values: Tensor, n: int) -> None:
    """Ids of ``n`` classes, -1 for none."""
    if len(values) and not -1 <= int(values.min()) <= int(values.max()) < n:
        raise ValueError(f"{name}: {argument} must be in -1..{n - 1}, got {int(values.min())}..{int(values.max())}")


def relation(name: str, argument: str, values: Any) -> Ints | None:
    """Parents ``[D, K]``, or None for None."""
    if values is None:
        return None
    array = np.atleast_2d(_integers(name, argument, values))
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: {argument} must have shape [K] or [D, K] with K > 0, got {list(array.shape)}")
    if array.max() >= MOST_CELLS:
        raise ValueError(f"{name}: {argument} must number coarse classes from 0, got {array.max()}")
    return array


def _integers(name: str, argument: str, values: Any) -> Ints:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: {argument} must be integers, got {array.dtype}")
    if array.size and array.min() < -1:
        raise ValueError(f"{name}: {argument} must be at least -1, got {array.min()}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: {argument} must be below 2^63, got {array.max()}")
    return array.astype(np.int64)

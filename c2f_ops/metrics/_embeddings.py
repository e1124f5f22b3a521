"""Embeddings with labels and class weights: checked arguments, read in chunks as float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array: TypeAlias = ArrayLike | Tensor
Rows: TypeAlias = NDArray[Any] | Tensor

CHUNK = 1 << 22  # float64 numbers of one chunk: 32 MiB


def rows(name: str, z: Array, argument: str = "z") -> Rows:
    """Embeddings ``[N, d]`` in their own type; what holds them is not read yet, it may be a memory map."""
    array = z.detach() if isinstance(z, Tensor) else np.asarray(z)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: {argument} must have shape [N, d] with N, d > 0, got {list(array.shape)}")
    floating = array.is_floating_point() if isinstance(array, Tensor) else np.issubdtype(array.dtype, np.floating)
    if not floating:
        raise TypeError(f"{name}: {argument} must be floating point, got {array.dtype}")
    return array


def device_of(array: Rows) -> torch.device:
    """Where chunks of the rows live."""
    return array.device if isinstance(array, Tensor) else torch.device("cpu")


def chunks(name: str, array: Rows, width: int, argument: str = "z") -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, float64 ``[n, d]``) with about CHUNK numbers at ``width`` numbers a row; each is finite."""
    step = max(1, CHUNK // width)
    for start in range(0, len(array), step):
        part = slice(start, min(start + step, len(array)))
        # np.array copies: a memory map opened for reading is no tensor that torch may write to.
        values = array[part].double() if isinstance(array, Tensor) else torch.from_numpy(np.array(array[part], float))
        if not bool(values.isfinite().all()):
            bad = start + int((~values.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"{name}: {argument} must be finite, got NaN or infinity in row {bad}")
        yield part, values


def class_labels(name: str, y: Array, count: int, num_classes: int | None = None, argument: str = "y") -> Tensor:
    """Integers below ``num_classes``, int64 ``[N]`` on the CPU, at least one of them not negative."""
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (count,):
        raise ValueError(f"{name}: {argument} must have shape [N] = [{count}], got {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: {argument} must be integers, got {array.dtype}")
    if array.max() < 0:
        raise ValueError(f"{name}: {argument} must hold at least one label that is not negative, got none")
    if num_classes is not None and array.max() >= num_classes:
        raise ValueError(f"{name}: {argument} must be below the {num_classes} classes, got {array.max()}")
    return torch.from_numpy(array.astype(np.int64))


def class_rows(name: str, argument: str, values: Array, like: Rows, classes: int | None = None) -> Tensor:
    """One row of ``d`` numbers for each class: float64 ``[C, d]`` on the device of the embeddings."""
    array = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, float))
    if array.ndim != 2 or array.shape[1] != like.shape[1] or (classes is not None and len(array) != classes):
        expected = f"[{'C' if classes is None else classes}, {like.shape[1]}]"
        raise ValueError(f"{name}: {argument} must have shape [C, d] = {expected}, got {list(array.shape)}")
    return array.to(device_of(like), torch.float64)


def class_weights(name: str, w: Array | None, like: Rows, classes: int | None = None) -> Tensor | None:
    """Weights ``[C, d]``, each row divided by its largest entry (u does not depend on its scale); None for None."""
    if w is None:
        return None
    weights = class_rows(name, "w", w, like, classes)
    if not bool(weights.isfinite().all()):
        raise ValueError(f"{name}: w must be finite, got NaN or infinity")
    largest = weights.abs().amax(1, keepdim=True)
    if not bool((largest > 0).all()):
        raise ValueError(f"{name}: w must have a non-zero entry in every row, got zeros for class {largest.argmin()}")
    return weights / largest


def unit(v: Tensor) -> Tensor:
    """Rows divided by their norm, whatever their scale; a zero row stays zero."""
    v = v / v.abs().amax(1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    norm = v.norm(dim=1, keepdim=True)
    return v / torch.where(norm > 0, norm, 1.0)

"""What users give, in the forms that training reads: standardised rows of features, and label codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_RESIDENT = 1 << 28  # elements that stay in memory as one float32 tensor; larger features are read by batches
_CHUNK = 1 << 22  # elements of a chunk


@dataclass(frozen=True)
class Scaling:
    """``(x - mean) / scale``, float32 ``[d]`` each."""

    mean: np.ndarray
    scale: np.ndarray


class Rows:
    """Rows of ``[N, d]`` features (array, memory map, CSR matrix) as standardised float32 tensors.

    Features that fit are standardised once; larger and sparse ones by the batch, so that what is held besides the
    user's array does not grow with it.
    """

    def __init__(self, x: Any, scaling: Scaling, device: torch.device) -> None:
        self.x, self.device = x, device
        self.mean = torch.from_numpy(scaling.mean).to(device)
        self.scale = torch.from_numpy(scaling.scale).to(device)
        self.ready: Tensor | None = None
        if isinstance(x, np.ndarray) and not isinstance(x, np.memmap) and x.size <= _RESIDENT:
            self.ready = self._standardise(x)

    def __len__(self) -> int:
        return self.x.shape[0]

    def take(self, index: Tensor) -> Tensor:
        """Rows ``[n, d]`` of the given numbers, on the device."""
        if self.ready is not None:
            return self.ready[index.to(self.device)]
        return self._standardise(dense(self.x[index.cpu().numpy()]))

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive pieces and where they lie."""
        for where in spans(self.x):
            if self.ready is not None:
                yield where, self.ready[where]
            else:
                yield where, self._standardise(dense(self.x[where]))

    def _standardise(self, x: np.ndarray) -> Tensor:
        rows = torch.from_numpy(np.array(x, dtype=np.float32)).to(self.device)
        return rows.sub_(self.mean).div_(self.scale)


def dense(x: Any) -> np.ndarray:
    """A piece of features as a plain array."""
    return x.toarray() if hasattr(x, "toarray") else np.asarray(x)


def spans(x: Any) -> Iterator[slice]:
    """Slices of at most `_CHUNK` elements that cover the rows."""
    step = max(1, _CHUNK // max(1, x.shape[1]))
    return (slice(start, min(start + step, x.shape[0])) for start in range(0, x.shape[0], step))


def fit_scaling(x: Any, each: bool) -> Scaling:
    """Mean, and standard deviation of ``each`` feature or their root mean square, in float64, chunk by chunk.

    Constant features keep scale 1.
    """
    count = x.shape[0]
    mean = sum(dense(x[s]).sum(0, dtype=np.float64) for s in spans(x)) / count
    square = sum(np.square(dense(x[s]).astype(np.float64) - mean).sum(0) for s in spans(x)) / count
    # What rounding leaves of a constant is no scale.
    varies = np.sqrt(square) > 10 * np.finfo(np.float32).eps * np.abs(mean)
    scale = np.sqrt(square if each else np.full_like(square, square.mean()))
    usable = varies if each else np.full_like(varies, varies.any())
    return Scaling(mean.astype(np.float32), np.where(usable, scale, 1.0).astype(np.float32))


def find_device(who: str, device: Any) -> torch.device:
    """The device that ``device`` names; "auto" is a GPU where there is one."""
    available = torch.cuda.is_available()
    try:
        found = torch.device(("cuda" if available else "cpu") if device == "auto" else device)
    except (RuntimeError, TypeError):
        raise ValueError(f"{who}: device must be 'auto' or a torch device, got {device!r}") from None
    if found.type == "cuda" and not available:
        raise ValueError(f"{who}: device must be available, got {device!r} and no GPU that torch can use")
    return found


def check_range(who: str, x: Any) -> None:
    """Features become float32: larger ones would be infinite there."""
    values = x.data if hasattr(x, "tocsr") else x
    if values.dtype.itemsize > 4 and values.dtype.kind == "f" and values.size:
        low, high = values.min(), values.max()
        if max(high, -low) > np.finfo(np.float32).max:
            raise ValueError(f"{who}: X must fit float32, got values from {low:.4g} to {high:.4g}")


def to_array(x: Any) -> Any:
    """Tensors as arrays; anything else as it is."""
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise TypeError(f"X must be a dense tensor, an array or a SciPy matrix, got a tensor in {x.layout}")
        x = x.detach().cpu()
        return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    return x


@dataclass(frozen=True)
class Labels:
    """Coarse labels as codes int64 ``[N, D]`` (-1: none) into the classes of each data set."""

    codes: np.ndarray
    classes: list[np.ndarray]
    datasets: np.ndarray

    @property
    def counts(self) -> list[int]:
        """K_C of each data set."""
        return [len(c) for c in self.classes]

    @property
    def first(self) -> int:
        """The data set with the most labels."""
        return int((self.codes >= 0).sum(0).argmax())

    @property
    def groups(self) -> np.ndarray:
        """int64 ``[N]``: samples of equal labels share a number; -1 without any label."""
        if self.codes.shape[1] == 1:
            return self.codes[:, 0]
        _, group = np.unique(self.codes, axis=0, return_inverse=True)
        return np.where((self.codes >= 0).any(1), group.reshape(-1), -1)


def read_labels(
    who: str,
    y: Any,
    dataset: Any,
    count: int,
    *,
    classes: list[np.ndarray] | None = None,
    datasets: Any = None,
    name: str = "y_coarse",
) -> Labels:
    """Encode labels ``[N]`` or ``[N, D]``, or ``[N]`` with the data set of each sample.

    Args:
        who: Name for messages.
        y: Labels of any one type; -1, None and NaN are no label.
        dataset: ``[N]`` or None.
        count: N.
        classes: Classes of each data set, where they are known; other labels are then errors.
        datasets: The data sets, where they are known.
        name: What messages call the labels.
    """
    if y is None:
        raise ValueError(f"{who}: {name} must be labels, got None: requires y to be passed, but the target y is None")
    values = np.asarray(to_array(y))
    if values.ndim not in (1, 2) or values.shape[0] != count:
        raise ValueError(
            f"{who}: {name} must have shape [N] or [N, D] with N={count} like X, got {list(values.shape)} "
            "(inconsistent numbers of samples)"
        )
    columns = [values] if values.ndim == 1 else list(values.T)
    if dataset is not None:
        if values.ndim == 2:
            raise ValueError(f"{who}: dataset must be None where y_coarse has a column for each data set, got values")
        ids = np.asarray(to_array(dataset))
        if ids.shape != (count,):
            raise ValueError(f"{who}: dataset must have shape [N] = [{count}], got {list(ids.shape)}")
        if _missing(ids).any():
            raise ValueError(f"{who}: dataset must name a data set for each sample, got {ids[_missing(ids)][0]}")
        ids = _clean(who, "dataset", ids)
        datasets = np.unique(ids) if datasets is None else datasets
        foreign = ids[~np.isin(ids, datasets)]
        if len(foreign):
            raise ValueError(f"{who}: dataset must hold {datasets.tolist()}, got {foreign.tolist()[0]!r}")
        columns = [values] * len(datasets)
    names = np.arange(len(columns)) if datasets is None else np.asarray(datasets)
    if classes is not None and len(classes) != len(columns):
        raise ValueError(f"{who}: {name} must have {len(classes)} data sets as in fit, got {len(columns)}")
    codes, found = np.full((count, len(columns)), -1, np.int64), []
    for d, column in enumerate(columns):
        present = ~_missing(column)
        if dataset is not None:
            present &= ids == names[d]
        known = _clean(who, name, column[present])
        kinds = np.unique(known) if classes is None else classes[d]
        if not len(kinds):
            raise ValueError(f"{who}: {name} must have a label in every data set, got none in {names.tolist()[d]!r}")
        place = np.searchsorted(kinds, known).clip(max=len(kinds) - 1) if _comparable(kinds, known) else None
        if place is None or not np.array_equal(kinds[place], known):
            bad = next(v for v in known.tolist() if v not in set(kinds.tolist()))
            raise ValueError(f"{who}: {name} must hold classes seen in fit, got {bad!r}")
        codes[present, d] = place
        found.append(kinds)
    return Labels(codes, found, names)


def _missing(column: np.ndarray) -> np.ndarray:
    """bool ``[N]``: -1, None, NaN and pandas' NA."""
    if column.dtype == object:
        return np.array([v is None or type(v).__name__ == "NAType" or _is_nan_or_minus_one(v) for v in column], bool)
    if column.dtype.kind in "fiu":
        return (column == -1) | (column != column)
    return np.zeros(len(column), bool)


def _is_nan_or_minus_one(value: Any) -> bool:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return number and (value != value or value == -1)


def _clean(who: str, name: str, known: np.ndarray) -> np.ndarray:
    """Labels of one type: integers, strings or booleans."""
    if known.dtype == object:
        kinds = {type(v).__name__ for v in known}
        if all(isinstance(v, str) for v in known):
            return known.astype(str)
        if not all(isinstance(v, (int, float, np.number, np.bool_)) for v in known):
            raise TypeError(f"{who}: {name} must hold labels of one type, integers or strings, got {sorted(kinds)}")
        known = np.array(known.tolist())
    if known.dtype.kind == "f":
        labels = (known == np.round(known)) & (np.abs(known) <= 2**62)  # others have no integer of their own
        if not labels.all():
            value = known[~labels][0]
            raise ValueError(f"{who}: {name} must hold class labels, got the continuous value {value!r}")
        return known.astype(np.int64)
    if known.dtype.kind not in "iubUS":
        raise TypeError(f"{who}: {name} must hold integers, strings or booleans, got {known.dtype}")
    return known


def _comparable(kinds: np.ndarray, known: np.ndarray) -> bool:
    return not len(known) or (kinds.dtype.kind in "US") == (known.dtype.kind in "US")

"""Checks behind :class:`~c2f_ops.Hierarchy`: each message names level, node and up to five offending rows."""

from __future__ import annotations

import numbers
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def clean(name: object) -> str:
    """Return the name in Unicode NFC without outer blanks; ``None`` is the empty name."""
    return "" if name is None else unicodedata.normalize("NFC", str(name)).strip()


def some(items: Iterable[object], noun: str = "rows") -> str:
    """Format up to five offenders: ``rows 1, 2, 3, 4, 5 and 7 more``."""
    items = list(items)
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return f"{noun} {', '.join(map(str, items[:5]))}{more}"


def check_levels(levels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(levels, str) or not all(isinstance(level, str) for level in levels):
        raise TypeError(f"Hierarchy: levels must be a sequence of strings, got {levels!r}")
    cleaned = tuple(clean(level) for level in levels)
    if not cleaned:
        raise ValueError("Hierarchy: levels must name at least one level, got none")
    if "" in cleaned:
        raise ValueError(f"Hierarchy: levels must not have an empty name, got {list(levels)}")
    for k, level in enumerate(cleaned):
        if level in cleaned[:k]:
            raise ValueError(f"Hierarchy: levels must be distinct, got {level!r} at {cleaned.index(level)} and {k}")
    return cleaned


def check_names(level: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"Hierarchy: level {level!r}: names must be a sequence of strings, got {names!r}")
    cleaned = tuple(clean(name) for name in names)
    if not cleaned:
        raise ValueError(f"Hierarchy: level {level!r}: names must hold at least one node, got none")
    where: dict[str, list[int]] = {}
    for i, name in enumerate(cleaned):
        where.setdefault(name, []).append(i)
    if "" in where:
        raise ValueError(f"Hierarchy: level {level!r}: node name must not be empty, got '' ({some(where[''])})")
    for name, found in where.items():
        if len(found) > 1:
            raise ValueError(f"Hierarchy: level {level!r}: node {name!r} must appear once, got {some(found)}")
    return cleaned


def check_parents(levels: Sequence[str], names: Sequence[Sequence[str]], values: Any) -> Tensor:
    """Check the links from ``levels[1]`` up to ``levels[0]`` and return them as LongTensor."""
    (above, level), (above_names, own_names) = levels, names
    listed = [] if values is None else values.tolist() if isinstance(values, (Tensor, np.ndarray)) else list(values)
    if len(listed) < len(own_names):
        absent = some((repr(name) for name in own_names[len(listed) :]), "nodes")
        raise ValueError(f"Hierarchy: level {level!r}: parents must have an id for each node, got none for {absent}")
    if len(listed) > len(own_names):
        raise ValueError(f"Hierarchy: level {level!r}: parents must have {len(own_names)} ids, got {len(listed)}")

    def offend(must: str, bad: list[int]) -> ValueError:
        node, value = own_names[bad[0]], listed[bad[0]]
        return ValueError(
            f"Hierarchy: level {level!r}: parent of node {node!r} must be {must}, got {value!r} ({some(bad)})"
        )

    bad = [i for i, v in enumerate(listed) if isinstance(v, bool) or not isinstance(v, numbers.Integral)]
    if bad:
        raise offend("an integer", bad)
    bad = [i for i, v in enumerate(listed) if not 0 <= v < len(above_names)]
    if bad:
        raise offend(f"in 0..{len(above_names) - 1} (level {above!r})", bad)
    childless = sorted(set(range(len(above_names))) - set(listed))
    if childless:
        raise ValueError(
            f"Hierarchy: level {above!r}: node {above_names[childless[0]]!r} must have a child in level {level!r}, "
            f"got none ({some(childless)})"
        )
    return torch.tensor(listed, dtype=torch.long)


def as_integers(function: str, argument: str, values: Any) -> Tensor:
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)  # torch takes no negative strides, which [:, ::-1] has
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{function}: {argument} must be an array of integers, got {type(values).__name__} ({error})"
        ) from None
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise TypeError(f"{function}: {argument} must be integers, got {tensor.dtype}")
    return tensor.long()

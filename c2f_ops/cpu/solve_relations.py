"""solve_relations on the CPU: launcher of csrc/cpu/solve_relations.cpp."""

from __future__ import annotations

import numpy as np

from .. import _native


def unavailable() -> str | None:
    """Say in one line why there is no kernel on this machine; None: there is one."""
    return _native.unavailable()


def solve_relations(
    cost: np.ndarray,
    level: np.ndarray,
    slope: float,
    window: int,
    unit: int,
    lower: np.ndarray,
    upper: np.ndarray,
    start: np.ndarray | None,
    stop: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """The problem of ``c2f/relations.h``; arguments and results as in the reference, all arrays contiguous.

    ``stop`` is an int32 ``[1]`` that another thread may set to end the solve with a RuntimeError.
    """
    fine, coarse = cost.shape
    g, n, price = np.empty(fine, np.int32), np.empty(coarse, np.int64), np.empty(coarse, np.int64)
    taken, paths = _native.module().solve_relations(
        fine,
        coarse,
        cost.ctypes.data,
        coarse,
        level.ctypes.data,
        slope,
        window,
        unit,
        lower.ctypes.data,
        upper.ctypes.data,
        0 if start is None else start.ctypes.data,
        stop.ctypes.data,
        g.ctypes.data,
        n.ctypes.data,
        price.ctypes.data,
    )
    return g, n, price, taken, paths

"""The relation problem in int64, and its prices back in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEP_BITS = 40  # a row of C spans at most 2^40 steps
_WIDTH_BITS = 57  # steps and tie digits together; 16 * window * unit <= 2^62 keeps every path length in int64
_CHUNK = 1 << 18  # cells of C that are widened to float64 at a time
_LARGE = 1e300


def row_chunks(shape: tuple[int, ...]) -> list[slice]:
    """Slices of rows that fit into a cache."""
    step = max(1, _CHUNK // max(1, shape[1]))
    return [slice(begin, begin + step) for begin in range(0, shape[0], step)]


def _levels(r: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """The ``r_j``-th slot of column j costs ``lam / K_C`` times this."""
    return 2.0 * r - 1 - 2 * nu


def _slots_to(t: float, nu: np.ndarray) -> np.ndarray:
    """Number of slots of each column with a level of at most t."""
    r = np.floor((t + 1 + 2 * nu) / 2)
    r += _levels(r + 1, nu) <= t
    r -= _levels(r, nu) > t
    return r


def water_level(nu: np.ndarray, lower: np.ndarray, upper: np.ndarray, units: int) -> float:
    """The ``units``-th lowest level among the slots above the lower bounds, counted over all columns.

    Args:
        nu: ``[K_C]`` sizes at which the balance term is least.
        lower: ``[K_C]`` bounds.
        upper: ``[K_C]`` bounds.
        units: At least 0, at most the number of such slots; 0 is the lowest level of all.
    """
    count = lambda t: (np.clip(_slots_to(t, nu), lower, upper) - lower).sum()  # noqa: E731
    open_columns = upper > lower
    if not open_columns.any():
        return 0.0
    units = max(units, 1)
    low = int(np.floor(_levels(lower + 1, nu)[open_columns].min())) - 1
    high = int(np.ceil(_levels(upper, nu)[open_columns].max()))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= units else (middle, high)
    # Levels of a column are 2 apart: at most one of them lies in (low, high].
    taken = np.clip(_slots_to(low, nu), lower, upper)
    inside = (np.clip(_slots_to(high, nu), lower, upper) > taken).nonzero()[0]
    candidates = np.sort(_levels(taken[inside] + 1, nu[inside]))
    return float(candidates[units - 1 - int((taken - lower).sum())])


@dataclass(frozen=True)
class FixedPoint:
    """Arguments of the solver for one problem; fields as in ``c2f/relations.h``.

    A cost is ``(max C_i - C_ij) * scale`` in steps, times ``unit``, less 1 at the previous parent: fewer moves decide
    between equal costs because ``unit`` exceeds K_F. ``offset`` is the price that the solver calls 0.
    """

    cost: np.ndarray
    level: np.ndarray
    slope: float
    window: int
    unit: int
    scale: float
    offset: float

    @classmethod
    def of(
        cls, C: np.ndarray, lam: float, lower: np.ndarray, upper: np.ndarray, nu: np.ndarray, prev: np.ndarray | None
    ) -> FixedPoint:
        """Round the problem; steps are a power of two, so that the scaling is exact."""
        fine, coarse = C.shape
        tie_bits = 0 if prev is None else (fine + 3).bit_length()
        bits = min(STEP_BITS, _WIDTH_BITS - tie_bits)
        highest = np.empty(fine)
        spread = 0.0
        for rows in row_chunks(C.shape):
            part = C[rows].astype(np.float64)
            highest[rows] = part.max(1)
            spread = max(spread, float((highest[rows] - part.min(1)).max()))
        per_step = lam / coarse
        exponent = bits - int(np.frexp(spread if spread > 0 else per_step)[1])
        scale = float(np.ldexp(1.0, int(np.clip(exponent, -1022, 1023))))
        cost = np.empty(C.shape, np.int64)
        for rows in row_chunks(C.shape):
            steps = highest[rows, None] - C[rows]
            steps *= scale
            cost[rows] = np.rint(steps, out=steps)
            cost[rows] <<= tie_bits
        if prev is not None:
            cost[np.arange(fine), prev] -= 1
        level = water_level(nu, lower, upper, fine - int(lower.sum()))
        with np.errstate(over="ignore"):
            slope = min(float(np.float64(per_step) * scale), _LARGE)
        base = -1 - 2 * nu - level
        return cls(cost, base, slope, (1 << bits) + 1, 1 << tie_bits, scale, per_step * level)

    def start(self, prices: np.ndarray) -> np.ndarray:
        """Given prices as int64, within what the solver takes."""
        bound = 3.0 * self.window
        with np.errstate(over="ignore", invalid="ignore"):
            steps = np.rint((prices - self.offset) * self.scale)
        return np.clip(np.nan_to_num(steps, nan=0.0), -bound, bound).astype(np.int64) * self.unit

    def prices(self, price: np.ndarray) -> np.ndarray:
        """Prices of the solver as float64, optimal for the rounded problem without its tie digits.

        All arcs have whole steps but those that gain or lose a move. Rounding all prices down from a common cut keeps
        the former; it keeps the latter if no price lies exactly at the cut, and there are more cuts than prices.
        """
        if self.unit > 1:
            taken = set((price % self.unit).tolist())
            cut = next(c for c in range(1, self.unit) if c not in taken)
            price = (price - cut) // self.unit + 1
        return price / self.scale + self.offset

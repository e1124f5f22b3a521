"""Exact fine-to-coarse relations: checks, the solve, the certificate."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from .. import _native
from ..cpu import solve_relations as _cpu
from ..reference import solve_relations as _reference
from ._fixed_point import FixedPoint, row_chunks

_BACKENDS: dict[str, Callable[..., Any]] = {"cpu": _cpu.solve_relations, "reference": _reference.solve_relations}


@dataclass(frozen=True)
class RelationResult:
    """What `solve_relations` found.

    Attributes:
        g: int32 ``[K_F]``, coarse class of each fine class.
        n: int64 ``[K_C]``, fine classes of each coarse class.
        objective: Value of the objective at ``g``, its constant included.
        gap: ``objective`` less the dual value at ``prices``, in float64 from C as given: the true optimum lies at most
            this much lower. Never negative.
        prices: float64 ``[K_C]``, a start for the next solve.
        moved: Fine classes whose coarse class is not that of ``prev``; 0 without ``prev``.
        balance_forced: The balance term alone fixes the sizes: `balance_threshold` is passed, without prior, and the
            bounds allow it.
        quantization_error: Bound of what rounding to fixed point can cost in ``objective``.
        method: "kept" where ``prices`` prove ``prev`` optimal as it is, "warm" where the solve began from ``prices``,
            else "cold".
    """

    g: np.ndarray
    n: np.ndarray
    objective: float
    gap: float
    prices: np.ndarray
    moved: int
    balance_forced: bool
    quantization_error: float
    method: str


@overload
def solve_relations(
    C: np.ndarray | torch.Tensor,
    lam: float,
    *,
    prev: Any = ...,
    prices: Any = ...,
    lower: Any = ...,
    upper: Any = ...,
    prior: Any = ...,
    backend: str = ...,
) -> RelationResult: ...


@overload
def solve_relations(
    C: Sequence[np.ndarray | torch.Tensor],
    lam: float | Sequence[float],
    *,
    prev: Sequence[Any] | None = ...,
    prices: Sequence[Any] | None = ...,
    lower: Any = ...,
    upper: Any = ...,
    prior: Sequence[Any] | None = ...,
    backend: str = ...,
) -> list[RelationResult]: ...


def solve_relations(
    C: Any,
    lam: Any,
    *,
    prev: Any = None,
    prices: Any = None,
    lower: Any = 1,
    upper: Any = None,
    prior: Any = None,
    backend: str = "auto",
) -> RelationResult | list[RelationResult]:
    """Give every fine class its coarse class, at the least cost.

    Minimises ``-sum_i C[i, g_i] + (lam / K_C) sum_j (n_j - nu_j)^2`` over maps g with ``lower_j <= n_j <= upper_j``,
    where ``n_j`` counts the fine classes of coarse class j. This is FALCON's M-step (Grcić, Gadetsky, Brbić, ICML 2024,
    eq. 11 to 14), solved to proven optimality in polynomial time: see ``docs/ops/relations.md``.

    Costs are rounded to 2^40 steps over the widest row of C (with ``prev``, fewer from 2^17 fine classes on). Among the
    relations that are optimal for the rounded costs the result has the fewest moves from ``prev``, then the lowest
    coarse classes, fine class 0 first. It is therefore the same for every backend, start, thread count and machine.

    Args:
        C: ``[K_F, K_C]``, K_F >= K_C, finite and not negative, any strides; float64 or float32 (others are widened). A
            list or tuple of D matrices is solved in parallel threads; each other argument is then a list or tuple of D
            values, or one number or None for all.
        lam: Weight of the balance term, not negative.
        prev: int ``[K_F]`` previous relation; decides ties.
        prices: ``[K_C]`` prices of an earlier result; saves time, decides nothing.
        lower: Least number of fine classes of each coarse class, int or int ``[K_C]``.
        upper: Greatest number, int or int ``[K_C]``; default: no bound, which is K_F - K_C + 1 for ``lower=1``.
        prior: ``[K_C]`` expected sizes nu of sum K_F; default: K_F / K_C each.
        backend: "cpu" (C++), "reference" (numpy), or "auto": the first where it is built.

    Raises:
        TypeError: an argument has the wrong kind.
        ValueError: C has NaN, infinite or negative entries or fewer rows than columns, shapes disagree, or no relation
            keeps the bounds.
        RuntimeError: ``backend="cpu"`` without native code.
    """
    if backend not in ("auto", *_BACKENDS):
        raise ValueError(f"solve_relations: backend must be auto, cpu or reference, got {backend!r}")
    if backend == "auto":
        backend = "reference" if _native.unavailable() else "cpu"
    solver = _BACKENDS[backend]
    stop = np.zeros(1, np.int32)
    options = {"lam": lam, "prev": prev, "prices": prices, "lower": lower, "upper": upper, "prior": prior}
    if not isinstance(C, list | tuple):
        return _solve(C, **options, solver=solver, stop=stop, label="")
    each = {name: _one_per_matrix(name, value, len(C)) for name, value in options.items()}
    problems = [{name: values[d] for name, values in each.items()} for d in range(len(C))]
    with ThreadPoolExecutor(max(1, min(len(C), os.cpu_count() or 1))) as pool:
        tasks = [
            pool.submit(_solve, matrix, **problem, solver=solver, stop=stop, label=f"[{d}]")
            for d, (matrix, problem) in enumerate(zip(C, problems, strict=True))
        ]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            stop[0] = 1
            raise


def balance_threshold(C: Any) -> float:
    """The ``lam`` above which every optimum is exactly balanced: ``K_C / 2 * max_i sum_j C_ij``.

    If ``n_a >= n_b + 2``, a move of fine class i from a to b changes the objective by at most
    ``sum_j C_ij - 2 lam / K_C``, which is negative. Sizes then differ by at most 1 (not at all where K_C divides K_F).
    """
    C = _matrix(C, "balance_threshold: C")
    heaviest = max(float(C[rows].sum(1, dtype=np.float64).max()) for rows in row_chunks(C.shape))
    return C.shape[1] / 2 * heaviest


def _one_per_matrix(name: str, value: Any, count: int) -> list[Any]:
    if isinstance(value, list | tuple):
        if len(value) != count:
            raise ValueError(
                f"solve_relations: {name} must have one entry for each of {count} matrices, got {len(value)}"
            )
        return list(value)
    if value is not None and not np.isscalar(value):
        raise TypeError(
            f"solve_relations: {name} must be a list or a number for a list of C, got {type(value).__name__}"
        )
    return [value] * count


def _array(value: Any, what: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            raise TypeError(f"{what} must be an array or a dense tensor, got {value.layout} on {value.device}")
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has no such type
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} must hold real numbers, got {array.dtype}")
    return array


def _matrix(value: Any, what: str) -> np.ndarray:
    """C as float32 or float64, checked."""
    C = _array(value, what)
    if C.dtype not in (np.float32, np.float64):
        C = C.astype(np.float64)
    if C.ndim != 2 or C.shape[1] < 1:
        raise ValueError(f"{what} must have shape [K_F, K_C], got {list(C.shape)}")
    if C.shape[0] < C.shape[1]:
        raise ValueError(f"{what} must have K_F >= K_C, got K_F={C.shape[0]}, K_C={C.shape[1]}")
    least, most = float(C.min()), float(C.max())
    if not (least >= 0 and most < np.inf):  # NaN goes through min and max
        bad = ~np.isfinite(C) | (C < 0)
        i, j = (int(x[0]) for x in bad.nonzero())
        raise ValueError(
            f"{what} must be finite and not negative, got {C[i, j]} at [{i}, {j}] ({bad.sum()} such entries)"
        )
    return C


def _vector(value: Any, size: int, what: str, *, integer: bool) -> np.ndarray:
    """A vector ``[size]`` as int64 or float64."""
    array = _array(value, what)
    if integer and array.dtype.kind == "f":
        raise TypeError(f"{what} must be integer, got {array.dtype}")
    if array.shape != (size,):
        raise ValueError(f"{what} must have shape [{size}], got {list(array.shape)}")
    if not integer and not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite, got {array[~np.isfinite(array)][0]}")
    return np.ascontiguousarray(array, np.int64 if integer else np.float64)


def _bounds(lower: Any, upper: Any, fine: int, coarse: int, label: str) -> tuple[np.ndarray, np.ndarray]:
    def bound(value: Any, name: str) -> np.ndarray:
        vector = np.full(coarse, value) if np.ndim(value) == 0 else value
        return _vector(vector, coarse, f"solve_relations: {name}{label}", integer=True)

    low = bound(lower, "lower")
    if low.min() < 0:
        raise ValueError(f"solve_relations: lower{label} must not be negative, got {low.min()}")
    if low.max() > fine or low.sum() > fine:  # the sum of huge bounds wraps around
        raise ValueError(f"solve_relations: lower{label} must sum to at most K_F={fine}, got {sum(low.tolist())}")
    room = fine - low.sum() + low
    if upper is None:
        return low, room
    high = bound(upper, "upper")
    if (high < low).any():
        j = int((high < low).argmax())
        raise ValueError(f"solve_relations: upper{label} must be at least lower, got {high[j]} < {low[j]} at {j}")
    high = np.minimum(high, room)
    if high.sum() < fine:
        raise ValueError(f"solve_relations: upper{label} must sum to at least K_F={fine}, got {high.sum()}")
    return low, high


def _solve(
    C: Any,
    lam: Any,
    prev: Any,
    prices: Any,
    lower: Any,
    upper: Any,
    prior: Any,
    solver: Callable[..., Any],
    stop: np.ndarray,
    label: str,
) -> RelationResult:
    C = _matrix(C, f"solve_relations: C{label}")
    fine, coarse = C.shape
    if not isinstance(lam, numbers.Real):
        raise TypeError(f"solve_relations: lam{label} must be a number, got {type(lam).__name__}")
    lam = float(lam)
    if not 0 <= lam < np.inf:
        raise ValueError(f"solve_relations: lam{label} must be finite and not negative, got {lam}")
    if fine >= 2**31:
        raise ValueError(f"solve_relations: C{label} must have K_F < 2^31, got {fine}")
    low, high = _bounds(lower, upper, fine, coarse, label)
    nu = np.full(coarse, fine / coarse)
    if prior is not None:
        nu = _vector(prior, coarse, f"solve_relations: prior{label}", integer=False)
        if nu.min() < 0 or abs(nu.sum() - fine) > 1e-6 * fine:
            expected = f"not be negative and sum to K_F={fine}"
            raise ValueError(f"solve_relations: prior{label} must {expected}, got least {nu.min()}, sum {nu.sum()}")
    if prev is not None:
        prev = _vector(prev, fine, f"solve_relations: prev{label}", integer=True)
        if prev.min() < 0 or prev.max() >= coarse:
            raise ValueError(f"solve_relations: prev{label} must be in 0..{coarse - 1}, got {prev.min()}..{prev.max()}")
    fixed = FixedPoint.of(C, lam, low, high, nu, prev)
    start = None
    if prices is not None:
        start = fixed.start(_vector(prices, coarse, f"solve_relations: prices{label}", integer=False))
    problem = (fixed.cost, fixed.level, fixed.slope, fixed.window, fixed.unit, low, high, start, stop)
    g, n, price, taken, paths = solver(*problem)
    moved = 0 if prev is None else int((g != prev).sum())
    kept = prev is not None and taken == _reference.GIVEN and paths == 0 and moved == 0
    v = fixed.prices(price)
    allows_balance = low.max() <= fine // coarse and high.min() >= -(-fine // coarse)
    return RelationResult(
        g=g,
        n=n,
        objective=float(-C[np.arange(fine), g].sum(dtype=np.float64) + lam / coarse * ((n - nu) ** 2).sum()),
        gap=_gap(C, lam, low, high, nu, g, n, v),
        prices=v,
        moved=moved,
        balance_forced=bool(prior is None and allows_balance and lam > balance_threshold(C)),
        quantization_error=2 * fine / fixed.scale,
        method="kept" if kept else "warm" if taken == _reference.GIVEN else "cold",
    )


def _gap(
    C: np.ndarray,
    lam: float,
    lower: np.ndarray,
    upper: np.ndarray,
    nu: np.ndarray,
    g: np.ndarray,
    n: np.ndarray,
    v: np.ndarray,
) -> float:
    """Objective at g less the dual value at v, as a sum of what each row and each column could still gain.

    The dual is ``sum_i min_k (v_k - C_ik) - sum_j max_{lower_j <= r <= upper_j} (v_j r - phi_j(r))`` with
    ``phi_j(r) = (lam / K_C) (r - nu_j)^2``.
    """
    gain = 0.0
    for rows in row_chunks(C.shape):
        reduced = v - C[rows]
        gain += float((reduced[np.arange(len(reduced)), g[rows]] - reduced.min(1)).sum())
    weight = lam / C.shape[1]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        best = np.where(v == 0, n, np.sign(v) * np.inf) if weight == 0 else np.floor((v / weight + 1 + 2 * nu) / 2)
    # r rows instead of n gain (r - n) (v - mean cost of the slots between).
    best = np.clip(best, lower, upper)
    return gain + float(((best - n) * (v - weight * (best + n - 2 * nu))).clip(min=0).sum())

"""FALCON with 1,000 coarse and 10,000 fine classes: time, memory, the relation solves, and what is found."""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import numpy as np

from c2f_ops.models import Falcon
from c2f_ops.relations import solve_relations

from .falcon_cells import Cell, falcon, fit, judge
from .falcon_data import Gaussians, Samples


@dataclass(frozen=True)
class Size:
    """How large: coarse classes, fine ones in each, training samples of a fine class, features, epochs."""

    coarse: int = 1000
    fine: int = 10
    samples: int = 20
    width: int = 64
    epochs: int = 2


def large(cell: Cell, size: Size) -> dict[str, Any]:
    """The metrics of a method, in a process of its own, so that the peak of memory is its own; costs of FALCON."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_costs if cell.method == "FALCON" else _metrics, cell, size).result()


def _data(size: Size, seed: int) -> tuple[Gaussians, Samples, Samples]:
    """The classes, training samples, and a quarter as many test samples."""
    rng = np.random.default_rng(seed)
    classes = Gaussians.of([size.fine] * size.coarse, size.width, rng)
    train, test = (classes.draw(np.full(size.coarse * size.fine, n), rng) for n in (size.samples, size.samples // 4))
    return classes, train, test


def _metrics(cell: Cell, size: Size) -> dict[str, Any]:
    classes, train, test = _data(size, cell.seed)
    return judge(test, fit(cell.method, train, test.x, len(classes.parents), cell.seed))


def _costs(cell: Cell, size: Size) -> dict[str, Any]:
    """FALCON with its solves timed as the fit makes them, and one from nothing on the last co-occurrence (CPU time)."""
    classes, train, test = _data(size, cell.seed)
    solves: list[dict[str, Any]] = []
    solve = Falcon.solve

    def timed(*args: Any) -> Any:
        start = time.process_time()
        results = solve(*args)
        took = time.process_time() - start
        solves.append({"method": results[0].method, "moved": results[0].moved, "seconds": round(took, 3)})
        return results

    before, start, worked = _peak(), time.perf_counter(), time.process_time()
    with patch.object(Falcon, "solve", timed):
        switches = {"neighbour_mode": "bank"}
        model = falcon(train, len(classes.parents), cell.seed, switches=switches, epochs=size.epochs, device="cpu")
    fit_seconds, cpu_seconds, after = time.perf_counter() - start, time.process_time() - worked, _peak()
    network = model._falcon
    cost = network.cooccurrence()[0].numpy()
    lam = network.config.balance(*cost.shape, size.epochs, size.epochs)
    start = time.process_time()
    cold = solve_relations(cost, lam, prev=model.relations_[0], prior=len(cost) * cost.sum(0))
    cold_seconds = time.process_time() - start
    return {
        **judge(test, (model.predict(test.x), model.relations_)),
        "nearest_centre": float((classes.nearest(test.x) == test.fine).mean()), "epochs": size.epochs,
        "fit_seconds": round(fit_seconds, 1), "fit_cpu_seconds": round(cpu_seconds, 1),
        "peak_mib": after, "peak_before_mib": before, "solves": solves,
        "cold_seconds": round(cold_seconds, 3), "cold_same": bool((cold.g == model.relations_[0]).all()),
        "gap": model.mstep_gap_, "objective": cold.objective, "quantization_error": cold.quantization_error,
        "balance_forced": model.balance_forced_,
    }  # fmt: skip


def _peak() -> int:
    """The most memory this process has held, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // (1 << 20 if sys.platform == "darwin" else 1 << 10)

"""Exact relations, cold and warm, against scipy's assignment solver, interleaved in one process.

    python -m c2f_ops.bench.bench_relations [--json FILE]

C has planted parents that carry a share of the mass; the rest is Dirichlet noise, or noise whose columns are as popular
as 1 / j, which makes level prices a bad start. "forced" balance is twice `balance_threshold`, "half" a half of it. Warm
solves begin from relation and prices of a C that differs by 1 % in every entry. scipy assigns fine classes to slots,
which is the same problem only where balance is forced; larger matrices of slots than ``--scipy-cells`` are left out.
The solver runs on one thread, so CPU time says what an idle machine would take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from c2f_ops.relations import balance_threshold, solve_relations

from .records import machine
from .timing import interleave, peak_extra_bytes, ratios

SIZES = {"608x34": (608, 34), "2000x200": (2000, 200), "10000x1000": (10_000, 1000)}
NOISE = {"50 % noise": 0.5, "90 % noise": 0.9, "noise alone": 1.0, "popularity 1/j": 1.0}
BALANCE = {"half": 0.5, "forced": 2.0}


def instance(fine: int, coarse: int, kind: str, seed: int) -> np.ndarray:
    """C ``[K_F, K_C]`` of total mass 1."""
    rng = np.random.default_rng(seed)
    C = rng.standard_exponential((fine, coarse))
    if kind == "popularity 1/j":
        C /= np.arange(1, coarse + 1)
    C *= NOISE[kind] / C.sum(1, keepdims=True)
    C[np.arange(fine), rng.permutation(np.arange(fine) % coarse)] += 1 - NOISE[kind]
    return C / fine


def assign_to_slots(C: np.ndarray) -> float:
    """The largest mass of a balanced relation, by scipy; slots that every column fills carry a bonus."""
    from scipy.optimize import linear_sum_assignment

    full, some = divmod(len(C), C.shape[1])
    slots = full + bool(some)
    worth = np.repeat(C, slots, 1) + np.tile(np.arange(slots) < full, C.shape[1]) * C.max()
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(C[rows, columns // slots].sum())


def cpu_seconds(run: Callable[[], object]) -> float:
    """Time that the process spends on ``run``."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def measure(
    name: str, kind: str, balance: str, *, instances: int, seconds: float, scipy_cells: int
) -> dict[str, object]:
    """Time one row of the table: medians over ``instances`` matrices of interleaved cold and warm solves."""
    fine, coarse = SIZES[name]
    timings, gaps, moved, methods, memory, ratio = [], [], [], [], None, None
    cpu: dict[str, list[float]] = {"cold": [], "warm": []}
    repeats = 1 if fine > 5000 else 3
    for seed in range(instances):
        before = instance(fine, coarse, kind, seed)
        C = before * np.random.default_rng(seed).uniform(0.99, 1.01, before.shape)
        lam = BALANCE[balance] * balance_threshold(C)
        last = solve_relations(before, lam)
        runs = {
            "cold": lambda C=C, lam=lam: solve_relations(C, lam),
            "warm": lambda C=C, lam=lam, last=last: solve_relations(C, lam, prev=last.g, prices=last.prices),
        }
        with_scipy = seed == 0 and balance == "forced" and fine * fine <= scipy_cells
        if with_scipy:
            runs["scipy"] = lambda C=C: assign_to_slots(C)
        timings.append(interleave(runs, seconds=seconds / instances, least=repeats, most=50))
        for what, seen in cpu.items():
            seen.append(statistics.median(cpu_seconds(runs[what]) for _ in range(repeats)))
        cold, warm = runs["cold"](), runs["warm"]()
        gaps.append(max(cold.gap, warm.gap) / abs(cold.objective))
        moved.append(warm.moved)
        methods.append(warm.method)
        if with_scipy:
            ratio = ratios(timings[-1], "cold")["scipy"]
            assert abs(assign_to_slots(C) - C[np.arange(fine), cold.g].sum()) < 1e-9
        if seed == 0:
            memory = peak_extra_bytes(runs["cold"])
    return {
        "size": name,
        "kind": kind,
        "balance": balance,
        "timings": [{what: asdict(timing) for what, timing in each.items()} for each in timings],
        "cold": sorted(each["cold"].median for each in timings),
        "warm": sorted(each["warm"].median for each in timings),
        "cold_cpu": sorted(cpu["cold"]),
        "warm_cpu": sorted(cpu["warm"]),
        "worst_relative_gap": max(gaps),
        "moved": moved,
        "methods": methods,
        "scipy_takes_longer": ratio,
        "peak_extra_bytes": memory,
    }


def line(row: dict) -> str:
    """A row of the Markdown table; spreads are those over instances."""
    span = lambda t: f"{statistics.median(t) * 1e3:.3g} ({t[0] * 1e3:.3g}-{t[-1] * 1e3:.3g})"  # noqa: E731
    ratio, size, warm = row["scipy_takes_longer"], row["peak_extra_bytes"], "/".join(sorted(set(row["methods"])))
    return (
        f"| {row['size']} | {row['kind']} | {row['balance']} | {span(row['cold'])} | {span(row['cold_cpu'])} "
        f"| {span(row['warm'])} | {span(row['warm_cpu'])} | {warm}, {statistics.median(row['moved']):.0f} "
        f"| {row['worst_relative_gap']:.0e} | {'-' if ratio is None else f'{ratio:.3g}x'} "
        f"| {'-' if size is None else f'{size / 2**20:.0f} MB'} |"
    )


def main() -> None:
    """Parse options, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=NOISE, default=list(NOISE))
    parser.add_argument("--instances", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for the interleaved runs of one row")
    parser.add_argument("--scipy-cells", type=int, default=5_000_000, help="largest matrix of slots given to scipy")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = vars(parser.parse_args())
    path, sizes, kinds = (options.pop(key) for key in ("json", "sizes", "kinds"))
    print(
        "| size | C | balance | cold, ms | its CPU | warm, ms | its CPU | start, moved | gap | scipy takes | memory |"
    )
    print("|---|---|---|---:|---:|---:|---:|---|---:|---:|---:|")
    rows = []
    for name in sizes:
        for kind in kinds:
            for balance in BALANCE:
                rows.append(measure(name, kind, balance, **options))
                print(line(rows[-1]), flush=True)
    if path is not None:
        path.write_text(json.dumps({"machine": machine("cpu"), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

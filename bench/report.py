"""`c2f bench pool`: cases against eager and torch.compile, a table with ratios and the distance to the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch

from c2f_ops import explain

from .cases import CASES, INTERACTIONS, Case, eager, operands, ours, projections, step
from .limits import Limits, Peak, fresh, measure_limits
from .records import DTYPES, conditions, megabytes, milliseconds, ratio, said
from .timing import Timing, interleave, noisy, peak_extra_bytes, ratios


@dataclass(frozen=True)
class Row:
    """One measured cell: a case, a type, forward or forward and backward."""

    case: str
    interactions: str
    dtype: str
    what: str
    backend: str
    algo: str
    timings: dict[str, Timing]
    ratios: dict[str, float]
    noisy: list[str]
    limit_seconds: float
    of_limit: float
    peak_bytes: dict[str, int | None]
    precision: str = "highest"
    peak_flops: float | None = None
    of_peak: float | None = None


def measure(
    case: Case,
    *,
    interactions: str = "mlp",
    dtype: str = "float32",
    device: str = "cpu",
    backward: bool = False,
    backend: str = "auto",
    algo: str = "auto",
    seconds: float = 20.0,
    compiled: bool = True,
    limits: Limits | None = None,
    clock: str = "wall",
) -> Row:
    """Measure ours against eager, `torch.compile` and the products of matrices alone, interleaved; peak memory of each.

    Memory is that beyond the results. The rate that registers alone reach is measured between the runs.
    """
    kind = DTYPES[dtype]
    limits = limits or measure_limits(kind, device)
    tensors = operands(case, interactions, kind, device, grad=backward)
    leaves = [t for group in tensors for t in group]
    rivals = {"ours": lambda: ours(*tensors, interactions, case.layout, backend=backend, algo=algo)}
    rivals["eager"] = lambda: eager(*tensors, interactions, case.layout)
    if compiled:
        torch._dynamo.reset()
        fused = torch.compile(eager)
        rivals["compile"] = lambda: fused(*tensors, interactions, case.layout)
    runs = {name: step(run, leaves, backward=backward) for name, run in rivals.items()}
    results = sum(t.nbytes for t in leaves) if backward else case.result_bytes(interactions)
    peaks = {
        name: None if (peak := peak_extra_bytes(fresh(run, device), device)) is None else max(0, peak - results)
        for name, run in runs.items()
    }
    if not backward:
        runs["mm"] = lambda: projections(*tensors, case.layout)
    peak = Peak.of(kind, device)
    timings = interleave(
        runs if peak is None else {**runs, "peak": peak.run}, device=device, seconds=seconds, clock=clock
    )
    peak_rate = None if peak is None else peak.flops / timings.pop("peak").median
    flops = case.flops(interactions, backward=backward)
    chosen = explain(*tensors, interactions=INTERACTIONS[interactions], layout=case.layout, backend=backend, algo=algo)
    limit = max(
        flops / limits.gemm,
        case.minimum_bytes(interactions, kind.itemsize) / limits.copy,
    )
    return Row(
        case=case.name,
        interactions=interactions,
        dtype=dtype,
        what="forward+backward" if backward else "forward",
        backend=chosen.backend,
        algo=chosen.algo,
        timings=timings,
        ratios=ratios(timings, "ours"),
        noisy=[name for name, t in timings.items() if name != "ours" and noisy(timings["ours"], t)],
        limit_seconds=limit,
        of_limit=limit / timings["ours"].median,
        peak_bytes=peaks,
        precision=torch.get_float32_matmul_precision(),
        peak_flops=peak_rate,
        of_peak=None if peak_rate is None else flops / timings["ours"].median / peak_rate,
    )


def run_suite(
    names: list[str],
    *,
    interactions: list[str],
    dtypes: list[str],
    device: str,
    directions: list[bool],
    backend: str = "auto",
    algo: str = "auto",
    seconds: float = 20.0,
    compiled: bool = True,
    batch: int | None = None,
    precisions: Sequence[str] = ("highest",),
    clock: str = "wall",
) -> dict[str, object]:
    """Measure every combination; returns the record that is saved, and that `table` prints.

    ``precisions``: what `torch.set_float32_matmul_precision` is told, for all contenders, in rows of float32.
    """
    rows = []
    limits = {dtype: measure_limits(DTYPES[dtype], device, clock=clock) for dtype in dtypes}
    cases = [CASES[name] if batch is None else CASES[name].scaled(batch) for name in names]
    kinds = [(dtype, p) for dtype in dtypes for p in (precisions if dtype == "float32" else ("highest",))]
    before = torch.get_float32_matmul_precision()
    try:
        for case, (dtype, precision), tuples, backward in product(cases, kinds, interactions, directions):
            torch.set_float32_matmul_precision(precision)
            row = measure(
                case,
                interactions=tuples,
                dtype=dtype,
                device=device,
                backward=backward,
                backend=backend,
                algo=algo,
                seconds=seconds,
                compiled=compiled,
                limits=limits[dtype],
                clock=clock,
            )
            rows.append(row)
    finally:
        torch.set_float32_matmul_precision(before)
    return {
        **conditions(device),
        "clock": clock,
        "limits": {dtype: asdict(limit) for dtype, limit in limits.items()},
        "rows": [asdict(row) for row in rows],
    }


def table(record: dict) -> str:
    """The record as a Markdown table."""
    clock = "" if record.get("clock", "wall") == "wall" else " Times are those of the processor, all threads together."
    lines = [
        f"{said(record)} Medians of interleaved runs (20 % to 80 % in brackets).{clock}",
        "Of peak: flops (three times the forward's for both directions) over the rate at which registers alone "
        "multiply. Limit: flops over the rate of torch.mm, or bytes over copy bandwidth, whichever is longer. mm: the "
        "products of matrices alone. All measured in this run. Memory: beyond inputs and results.",
        "",
        "| case | type | what | ours | vs eager | vs compile | vs mm | of peak | of limit | "
        "memory: ours / eager / compile |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        precision = row.get("precision", "highest")
        cells = [
            f"{row['case']} {row['interactions']}",
            row["dtype"] + (f" {precision}" if precision != "highest" else ""),
            row["what"],
            f"{milliseconds(row['timings']['ours'])} {row['backend']} {row['algo']}",
            *(ratio(row, name, 2) for name in ("eager", "compile", "mm")),
            "-" if row.get("of_peak") is None else f"{row['of_peak']:.0%}",
            f"{row['of_limit']:.0%}",
            megabytes(row, "ours", "eager", "compile"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

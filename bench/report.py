"""`c2f bench pool`: cases against eager and torch.compile, a table with ratios and the distance to the limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from c2f_ops import explain

from .cases import CASES, INTERACTIONS, Case, eager, operands, ours, step
from .limits import Limits, measure_limits
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
) -> Row:
    """Measure ours against eager and `torch.compile` on one case, interleaved, and the peak memory of each."""
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
    peaks = {name: peak_extra_bytes(run, device) for name, run in runs.items()}
    timings = interleave(runs, device=device, seconds=seconds)
    chosen = explain(*tensors, interactions=INTERACTIONS[interactions], layout=case.layout, backend=backend, algo=algo)
    limit = max(
        case.flops(interactions, backward=backward) / limits.gemm,
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
) -> dict[str, object]:
    """Measure every combination; returns the record that is saved, and that `table` prints."""
    rows = []
    limits = {dtype: measure_limits(DTYPES[dtype], device) for dtype in dtypes}
    for name in names:
        case = CASES[name] if batch is None else CASES[name].scaled(batch)
        for dtype in dtypes:
            for tuples in interactions:
                for backward in directions:
                    rows.append(
                        measure(
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
                        )
                    )
    return {
        **conditions(device),
        "limits": {dtype: asdict(limit) for dtype, limit in limits.items()},
        "rows": [asdict(row) for row in rows],
    }


def table(record: dict) -> str:
    """The record as a Markdown table."""
    lines = [
        f"{said(record)} Medians of interleaved runs (20 % to 80 % in brackets); limit: flops over the rate of "
        "torch.mm, or bytes over copy bandwidth, whichever is longer, both measured in this run.",
        "",
        "| case | type | what | ours | vs eager | vs compile | of limit | peak extra memory: ours / eager / compile |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        cells = [
            f"{row['case']} {row['interactions']}",
            row["dtype"],
            row["what"],
            f"{milliseconds(row['timings']['ours'])} {row['backend']} {row['algo']}",
            *(ratio(row, name, 2) for name in ("eager", "compile")),
            f"{row['of_limit']:.0%}",
            megabytes(row, "ours", "eager", "compile"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

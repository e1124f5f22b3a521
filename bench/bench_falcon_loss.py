"""The FALCON loss on named shapes: ours against the dense masked form, `torch.compile` of it and the reference.

c2f bench falcon-loss --out bench/results/DATE-cpu-falcon-loss.json
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from c2f_ops import falcon_loss

from .falcon_cases import CASES, Case, operands
from .limits import measure_limits
from .records import DTYPES, conditions, megabytes, milliseconds, ratio, said
from .timing import Timing, interleave, noisy, peak_extra_bytes, ratios


def dense(z: Tensor, s: Tensor, t: Tensor, y: Tensor, g: Tensor, coarse: int) -> Tensor:
    """The loss by masks of fine x coarse classes and the log of a dot product, as the method's own code has it."""
    z, s, t = z.float(), s.float(), t.float()
    relations = (g[:, None] == torch.arange(coarse, device=g.device)).float()  # [K_F, K_C]
    p = z.softmax(1)
    p_coarse = (p[:, :, None] * relations).sum(1)
    l_coarse = -p_coarse.gather(1, y[:, None]).log().mean()
    l_nn = -(p[:, None] * t.softmax(2)).sum(2).log().mean()
    inside = (relations * torch.nn.functional.one_hot(y, coarse)[:, None]).sum(2) > 0
    q = (s / 0.9).masked_fill(~inside, -math.inf).softmax(1)
    l_conf = -(q * z.log_softmax(1)).sum(1).mean()
    mean_p = p.mean(0)
    l_reg = math.log(z.shape[1]) + (mean_p * mean_p.log()).sum()
    return 0.5 * l_coarse + 0.5 * (l_nn + l_conf) + 2.0 * l_reg


def exp_rate(device: str, clock: str) -> float:
    """Exponentials per second of `torch.exp` on what stays in cache."""
    x = torch.randn(2**18 if device == "cpu" else 2**24, device=device)
    out = torch.empty_like(x)

    def run() -> None:
        for _ in range(8):
            torch.exp(x, out=out)

    return 8 * x.numel() / interleave({"exp": run}, device=device, seconds=1.0, clock=clock)["exp"].low


@dataclass(frozen=True)
class Rates:
    """What the machine can do: bytes copied and exponentials, per second."""

    copy: float
    exp: float


@dataclass(frozen=True)
class Row:
    """One measured case: forward and gradient."""

    case: str
    shape: str
    dtype: str
    timings: dict[str, Timing]
    ratios: dict[str, float]
    noisy: list[str]
    difference: float | None  # of our loss from the dense one, relative
    bytes_seconds: float
    exp_seconds: float
    peak_bytes: dict[str, int | None]


def measure(
    case: Case, dtype: str, *, device: str, backend: str, seconds: float, compiled: bool, clock: str, rates: Rates
) -> Row:
    """Measure ours and its rivals on one case, interleaved, and the peak memory of each."""
    kind = DTYPES[dtype]
    z, s, t, y, g = operands(case, kind, device)
    losses: dict[str, Callable[[], Tensor]] = {"ours": lambda: falcon_loss(z, s, t, y, g, backend=backend)}  # type: ignore[dict-item]
    if case.dense():
        losses["reference"] = lambda: falcon_loss(z, s, t, y, g, backend="reference")  # type: ignore[assignment,return-value]
        losses["dense"] = lambda: dense(z, s, t, y, g, case.coarse)
        if compiled:
            torch._dynamo.reset()
            fused = torch.compile(dense)
            losses["compile"] = lambda: fused(z, s, t, y, g, case.coarse)
    runs = {name: lambda loss=loss: torch.autograd.grad(loss(), z) for name, loss in losses.items()}  # type: ignore[misc]
    difference = None
    if case.dense():
        difference = ((losses["ours"]() - losses["dense"]()) / losses["dense"]()).abs().item()
    peaks = {name: peak_extra_bytes(run, device) for name, run in runs.items()}
    timings = interleave(runs, device=device, seconds=seconds, clock=clock)
    return Row(
        case=case.name,
        shape=f"{case.source}: B {case.batch}, K_F {case.fine}, K_C {case.coarse}, L {case.neighbours}",
        dtype=dtype,
        timings=timings,
        ratios=ratios(timings, "ours"),
        noisy=[name for name, time in timings.items() if name != "ours" and noisy(timings["ours"], time)],
        difference=difference,
        bytes_seconds=case.minimum_bytes(kind.itemsize) / rates.copy,
        exp_seconds=case.exps() / rates.exp,
        peak_bytes=peaks,
    )


def run_suite(
    names: list[str],
    *,
    dtypes: list[str],
    device: str = "cpu",
    backend: str = "auto",
    seconds: float = 10.0,
    compiled: bool = True,
    clock: str = "wall",
) -> dict[str, object]:
    """Measure cases; returns the record that is saved, and that `table` prints."""
    rates = Rates(measure_limits(torch.float32, device, seconds=2.0, clock=clock).copy, exp_rate(device, clock))
    rows = [
        measure(
            CASES[name], dtype, device=device, backend=backend, seconds=seconds, compiled=compiled, clock=clock,
            rates=rates,
        )
        for name in names
        for dtype in dtypes
    ]  # fmt: skip
    return {
        **conditions(device),
        "clock": clock,
        "rates": asdict(rates),
        "rows": [asdict(row) for row in rows],
    }


def table(record: dict) -> str:
    """The record as a Markdown table."""
    rates = record["rates"]
    clocks = {"wall": "wall time", "cpu": "processor time of all threads"}
    lines = [
        f"{said(record)} Forward and gradient, {clocks[record['clock']]}, medians of interleaved runs (20 % to "
        f"80 % in brackets). Limits: least bytes over copy bandwidth ({rates['copy'] / 1e9:.1f} GB/s), exponentials "
        f"over the rate of torch.exp in cache ({rates['exp'] / 1e9:.2f} G/s), both measured in this run.",
        "",
        "| case | type | ours | vs dense | vs compile | vs reference | bytes limit | exp limit "
        "| peak extra memory: ours / dense / compile |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        cells = [
            row["shape"],
            row["dtype"],
            milliseconds(row["timings"]["ours"]),
            *(ratio(row, name, 1) for name in ("dense", "compile", "reference")),
            f"{row['bytes_seconds'] * 1e3:.3g} ms",
            f"{row['exp_seconds'] * 1e3:.3g} ms",
            megabytes(row, "ours", "dense", "compile"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

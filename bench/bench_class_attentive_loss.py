"""The class-attentive loss on named shapes: ours against the form with all pairs and `torch.compile` of it.

c2f bench class-attentive --out bench/results/DATE-cpu-class-attentive.json
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from c2f_ops import class_attentive_loss

from .bench_falcon_loss import exp_rate
from .limits import measure_limits
from .records import DTYPES, conditions, megabytes, milliseconds, ratio, said
from .timing import Timing, interleave, noisy, peak_extra_bytes, ratios


@dataclass(frozen=True)
class Case:
    """One shape: ``batch`` embeddings of ``width``, ``classes`` that occur equally often."""

    name: str
    batch: int
    width: int
    classes: int

    def flops(self, *, backward: bool) -> int:
        """Products of all pairs: similarities; with the gradient again, and slopes with keys and with anchors."""
        return (4 if backward else 1) * 2 * self.batch**2 * self.width

    def exps(self, *, backward: bool) -> int:
        """Exponentials: one for each pair, and again with the gradient."""
        return (2 if backward else 1) * self.batch**2

    def dense(self) -> bool:
        """Whether matrices of all pairs are within reach."""
        return self.batch <= 8192


CASES = {
    case.name: case
    for case in (
        Case("toy", 64, 64, 4),
        Case("batch", 1024, 128, 100),
        Case("memory", 8192, 128, 100),
        Case("many", 8192, 128, 4096),
        Case("large", 65536, 128, 1000),
    )
}


def operands(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """z (a leaf), y, w (a leaf)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(case.batch, case.width, generator=generator).to(device, dtype)
    w = (torch.rand(case.classes, case.width, generator=generator) + 0.05).to(device)
    y = (torch.randperm(case.batch, generator=generator) % case.classes).to(device)
    return z.requires_grad_(), y, w.requires_grad_()


def dense(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The loss by matrix products of z's type and masks, matrices of all pairs in float32."""
    of_anchor = w[y].to(z.dtype)
    products = (z * of_anchor.square()) @ z.T
    anchor_norm = (z * of_anchor).norm(dim=1, keepdim=True)
    key_norm = (w.square().to(z.dtype) @ z.T.square()).sqrt()[y]
    s = (products / (anchor_norm * key_norm)).float() / 0.1
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    same = (y[:, None] == y) & ~itself
    count = same.sum(1)
    value = s.masked_fill(itself, -math.inf).logsumexp(1) - s.masked_fill(~same, 0).sum(1) / count.clamp(min=1)
    return torch.where(count > 0, value, 0).sum() / (count > 0).sum()


@dataclass(frozen=True)
class Row:
    """One measured case: forward, or forward and gradient."""

    case: str
    shape: str
    dtype: str
    what: str
    timings: dict[str, Timing]
    ratios: dict[str, float]
    noisy: list[str]
    difference: float | None  # of our loss from the dense one, relative
    flops_seconds: float
    exp_seconds: float
    peak_bytes: dict[str, int | None]


def measure(
    case: Case,
    dtype: str,
    *,
    backward: bool,
    device: str,
    backend: str,
    seconds: float,
    compiled: bool,
    clock: str,
    rates: dict[str, float],
) -> Row:
    """Measure ours and its rivals on one case, interleaved, and the peak memory of each."""
    z, y, w = operands(case, DTYPES[dtype], device)
    losses: dict[str, Callable[[], Tensor]] = {"ours": lambda: class_attentive_loss(z, y, w, backend=backend)}
    if case.dense():
        losses["dense"] = lambda: dense(z, y, w)
        if compiled:
            torch._dynamo.reset()
            fused = torch.compile(dense)
            losses["compile"] = lambda: fused(z, y, w)

    def run_of(loss: Callable[[], Tensor]) -> Callable[[], object]:
        def run() -> object:
            with torch.set_grad_enabled(backward):
                value = loss()
                return torch.autograd.grad(value, (z, w)) if backward else value

        return run

    runs = {name: run_of(loss) for name, loss in losses.items()}
    difference = None
    if case.dense():
        with torch.no_grad():
            difference = ((losses["ours"]() - losses["dense"]()) / losses["dense"]()).abs().item()
    peaks = {name: peak_extra_bytes(run, device) for name, run in runs.items()}
    least = 5 if case.batch < 8192 else 3  # these take seconds to minutes
    timings = interleave(runs, device=device, seconds=seconds, least=least, clock=clock)
    return Row(
        case=case.name,
        shape=f"B {case.batch}, d {case.width}, C {case.classes}",
        dtype=dtype,
        what="forward+backward" if backward else "forward",
        timings=timings,
        ratios=ratios(timings, "ours"),
        noisy=[name for name, time in timings.items() if name != "ours" and noisy(timings["ours"], time)],
        difference=difference,
        flops_seconds=case.flops(backward=backward) / rates["gemm"],
        exp_seconds=case.exps(backward=backward) / rates["exp"],
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
    rates = {
        "gemm": measure_limits(torch.float32, device, seconds=2.0, clock=clock).gemm,
        "exp": exp_rate(device, clock),
    }
    rows = [
        measure(
            CASES[name], dtype, backward=backward, device=device, backend=backend, seconds=seconds, compiled=compiled,
            clock=clock, rates=rates,
        )
        for name in names
        for dtype in dtypes
        for backward in (False, True)
    ]  # fmt: skip
    return {**conditions(device), "clock": clock, "rates": rates, "rows": [asdict(row) for row in rows]}


def table(record: dict) -> str:
    """The record as a Markdown table."""
    rates = record["rates"]
    clocks = {"wall": "wall time", "cpu": "processor time of all threads"}
    lines = [
        f"{said(record)} {clocks[record['clock']].capitalize()}, medians of interleaved runs (20 % to 80 % in "
        f"brackets). Limits: products of all pairs, formed again for the gradient, over the rate of a float32 torch.mm "
        f"({rates['gemm'] / 1e9:.0f} GFLOP/s), exponentials over the rate of torch.exp in cache "
        f"({rates['exp'] / 1e9:.2f} G/s), both measured in this run.",
        "",
        "| case | type | what | ours | vs dense | vs compile | products limit | exp limit "
        "| peak extra memory: ours / dense / compile |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        cells = [
            row["shape"],
            row["dtype"],
            row["what"],
            milliseconds(row["timings"]["ours"]),
            *(ratio(row, name, 1) for name in ("dense", "compile")),
            f"{row['flops_seconds'] * 1e3:.3g} ms",
            f"{row['exp_seconds'] * 1e3:.3g} ms",
            megabytes(row, "ours", "dense", "compile"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

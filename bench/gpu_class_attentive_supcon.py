"""class_attentive_loss on a GPU: each kernel and what users write today, forward and backward, at named shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from c2f_ops import class_attentive_loss

from .bench_class_attentive_loss import CASES, Case, dense, operands
from .gpu_rows import Row, measure_contenders, table_of_rows, write_rows
from .limits import measure_limits
from .records import DTYPES

BACKENDS = ("reference", "triton", "cuda")


def contenders(case: Case, tensors: tuple[Tensor, Tensor, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """The form with matrices of all pairs, eager and compiled, where it fits, and each backend of ours."""
    runs: dict[str, Callable[[], Tensor]] = {}
    if case.dense():
        torch._dynamo.reset()
        compiled = torch.compile(dense, dynamic=False)
        runs = {"eager": lambda: dense(*tensors), "compile": lambda: compiled(*tensors)}
    for name in BACKENDS:
        runs[name] = lambda name=name: class_attentive_loss(*tensors, backend=name, group=None)  # type: ignore[misc]
    return runs


def measure_case(case: Case, dtype: str, rate: float, seconds: float, device: str = "cuda") -> Row:
    """One row of the record: forward and backward; its error is that of the gradient with respect to z."""
    tensors = operands(case, DTYPES[dtype], device)

    def gradient_of(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(run(), (tensors[0], tensors[2]))[0]

    exact, y, w = tensors[0].detach().double().requires_grad_(), tensors[1], tensors[2].detach().double()
    loss = class_attentive_loss(exact, y, w, backend="reference", group=None)
    steps = {name: gradient_of(run) for name, run in contenders(case, tensors).items()}
    runs = {name: (step, step) for name, step in steps.items()}
    flops = case.flops(backward=True)
    return {
        "case": {"name": case.name, "B": case.batch, "d": case.width, "C": case.classes},
        "dtype": dtype,
        "flops": flops,
        **measure_contenders(runs, torch.autograd.grad(loss, exact)[0], seconds=seconds, device=device),
        "limit_seconds": flops / rate,
    }


def measure(path: Path, end: float) -> None:
    """Measure until ``end``; the shapes of training first."""
    rates = {name: measure_limits(DTYPES[name], "cuda", seconds=1.0).gemm for name in ("bfloat16", "float32")}

    def rows() -> Iterator[Row]:
        for name in ("memory", "many", "batch", "toy", "large"):
            for dtype, rate in rates.items():
                yield measure_case(CASES[name], dtype, rate, seconds=1.0)

    write_rows(path, {"gemm": rates}, rows(), end)


def table(record: dict) -> str:
    """The record as Markdown."""
    rates = ", ".join(f"{rate / 1e12:.0f} TFLOP/s in {dtype}" for dtype, rate in record["gemm"].items())
    lines = [
        "class_attentive_loss, forward and backward. Limit: products of all pairs, four with the gradient, at the rate "
        f"of torch.mm ({rates}). Error: relative L2 of the gradient against float64.",
        "",
    ]
    title = "{case[name]} {case[B]} x {case[d]}, C {case[C]} {dtype}".format_map
    rate = {"TFLOP/s": lambda row, median: f"{row['flops'] / median / 1e12:.0f}"}
    return "\n".join(lines + table_of_rows(record["rows"], title, "us", rate))

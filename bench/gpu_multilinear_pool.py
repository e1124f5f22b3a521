"""multilinear_pool on a GPU: each kernel, eager torch and `torch.compile`, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from .cases import CASES, Case, eager, operands, ours, step
from .gpu_rows import Row, measure_contenders, table_of_rows, write_rows
from .limits import Limits, measure_limits
from .records import DTYPES, conditions

NAMES = ("vgg", "r50-layer3", "r50-layer4", "vit-b14")
# name -> options of the operator. The fused kernels save nothing, so backward rebuilds the projections.
KERNELS: dict[str, dict[str, str | bool]] = {
    "cuda chunked": {"backend": "cuda", "algo": "chunked", "recompute": True},
    "cuda chunked, saved": {"backend": "cuda", "algo": "chunked", "recompute": False},
    "cuda fused": {"backend": "cuda", "algo": "fused", "recompute": True},
    "triton chunked": {"backend": "triton", "algo": "chunked", "recompute": True},
    "triton fused": {"backend": "triton", "algo": "fused", "recompute": True},
}


def contenders(
    case: Case, dtype: str, tensors: tuple[list[Tensor], list[Tensor], list[Tensor]], backward: bool
) -> dict[str, Callable[[], Tensor]]:
    """Eager, `torch.compile` (bfloat16 only, it takes long to compile) and each kernel of ours."""
    rivals: dict[str, Callable[[], Tensor]] = {"eager": lambda: eager(*tensors, "mlp", case.layout)}
    if dtype == "bfloat16":
        torch._dynamo.reset()
        compiled = torch.compile(eager, dynamic=False)
        rivals["compile"] = lambda: compiled(*tensors, "mlp", case.layout)
    for name, options in KERNELS.items():
        if backward or options["recompute"]:
            rivals[name] = lambda options=options: ours(*tensors, "mlp", case.layout, **options)  # type: ignore[misc]
    return rivals


def measure_case(case: Case, dtype: str, backward: bool, limits: Limits, seconds: float, device: str = "cuda") -> Row:
    """One row of the record."""
    kind = DTYPES[dtype]
    tensors = operands(case, "mlp", kind, device, grad=backward)
    leaves = [t for group in tensors for t in group]
    with torch.no_grad():
        features, weights, biases = ([t.float() for t in group] for group in tensors)
        truth = eager(features, weights, biases, "mlp", case.layout)
        del features, weights
    runs = {
        name: (step(run, leaves, backward=backward), step(run, leaves, backward=False))
        for name, run in contenders(case, dtype, tensors, backward).items()
    }
    flops = case.flops("mlp", backward=backward)
    return {
        "case": case.name,
        "dtype": dtype,
        "what": "forward+backward" if backward else "forward",
        **measure_contenders(runs, truth, seconds=seconds, device=device),
        "flops": flops,
        "limit_seconds": max(flops / limits.gemm, case.minimum_bytes("mlp", kind.itemsize) / limits.copy),
    }


def measure(path: Path, end: float) -> None:
    """Measure until ``end``, the most important cases first."""
    limits = {dtype: measure_limits(DTYPES[dtype], "cuda", seconds=2.0) for dtype in ("bfloat16", "float16")}
    head = conditions("cuda")
    properties = torch.cuda.get_device_properties(0)
    head["machine"] = {
        **head["machine"],
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
    }
    head["limits"] = {dtype: asdict(limit) for dtype, limit in limits.items()}

    def rows() -> Iterator[Row]:
        for dtype in ("bfloat16", "float16"):
            for name in NAMES:
                for backward in (False, True):
                    yield measure_case(CASES[name], dtype, backward, limits[dtype], seconds=3.0)

    write_rows(path, head, rows(), end)


def table(record: dict) -> str:
    """The record as Markdown."""
    about = record["machine"]
    lines = [
        f"{about['device']} (sm {about['capability']}), torch {about['torch']}, commit {about['commit']}, "
        f"{record['date']}. MLP interactions. Medians of runs taken in turns, 20 % to 80 % in brackets. TFLOP/s "
        "count the projections (forward 1, forward and backward 3 times). Limit: those flops at the rate of torch.mm, "
        "or each operand once at copy bandwidth. Error: relative L2 of the result against float32.",
        "",
    ]
    for dtype, limit in record["limits"].items():
        lines.append(f"- {dtype}: torch.mm {limit['gemm'] / 1e12:.0f} TFLOP/s, copy {limit['copy'] / 1e12:.2f} TB/s")
    rates = {"TFLOP/s": lambda row, seconds: f"{row['flops'] / seconds / 1e12:.0f}"}
    return "\n".join([*lines, "", *table_of_rows(record["rows"], "{case} {dtype} {what}".format_map, "ms", rates)])

"""multilinear_pool on a GPU: each kernel, eager torch and `torch.compile`, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from c2f_ops import MLP, signed_sqrt_normalize
from c2f_ops._ops.problem import Problem
from c2f_ops.cuda import multilinear_pool as room

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

# Tiles and clusters of the sm_90a kernel: kTiles and kClusters of csrc/plan/fused_sm90_tile.h.
TILES = ((64, 3), (112, 3), (128, 3), (192, 1), (200, 1), (208, 1))
CLUSTERS = ((1, 1), (1, 2), (2, 1), (2, 2))


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


def measure_tiles(case: Case, limits: Limits, seconds: float, device: str = "cuda") -> Row:
    """One row of the record: the fused kernels alone, bfloat16, each tile and cluster of the one for sm_90a."""
    features, weights, biases = operands(case, "mlp", torch.bfloat16, device, grad=False)
    truth = eager(*([t.float() for t in group] for group in (features, weights, biases)), "mlp", case.layout)
    views = [x.flatten(2).transpose(1, 2) if case.layout == "NCHW" else x for x in features]
    problem = Problem.of(views, weights, None, MLP, "none")

    def pool(kernel: str, wish: room.Wish) -> Tensor:
        return room.fused_fwd(problem, views, weights, biases, None, kernel, wish)

    def contender(kernel: str, wish: room.Wish) -> tuple[Callable[[], object], Callable[[], Tensor]]:
        return (
            lambda: pool(kernel, wish),
            lambda: signed_sqrt_normalize(pool(kernel, wish), backend="reference").flatten(1),
        )

    plan = room.plan_of(problem)
    runs = {"fused_sm80": contender("fused_sm80", (0, 0, 1, 1)), "planned": contender(plan["fused"], (0, 0, 1, 1))}
    for tile, cluster in itertools.product(TILES, CLUSTERS):
        runs[tile_name(*tile, *cluster)] = contender("fused_sm90", (*tile, *cluster))
    row = measure_contenders(runs, truth, seconds=seconds, device=device)
    flops = case.flops("mlp")
    return {
        "case": case.name,
        "dtype": "bfloat16",
        "what": "fused kernel",
        **row,
        "plan": {key: str(value) for key, value in plan.items()},
        "flops": flops,
        "limit_seconds": max(flops / limits.gemm, case.minimum_bytes("mlp", 2) / limits.copy),
    }


def tile_name(positions: int, accumulators: int, cluster_b: int, cluster_d: int) -> str:
    """How a record calls a tile of the sm_90a kernel."""
    return f"sm_90a {positions} positions, {accumulators} live, cluster {cluster_b} x {cluster_d}"


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
            if dtype == "bfloat16" and torch.cuda.get_device_capability() == (9, 0):
                yield from (measure_tiles(CASES[name], limits[dtype], seconds=3.0) for name in NAMES)

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
    for row in record["rows"]:
        if row["what"] == "fused kernel":
            lines.append(f"- {best_tile(row)}")
    rates = {"TFLOP/s": lambda row, seconds: f"{row['flops'] / seconds / 1e12:.0f}"}
    return "\n".join([*lines, "", *table_of_rows(record["rows"], "{case} {dtype} {what}".format_map, "ms", rates)])


def best_tile(row: dict) -> str:
    """Which tile won a row of `measure_tiles`, and what the plan had chosen and foretold."""
    plan, timings = row["plan"], row["timings"]
    best = min(timings, key=lambda name: timings[name]["median"])
    text = f"{row['case']}: fastest of {len(timings)} fused kernels is {best}, {timings[best]['median'] * 1e3:.3f} ms"
    if "planned" in timings:
        text += f"; planned {plan['fused']}, block_l {plan['block_l']}, {timings['planned']['median'] * 1e3:.3f} ms"
    if plan["fused"] == "fused_sm90":
        text += (
            f" ({plan['live']} live, cluster {plan['cluster_b']} x {plan['cluster_d']}, modelled at "
            f"{float(plan['modelled_limit']):.0%} of the tensor cores' rate, bound by {plan['bound']})"
        )
    return text

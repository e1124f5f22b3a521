"""Hardware counters of the fused kernels of multilinear_pool, where Nsight Compute is installed and may read them.

The counters come from a second process, this module under ``ncu``, which launches every kernel once.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

from c2f_ops import MLP
from c2f_ops._ops.problem import Problem
from c2f_ops.cuda import multilinear_pool as room

from .cases import CASES, operands
from .gpu_multilinear_pool import tile_name

NAMES = ("vgg", "vit-b14")
SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "WarpStateStats",
    "Occupancy",
    "LaunchStats",
)
TENSOR_CORES = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"
# Head of a column -> metric, as Nsight Compute calls it
COLUMNS = {
    "time": "Duration",
    "tensor cores": TENSOR_CORES,
    "L1": "L1/TEX Cache Throughput",
    "L2": "L2 Cache Throughput",
    "DRAM": "DRAM Throughput",
    "warps": "Achieved Occupancy",
    "registers": "Registers Per Thread",
}
_SAID = "launched: "


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """What is counted: each fused kernel that this GPU can run, bfloat16, by case."""
    for name in NAMES:
        case = CASES[name]
        features, weights, biases = operands(case, "mlp", torch.bfloat16, "cuda", grad=False)
        views = [x.flatten(2).transpose(1, 2) if case.layout == "NCHW" else x for x in features]
        problem = Problem.of(views, weights, None, MLP, "none")
        for kernel, wish in (
            ("fused_sm80", (0, 0, 1, 1)),
            ("fused_sm90", (0, 0, 1, 1)),
            ("fused_sm90", (112, 3, 1, 2)),
            ("fused_sm90", (200, 1, 2, 2)),
        ):
            label = tile_name(*wish) if wish[0] else kernel
            yield f"{name} {label}", partial(room.fused_fwd, problem, views, weights, biases, None, kernel, wish)


def launch_all() -> None:
    """The second process: warm up, then launch each once between start and stop of the profiler."""
    for label, launch in launches():
        try:
            launch()
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"{label}: {error}", file=sys.stderr)
            continue
        torch.cuda.cudart().cudaProfilerStart()
        launch()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
        print(_SAID + label, flush=True)


def measure(path: Path, end: float) -> None:
    """Write what ncu counted, or why it did not."""
    record = counted(shutil.which("ncu") or shutil.which("/usr/local/cuda/bin/ncu"), path.with_suffix(".csv"), end)
    path.write_text(json.dumps(record, indent=1) + "\n")


def counted(ncu: str | None, log: Path, end: float) -> dict:
    """Run ncu: "rows" of a launch each, or "failed"."""
    if ncu is None:
        return {"failed": "ncu was not found"}
    options = ["--clock-control", "none", "--profile-from-start", "off", "--kernel-name", "regex:multilinear_pool"]
    chosen = [option for section in SECTIONS for option in ("--section", section)]
    command = [ncu, *options, *chosen, "--metrics", TENSOR_CORES, "--csv", "--log-file", str(log)]
    try:
        done = subprocess.run(
            [*command, sys.executable, "-m", __spec__.name],
            capture_output=True,
            text=True,
            timeout=end - time.monotonic(),
        )
    except subprocess.TimeoutExpired:
        return {"failed": "ncu ran out of time"}
    labels = [line.removeprefix(_SAID) for line in done.stdout.splitlines() if line.startswith(_SAID)]
    kernels = list(kernels_of(log.read_text())) if log.exists() else []
    if not kernels or len(kernels) != len(labels):
        said = (log.read_text() if log.exists() else "") + done.stderr
        return {"failed": f"{len(labels)} launches, {len(kernels)} counted: {' '.join(said.split())[-600:]}"}
    return {"rows": [{"launch": label, "metrics": metrics} for label, metrics in zip(labels, kernels, strict=True)]}


def kernels_of(log: str) -> Iterator[dict[str, list]]:
    """The metrics of each launch, name -> [value, unit], from the CSV that ncu wrote among its messages."""
    table = csv.DictReader(line for line in log.splitlines() if line.startswith('"'))
    for _, lines in groupby(table, key=lambda line: line["ID"]):
        yield {
            line["Metric Name"]: [line["Metric Value"], line["Metric Unit"]] for line in lines if line["Metric Name"]
        }


def table(record: dict) -> str:
    """The record as Markdown."""
    if "failed" in record:
        return f"No hardware counters: {record['failed']}"
    lines = [
        "Hardware counters of single launches, caches cold, clocks as they were; per cent of the peak of each unit.",
        "",
        "| launch | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for row in record["rows"]:
        cells = [" ".join(row["metrics"].get(name, ["-"])).replace(" %", "%") for name in COLUMNS.values()]
        lines.append(f"| {row['launch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    launch_all()

"""The Python part of `bench/gpu_suite.sh`: measure every contender of every case on a GPU, and write the record."""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from c2f_ops.testing import relative_error

from . import gpu_falcon_loss
from .cases import CASES, Case, eager, operands, ours, step
from .limits import Limits, measure_limits
from .report import DTYPES, machine
from .timing import interleave, noisy, peak_extra_bytes

NAMES = ("vgg", "r50-layer3", "r50-layer4", "vit-b14")
# name -> options of the operator. The fused kernels save nothing, so backward rebuilds the projections.
KERNELS: dict[str, dict[str, str | bool]] = {
    "cuda chunked": {"backend": "cuda", "algo": "chunked", "recompute": True},
    "cuda chunked, saved": {"backend": "cuda", "algo": "chunked", "recompute": False},
    "cuda fused": {"backend": "cuda", "algo": "fused", "recompute": True},
    "triton chunked": {"backend": "triton", "algo": "chunked", "recompute": True},
    "triton fused": {"backend": "triton", "algo": "fused", "recompute": True},
}


def cells() -> Iterator[tuple[Case, str, bool]]:
    """(case, type, backward?), the most important first."""
    for dtype in ("bfloat16", "float16"):
        for name in NAMES:
            for backward in (False, True):
                yield CASES[name], dtype, backward


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


def measure_cell(case: Case, dtype: str, backward: bool, limits: Limits, seconds: float) -> dict[str, object]:
    """Time the contenders that run, in turns; those that do not leave their error."""
    kind = DTYPES[dtype]
    tensors = operands(case, "mlp", kind, "cuda", grad=backward)
    leaves = [t for group in tensors for t in group]
    with torch.no_grad():
        features, weights, biases = ([t.float() for t in group] for group in tensors)
        truth = eager(features, weights, biases, "mlp", case.layout)
        del features, weights
    runs, failed, errors, peaks = {}, {}, {}, {}
    for name, run in contenders(case, dtype, tensors, backward).items():
        timed = step(run, leaves, backward=backward)
        try:
            timed()  # compiles what has to be compiled
            with torch.no_grad():
                errors[name] = relative_error(run(), truth)
            peaks[name] = peak_extra_bytes(timed, "cuda")
            runs[name] = timed
        except Exception as error:  # one that fails must not take the others' numbers with it
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    timings = interleave(runs, device="cuda", seconds=seconds)
    flops = case.flops("mlp", backward=backward)
    return {
        "case": case.name,
        "dtype": dtype,
        "what": "forward+backward" if backward else "forward",
        "timings": {name: asdict(t) for name, t in timings.items()},
        "noisy": [name for name, t in timings.items() if name != "eager" and noisy(timings["eager"], t)],
        "errors": errors,
        "failed": failed,
        "peak_bytes": peaks,
        "flops": flops,
        "limit_seconds": max(flops / limits.gemm, case.minimum_bytes("mlp", kind.itemsize) / limits.copy),
    }


def measure(path: Path, seconds: float) -> None:
    """Measure the cells until ``seconds`` are spent; the file is written after each of them."""
    end = time.monotonic() + seconds
    limits = {dtype: measure_limits(DTYPES[dtype], "cuda", seconds=2.0) for dtype in ("bfloat16", "float16")}
    properties = torch.cuda.get_device_properties(0)
    record: dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            **machine("cuda"),
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
        },
        "limits": {dtype: asdict(limit) for dtype, limit in limits.items()},
    }
    rows: list[dict[str, object]] = []
    for case, dtype, backward in cells():
        if time.monotonic() > end:
            break
        rows.append(measure_cell(case, dtype, backward, limits[dtype], seconds=3.0))
        path.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")
        torch.cuda.empty_cache()


def report(folder: Path) -> None:
    """Join stages and measurements to record.json and record.md; print the latter."""
    stages = [line.split("\t") for line in (folder / "stages.tsv").read_text().splitlines()]
    bench = folder / "bench.json"
    falcon = folder / "falcon_loss.json"
    record = {
        **(json.loads(bench.read_text()) if bench.exists() else {}),
        **({"falcon_loss": json.loads(falcon.read_text())} if falcon.exists() else {}),
        "stages": [{"name": name, "status": status, "seconds": int(seconds)} for name, status, seconds in stages],
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(record)
    if "falcon_loss" in record:
        text += "\n\n" + gpu_falcon_loss.table(record["falcon_loss"])
    (folder / "record.md").write_text(text + "\n")
    print(text)


def table(record: dict) -> str:
    """The record as Markdown."""
    lines = ["| stage | result | seconds |", "|---|---|---:|"]
    for stage in record["stages"]:
        result = {"0": "passed", "timeout": "out of time", "skipped": "no time left", "missing": "no such tool"}
        outcome = result.get(stage["status"], f"failed ({stage['status']})")
        lines.append(f"| {stage['name']} | {outcome} | {stage['seconds']} |")
    if "rows" not in record:
        return "\n".join([*lines, "", "There are no measurements."])
    about = record["machine"]
    lines += [
        "",
        f"{about['device']} (sm {about['capability']}), torch {about['torch']}, commit {about['commit']}, "
        f"{record['date']}. MLP interactions. Medians of runs taken in turns, 20 % to 80 % in brackets. TFLOP/s "
        "count the projections (forward 1, forward and backward 3 times). Limit: those flops at the rate of torch.mm, "
        "or each operand once at copy bandwidth. Error: relative L2 of the result against float32.",
        "",
    ]
    for dtype, limit in record["limits"].items():
        lines.append(f"- {dtype}: torch.mm {limit['gemm'] / 1e12:.0f} TFLOP/s, copy {limit['copy'] / 1e12:.2f} TB/s")
    lines += ["", "| case | contender | ms | TFLOP/s | of limit | vs eager | peak MB | error |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for row in record["rows"]:
        title = f"{row['case']} {row['dtype']} {row['what']}"
        base = row["timings"].get("eager", {}).get("median")
        for name, t in row["timings"].items():
            versus = "-" if base is None or name == "eager" else f"{base / t['median']:.2f}x"
            versus += " (noisy)" if name in row["noisy"] else ""
            cell = [
                title,
                name,
                f"{t['median'] * 1e3:.3f} ({t['low'] * 1e3:.3f}-{t['high'] * 1e3:.3f})",
                f"{row['flops'] / t['median'] / 1e12:.0f}",
                f"{row['limit_seconds'] / t['median']:.0%}",
                versus,
                f"{row['peak_bytes'][name] / 2**20:.0f}",
                f"{row['errors'][name]:.1e}",
            ]
            lines.append("| " + " | ".join(cell) + " |")
        lines += [f"| {title} | {name} | failed: {why} | | | | | |" for name, why in row["failed"].items()]
    return "\n".join(lines)


def main() -> None:
    """Entry point of ``python -m bench.gpu_suite``."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("path", type=Path)
    measuring.add_argument("--seconds", type=float, default=180.0)
    commands.add_parser("report").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "measure":
        measure(args.path, args.seconds)
    else:
        report(args.folder)


if __name__ == "__main__":
    main()

"""The Python part of `bench/gpu_suite.sh`: measure an op on a GPU; join what was measured to the record."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from . import gpu_class_attentive_supcon, gpu_counters, gpu_falcon_loss, gpu_multilinear_pool, gpu_training_step

# Name of stage and file -> what measures an op, a network with it, or the counters of its kernels: `measure(path, end)`
# writes a record, `table(record)` is its Markdown.
# In record.json the entries of "bench", multilinear_pool, stand at the top, those of each other op under its name.
POOL = "bench"
OPS = {
    POOL: gpu_multilinear_pool,
    "falcon_loss": gpu_falcon_loss,
    "class_attentive_supcon": gpu_class_attentive_supcon,
    "training_step": gpu_training_step,
    "counters": gpu_counters,
}


def report(folder: Path) -> None:
    """Join stages and measurements to record.json and record.md; print the latter."""
    stages = [line.split("\t") for line in (folder / "stages.tsv").read_text().splitlines()]
    measured = {op: json.loads(path.read_text()) for op in OPS if (path := folder / f"{op}.json").exists()}
    record = {
        **measured.get(POOL, {}),
        **{op: each for op, each in measured.items() if op != POOL},
        "stages": [{"name": name, "status": status, "seconds": int(seconds)} for name, status, seconds in stages],
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    tables = [OPS[op].table(each) for op, each in measured.items()]
    if POOL not in measured:
        tables.insert(0, "There are no measurements.")
    text = "\n\n".join([table(record["stages"]), *tables])
    (folder / "record.md").write_text(text + "\n")
    print(text)


def table(stages: list[dict]) -> str:
    """The stages as Markdown."""
    lines = ["| stage | result | seconds |", "|---|---|---:|"]
    for stage in stages:
        result = {"0": "passed", "timeout": "out of time", "skipped": "no time left", "missing": "no such tool"}
        outcome = result.get(stage["status"], f"failed ({stage['status']})")
        lines.append(f"| {stage['name']} | {outcome} | {stage['seconds']} |")
    return "\n".join(lines)


def main() -> None:
    """Entry point of ``python -m bench.gpu_suite``."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("op", choices=OPS)
    measuring.add_argument("path", type=Path)
    measuring.add_argument("--seconds", type=float, default=180.0)
    commands.add_parser("report").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "measure":
        OPS[args.op].measure(args.path, time.monotonic() + args.seconds)
    else:
        report(args.folder)


if __name__ == "__main__":
    main()

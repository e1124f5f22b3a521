"""`bench/gpu_suite.sh` without a GPU, and its report from a made-up record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "gpu_suite.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash was not found")


def suite(*args: object):
    command = ["bash", str(SCRIPT), *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_stops(tmp_path):
    done = suite(tmp_path / "out")
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.splitlines() == ["gpu_suite: no CUDA GPU that torch can use here; nothing was run"]
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_use(tmp_path):
    done = suite()
    assert done.returncode == 2 and "usage" in done.stderr


def test_every_op_has_a_stage():
    ops = re.search(r"for op in (.+); do\n  stage \$op ", SCRIPT.read_text())[1].split()
    ops += re.findall(r"^stage (\w+) .* measure \1 ", SCRIPT.read_text(), re.MULTILINE)
    done = subprocess.run([sys.executable, "-m", "bench.gpu_suite", "measure", "--help"], cwd=ROOT, capture_output=True)
    assert set(re.search(r"\{(.+?)\}", done.stdout.decode())[1].split(",")) == set(ops) >= {"bench", "counters"}


def report(folder: Path) -> str:
    command = [sys.executable, "-m", "bench.gpu_suite", "report", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_report_without_measurements(tmp_path):
    (tmp_path / "stages.tsv").write_text("build\t1\t12\ntests\ttimeout\t150\nbench\tskipped\t0\n")
    text = report(tmp_path)
    assert "| build | failed (1) | 12 |" in text and "| tests | out of time | 150 |" in text
    assert "| bench | no time left | 0 |" in text and "no measurements" in text
    assert json.loads((tmp_path / "record.json").read_text())["stages"][1]["status"] == "timeout"
    assert (tmp_path / "record.md").read_text() == text


def test_report_with_measurements(tmp_path):
    (tmp_path / "stages.tsv").write_text("build\t0\t60\n")
    timing = {"median": 2e-3, "low": 1.9e-3, "high": 2.1e-3, "samples": 9}
    row = {
        "case": "vgg",
        "dtype": "bfloat16",
        "what": "forward",
        "timings": {"eager": timing, "cuda chunked": {**timing, "median": 1e-3}},
        "noisy": [],
        "errors": {"eager": 3e-3, "cuda chunked": 4e-4},
        "failed": {"cuda fused": "RuntimeError: no"},
        "peak_bytes": {"eager": 2**30, "cuda chunked": 2**26},
        "flops": 10**12,
        "limit_seconds": 5e-4,
    }
    machine = {"device": "GPU", "capability": "9.0", "torch": "2.11", "commit": "abc"}
    limits = {"bfloat16": {"gemm": 7.9e14, "copy": 4.3e12}}
    plan = {"fused": "fused_sm90", "block_l": "200", "live": "1", "cluster_b": "2", "cluster_d": "2"}
    tiles = {
        **row,
        "what": "fused kernel",
        "timings": {"planned": timing, "sm_90a 112 positions, 3 live, cluster 1 x 2": {**timing, "median": 1e-3}},
        "plan": {**plan, "modelled_limit": "0.888", "bound": "shared memory"},
        "errors": {"planned": 4e-4, "sm_90a 112 positions, 3 live, cluster 1 x 2": 4e-4},
        "peak_bytes": {"planned": 2**20, "sm_90a 112 positions, 3 live, cluster 1 x 2": 2**20},
    }
    record = {"date": "today", "machine": machine, "limits": limits, "rows": [row, tiles]}
    (tmp_path / "bench.json").write_text(json.dumps(record))
    text = report(tmp_path)
    assert "| vgg bfloat16 forward | cuda chunked | 1.000 (1.900-2.100) | 1000 | 50% | 2.00x | 64 | 4.0e-04 |" in text
    assert "| vgg bfloat16 forward | cuda fused | failed: RuntimeError: no |" in text
    assert "torch.mm 790 TFLOP/s, copy 4.30 TB/s" in text
    assert "vgg: fastest of 2 fused kernels is sm_90a 112 positions, 3 live, cluster 1 x 2, 1.000 ms; planned" in text
    assert "planned fused_sm90, block_l 200, 2.000 ms (1 live, cluster 2 x 2, modelled at 89% of" in text


def test_report_with_falcon_loss(tmp_path):
    (tmp_path / "stages.tsv").write_text("falcon_loss\t0\t40\n")
    timing = {"median": 2e-4, "low": 1.9e-4, "high": 2.1e-4, "samples": 9}
    row = {
        "case": {"name": "Entity13", "B": 512, "K_F": 260, "K_C": 13, "L": 5},
        "dtype": "float32",
        "timings": {"eager": timing, "cuda": {**timing, "median": 1e-4}},
        "noisy": ["cuda"],
        "errors": {"eager": 3e-7, "cuda": 2e-7},
        "failed": {"triton": "RuntimeError: no"},
        "peak_bytes": {"eager": 2**24, "cuda": 2**20},
        "limit_seconds": 1e-6,
    }
    (tmp_path / "falcon_loss.json").write_text(json.dumps({"copy": 4.3e12, "rows": [row]}))
    text = report(tmp_path)
    assert "| Entity13 512 x 260 float32 | cuda | 100 (190-210) | 1% | 2.00x (noisy) | 1 | 2.0e-07 |" in text
    assert "| Entity13 512 x 260 float32 | triton | failed: RuntimeError: no |" in text


NCU = """#!/usr/bin/env bash
while [ "$1" != --log-file ]; do shift; done
cat > "$2" << 'END'
==PROF== Connected to process 7
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","pool_sm80","GPU Speed Of Light Throughput","Duration","us","1,301.5"
"0","pool_sm80","Command line profiler metrics","TENSOR","%","61.25"
"1","pool_sm90","GPU Speed Of Light Throughput","Duration","us","250.02"
"1","pool_sm90","Launch Statistics","","",""
==PROF== Disconnected from process 7
END
printf 'launched: %s\\n' "vgg fused_sm80" LAST
"""


@pytest.mark.parametrize("second", ['"vgg fused_sm90"', ""], ids=["counted", "a launch too few"])
def test_counters(second, tmp_path):
    """ncu's CSV is read; launches and what was counted must match."""
    from c2f_ops.bench import gpu_counters

    ncu = tmp_path / "ncu"
    ncu.write_text(NCU.replace("LAST", second).replace("TENSOR", gpu_counters.TENSOR_CORES))
    ncu.chmod(0o755)
    record = gpu_counters.counted(str(ncu), tmp_path / "counters.csv", time.monotonic() + 60)
    text = gpu_counters.table(record)
    if second:
        assert "| vgg fused_sm80 | 1,301.5 us | 61.25% | - |" in text
        assert "| vgg fused_sm90 | 250.02 us | - | - |" in text
    else:
        assert text.startswith("No hardware counters: 1 launches, 2 counted: ==PROF== Connected to process 7")


def test_no_counters(tmp_path):
    from c2f_ops.bench import gpu_counters

    assert gpu_counters.counted(None, tmp_path / "counters.csv", 0.0) == {"failed": "ncu was not found"}


def test_training_step(tmp_path, monkeypatch):
    """The networks differ in how they pool alone; measured small, on the CPU."""
    from c2f_ops.bench import gpu_training_step

    monkeypatch.setattr(gpu_training_step, "BACKENDS", ("reference", "cpu", "cuda"))
    row = gpu_training_step.measure_step(0.2, device="cpu", batch=2, side=32, dim=16)
    assert {"eager", "reference"} <= set(row["timings"]) and "cuda" in row["failed"]
    assert all(error < 2e-2 for error in row["errors"].values())
    (tmp_path / "stages.tsv").write_text("training_step\t0\t40\n")
    (tmp_path / "training_step.json").write_text(json.dumps({"rows": [row]}))
    text = report(tmp_path)
    assert re.search(r"\| 2 x 32 px \| reference \| .* \| - \| \d+\.\d\dx", text)
    assert "| 2 x 32 px | cuda | failed: RuntimeError: multilinear_pool: backend='cuda' is not available" in text

"""What the records of all benchmarks share: types by name, the conditions of a measurement, cells of a table, files."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from c2f_ops._info import info

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def conditions(device: str) -> dict[str, object]:
    """When and where: the first entries of a record."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
    }


def machine(device: str) -> dict[str, object]:
    """Device, versions, commit, threads."""
    about = info()
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "c2f_ops": about["version"],
        "commit": about["commit"],
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def said(record: dict) -> str:
    """The conditions of a record in words."""
    about = record["machine"]
    return (
        f"{about['device']}, {about['threads']} threads, torch {about['torch']}, commit {about['commit']}, "
        f"{record['date']}."
    )


def milliseconds(timing: dict) -> str:
    """A cell with median, 20 % and 80 %."""
    median, low, high = (timing[key] * 1e3 for key in ("median", "low", "high"))
    return f"{median:.3g} ms ({low:.3g}-{high:.3g})"


def ratio(row: dict, name: str, digits: int) -> str:
    """A cell with how many times as long a rival takes; "-" where it was not measured."""
    if name not in row["ratios"]:
        return "-"
    return f"{row['ratios'][name]:.{digits}f}x" + (" (noisy)" if name in row["noisy"] else "")


def megabytes(row: dict, *names: str) -> str:
    """A cell with the peak memory of contenders."""
    sizes = [row["peak_bytes"].get(name) for name in names]
    return " / ".join("-" if size is None else f"{size / 2**20:.0f} MB" for size in sizes)


def write_record(record: dict, table: Callable[[dict], str], path: Path) -> None:
    """Save a record as JSON, and its table beside it as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(record) + "\n")


def read_lines(*paths: Path) -> list[dict[str, Any]]:
    """Records of files with one on each line; a file that is not there has none."""
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def fill_marks(notes: str, parts: Mapping[str, str], name: str) -> str:
    """The notes of page ``name`` with each part in the place of its mark ``<!-- part -->``; empty ones need no mark."""
    text = notes.strip() + "\n"
    for part, body in parts.items():
        mark = f"<!-- {part} -->"
        if body and mark not in text:
            raise ValueError(f"{name}: notes must have the mark {mark}, got none")
        text = text.replace(mark, body)
    return text


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

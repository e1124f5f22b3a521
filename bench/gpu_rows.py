"""What the GPU measurements of all ops share: a row of contenders, rows until time is up, their table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from c2f_ops.testing import relative_error

from .timing import interleave, noisy, peak_extra_bytes

Row = dict[str, object]
_UNITS = {"ms": (1e3, 3), "us": (1e6, 0)}  # per second, digits


def measure_contenders(
    contenders: Mapping[str, tuple[Callable[[], object], Callable[[], Tensor]]],
    truth: Tensor,
    *,
    seconds: float,
    device: str = "cuda",
) -> Row:
    """Time those that run, in turns; those that do not leave their error.

    Args:
        contenders: What is timed, and what gives the result that is compared with ``truth``; one is "eager".
        truth: The result in a wider type.
        seconds: Time for all of them.
        device: Where they run.
    """
    runs, failed, errors, peaks = {}, {}, {}, {}
    for name, (timed, result) in contenders.items():
        try:
            timed()  # compiles what has to be compiled
            errors[name] = relative_error(result(), truth)
            peaks[name] = peak_extra_bytes(timed, device)
            runs[name] = timed
        except Exception as error:  # one that fails must not take the others' numbers with it
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    timings = interleave(runs, device=device, seconds=seconds)
    eager = timings.get("eager")
    return {
        "timings": {name: asdict(t) for name, t in timings.items()},
        "noisy": [name for name, t in timings.items() if eager is not None and name != "eager" and noisy(eager, t)],
        "errors": errors,
        "failed": failed,
        "peak_bytes": peaks,
    }


def write_rows(path: Path, head: Row, rows: Iterator[Row], end: float) -> None:
    """Take rows until `time.monotonic` passes ``end``; the file is written after each of them."""
    taken: list[Row] = []
    while time.monotonic() < end and (row := next(rows, None)) is not None:
        taken.append(row)
        path.write_text(json.dumps({**head, "rows": taken}, indent=1) + "\n")
        torch.cuda.empty_cache()


def table_of_rows(
    rows: list[dict], title: Callable[[dict], str], unit: str, more: Mapping[str, Callable[[dict, float], str]]
) -> list[str]:
    """Lines of a Markdown table, one per contender; ``more``: columns made of a row and the median of a contender."""
    names = ["case", "contender", unit, *more, "of limit", "vs eager", "peak MB", "error"]
    lines = ["| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    scale, digits = _UNITS[unit]
    for row in rows:
        base = row["timings"].get("eager", {}).get("median")
        for name, t in row["timings"].items():
            median, low, high = (f"{t[key] * scale:.{digits}f}" for key in ("median", "low", "high"))
            versus = "-" if base is None or name == "eager" else f"{base / t['median']:.2f}x"
            cells = [
                title(row),
                name,
                f"{median} ({low}-{high})",
                *(column(row, t["median"]) for column in more.values()),
                f"{row['limit_seconds'] / t['median']:.0%}" if "limit_seconds" in row else "-",
                versus + (" (noisy)" if name in row["noisy"] else ""),
                f"{row['peak_bytes'][name] / 2**20:.0f}",
                f"{row['errors'][name]:.1e}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        for name, why in row["failed"].items():
            lines.append(f"| {title(row)} | {name} | failed: {why} |" + " |" * (len(names) - 3))
    return lines

"""One timer for everything: rivals take turns in one process, medians with 20th and 80th percentile, peak memory."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

# How long a GPU waits, 1 ms or so, while what is timed is queued: its work is measured, not that of Python before it.
_QUEUE_CYCLES = 2_000_000
_SAMPLE_SECONDS = 1e-2


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: median, 20th and 80th percentile, number of samples."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summary of measured seconds."""
        ordered = sorted(seconds)
        pick = lambda q: ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]  # noqa: E731
        return cls(statistics.median(ordered), pick(0.2), pick(0.8), len(ordered))


def interleave(
    contenders: dict[str, Callable[[], object]],
    *,
    device: str = "cpu",
    seconds: float = 10.0,
    least: int = 5,
    most: int = 200,
    clock: str = "wall",
) -> dict[str, Timing]:
    """Time callables in turns for ``seconds``, each ``least`` to ``most`` times, after one warm-up.

    On a CPU a sample of a short callable is the mean of several calls, 10 ms of them, so that it does not pay for the
    caches that the others have filled. ``clock``: "wall", or "cpu", the processor time of all threads, which a machine
    shared with others does not stretch.
    """
    for run in contenders.values():
        run()
    calls = dict.fromkeys(contenders, 1)
    if not device.startswith("cuda"):
        for name, run in contenders.items():
            shortest = min(_once(run, device, clock) for _ in range(3))
            calls[name] = max(1, round(_SAMPLE_SECONDS / max(shortest, 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while len(next(iter(samples.values()))) < most:
        for name, run in contenders.items():
            samples[name].append(_once(run, device, clock, calls[name]))
        if time.perf_counter() > end and len(next(iter(samples.values()))) >= least:
            break
    return {name: Timing.of(taken) for name, taken in samples.items()}


def ratios(timings: dict[str, Timing], ours: str) -> dict[str, float]:
    """How many times faster ``ours`` is than each other contender, by medians."""
    return {name: t.median / timings[ours].median for name, t in timings.items() if name != ours}


def noisy(a: Timing, b: Timing) -> bool:
    """Whether the spread of two timings overlaps so much that their ratio says nothing."""
    return max(a.low, b.low) <= min(a.high, b.high) and abs(a.median - b.median) < max(a.high - a.low, b.high - b.low)


def peak_extra_bytes(run: Callable[[], object], device: str = "cpu") -> int | None:
    """Most memory that ``run`` held beyond what was there before; None where the system does not tell."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith("linux"):
        return None
    run()  # thread pools, packed weights and caches that stay are not this run's
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what the allocator keeps for later would hide what is used again
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the resident size
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _once(run: Callable[[], object], device: str, clock: str, calls: int = 1) -> float:
    """Seconds of a call, on a CPU the mean of ``calls``."""
    if device.startswith("cuda"):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_QUEUE_CYCLES)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1e3
    read = time.process_time if clock == "cpu" else time.perf_counter
    begin = read()
    for _ in range(calls):
        run()
    return (read() - begin) / calls

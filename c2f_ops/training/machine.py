"""Where a run takes place: device, precision, threads, processes, signals and the console."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch


def find_device(name: str) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" means here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("training: device must be available, got cuda and no GPU that torch can use")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def find_precision(name: str, device: torch.device) -> str:
    """Return the precision that "auto", "fp32", "bf16" or "fp16" means there.

    "auto" is bf16 on a GPU that has it, else fp16, and fp32 on a CPU: results should not hang on which CPU it is. bf16
    is worth asking for on one with AMX: training was 1.0 to 3.0 times as fast as in float32, the more the wider the
    layers, and 2.4 times for a small ResNet (docs/selfsup.md).
    """
    on_cpu = device.type == "cpu"
    if name == "auto":
        return "fp32" if on_cpu else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if name == "fp16" and on_cpu:
        raise ValueError("training: precision must be fp32 or bf16 on a CPU, got fp16")
    return name


def make_accelerator(device: str, precision: str, *, find_unused: bool = True) -> Any:
    """Build the `accelerate.Accelerator` of a run; precision as for `find_precision`.

    ``find_unused``: whether a backward pass may leave parameters that learn without a gradient. Processes then search
    for them in every step, and torch warns where there are none.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
    except ImportError:
        raise ImportError('training: accelerate is not installed; pip install "c2f_ops[train]"') from None
    place = find_device(device)
    precision = find_precision(precision, place)
    AcceleratorState._reset_state()  # it refuses another precision than the first run of a process had
    return Accelerator(
        mixed_precision=precision.replace("fp32", "no"),
        cpu=place.type == "cpu",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=find_unused),
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),  # others wait while the first process evaluates
        ],
    )


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag; the second acts as usual."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: no signals to catch
        pass
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agree(accelerator: Any, stop: bool) -> bool:
    """Say in every process whether any of them wants to stop."""
    if accelerator.num_processes == 1:
        return stop
    if stop:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())


def say(console: Any, text: str) -> None:
    """Print a line, if there is anyone to read it."""
    if console is not None:
        console.print(text, highlight=False)

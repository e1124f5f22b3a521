"""What a run tells while it runs: lines of JSON, TensorBoard, and a progress line where there is a terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import write_atomically

LOG = "log.jsonl"


class RunLog:
    """Appends records to ``log.jsonl`` and, where it is installed, to TensorBoard.

    Args:
        run: run folder.
        step: step to go on from; later records, of a run that was killed, are dropped.
    """

    def __init__(self, run: Path, step: int = 0) -> None:
        path = run / LOG
        kept = [record for record in read_log(run) if record["step"] <= step] if step else []
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = open(path, "a", encoding="utf-8", buffering=1)
        self._board = _tensorboard(run, step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add one record; numbers, and dicts of numbers, become TensorBoard scalars."""
        self._file.write(json.dumps({"kind": kind, "step": step, **plain(values)}) + "\n")
        if self._board is None:
            return
        for key, value in values.items():
            for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                if isinstance(number, (int, float)):
                    self._board.add_scalar("/".join(filter(None, (kind, key, name))), number, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run; lines that are none, such as one that was cut off by a kill, are dropped."""
    path = run / LOG
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def plain(value: Any) -> Any:
    """Return JSON data with None for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tensorboard(run: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)


class Progress:
    """One live line on a terminal; elsewhere one line per epoch.

    Args:
        console: a rich console; None for silence.
        title: what is being done.
        cycles, done: total, and where it starts.
        images: per cycle.
    """

    def __init__(self, console: Any, title: str, cycles: int, done: int, images: int) -> None:
        self._console, self._title, self._images = console, title, images
        self._cycles, self._first, self._done = cycles, done, done
        self._start = time.monotonic()
        self._bar: Any = None
        if console is not None and console.is_terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("[bold]{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(title, total=cycles, completed=done, note="")
            self._bar.start()

    def advance(self, note: str) -> None:
        """One cycle is done; ``note`` is shown beside the bar."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=f"{self.speed()}  {note}")

    def epoch(self, text: str) -> None:
        """Print a line that stays."""
        if self._console is not None:
            share = f"{100 * self._done / self._cycles:3.0f} %"
            self._console.print(f"{self._title} {share}  {text}  [dim]{self.speed()}[/dim]", highlight=False)

    @property
    def images_per_second(self) -> float:
        """Mean throughput since the start."""
        return (self._done - self._first) * self._images / max(time.monotonic() - self._start, 1e-9)

    def speed(self) -> str:
        """Throughput and time left."""
        if self._done == self._first:
            return ""
        left = (self._cycles - self._done) * self._images / self.images_per_second
        return f"{self.images_per_second:.0f} images/s, {format_seconds(left)} left"

    def close(self) -> None:
        """Take the live line away."""
        if self._bar is not None:
            self._bar.stop()


def format_seconds(seconds: float) -> str:
    """``75`` -> ``1:15``, ``7500`` -> ``2:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Kills of a training run with SIGKILL: at any time, at any line of the code that writes, inside any write."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import c2f_ops
from c2f_ops._files import CHECKPOINTS, MODEL, newest_checkpoint, read_json
from c2f_ops.training import make_config, train

PACKAGE = Path(c2f_ops.__file__).parent
#: The code that writes what a resume needs.
WRITERS = {
    str(PACKAGE / name)
    for name in ("_files.py", *(f"training/{part}.py" for part in ("_typed", "checkpoint", "folder", "logs")))
}
WAYS = ("line", "time", "write")


def tiny_config() -> Any:
    """Generated birds of 32 px, a network of a few thousand weights, two stages, 12 steps, a checkpoint after each."""
    fields = {
        "train_images": 24, "test_images": 12, "image_size": 32, "load_size": 32, "padding": 4, "held_out": 0.0,
        "resolutions": (8, 16, 32), "backbone": "timm/resnet10t", "taps": ("layer3.0", "layer3.1", "layer3.2"),
        "backbone_options": {
            "layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8, "drop_path_rate": 0.2,
        },
        "dim": 8, "recipe": "hbp", "weights": None, "precision": "fp32", "device": "cpu", "threads": 1,
        "checkpoint_minutes": 1e-9,
    }  # fmt: skip
    return make_config("birds", fields, {"epochs": [1.0, 1.0], "batch_size": [12], "lr": [0.05], "warmup": [1]})


def digest(run: Path) -> str:
    """Hash of the tensors of a run's newest model, by name and bytes."""
    from safetensors.torch import load_file

    found = newest_checkpoint(run)
    assert found is not None
    sums = hashlib.sha256()
    for key, value in sorted(load_file(found[0] / MODEL).items()):
        sums.update(key.encode() + value.numpy().tobytes())
    return sums.hexdigest()


def measured(run: Path) -> dict[str, Any]:
    """metrics.json without the time."""
    return {key: value for key, value in read_json(run / "metrics.json").items() if key != "training_seconds"}


def in_child(work: Callable[[], None], log: Path, after: float | None = None) -> int:
    """Do ``work`` in a forked process, killed after so many seconds; return its status, -9 where it was killed.

    The parent has all libraries imported and has never trained, so a child starts at once and no thread is lost.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_each_line(do: Callable[[str], None]) -> None:
    """Call ``do`` with the name of the place before each line of the code that writes."""

    def inside(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            code = frame.f_code
            do(f"{Path(code.co_filename).relative_to(PACKAGE)}: {code.co_name}, line {frame.f_lineno}")
        return inside

    sys.settrace(lambda frame, *_: inside if frame.f_code.co_filename in WRITERS else None)


def at_each_write(do: Callable[[str, Path, bytes], None]) -> None:
    """Call ``do`` before each file is written, with its path and the bytes to come."""
    import safetensors.torch

    write_bytes, save_file = Path.write_bytes, safetensors.torch.save_file

    def written(path: Path, data: bytes) -> int:
        do(f"half of {path.name}", path, data)
        return write_bytes(path, data)

    def saved(tensors: Any, path: Path, metadata: Any = None) -> None:
        do(f"half of {Path(path).name}", path, safetensors.torch.save(tensors, metadata))
        save_file(tensors, path, metadata)

    Path.write_bytes, safetensors.torch.save_file = written, saved  # type: ignore[method-assign]


def count_points(folder: Path) -> dict[str, Any]:
    """Train a run that nobody disturbs; return its result, its seconds, and how often it passes each line and write."""
    passed: dict[str, Counter[str]] = {"line": Counter(), "write": Counter()}

    def work() -> None:
        at_each_line(lambda place: passed["line"].update([place]))
        at_each_write(lambda place, *_: passed["write"].update([place]))
        train(tiny_config(), folder / "counted")
        sys.settrace(None)
        (folder / "passed.json").write_text(json.dumps(passed))

    begun = time.monotonic()
    for job in (lambda: train(tiny_config(), folder / "whole") and None, work):
        if in_child(job, folder / "log"):
            raise RuntimeError((folder / "log").read_text())
    seconds = (time.monotonic() - begun) / 2
    found = {"digest": digest(folder / "whole"), "metrics": measured(folder / "whole"), "time": seconds}
    return {**found, **read_json(folder / "passed.json")}


def choose(whole: dict[str, Any], way: str, rng: random.Random) -> Any:
    """Return seconds, or a place and how often it is passed up to the kill: all places alike."""
    if way == "time":
        return rng.uniform(0, whole["time"])
    place = rng.choice(sorted(whole[way]))
    return place, rng.randint(1, whole[way][place])


def attempt(run: Path, way: str, point: Any, log: Path) -> tuple[int, str]:
    """Start or resume ``run`` and kill it at a point, if there is one; return its status, and where the kill fell."""
    where = log.with_name("where")
    where.unlink(missing_ok=True)

    def work() -> None:
        passed = 0

        def kill_there(place: str, path: Path | None = None, data: bytes = b"") -> None:
            nonlocal passed
            passed += place == point[0]
            if passed == point[1]:
                sys.settrace(None)
                put(where, place.partition(", line")[0].encode())
                if path is not None:
                    put(path, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        if point is not None and way != "time":
            (at_each_line if way == "line" else at_each_write)(kill_there)
        train(tiny_config(), run, resume=(run / "config.json").is_file())

    status = in_child(work, log, point if way == "time" else None)
    if status == 0 or way != "time":
        return status, where.read_text() if where.is_file() else ""
    partial = next(iter([*run.glob("*.partial"), *run.glob(f"{CHECKPOINTS}/partial/*")]), None)
    return status, "outside a write" if partial is None else f"beside {partial.name}"


def put(path: Path, data: bytes) -> None:
    """Write bytes without the functions that are watched."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    os.close(descriptor)


def run_kills(folder: Path, count: int, seed: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Kill runs ``count`` times, several times each, until each has come to its end; return a record per kill."""
    rng, records, number, log = random.Random(seed), [], 0, folder / "log"
    whole = count_points(folder)
    while len(records) < count:
        number += 1
        run, mine = folder / f"run{number}", []
        wanted = min(rng.randint(1, 4), count - len(records))
        while True:
            step = newest_step(run)
            way = WAYS[(len(records) + len(mine)) % len(WAYS)]
            status, place = attempt(run, way, choose(whole, way, rng) if len(mine) < wanted else None, log)
            if status == 0:
                break
            if status != -signal.SIGKILL:
                raise RuntimeError(f"robustness: run must end or be killed, got status {status}: {log.read_text()}")
            after = newest_step(run)
            if after < step:
                raise RuntimeError(f"robustness: checkpoints must stay, got {after} steps after {step} in {run}")
            phase = "first" if after < 0 else "resume" if after == step else "training"
            mine.append({"run": number, "way": way, "where": place, "phase": phase, "step": after})
        same = digest(run) == whole["digest"] and measured(run) == whole["metrics"]
        records += [{**record, "same": same} for record in mine]
        say(f"kills: {len(records)} of {count}; run {number} {'ends as the undisturbed one' if same else 'DIFFERS'}")
        shutil.rmtree(run)
    return records


def newest_step(run: Path) -> int:
    """Steps in the newest intact checkpoint, -1 without one; a kill must never damage the newest."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = newest_checkpoint(run)
    return -1 if found is None else int(found[1]["step"])


def warm_up() -> None:
    """Import what the children need."""
    import accelerate
    import matplotlib
    import safetensors.torch
    import timm
    import torchvision  # noqa: F401

    matplotlib.use("Agg")
    import matplotlib.pyplot

    torch.set_num_threads(1)
    assert accelerate and timm and safetensors.torch

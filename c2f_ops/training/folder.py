"""What every run folder holds, whatever was trained: its config, and what was measured."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .._files import Damaged, read_json, read_signed, write_json
from ._typed import ConfigT
from .logs import plain

CONFIG, HIERARCHY, METRICS = "config.json", "hierarchy.json", "metrics.json"


def read_config(kind: type[ConfigT], run: Path) -> ConfigT:
    """Read the config of a run folder.

    Raises:
        FileNotFoundError: Not a run folder.
        ValueError: The run is of another kind.
    """
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(f"run: folder must hold {CONFIG}, got {run}")
    return kind.from_json(run / CONFIG)


def config_signature(run: Path) -> str | None:
    """Return the hash that config.json of a run gives itself; None where there is none, or no intact file."""
    try:
        return read_signed(run / CONFIG, required=False)[1]
    except Damaged:
        return None


def settled(config: ConfigT, run: Path, *, resume: bool) -> ConfigT:
    """Return the config that counts: with ``resume`` that of the folder, or else ``config``, for a new folder.

    Raises:
        FileNotFoundError: There is no run to resume.
        FileExistsError: The folder holds a run and ``resume`` is False.
    """
    if resume:
        return read_config(type(config), run)
    if (run / CONFIG).exists():
        raise FileExistsError(f"run: folder must be new, or be resumed, got {run}")
    return config


def write_metrics(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write metrics.json, keeping what an earlier one says beyond these; return its content."""
    path, before = run / METRICS, None
    if path.is_file():
        try:
            before = read_json(path)
        except Damaged as error:
            warnings.warn(f"run: {error}; it is written anew", stacklevel=2)
    content = {**(before if isinstance(before, dict) else {}), **plain(metrics)}
    write_json(path, content)
    return content

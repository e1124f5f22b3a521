"""What commands share: options by name, what was given, the console, run folders."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

DATA, MODEL, TRAINING, MACHINE = "Data", "Model", "Training", "Machine and files"


def option(panel: str, text: str, *names: str) -> Any:
    """An option in a panel of the help, its default unsaid."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


# Options that several commands have; None leaves a setting as it is.
Root = Annotated[Path | None, option(DATA, "Folder of the data.")]
TrainImages = Annotated[int | None, option(DATA, "Number of training images.")]
TestImages = Annotated[int | None, option(DATA, "Number of test images.")]
Backbone = Annotated[
    str | None, option(MODEL, "cifar_resnet18, cifar_resnet_small, torchvision/<model> or timm/<model>.")
]
Seed = Annotated[int | None, option(TRAINING, "Seed of everything random in training.")]
Precision = Annotated[str | None, option(MACHINE, "auto, fp32, bf16 or fp16.")]
Device = Annotated[str | None, option(MACHINE, "auto, cpu or cuda.")]
OnDevice = Annotated[str, option(MACHINE, "auto, cpu or cuda.")]
Threads = Annotated[int | None, option(MACHINE, "CPU threads.")]
CheckpointMinutes = Annotated[float | None, option(MACHINE, "Time between checkpoints.")]
Resume = Annotated[Path | None, option(MACHINE, "Run folder to go on with, options and all.")]
AsJson = Annotated[bool, option(MACHINE, "Print JSON.", "--json")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, paths as words."""
    return {key: str(v) if isinstance(v, Path) else v for key, v in options.items() if v is not None}


def listed(name: str, text: str, kind: type) -> list[Any]:
    """Split an option at its commas."""
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        what = {int: "whole numbers", float: "numbers"}.get(kind, "words")
        raise ValueError(f"--{name.replace('_', '-')} must be {what} separated by commas, got {text!r}") from None


def json_object(name: str, text: str | None) -> dict[str, Any] | None:
    """Parse an option that is a JSON object."""
    try:
        value = None if text is None else json.loads(text)
    except ValueError:
        value = text
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"--{name} must be a JSON object, got {text!r}")
    return value


def make_console(*, stderr: bool = False) -> Console:
    """Say things once: in the main process only. Warnings become plain notes.

    ``stderr``: on the error stream, as they must not mix with JSON.
    """
    console = Console(quiet=os.environ.get("RANK", "0") != "0", soft_wrap=True, stderr=stderr)

    def note(message: Warning | str, *_: Any) -> None:
        console.print(f"note: {message}", style="dim", highlight=False, markup=False)

    warnings.showwarning = note  # type: ignore[assignment]
    return console


def new_folder(name: str) -> Path:
    """Return ``runs/name``, or the first of ``name-2``, ``name-3``, ... that does not exist."""
    number, parent = 1, Path("runs")
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


@contextlib.contextmanager
def stoppable(console: Console, command: str, run: Path) -> Iterator[None]:
    """Around a training: where a signal stops it, say how to go on, and exit with 130."""
    from ..training import Interrupted

    try:
        yield
    except Interrupted:
        console.print(f"stopped; the checkpoint is written. Go on with:  c2f {command} --resume {run}", highlight=False)
        raise typer.Exit(130) from None

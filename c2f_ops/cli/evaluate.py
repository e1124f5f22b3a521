"""`c2f evaluate`: what a run can do, as a table, a page, JSON and the answers for every image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ._common import DATA, MACHINE, AsJson, OnDevice, listed, make_console, option


def evaluate_run(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    root: Annotated[Path | None, option(DATA, "Folder of the data, where it has moved.")] = None,
    split: Annotated[str, option(DATA, "test or train.")] = "test",
    grid: Annotated[
        str, option(DATA, "Sides to measure at besides those of the run: default (up to 16), none, or 128,96,64.")
    ] = "default",
    best: Annotated[bool, option(DATA, "The model that was best on held-out images.", "--best")] = False,
    html: Annotated[bool, typer.Option(help="Write the page.", rich_help_panel=MACHINE)] = True,
    out: Annotated[Path | None, option(MACHINE, "Folder to write; default RUN/evaluation.")] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a run: every level at every resolution; index.html, metrics.json and predictions.npz say the rest."""
    from .._files import write_json
    from ..training import evaluate, load_run
    from ..training.calibrate import read_calibration
    from ..training.grid import default_grid
    from ..training.logs import plain
    from ..training.page import write_page
    from ..training.run import BEST, load_split

    console = None if as_json else make_console()
    model, config, hierarchy = load_run(run, device, best=best)
    config = config if root is None else replace(config, root=str(root))
    if grid in ("default", "none"):
        more = default_grid(config.image_size) if grid == "default" else ()
    else:
        more = tuple(listed("grid", grid, int))
        if not all(1 <= side <= config.image_size for side in more):
            raise ValueError(f"--grid must be sides in 1..{config.image_size}, the image_size of the run, got {grid}")
    dataset = load_split(config, split)
    if dataset.hierarchy != hierarchy:
        raise ValueError(f"evaluate: data must have the hierarchy of the run, {hierarchy!r}, got {dataset.hierarchy!r}")
    images = dataset.stacked(config.load_size)
    calibration = read_calibration(run / BEST if best else run, hierarchy, config)
    metrics = evaluate(
        model, images, dataset.labels, hierarchy, config, resolutions=[*config.measured_sides, *more],
        precision=config.precision, calibration=calibration if calibration.images else None, keep=True, console=console,
    )  # fmt: skip
    outputs = metrics.pop("outputs")
    metrics = plain({"data": config.data, "split": split, "best": best, **metrics, "corrupt": {split: dataset.corrupt}})
    folder = out or run / "-".join(["evaluation", *["best"] * best, *[split] * (split != "test")])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics)
    outputs.save(folder / "predictions.npz")
    if html:
        title = f"{config.data}: {run.resolve().name}"
        write_page(metrics, outputs, images, hierarchy, config, folder / "index.html", title=title)
    if console is None:
        print(json.dumps(metrics, indent=2))
    else:
        show(console, metrics, f"{config.data}, {metrics['images']} {split} images")
        console.print(f"written: {folder / 'index.html' if html else folder}", highlight=False)


def show(console: Console, metrics: dict[str, Any], title: str) -> None:
    """Print the table of levels and resolutions."""
    from ..training.report import format_table

    console.print()
    console.print(format_table(metrics, title))

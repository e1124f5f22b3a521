"""`c2f predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import DATA, AsJson, OnDevice, listed, make_console, option

ANSWER, APPROACH = "Answer", "Approach"


def predict_images(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files and folders.", show_default=False)],
    mode: Annotated[str, option(ANSWER, "path (default), best_leaf, top_down or independent.")] = "path",
    target: Annotated[float, option(ANSWER, "Precision: 0.5, 0.6, 0.7, 0.8, 0.9, 0.95 (default), 0.99.")] = 0.95,
    resolution: Annotated[
        int | None,
        option(DATA, "Side to degrade the images to; default that of what the network sees, in their own pixels."),
    ] = None,
    approach: Annotated[
        bool, option(APPROACH, "Show one image at rising sides, as if it came closer.", "--approach")
    ] = False,
    sides: Annotated[str | None, option(APPROACH, "Its sides, comma-separated; default a grid.")] = None,
    out: Annotated[Path | None, option(APPROACH, "PNG file to draw the approach to.")] = None,
    best: Annotated[bool, option(ANSWER, "The model that was best on held-out images.", "--best")] = False,
    frames: Annotated[
        bool, option(APPROACH, "Whether the picture shows the image itself.", "--frames/--no-frames")
    ] = True,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Name what is in images, as deep in the tree as the held-out images allow."""
    from ..training import load_run
    from ..training.calibrate import read_calibration
    from ..training.run import BEST

    if not approach and (sides is not None or out is not None):
        raise ValueError("--sides and --out must come with --approach, got them without")
    if approach and (len(images) != 1 or mode != "path" or resolution is not None):
        raise ValueError(
            "--approach must come with one image, and with neither --mode nor --resolution, "
            f"got {len(images)} images, mode {mode}, resolution {resolution}"
        )
    if not frames and out is None:
        raise ValueError("--no-frames must come with --out, got it without")
    console = make_console(stderr=as_json)
    model, config, hierarchy = load_run(run, device, best=best)
    calibration = read_calibration(run / BEST if best else run, hierarchy, config)
    if not calibration.images and not as_json:
        console.print(
            "note: no images were held out from this run, so nothing is calibrated and every level is answered",
            style="dim",
        )  # fmt: skip
    if approach:
        from ..training.approach import approach as run_approach
        from ..training.approach_picture import plot_approach
        from ..training.predict import read_image

        chosen = None if sides is None else listed("sides", sides, int)
        shown = run_approach(
            model, read_image(images[0]), hierarchy, config, calibration, sides=chosen, target=target
        )  # fmt: skip
        if out is not None:
            plot_approach(shown, out, frames=frames, title=images[0].name if frames else "")
        if as_json:
            print(json.dumps({"image": str(images[0]), **shown.to_dict()}, indent=2))
            return
        console.print(f"{images[0]}", highlight=False, markup=False)
        for side, answer in zip(shown.sides, shown.answers, strict=True):
            _say(console, f"{side:5d} px  ", answer.to_dict())
        return
    from ..training.predict import predict_paths

    results, unreadable = predict_paths(
        model, images, hierarchy, config, calibration, mode=mode, target=target, resolution=resolution
    )  # fmt: skip
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            console.print(f"{result['image']}  {result['resolution']} px", highlight=False, markup=False)
            for level, guess in result["levels"].items():
                console.print(
                    f"  {level:10s} {guess['probability']:6.1%}  {guess['name']}", highlight=False, markup=False
                )
            if result["answer"] is not None:
                _say(console, "  answer:    ", result["answer"])
    for file, reason in unreadable:
        typer.echo(f"unreadable: {file}: {reason}", err=True)
    if unreadable:
        typer.echo(f"{len(unreadable)} of {len(unreadable) + len(results)} files were unreadable", err=True)
    if not results:
        raise typer.Exit(1)


def _say(console: Any, start: str, answer: dict[str, Any]) -> None:
    path = " > ".join(answer["path"]) or "unknown"
    probability = f"  {answer['posterior']:.2f}" if answer["path"] else ""
    reason = "" if answer["reason"] == "finest level" else f"  ({answer['reason']})"
    console.print(f"{start}{path}{probability}{reason}", highlight=False, markup=False)

"""The commands of `c2f`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .discover import app as discover_app
from .falcon import train_falcon

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Coarse-to-fine visual recognition.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train a model.")
app.add_typer(train_app, name="train")
app.add_typer(discover_app, name="discover")
train_app.command("falcon")(train_falcon)
bench_app = typer.Typer(no_args_is_help=True, help="Measure an op against eager torch and torch.compile.")
app.add_typer(bench_app, name="bench")

_DATA, _MODEL, _TRAINING, _MACHINE = "Data", "Model", "Training", "Machine and files"


def _option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


@app.callback()
def _common(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Coarse-to-fine visual recognition."""


@train_app.command("mlph")
def train_mlph(
    data: Annotated[str, _option(_DATA, "birds (generated), cub100, cub, cifar100 or folder.")] = "birds",
    root: Annotated[Path | None, _option(_DATA, "Folder of the data.")] = None,
    train_images: Annotated[int | None, _option(_DATA, "Number of training images.")] = None,
    test_images: Annotated[int | None, _option(_DATA, "Number of test images.")] = None,
    held_out: Annotated[float | None, _option(_DATA, "Share of the training images measured after each epoch.")] = None,
    image_size: Annotated[int | None, _option(_DATA, "Side of what the network sees.")] = None,
    load_size: Annotated[int | None, _option(_DATA, "Side of the images in memory, cropped to image-size.")] = None,
    resolutions: Annotated[str | None, _option(_DATA, "Side per level, fine to coarse: 128,48,24.")] = None,
    augment: Annotated[str | None, _option(_DATA, "crop or resized_crop.")] = None,
    corrupt: Annotated[str | None, _option(_DATA, "What to do with broken images: raise, skip or substitute.")] = None,
    backbone: Annotated[str | None, _option(_MODEL, "torchvision/<model> or timm/<model>.")] = None,
    taps: Annotated[str | None, _option(_MODEL, "One to four module names, comma-separated.")] = None,
    weights: Annotated[str | None, _option(_MODEL, "default, a name the library knows, or a file.")] = None,
    backbone_options: Annotated[str | None, _option(_MODEL, 'JSON, such as {"output_stride": 16}.')] = None,
    unequal: Annotated[str | None, _option(_MODEL, "Taps of different sizes: error or pool.")] = None,
    dim: Annotated[int | None, _option(_MODEL, "Projection width d.")] = None,
    recipe: Annotated[str | None, _option(_TRAINING, "scratch (one stage) or hbp (two, pretrained).")] = None,
    mode: Annotated[str | None, _option(_TRAINING, "alternating or joint.")] = None,
    epochs: Annotated[str | None, _option(_TRAINING, "Epochs, one number or one per stage (10,20).")] = None,
    batch_size: Annotated[str | None, _option(_TRAINING, "Images per resolution and step, likewise.")] = None,
    lr: Annotated[str | None, _option(_TRAINING, "Learning rate, likewise.")] = None,
    head_lr: Annotated[str | None, _option(_TRAINING, "Factor on it for projections and classifiers.")] = None,
    weight_decay: Annotated[str | None, _option(_TRAINING, "Weight decay, likewise.")] = None,
    batch_norm: Annotated[str | None, _option(_TRAINING, "Statistics: frozen, shared or per_resolution.")] = None,
    label_smoothing: Annotated[float | None, _option(_TRAINING, "Label smoothing.")] = None,
    same_images: Annotated[bool, _option(_TRAINING, "The same images at all resolutions.", "--same-images")] = False,
    seed: Annotated[int | None, _option(_TRAINING, "Seed of everything random in training.")] = None,
    precision: Annotated[str | None, _option(_MACHINE, "auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str | None, _option(_MACHINE, "auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, _option(_MACHINE, "CPU threads; the small presets use one.")] = None,
    checkpoint_minutes: Annotated[float | None, _option(_MACHINE, "Time between checkpoints.")] = None,
    out: Annotated[Path | None, _option(_MACHINE, "Run folder to write; default runs/<data>, numbered.")] = None,
    resume: Annotated[Path | None, _option(_MACHINE, "Run folder to go on with, options and all.")] = None,
) -> None:  # fmt: skip
    """Train MLPH: one backbone, one multilinear pooling, one classifier per level, each at its resolution.

    Without options: 40 species of generated birds, a small network, a few minutes on two CPU cores.
    """
    from ..training import Interrupted, make_config, train
    from ..training.config import Config

    console = _console()
    if resume is not None:
        run, config = resume, Config()
    else:
        changes = {
            "root": None if root is None else str(root), "train_images": train_images, "test_images": test_images,
            "held_out": held_out, "image_size": image_size, "load_size": load_size, "augment": augment,
            "corrupt": corrupt,
            "resolutions": None if resolutions is None else _list("resolutions", resolutions, int)[::-1],
            "backbone": backbone, "taps": None if taps is None else taps.split(","), "weights": weights, "dim": dim,
            "backbone_options": _json(backbone_options, "backbone-options"), "unequal": unequal, "recipe": recipe,
            "mode": mode, "label_smoothing": label_smoothing, "same_images": same_images or None, "seed": seed,
            "precision": precision, "device": device, "threads": threads, "checkpoint_minutes": checkpoint_minutes,
        }  # fmt: skip
        per_stage = {
            "epochs": (epochs, float), "batch_size": (batch_size, int), "lr": (lr, float), "head_lr": (head_lr, float),
            "weight_decay": (weight_decay, float), "batch_norm": (batch_norm, str),
        }  # fmt: skip
        given = {key: _list(key, text, kind) for key, (text, kind) in per_stage.items() if text is not None}
        config = make_config(data, changes, given)
        run = out if out is not None else _new_folder(Path("runs"), data)
    try:
        metrics = train(config, run, resume=resume is not None, console=console)
    except Interrupted:
        console.print(
            f"stopped; the checkpoint is written. Go on with:  c2f train mlph --resume {run}", highlight=False
        )
        raise typer.Exit(130) from None
    if metrics is not None:
        _show(console, metrics, f"{metrics['data']}, {metrics['images']} test images")
        console.print(f"run folder: {run}", highlight=False)


@app.command("evaluate")
def evaluate_run(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    root: Annotated[Path | None, _option(_DATA, "Folder of the data, where it has moved.")] = None,
    split: Annotated[str, _option(_DATA, "test or train.")] = "test",
    resolutions: Annotated[
        str | None, _option(_DATA, "Other sides to measure at, comma-separated; prints only.")
    ] = None,
    device: Annotated[str, _option(_MACHINE, "auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, _option(_MACHINE, "Print JSON.", "--json")] = False,
) -> None:
    """Measure a run: every level at every resolution. On the test split, metrics.json is written anew."""
    from ..training import evaluate, load_run
    from ..training.run import load_split, write_metrics

    model, config, hierarchy = load_run(run, device)
    config = config if root is None else replace(config, root=str(root))
    dataset = load_split(config, split)
    if dataset.hierarchy != hierarchy:
        raise ValueError(f"evaluate: data must have the hierarchy of the run, {hierarchy!r}, got {dataset.hierarchy!r}")
    sides = None if resolutions is None else _list("resolutions", resolutions, int)
    metrics = evaluate(
        model, dataset.stacked(config.load_size), dataset.labels, hierarchy, config, resolutions=sides,
        precision=config.precision,
    )  # fmt: skip
    metrics = {"data": config.data, "split": split, **metrics}
    if split == "test" and sides is None:
        metrics = write_metrics(run, metrics)
    if as_json:
        print(json.dumps(metrics, indent=2))
    else:
        _show(_console(), metrics, f"{config.data}, {metrics['images']} {split} images")


@app.command("predict")
def predict_images(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    resolution: Annotated[
        int | None, _option(_DATA, "Side that the images count as; default their shorter side.")
    ] = None,
    device: Annotated[str, _option(_MACHINE, "auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, _option(_MACHINE, "Print JSON.", "--json")] = False,
) -> None:
    """Name what is in images: the answer of each level with its probability, coarse to fine."""
    from ..training import load_run
    from ..training.predict import predict_files

    model, config, hierarchy = load_run(run, device)
    answers = predict_files(model, images, hierarchy, config, resolution=resolution)
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    console = _console()
    for answer in answers:
        own = answer["trained_level"]
        console.print(f"{answer['image']}  [dim]{answer['resolution']} px[/dim]", highlight=False)
        for level, guess in answer["levels"].items():
            mark = "  [dim]<- trained for this resolution[/dim]" if level == own else ""
            console.print(f"  {level:10s} {guess['probability']:6.1%}  {guess['name']}{mark}", highlight=False)


@bench_app.command("pool")
def bench_pool(
    cases: Annotated[str, _option(_DATA, "vgg, r50-layer3, r50-layer4, vit-b14, small, tiny.")] = "vgg",
    interactions: Annotated[str, _option(_DATA, "mlp, hbp, fbp, trilinear.")] = "mlp",
    dtypes: Annotated[str, _option(_DATA, "float32, bfloat16, float16.")] = "float32,bfloat16",
    directions: Annotated[str, _option(_DATA, "forward, both (forward and backward).")] = "forward,both",
    batch: Annotated[int | None, _option(_DATA, "Batch size instead of the case's own.")] = None,
    backend: Annotated[str, _option(_MACHINE, "auto, reference, cpu, triton or cuda.")] = "auto",
    algo: Annotated[str, _option(_MACHINE, "auto, fused, chunked or gram.")] = "auto",
    device: Annotated[str, _option(_MACHINE, "auto, cpu or cuda.")] = "auto",
    seconds: Annotated[float, _option(_MACHINE, "Time for each row.")] = 20.0,
    compiled: Annotated[bool, _option(_MACHINE, "Measure torch.compile too.", "--compile/--no-compile")] = True,
    out: Annotated[Path | None, _option(_MACHINE, "JSON file to write; the table goes beside it.")] = None,
) -> None:  # fmt: skip
    """Time multilinear_pool on real shapes, interleaved with its rivals, with limits and peak memory.

    Several cases, types and so on are separated by commas.
    """
    import torch

    from ..bench.cases import CASES, INTERACTIONS
    from ..bench.report import DTYPES, run_suite, table, write_record

    given = {"cases": cases, "interactions": interactions, "dtypes": dtypes, "directions": directions}
    chosen = {name: _list(name, text, str) for name, text in given.items()}
    known: dict[str, Collection[str]] = {
        "cases": CASES,
        "interactions": INTERACTIONS,
        "dtypes": DTYPES,
        "directions": ("forward", "both"),
    }
    for name, values in chosen.items():
        for value in values:
            if value not in known[name]:
                raise ValueError(f"bench: --{name} must be among {', '.join(known[name])}, got {value!r}")
    record = run_suite(
        chosen["cases"],
        interactions=chosen["interactions"],
        dtypes=chosen["dtypes"],
        device=("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device,
        directions=[value == "both" for value in chosen["directions"]],
        backend=backend,
        algo=algo,
        seconds=seconds,
        compiled=compiled,
        batch=batch,
    )
    print(table(record))
    if out is not None:
        write_record(record, out)


@bench_app.command("falcon-loss")
def bench_falcon_loss(
    cases: Annotated[str, _option(_DATA, "tiered, cifar, entity13, pbmc, large.")] = "tiered,cifar,entity13,pbmc,large",
    dtypes: Annotated[str, _option(_DATA, "float32, bfloat16, float16.")] = "float32,bfloat16",
    backend: Annotated[str, _option(_MACHINE, "auto, reference, cpu, triton or cuda.")] = "auto",
    device: Annotated[str, _option(_MACHINE, "auto, cpu or cuda.")] = "auto",
    seconds: Annotated[float, _option(_MACHINE, "Time for each row.")] = 10.0,
    compiled: Annotated[bool, _option(_MACHINE, "Measure torch.compile too.", "--compile/--no-compile")] = True,
    clock: Annotated[str, _option(_MACHINE, "wall, or cpu: processor time of all threads.")] = "wall",
    out: Annotated[Path | None, _option(_MACHINE, "JSON file to write; the table goes beside it.")] = None,
) -> None:  # fmt: skip
    """Time falcon_loss with its gradient against the dense masked form, interleaved, with limits and peak memory."""
    import torch

    from ..bench.bench_falcon_loss import CASES, run_suite, table, write_record
    from ..bench.report import DTYPES

    names, kinds = _list("cases", cases, str), _list("dtypes", dtypes, str)
    for option, values, known in (
        ("cases", names, CASES),
        ("dtypes", kinds, DTYPES),
        ("clock", [clock], ("wall", "cpu")),
    ):
        for value in values:
            if value not in known:
                raise ValueError(f"bench: --{option} must be among {', '.join(known)}, got {value!r}")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    record = run_suite(
        names, dtypes=kinds, device=device, backend=backend, seconds=seconds, compiled=compiled, clock=clock
    )
    print(table(record))
    if out is not None:
        write_record(record, out)


@app.command("info")
def print_info() -> None:
    """Show what was built, what this machine has and which backends work."""
    from .._info import format_info, info

    print(format_info(info()))


def _console() -> Console:
    """Say things once: in the main process only. Warnings become plain notes."""
    console = Console(quiet=os.environ.get("RANK", "0") != "0", soft_wrap=True)

    def note(message: Warning | str, *_: Any) -> None:
        console.print(f"note: {message}", style="dim", highlight=False, markup=False)

    warnings.showwarning = note  # type: ignore[assignment]
    return console


def _show(console: Console, metrics: dict[str, Any], title: str) -> None:
    from ..training.report import format_table

    console.print()
    console.print(format_table(metrics, title))


def _new_folder(parent: Path, name: str) -> Path:
    """Return ``parent/name``, or the first of ``name-2``, ``name-3``, ... that does not exist."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _list(name: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        what = {int: "whole numbers", float: "numbers"}.get(kind, "words")
        raise ValueError(f"--{name.replace('_', '-')} must be {what} separated by commas, got {text!r}") from None


def _json(text: str | None, name: str) -> dict[str, Any] | None:
    try:
        value = None if text is None else json.loads(text)
    except ValueError:
        value = text
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"--{name} must be a JSON object, got {text!r}")
    return value

"""A run and its folder: data, model, training with resume, evaluation, figures."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import LabeledImages, load_dataset
from ..hierarchy import Hierarchy
from ..models import MLPH
from .calibrate import CALIBRATION, calibrate_run
from .checkpoint import find_checkpoint, load_model, load_optimizer, save_checkpoint
from .config import Config
from .evaluate import evaluate, predict_logits
from .folder import CONFIG, HIERARCHY, read_config, settled, write_metrics
from .logs import RunLog, plain
from .loop import Hooks, Interrupted, Position, Trainer
from .machine import cpu_threads, find_device, make_accelerator, say, stop_signals
from .report import plot_contact_sheet, plot_curves
from .sampler import stratified_split

CURVES, SHEET, BEST = "curves.png", "contact_sheet.png", "best"


def build_model(config: Config, hierarchy: Hierarchy, *, weights: bool = True) -> MLPH:
    """Build the model of a config; without ``weights`` nothing is fetched, for models that are loaded right after."""
    return MLPH(
        hierarchy,
        backbone=config.backbone,
        taps=config.taps,
        dim=config.dim,
        interactions=config.interactions,
        weights=config.weights if weights else None,
        backbone_options=config.backbone_options,
        image_size=config.image_size,
        unequal=config.unequal,
        resolution_statistics=config.resolution_statistics,
        sqrt_mode=config.sqrt_mode,
        sqrt_eps=config.sqrt_eps,
        norm_scope=config.norm_scope,
        pooling=config.pooling,
    )


def load_split(config: Config, split: str) -> LabeledImages:
    """Load the images of a run, with the labels of its levels."""
    dataset = load_dataset(
        config.data,
        root=config.root,
        split=split,
        size=config.load_size,
        seed=config.data_seed,
        n=config.train_images if split == "train" else config.test_images,
        corrupt=config.corrupt,
        resize_mode=config.resize_mode,
    )
    if config.levels is not None:
        dataset.hierarchy, columns = dataset.hierarchy.select(config.levels)
        dataset.labels = dataset.labels[:, list(columns)]
    return dataset


def load_run(run: Path, device: str = "auto", *, best: bool = False) -> tuple[MLPH, Config, Hierarchy]:
    """Load the newest model of a run folder, or the ``best`` on the held-out images.

    Raises:
        FileNotFoundError: not a run folder, or no such checkpoint in it.
        ValueError: checkpoint and hierarchy do not belong together.
    """
    config, hierarchy = read_run(run)
    folder, _ = find_checkpoint(run / BEST if best else run, hierarchy)
    model = build_model(config, hierarchy, weights=False)
    load_model(folder, model, hierarchy)
    return model.to(find_device(device)).to(memory_format=torch.channels_last).eval(), config, hierarchy


def read_run(run: Path) -> tuple[Config, Hierarchy]:
    """Read config and hierarchy of a run folder."""
    config = read_config(Config, run)
    if not (run / HIERARCHY).is_file():
        raise FileNotFoundError(f"run: folder must hold {HIERARCHY}, got {run}")
    return config, Hierarchy.from_json(run / HIERARCHY)


def train(config: Config, run: Path, *, resume: bool = False, console: Any = None) -> dict[str, Any] | None:
    """Train a run to its end, evaluate it on the test split and draw its figures.

    Args:
        config: of the run; with ``resume`` that of the folder counts.
        run: folder to write; must be new, or hold the run to resume.
        resume: go on from the newest checkpoint.
        console: a rich console for progress; None for silence.

    Returns:
        What is in metrics.json, in the main process; None in others.

    Raises:
        Interrupted: stopped by SIGINT or SIGTERM after a checkpoint.
        FileExistsError: the folder holds a run and ``resume`` is False.
    """
    config = settled(config, run, resume=resume)
    hierarchy = read_run(run)[1] if resume else None
    with cpu_threads(config.threads):
        return _train(config, run, hierarchy, console)


def _train(config: Config, run: Path, hierarchy: Hierarchy | None, console: Any) -> dict[str, Any] | None:
    """Train a new run or, given its hierarchy, go on with one."""
    resume = hierarchy is not None
    accelerator = make_accelerator(config.device, config.precision, find_unused=config.has_idle_heads)
    main = accelerator.is_main_process
    config = replace(config, precision=accelerator.mixed_precision.replace("no", "fp32"))
    console = console if main else None

    say(console, f"reading {config.data} ...")
    dataset = load_split(config, "train")
    if hierarchy is not None and dataset.hierarchy != hierarchy:
        raise ValueError(
            f"run: hierarchy of {config.data} must be the one of {run} with sha256 {hierarchy.sha256[:12]}, "
            f"got {dataset.hierarchy.sha256[:12]}"
        )
    hierarchy = dataset.hierarchy
    config.check_levels(hierarchy.levels)
    images, labels = dataset.stacked(config.load_size), dataset.labels
    kept, held = stratified_split(labels[:, -1], config.held_out, config.seed)

    found = None
    if resume:
        with contextlib.suppress(FileNotFoundError):  # killed before the first checkpoint: start anew
            found = find_checkpoint(run, hierarchy)
    torch.manual_seed(config.seed)
    model = build_model(config, hierarchy, weights=found is None)
    position, restore = Position(), None
    if found is not None:
        folder, state = found
        load_model(folder, model, hierarchy)
        position = Position(**state["position"])

        def restore(optimizer: torch.optim.Optimizer) -> None:
            load_optimizer(folder, model, optimizer)
            if accelerator.scaler is not None and state["scaler"] is not None:
                accelerator.scaler.load_state_dict(state["scaler"])

    accelerator.wait_for_everyone()  # all have looked at the folder before one writes to it
    if main:
        run.mkdir(parents=True, exist_ok=True)
        hierarchy.to_json(run / HIERARCHY)
        config.to_json(run / CONFIG)
    log = RunLog(run, position.step) if main else None
    trainer = Trainer(model, config, images[kept], labels[kept], hierarchy, accelerator, position)
    say(
        console,
        f"{len(kept)} images to train on, {len(held)} held out; {describe(model, config)} on {accelerator.device}",
    )
    if dataset.corrupt:
        say(console, f"{len(dataset.corrupt)} unreadable images (corrupt: {config.corrupt})")
    live = any(stage.trained == "all" and stage.batch_norm != "frozen" for stage in config.stages)
    if live and accelerator.num_processes > 1:
        say(console, "live batch norm sees the images of one process: the weights depend on the number of processes")

    def checkpoint(trainer: Trainer) -> None:
        scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
        state = {"position": trainer.position.to_dict(), "seed": config.seed, "scaler": scaler}
        running = trainer.position.stage < len(config.stages)
        optimizer = trainer.optimizer.optimizer if running else None  # a finished run has no use for it
        save_checkpoint(run, trainer.position.step, trainer.model, optimizer, state, hierarchy.sha256)

    def measure(trainer: Trainer) -> dict[str, float]:
        measured = own_accuracy(trainer.model, images[held], labels[held], hierarchy, config)
        known = [value for value in measured.values() if math.isfinite(value)]
        mean, best = statistics.fmean(known or [0.0]), best_so_far(run, hierarchy)
        if best is None or mean > best["mean"]:
            state = plain({"held_out": measured, "mean": mean})
            save_checkpoint(run / BEST, trainer.position.step, trainer.model, None, state, hierarchy.sha256)
        return measured

    with stop_signals() as should_stop:
        try:
            trainer.run(Hooks(log, console, restore, checkpoint, measure if len(held) else None, should_stop))
        finally:
            if log is not None:
                log.close()
    if main:
        checkpoint(trainer)
        if len(held):
            say(console, "calibrating on the held-out images ...")
            _calibrate(run, model, images[held], labels[held], hierarchy, config)
    metrics = finish(run, model, config, hierarchy, position.seconds, dataset.corrupt, console) if main else None
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


def _calibrate(run: Path, model: MLPH, images: Tensor, labels: Tensor, hierarchy: Hierarchy, config: Config) -> None:
    """Write the calibrations of the last model and, unless it was lost since, of the best."""
    calibration = calibrate_run(model, images, labels, hierarchy, config)
    calibration.to_json(run / CALIBRATION)
    best = best_so_far(run, hierarchy)
    if best is None:
        return
    if find_checkpoint(run, hierarchy)[1]["step"] != best["step"]:
        best_model = load_run(run, config.device, best=True)[0]
        calibration = calibrate_run(best_model, images, labels, hierarchy, config)
    calibration.to_json(run / BEST / CALIBRATION)


def finish(
    run: Path,
    model: MLPH,
    config: Config,
    hierarchy: Hierarchy,
    seconds: float,
    corrupt: Sequence[tuple[str, str]],
    console: Any = None,
) -> dict[str, Any]:
    """Evaluate on the test split, write metrics.json and the figures; ``corrupt`` are images of the training split."""
    say(console, "evaluating on the test images ...")
    test = load_split(config, "test")
    if test.hierarchy != hierarchy:
        raise ValueError(f"run: test split of {config.data} must have the hierarchy of the run, got {test.hierarchy!r}")
    images = test.stacked(config.load_size)
    metrics = evaluate(model, images, test.labels, hierarchy, config, precision=config.precision)
    metrics = write_metrics(
        run,
        {
            "data": config.data,
            "split": "test",
            **metrics,
            "corrupt": {"train": corrupt, "test": test.corrupt},
            "best_held_out": best_so_far(run, hierarchy),
            "training_seconds": seconds,
        },
    )
    plot_curves(run, hierarchy.levels, config, run / CURVES)
    plot_contact_sheet(model, images, test.labels, hierarchy, config, run / SHEET)
    return metrics


def best_so_far(run: Path, hierarchy: Hierarchy) -> dict[str, Any] | None:
    """Return ``step``, ``held_out`` {level: accuracy} and their ``mean`` of the best checkpoint of a run, if any."""
    try:
        state = find_checkpoint(run / BEST, hierarchy)[1]
    except FileNotFoundError:
        return None
    return {key: state[key] for key in ("step", "held_out", "mean")}


def own_accuracy(model: MLPH, images: Tensor, labels: Tensor, hierarchy: Hierarchy, config: Config) -> dict[str, float]:
    """Accuracy of each trained level at its own resolution, fine to coarse."""
    own = config.own_sides(hierarchy.levels)
    logits: dict[int | None, tuple[Tensor, ...]] = {}
    result = {}
    for level in reversed(config.trained_levels(hierarchy.levels)):
        side = own[level]
        assert side is not None, "a level with a task has a side"
        if side not in logits:
            logits[side] = predict_logits(model, images, config, side, precision=config.precision)
        known = labels[:, level] >= 0
        right = logits[side][level].argmax(1) == labels[:, level]
        result[hierarchy.levels[level]] = float(right[known].float().mean())
    return result


def describe(model: MLPH, config: Config) -> str:
    """One line about a model."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    taps = f"{len(model.backbone.taps)} taps, d {config.dim}"
    return f"{model.backbone.name}, {taps}, {parameters:.1f} M parameters, {config.precision}"


__all__ = ["Interrupted", "build_model", "describe", "finish", "load_run", "load_split", "read_run", "train"]

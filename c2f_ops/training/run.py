"""A run and its folder: data, model, training with resume, evaluation, figures."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import LabeledImages, load_dataset
from ..hierarchy import Hierarchy
from ..models import MLPH
from .checkpoint import find_checkpoint, load_model, load_optimizer, save_checkpoint
from .config import Config
from .evaluate import evaluate, predict_logits
from .folder import CONFIG, HIERARCHY, read_config, settled, write_metrics
from .logs import RunLog
from .loop import Hooks, Interrupted, Position, Trainer
from .machine import cpu_threads, find_device, make_accelerator, say, stop_signals
from .report import plot_contact_sheet, plot_curves
from .sampler import stratified_split

CURVES, SHEET = "curves.png", "contact_sheet.png"


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
    """Load the images of a run."""
    return load_dataset(
        config.data,
        root=config.root,
        split=split,
        size=config.load_size,
        seed=config.data_seed,
        n=config.train_images if split == "train" else config.test_images,
        corrupt=config.corrupt,
        resize_mode=config.resize_mode,
    )


def load_run(run: Path, device: str = "auto") -> tuple[MLPH, Config, Hierarchy]:
    """Load the newest model of a run folder.

    Raises:
        FileNotFoundError: not a run folder, or no checkpoint in it.
        ValueError: checkpoint and hierarchy do not belong together.
    """
    config, hierarchy = read_run(run)
    folder, _ = find_checkpoint(run, hierarchy)
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
    accelerator = make_accelerator(config.device, config.precision)
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
    trainer = Trainer(model, config, images[kept], labels[kept], hierarchy.levels, accelerator, position)
    say(
        console,
        f"{len(kept)} images to train on, {len(held)} held out; {describe(model, config)} on {accelerator.device}",
    )

    def checkpoint(trainer: Trainer) -> None:
        scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
        state = {"position": trainer.position.to_dict(), "seed": config.seed, "scaler": scaler}
        running = trainer.position.stage < len(config.stages)
        optimizer = trainer.optimizer.optimizer if running else None  # a finished run has no use for it
        save_checkpoint(run, trainer.position.step, trainer.model, optimizer, state, hierarchy.sha256)

    def measure(trainer: Trainer) -> dict[str, float]:
        return own_accuracy(trainer.model, images[held], labels[held], hierarchy, config)

    with stop_signals() as should_stop:
        try:
            trainer.run(Hooks(log, console, restore, checkpoint, measure if len(held) else None, should_stop))
        finally:
            if log is not None:
                log.close()
    if main:
        checkpoint(trainer)
    metrics = finish(run, model, config, hierarchy, position.seconds, console) if main else None
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


def finish(
    run: Path, model: MLPH, config: Config, hierarchy: Hierarchy, seconds: float, console: Any = None
) -> dict[str, Any]:
    """Evaluate on the test split, write metrics.json and the figures."""
    say(console, "evaluating on the test images ...")
    test = load_split(config, "test")
    if test.hierarchy != hierarchy:
        raise ValueError(f"run: test split of {config.data} must have the hierarchy of the run, got {test.hierarchy!r}")
    images = test.stacked(config.load_size)
    metrics = evaluate(model, images, test.labels, hierarchy, config, precision=config.precision)
    metrics = write_metrics(
        run, {"data": config.data, "split": "test", **metrics, "corrupt": test.corrupt, "training_seconds": seconds}
    )
    plot_curves(run, hierarchy.levels, config, run / CURVES)
    plot_contact_sheet(model, images, test.labels, hierarchy, config, run / SHEET)
    return metrics


def own_accuracy(model: MLPH, images: Tensor, labels: Tensor, hierarchy: Hierarchy, config: Config) -> dict[str, float]:
    """Accuracy of each level at its own resolution, fine to coarse."""
    result = {}
    for level in reversed(range(hierarchy.num_levels)):
        logits = predict_logits(model, images, config, config.resolutions[level], precision=config.precision)[level]
        known = labels[:, level] >= 0
        result[hierarchy.levels[level]] = float((logits.argmax(1) == labels[:, level])[known].float().mean())
    return result


def describe(model: MLPH, config: Config) -> str:
    """One line about a model."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    taps = f"{len(model.backbone.taps)} taps, d {config.dim}"
    return f"{model.backbone.name}, {taps}, {parameters:.1f} M parameters, {config.precision}"


__all__ = ["Interrupted", "build_model", "describe", "finish", "load_run", "load_split", "read_run", "train"]

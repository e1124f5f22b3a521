"""A FALCON run and its folder: data, start, training with resume, evaluation, figures."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models import Falcon
from ..checkpoint import find_checkpoint, load_model, load_optimizer, save_checkpoint
from ..folder import CONFIG, HIERARCHY, read_config, settled, write_metrics
from ..logs import RunLog
from ..machine import cpu_threads, find_device, make_accelerator, say, stop_signals
from .config import FalconRun
from .data import CoarseImages, Truth, coarse_part, load_split, truth_part
from .evaluate import compare, evaluate_logits, predict_logits
from .loop import FalconTrainer, Hooks, Learner, Position
from .model import FineClassifier, build_falcon, is_path
from .picture import plot_classes
from .report import CLASSES, CURVES, plot_curves
from .start import Start, learn_start, make_start

START, RELATIONS = "start.safetensors", "relations.csv"


def train_falcon(settings: FalconRun, run: Path, *, resume: bool = False, console: Any = None) -> dict[str, Any] | None:
    """Train a run to its end, evaluate it on the test split and draw its figures.

    Args:
        settings: Of the run; with ``resume`` those of the folder count.
        run: Folder to write; must be new, or hold the run to resume.
        resume: Go on from the newest checkpoint.
        console: A rich console for progress; None for silence.

    Returns:
        What is in metrics.json, in the main process; None in others.

    Raises:
        Interrupted: stopped by SIGINT or SIGTERM after a checkpoint.
        FileExistsError: the folder holds a run and ``resume`` is False.
    """
    settings = settled(settings, run, resume=resume)
    with cpu_threads(settings.threads):
        return _train(settings, run, console)


def load_falcon(run: Path, device: str = "auto") -> tuple[Falcon, FalconRun]:
    """Load the newest student, teacher and relations of a run folder, in eval mode."""
    settings = read_config(FalconRun, run)
    data, truth, hierarchy, _ = _read(settings, "train")
    learner = Learner(build_falcon(settings, _num_fine(settings, truth), data.num_coarse, weights=False), len(data.y))
    load_model(find_checkpoint(run, hierarchy)[0], learner, hierarchy)
    return learner.falcon.to(find_device(device)).to(memory_format=torch.channels_last).eval(), settings


def _train(settings: FalconRun, run: Path, console: Any) -> dict[str, Any] | None:
    accelerator = make_accelerator(settings.device, settings.precision)
    main = accelerator.is_main_process
    console = console if main else None
    settings = replace(settings, precision=accelerator.mixed_precision.replace("no", "fp32"))
    say(console, f"reading {settings.data} ...")
    data, truth, hierarchy, corrupt = _read(settings, "train")
    if corrupt:
        say(console, f"{len(corrupt)} unreadable images (corrupt: {settings.corrupt})")
    num_fine, sha = _num_fine(settings, truth), data.sha256()
    truth = None  # from here to the evaluation on the test split nothing knows of fine classes
    if main:
        run.mkdir(parents=True, exist_ok=True)
        hierarchy.to_json(run / HIERARCHY)
        settings.to_json(run / CONFIG)
        try:
            find_checkpoint(run, hierarchy)
        except FileNotFoundError:
            _begin(settings, run, data, num_fine, accelerator.device, hierarchy.sha256, sha, console)
    accelerator.wait_for_everyone()

    learner = Learner(build_falcon(settings, num_fine, data.num_coarse, weights=False), len(data.y))
    folder, state = find_checkpoint(run, hierarchy)
    if state["data"] != sha:
        raise ValueError(f"run: data must be those that {run} was started with, got others (sha256 {sha[:12]})")
    load_model(folder, learner, hierarchy)
    start, position = _load_start(run), Position(**state["position"])
    log = RunLog(run, position.step) if main else None
    trainer = FalconTrainer(learner, settings, data.images, data.y, start.neighbours, accelerator, position)
    falcon = trainer.falcon
    say(console, _describe(settings, data, falcon, accelerator.device))

    def restore(optimizer: torch.optim.Optimizer) -> None:
        load_optimizer(folder, learner, optimizer)
        if accelerator.scaler is not None and state["scaler"] is not None:
            accelerator.scaler.load_state_dict(state["scaler"])

    def checkpoint(trainer: FalconTrainer) -> None:
        scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
        facts = {"position": trainer.position.to_dict(), "seed": settings.seed, "scaler": scaler, "data": sha}
        optimizer = None if trainer.position.finished else trainer.optimizer
        save_checkpoint(run, trainer.position.step, learner, optimizer, facts, hierarchy.sha256)

    with stop_signals() as should_stop:
        try:
            moved = position.step > 0 and not position.finished
            trainer.train(Hooks(log, console, restore if moved else None, checkpoint, should_stop))
        finally:
            if log is not None:
                log.close()
    trainer.gather_counts()
    metrics = None
    if main:
        checkpoint(trainer)
        metrics = finish(run, falcon, settings, hierarchy, start, position.seconds, corrupt, console)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


def _read(settings: FalconRun, split: str) -> tuple[CoarseImages, Truth | None, Any, list[tuple[str, str]]]:
    dataset = load_split(settings, split)
    return coarse_part(dataset, settings), truth_part(dataset, settings), dataset.hierarchy, dataset.corrupt


def _num_fine(settings: FalconRun, truth: Truth | None) -> int:
    """K_F: what the run says, or the number of true classes, which is all that training learns of them."""
    if settings.num_fine is not None:
        return settings.num_fine
    if truth is None:
        raise ValueError(f"falcon: num_fine must be given for {settings.data}, which names no fine classes, got None")
    return len(truth.names)


def _begin(
    settings: FalconRun, run: Path, data: CoarseImages, num_fine: int, device: torch.device, hierarchy_sha: str,
    data_sha: str, console: Any,
) -> None:  # fmt: skip
    """Make the start, in the main process, and leave it in the folder as the checkpoint of step 0."""
    begun = time.monotonic()
    learner = Learner(build_falcon(settings, num_fine, data.num_coarse), len(data.y)).to(device)
    learner = learner.to(memory_format=torch.channels_last)
    student = learner.falcon.student
    assert isinstance(student, FineClassifier)
    if settings.init is not None and is_path(settings.init):
        from ...models.checkpoints import load_backbone_weights

        folder = Path(settings.init)
        if (folder / CONFIG).is_file():  # a run of `c2f train selfsup`
            folder, _ = find_checkpoint(folder, None)
        load_backbone_weights(student.backbone, folder)
    heads = learn_start(student, data.images, data.y, settings, console)
    learner.falcon.teacher.load_state_dict(student.state_dict())
    say(console, "neighbours and k-means inside the coarse classes ...")
    test, *_ = _read(settings, "test")
    start = make_start(learner.falcon, settings, data.images, data.y, test.images, heads)
    _save_start(run, start)
    facts = {"position": Position(seconds=time.monotonic() - begun).to_dict(), "seed": settings.seed, "data": data_sha}
    save_checkpoint(run, 0, learner, None, {**facts, "scaler": None}, hierarchy_sha)


def _save_start(run: Path, start: Start) -> None:
    from safetensors.torch import save_file

    partial = run / f"{START}.partial"
    save_file({key: value.contiguous() for key, value in start._asdict().items()}, partial)
    partial.replace(run / START)


def _load_start(run: Path) -> Start:
    from safetensors.torch import load_file

    return Start(**load_file(run / START))


def finish(
    run: Path, falcon: Falcon, settings: FalconRun, hierarchy: Any, start: Start, seconds: float,
    corrupt: Sequence[tuple[str, str]], console: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate on the test split, write metrics.json, relations.csv and figures; ``corrupt``: of the training split."""
    say(console, "evaluating on the test images ...")
    test, truth, found, unreadable = _read(settings, "test")
    if found != hierarchy:
        raise ValueError(f"run: test split of {settings.data} must have the hierarchy of the run, got {found!r}")
    logits, relations = predict_logits(falcon, test.images, settings), falcon.relations.cpu()
    result = evaluate_logits(logits, relations, test, truth)
    rivals = compare(start, test, truth)
    metrics = write_metrics(
        run,
        {
            "kind": "falcon", "data": settings.data, "split": "test", "images": len(test.y), "preset": settings.preset,
            "num_fine": falcon.num_fine, "num_coarse": list(falcon.num_coarse), "falcon": result, **rivals,
            "corrupt": {"train": corrupt, "test": unreadable}, "fine_labels_in_training": False,
            "training_seconds": seconds,
        },
    )  # fmt: skip
    write_relations(run / RELATIONS, relations, test, truth, result.get("matching"), logits.argmax(1))
    plot_curves(run, falcon.num_fine, run / CURVES)
    plot_classes(run / CLASSES, test, _pictures(settings, test), logits, relations, truth, result)
    return metrics


def _pictures(settings: FalconRun, test: CoarseImages) -> Tensor:
    """The test images to look at: drawn ones in colour and large enough to see their marks, others as they are."""
    if not settings.data.startswith("birds"):
        return test.images
    large = max(settings.image_size, 96)
    return load_split(replace(settings, image_size=large), "test").stacked(large)


def write_relations(
    path: Path, relations: Tensor, data: CoarseImages, truth: Truth | None, matching: Any, predicted: Tensor
) -> None:
    """Write a line per discovered class: its parents, its test images, and the true class that it is matched with."""
    counts = predicted.bincount(minlength=relations.shape[1]).tolist()
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        parents = [f"coarse_{d}" if len(relations) > 1 else "coarse" for d in range(len(relations))]
        table.writerow(["class", *parents, "test_images", "matched_fine"])
        for k in range(relations.shape[1]):
            names = [data.names[d][int(relations[d, k])] for d in range(len(relations))]
            match = matching[k] if matching is not None and k < len(matching) else -1
            table.writerow([k, *names, counts[k], truth.names[match] if truth is not None and match >= 0 else ""])


def _describe(settings: FalconRun, data: CoarseImages, falcon: Falcon, device: torch.device) -> str:
    parameters = sum(p.numel() for p in falcon.student.parameters()) / 1e6
    coarse = " and ".join(f"{count} coarse" for count in falcon.num_coarse)
    return (
        f"{len(data.y)} images with labels of {coarse} classes, {falcon.num_fine} fine classes to find; "
        f"{settings.backbone}, {parameters:.1f} M parameters, {settings.precision} on {device}"
    )


__all__ = ["finish", "load_falcon", "train_falcon", "write_relations"]

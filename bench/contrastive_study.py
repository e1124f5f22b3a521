"""Class-attentive contrastive learning against its baselines: one line per (experiment, setting, method, seed).

    python -m c2f_ops.bench.contrastive_study run --out bench/results/DATE-contrastive-toy.jsonl --only raw,standardised
    c2f embed ... --out train.npz; c2f embed ... --out test.npz
    python -m c2f_ops.bench.contrastive_study run --train train.npz --test test.npz --out ... --only cifar20,cifar100
    python -m c2f_ops.bench.contrastive_study run --root DATA --out ... --only cifar20-images,cub100-images
    python -m c2f_ops.bench.contrastive_study report bench/results/*-contrastive-*.jsonl --notes NOTES --out PAGE

A run goes on where it was interrupted: results in the file are not computed again. Settings of all methods are equal;
nothing is chosen on test samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from c2f_ops.training.contrastive import ContrastiveConfig, Problem, fit_method, judge, load_problem

from . import contrastive_ablation as ablation
from .records import read_lines

TOY = ("attentive", "paper", "plain", "paper-plain", "cross-entropy")
REAL = ("attentive", "attentive-fast", "plain", "cross-entropy")
RIVALS = {
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "5 nearest neighbours": lambda: KNeighborsClassifier(5),
}
ON_PIXELS = ("attentive", "attentive-hard", "plain", "cross-entropy")
NUISANCES = (1.0, 2.0, 0.5)
_IMAGES = {"data": "features", "hidden": 256, "dim": 128, "probe_solver": "ridge"}
_STEPS = {"cifar20": (64, 20), "cifar100": (256, 10)}  # batch: at least two samples of each class; epochs
# Networks trained on pixels; an epoch takes 8 and 17 s of a core with AMX.
PIXELS = {
    "cifar20-images": {"data": "cifar100", "coarse_classes": 4, "epochs": 10},
    "cub100-images": {"data": "cub100", "image_size": 64, "epochs": 5},
}
_PLANTED = {"data": "planted", "n_per_class": 100, "attention_lr": 0.05, "probe_batch": 256}


@dataclass(frozen=True)
class Cell:
    """One result to compute."""

    experiment: str
    setting: str
    method: str
    seed: int


def cells(seeds: int) -> Iterator[tuple[Cell, ContrastiveConfig]]:
    """Everything to compute, by seed, and how."""
    for seed in range(seeds):
        for method in TOY:
            config = ContrastiveConfig(data="circles", probe_batch=256)
            yield Cell("raw", "circles", method, seed), config
            if method != "paper-plain":
                yield Cell("standardised", "circles", method, seed), replace(config, standardize=True)
        for nuisance in NUISANCES:
            for backbone in ("identity", "mlp"):
                for method in ("attentive", "plain"):
                    config = ContrastiveConfig().changed({**_PLANTED, "backbone": backbone, "nuisance": nuisance})
                    yield Cell("planted", f"{backbone}, nuisance {nuisance:g}", method, seed), config
        for method in REAL:
            yield Cell("digits", "five-fold", method, seed), ContrastiveConfig(data="digits", probe_batch=256)
        for method in RIVALS:
            yield Cell("digits-rivals", "five-fold", method, seed), ContrastiveConfig(data="digits")
        for setting, method, config in ablation.settings():
            yield Cell("ablation", setting, method, seed), config
        for setting, (batch, epochs) in _STEPS.items():
            for method in REAL:
                config = ContrastiveConfig().changed({**_IMAGES, "batch_size": batch, "epochs": epochs})
                yield Cell(setting, "features", method, seed), config
        for experiment, changes in PIXELS.items():
            for method in ON_PIXELS:
                config = ContrastiveConfig().changed({**changes, "dim": 128, "precision": "bf16"})
                yield Cell(experiment, "images", method, seed), config


def problem_of(cell: Cell, config: ContrastiveConfig, train: Path | None, test: Path | None) -> Problem:
    """The data of a cell; "cifar20": the fine classes of the first four coarse ones."""
    if config.data != _IMAGES["data"]:
        return load_problem(config, cell.seed)
    if train is None or test is None:
        raise ValueError(f"contrastive_study: --train and --test must be given for {cell.experiment}")
    from c2f_ops.data.embeddings import load_embeddings

    parts, names = [], ()
    for path in (train, test):
        data = load_embeddings(path)
        x, y, coarse, names = np.asarray(data.X, np.float32), data.fine, data.coarse, data.fine_names
        if y is None or coarse is None:
            raise ValueError(f"contrastive_study: {path} must have coarse and fine labels")
        if cell.experiment == "cifar20":
            kept = coarse < 4
            x, (_, y) = x[kept], np.unique(y[kept], return_inverse=True)
            names = tuple(str(c) for c in range(int(y.max()) + 1))
        parts += [x, y]
    return Problem(*parts, names)


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a record is the result of."""
    return tuple(record[name] for name in ("experiment", "setting", "method", "seed"))


def run(arguments: argparse.Namespace) -> None:
    """Compute what is not in the file, appending each result as it comes."""
    torch.set_num_threads(1)
    done = {key_of(record) for record in read_lines(arguments.out)}
    wanted = None if arguments.only is None else arguments.only.split(",")
    methods = None if arguments.methods is None else arguments.methods.split(",")
    for cell, config in cells(arguments.seeds):
        left_out = (wanted is not None and cell.experiment not in wanted) or (
            methods is not None and cell.method not in methods
        )
        if left_out or key_of(vars(cell)) in done:
            continue
        if cell.experiment in PIXELS:
            config = replace(config, root=arguments.root)
        problem = problem_of(cell, config, arguments.train, arguments.test)
        result = result_of(cell, config, problem)
        with arguments.out.open("a") as file:
            file.write(json.dumps({**vars(cell), **result}) + "\n")
        shown = ("label_free", "probe", "knn", "bound", "status", "overlap", "classifier", "seconds")
        print(cell, {k: result[k] for k in shown if result.get(k) is not None}, flush=True)


def result_of(cell: Cell, config: ContrastiveConfig, problem: Problem) -> dict[str, Any]:
    """Train and judge."""
    if cell.method in RIVALS:
        return {"classifier": RIVALS[cell.method]().fit(problem.x, problem.y).score(problem.x_test, problem.y_test)}
    own = cell.method == ablation.OWN_WEIGHTS
    fit = ablation.fit_own_weights if own else partial(fit_method, cell.method)
    result = judge(problem, fit(problem, config, cell.seed), config, cell.seed)
    return {k: v for k, v in result.items() if k != "history"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--out", type=Path, required=True)
    go.add_argument("--train", type=Path)
    go.add_argument("--test", type=Path)
    go.add_argument("--root", help="folder of the images")
    go.add_argument("--seeds", type=int, default=5)
    go.add_argument("--only", help="experiments, comma-separated")
    go.add_argument("--methods", help="methods, comma-separated")
    page = commands.add_parser("report")
    page.add_argument("results", type=Path, nargs="+")
    page.add_argument("--notes", type=Path, required=True, help="what stands above the tables")
    page.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "report":
        from .contrastive_report import write_page

        write_page(read_lines(*arguments.results), arguments.out, arguments.notes.read_text())
    else:
        run(arguments)


if __name__ == "__main__":
    main()

"""FALCON against its baselines on embeddings: one result per (experiment, setting, method, seed), kept as JSON lines.

    c2f embed ... --out train.npz; c2f embed ... --out test.npz
    python -m c2f_ops.bench.falcon_study run --train train.npz --test test.npz --out study.jsonl
    python -m c2f_ops.bench.falcon_study digits DIR
    python -m c2f_ops.bench.falcon_study report study.jsonl --notes notes.md --out docs/results

A run goes on where it was interrupted: results in the file are not computed again. Methods see coarse labels of
the training samples only; fine labels of the test samples judge, and choose nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from c2f_ops.data.embeddings import load_embeddings
from c2f_ops.models import FalconConfig

from .falcon_cells import BASELINES, Cell, Samples, fit, judge, read, run, true_relations

# ---- experiments -----------------------------------------------------------------------------------------------------


ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without L_nn and L_conf": {"lambdas": (0.5, 0.0, 2.0)},
    "without L_nn": {"lambdas": (0.5, 0.0, 0.5, 2.0)},
    "without L_conf": {"lambdas": (0.5, 0.5, 0.0, 2.0)},
    "without L_reg": {"lambdas": (0.5, 0.5, 0.0)},
    "without L_coarse and L_conf": {"lambdas": (0.0, 0.5, 0.0, 2.0)},
    "random start": {"mstep_init": "random"},
    "random start, without L_nn and L_conf": {"mstep_init": "random", "lambdas": (0.5, 0.0, 2.0)},
    "random start, without L_reg": {"mstep_init": "random", "lambdas": (0.5, 0.5, 0.0)},
    "random start, without L_coarse and L_conf": {"mstep_init": "random", "lambdas": (0.0, 0.5, 0.0, 2.0)},
}
SHARES = (0.8, 1.0, 1.2, 1.5)
NOISE = (0.0, 0.1, 0.2, 0.4)


def cells(seeds: int) -> Iterator[Cell]:
    """Everything to compute, the most telling first."""
    for seed in range(seeds):
        for method in ("FALCON", "KMeans", *BASELINES):
            yield Cell("methods", "100 classes", method, seed)
    for seed in range(seeds):
        for setting in ABLATIONS:
            yield Cell("ablation", setting, "FALCON", seed)
        for preset in ("paper", "reference"):
            yield Cell("presets", preset, "FALCON", seed)
        yield Cell("presets", "true relations given", "FALCON", seed)
        for share in SHARES:
            for method in ("FALCON", "GroupKMeans"):
                yield Cell("classes", f"{share:.0%}", method, seed)
        for rate in NOISE:
            for method in ("FALCON", "GroupKMeans"):
                yield Cell("noise", f"{rate:.0%}", method, seed)
        for half in ("first taxonomy", "second taxonomy", "both"):
            yield Cell("taxonomies", half, "FALCON", seed)
        for method in ("FALCON", "GroupKMeans"):
            yield Cell("two parents", "10 classes split", method, seed)
        for method in ("FALCON", "KMeans", *BASELINES):
            yield Cell("digits", "10 classes", method, seed)


def compute(cell: Cell, train: Samples, test: Samples, **options: Any) -> dict[str, Any]:
    """The metrics of one cell."""
    n_fine = int(train.fine.max()) + 1
    switches: dict[str, Any] = {}
    preset = "recommended"
    rng = np.random.default_rng(cell.seed)
    if cell.experiment == "ablation":
        switches = ABLATIONS[cell.setting]
    elif cell.experiment == "presets" and cell.setting in ("paper", "reference"):
        preset = cell.setting
    elif cell.experiment == "presets":
        options["relations"] = true_relations(train)
        switches = {"learn_relations": False}
    elif cell.experiment == "classes":
        n_fine = round(n_fine * float(cell.setting.rstrip("%")) / 100)
    elif cell.experiment == "noise":
        train = with_noise(train, float(cell.setting.rstrip("%")) / 100, rng)
    elif cell.experiment == "taxonomies":
        train = with_taxonomies(train, cell.setting)
    elif cell.experiment == "two parents":
        train = with_two_parents(train, 10, rng)
    elif cell.experiment == "digits":
        train, test = digits()
        n_fine = 10
    if cell.method == "FALCON":
        options["config"] = FalconConfig.preset(preset, **switches)
    else:
        options = {}
    predicted, relations = fit(cell.method, train, test.x, n_fine, cell.seed, **options)
    if cell.setting == "second taxonomy":
        relations = None  # of another taxonomy than the test samples' labels
    return judge(test, (predicted, relations))


def with_noise(samples: Samples, rate: float, rng: np.random.Generator) -> Samples:
    """Symmetric noise: a share ``rate`` of the coarse labels becomes another class, uniformly."""
    count = samples.coarse.max() + 1
    flipped = rng.random(len(samples.coarse)) < rate
    other = (samples.coarse + rng.integers(1, count, len(samples.coarse))) % count
    return replace(samples, coarse=np.where(flipped, other, samples.coarse))


def with_taxonomies(samples: Samples, which: str) -> Samples:
    """Even samples labelled by the first taxonomy, odd ones by a second that cuts across it; or one half alone.

    The second groups fine classes by rank inside their first group: class r of group j belongs to group (j + 4 r) mod
    20 of the second, so that two fine classes of one group never share a second group.
    """
    first = true_relations(samples)
    rank = np.array([np.flatnonzero(np.flatnonzero(first == j) == k)[0] for k, j in enumerate(first)])
    second = (first + 4 * rank) % (first.max() + 1)
    even = np.arange(len(samples.x)) % 2 == 0
    labels = np.stack([np.where(even, first[samples.fine], -1), np.where(even, -1, second[samples.fine])], 1)
    if which == "both":
        return replace(samples, coarse=labels)
    rows, column = (even, 0) if which == "first taxonomy" else (~even, 1)
    return Samples(samples.x[rows], labels[rows, column], samples.fine[rows])


def with_two_parents(samples: Samples, count: int, rng: np.random.Generator) -> Samples:
    """Half of the samples of ``count`` fine classes get the label of another coarse class."""
    first = true_relations(samples)
    coarse = samples.coarse.copy()
    for k in rng.permutation(len(first))[:count]:
        rows = np.flatnonzero(samples.fine == k)
        coarse[rows[rng.random(len(rows)) < 0.5]] = (first[k] + 1 + rng.integers(first.max())) % (first.max() + 1)
    return replace(samples, coarse=coarse)


def digits() -> tuple[Samples, Samples]:
    """scikit-learn's digits under coarse classes {0, 6, 8, 9}, {1, 4, 7} and {2, 3, 5}: 1,197 and 600 samples."""
    from sklearn.datasets import load_digits

    x, fine = load_digits(return_X_y=True)
    coarse = np.array([0, 1, 2, 2, 1, 2, 0, 1, 0, 0])[fine]
    order = np.random.default_rng(0).permutation(len(x))
    parts = (order[600:], order[:600])
    train, test = (Samples(x[rows].astype(np.float32), coarse[rows], fine[rows]) for rows in parts)
    return train, test


def write_digits(folder: Path) -> None:
    """Write ``digits-train.npz`` and ``digits-test.npz`` for `c2f discover`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.array(["0 6 8 9", "1 4 7", "2 3 5"])
    for name, part in zip(("train", "test"), digits(), strict=True):
        np.savez(folder / f"digits-{name}.npz", X=part.x, coarse=part.coarse, coarse_names=names, fine=part.fine)


# ---- running ---------------------------------------------------------------------------------------------------------


def load(path: Path) -> Samples:
    """Samples of a file that `c2f embed` wrote."""
    data = load_embeddings(path)
    if data.coarse is None or data.fine is None:
        raise ValueError(f"falcon_study: {path} must have coarse and fine labels")
    return Samples(np.asarray(data.X), data.coarse, data.fine)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--train", type=Path, required=True)
    go.add_argument("--test", type=Path, required=True)
    go.add_argument("--out", type=Path, required=True)
    go.add_argument("--seeds", type=int, default=3)
    go.add_argument("--samples", type=int, help="training samples, for a trial")
    go.add_argument("--epochs", type=int, help="epochs of FALCON, for a trial")
    go.add_argument("--only", help="experiments, comma-separated")
    page = commands.add_parser("report")
    page.add_argument("results", type=Path)
    page.add_argument("--notes", type=Path, required=True, help="what stands above the tables")
    page.add_argument("--out", type=Path, required=True)
    files = commands.add_parser("digits")
    files.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "digits":
        write_digits(arguments.folder)
        return
    if arguments.command == "report":
        from .falcon_report import write_page

        write_page(read(arguments.results), arguments.out, arguments.notes.read_text())
        return
    train, test = load(arguments.train).first(arguments.samples), load(arguments.test)
    options = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    wanted = None if arguments.only is None else arguments.only.split(",")
    todo = (cell for cell in cells(arguments.seeds) if wanted is None or cell.experiment in wanted)
    run(todo, arguments.out, lambda cell: compute(cell, train, test, **options))


if __name__ == "__main__":
    main()

"""FALCON against its baselines on embeddings: one result per (experiment, setting, method, seed), kept as JSON lines.

    c2f embed ... --out train.npz; c2f embed ... --out test.npz
    python -m c2f_ops.bench.falcon_study run --train train.npz --test test.npz --out study.jsonl
    python -m c2f_ops.bench.falcon_study digits DIR
    python -m c2f_ops.bench.falcon_study report study.jsonl --notes notes.md --out docs/results

A run goes on where it was interrupted: results in the file are not computed again. Methods see coarse labels of
the training samples only; fine labels of the test samples judge, and choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from c2f_ops.data.embeddings import load_embeddings

from .falcon_cells import BASELINES, FALCONS, Cell, Work, act, estimated, fit, judge, parser_of
from .falcon_data import (
    Samples,
    digits,
    true_relations,
    variant,
    with_noise,
    with_pair_noise,
    with_taxonomies,
    with_two_parents,
)

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
            for method in ("FALCON", "GroupKMeans") if rate == 0.1 else (*FALCONS, "GroupKMeans"):
                yield Cell("noise", f"{rate:.0%}", method, seed)
        for rate in NOISE[2:]:
            for method in (*FALCONS, "GroupKMeans"):
                yield Cell("noise in pairs", f"{rate:.0%}", method, seed)
        for half in ("first taxonomy", "second taxonomy", "both"):
            yield Cell("taxonomies", half, "FALCON", seed)
        for method in ("FALCON", "GroupKMeans"):
            yield Cell("two parents", "10 classes split", method, seed)
        for method in ("FALCON", "KMeans", *BASELINES):
            yield Cell("digits", "10 classes", method, seed)
        yield Cell("estimate", "estimated", "FALCON", seed)
        for setting in ("CIFAR-68", "CIFAR-SI"):
            for method in ("FALCON", "KMeans", *BASELINES):
                yield Cell("variants", setting, method, seed)


def compute(cell: Cell, train: Samples, test: Samples, **options: Any) -> dict[str, Any]:
    """The metrics of one cell."""
    n_fine = int(train.fine.max()) + 1
    switches: dict[str, Any] = {}
    preset = "recommended"
    rng = np.random.default_rng(cell.seed)
    if cell.experiment == "ablation":
        switches = ABLATIONS[cell.setting]
        options["may_keep_start"] = False  # what training makes is what an ablation asks for
    elif cell.experiment == "presets" and cell.setting in ("paper", "reference"):
        preset = cell.setting
    elif cell.experiment == "presets":
        options["relations"] = true_relations(train)
        switches = {"learn_relations": False}
    elif cell.experiment == "classes":
        n_fine = round(n_fine * cell.rate)
    elif cell.experiment == "noise":
        train = with_noise(train, cell.rate, rng)
    elif cell.experiment == "noise in pairs":
        train = with_pair_noise(train, cell.rate, rng)
    elif cell.experiment == "taxonomies":
        train = with_taxonomies(train, cell.setting)
    elif cell.experiment == "two parents":
        train = with_two_parents(train, 10, rng)
    elif cell.experiment == "digits":
        train, test = digits()
        n_fine = 10
    elif cell.experiment == "variants":
        train, test = (variant(samples, cell.setting) for samples in (train, test))
        n_fine = int(train.fine.max()) + 1
    elif cell.experiment == "estimate":
        return estimated(cell, train, test, **options)
    options |= {"preset": preset, "switches": switches}
    predicted, relations = fit(cell.method, train, test.x, n_fine, cell.seed, **options)
    if cell.setting == "second taxonomy":
        relations = None  # of another taxonomy than the test samples' labels
    return judge(test, (predicted, relations))


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
    parser, commands, go = parser_of(__doc__)
    go.add_argument("--train", type=Path, required=True)
    go.add_argument("--test", type=Path, required=True)
    files = commands.add_parser("digits")
    files.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "digits":
        write_digits(arguments.folder)
        return

    def prepare(**options: Any) -> Work:
        train, test = load(arguments.train).first(arguments.samples), load(arguments.test)
        return lambda cell: compute(cell, train, test, **options)

    act(arguments, "falcon-cifar100", cells, prepare)


if __name__ == "__main__":
    main()

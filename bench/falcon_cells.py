"""What the studies of FALCON share: methods, the judge, a file of results that grows cell by cell, a command line."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2f_ops.estimators import FalconClusterer, baselines, estimate_n_fine
from c2f_ops.metrics import evaluate_discovery
from c2f_ops.models import FalconConfig

from .falcon_data import Samples, true_relations
from .falcon_report import write_page
from .records import read_lines

Fit = tuple[np.ndarray, np.ndarray | None]  # fine classes of the test samples, relations [D, K_F]


@dataclass(frozen=True)
class Cell:
    """One result to compute."""

    experiment: str
    setting: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the file."""
        return "/".join((self.experiment, self.setting, self.method, str(self.seed)))

    @property
    def rate(self) -> float:
        """The rate that its setting names in per cent."""
        return float(self.setting.rstrip("%")) / 100


Work = Callable[[Cell], dict[str, Any]]


# ---- methods ---------------------------------------------------------------------------------------------------------


# FALCON and what a user may switch on against noisy labels: switches of the configuration, options of the estimator.
FALCONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "FALCON": ({}, {}),
    "FALCON drop": ({}, {"drop_uncertain": 0.2}),
    "FALCON smooth": ({"label_smoothing_coarse": 0.2}, {}),
}


def falcon(
    train: Samples, n_fine: int, seed: int, *, method: str = "FALCON", preset: str = "recommended",
    switches: Mapping[str, Any] | None = None, **options: Any,
) -> Any:  # fmt: skip
    """A `FalconClusterer` with a linear head, fitted."""
    more_switches, more_options = FALCONS[method]
    config = FalconConfig.preset(preset, **{**(switches or {}), **more_switches})
    options = {**options, **more_options}
    return FalconClusterer(n_fine, config=config, random_state=seed, **options).fit(train.x, train.coarse)


def baseline(name: str, train: Samples, test: np.ndarray, n_fine: int, seed: int) -> Fit:
    """A class of `c2f_ops.estimators.baselines` by name; only the upper bound sees fine labels."""
    model = getattr(baselines, name)(n_fine, random_state=seed)
    fine = (train.fine,) if name == "SupervisedUpperBound" else ()
    model.fit(train.x, train.coarse, *fine)
    return model.predict(test), np.atleast_2d(model.relations_)


def plain_kmeans(train: Samples, test: np.ndarray, n_fine: int, seed: int) -> Fit:
    """k-means over everything: no labels at all."""
    from sklearn.cluster import KMeans

    return KMeans(n_fine, n_init=1, random_state=seed).fit(train.x).predict(test), None


BASELINES = ("GroupKMeans", "CoarseTrainingKMeans", "NeighbourClustering", "SupervisedUpperBound")


def fit(method: str, train: Samples, test: np.ndarray, n_fine: int, seed: int, **options: Any) -> Fit:
    """Train ``method`` on coarse labels and name the test samples' classes; ``options`` are those of `falcon`."""
    if method in FALCONS:
        model = falcon(train, n_fine, seed, method=method, **options)
        return model.predict(test), model.relations_
    if method == "KMeans":
        return plain_kmeans(train, test, n_fine, seed)
    return baseline(method, train, test, n_fine, seed)


# ---- judging ---------------------------------------------------------------------------------------------------------


def judge(test: Samples, result: Fit) -> dict[str, Any]:
    """The metrics of a result against the fine classes and the relations of the test samples."""
    predicted, relations = result
    metrics = evaluate_discovery(
        test.fine, predicted, g_true=true_relations(test), g_pred=None if relations is None else relations[0],
        y_coarse=test.coarse, protocol="heldout",
    )  # fmt: skip
    kept = (
        "accuracy", "macro_accuracy", "ari", "nmi", "within_group_accuracy", "relation_accuracy", "ged",
        "group_size_error", "used_clusters",
    )  # fmt: skip
    values = metrics.to_dict()
    return {name: values[name] for name in kept}


def estimated(cell: Cell, train: Samples, test: Samples, **options: Any) -> dict[str, Any]:
    """`estimate_n_fine`, and FALCON with its numbers or with the true total, as ``n_fine`` None or a number has it."""
    first = true_relations(test)
    if "true count" in cell.setting:
        return judge(test, fit("FALCON", train, test.x, len(first), cell.seed, **options))
    start = time.perf_counter()
    found = estimate_n_fine(train.x, train.coarse, random_state=cell.seed, device="cpu")
    seconds = time.perf_counter() - start
    relations = np.repeat(np.arange(len(found.per_coarse)), found.per_coarse)
    truth = np.bincount(first)
    return {
        **judge(test, fit("FALCON", train, test.x, found.total, cell.seed, relations=relations, **options)),
        "estimate": found.total, "low": found.low, "high": found.high, "estimate_seconds": round(seconds, 2),
        "truth": len(first), "off_per_coarse": float(np.abs(found.per_coarse - truth).mean()),
        "votes": {name: int(vote.sum()) for name, vote in found.votes.items()},
    }  # fmt: skip


# ---- running ---------------------------------------------------------------------------------------------------------


def run(todo: Iterable[Cell], path: Path, work: Work) -> None:
    """Compute what is not in the file, appending each result as it comes."""
    done = {record["key"] for record in read_lines(path)}
    for cell in todo:
        if cell.key in done:
            continue
        start = time.perf_counter()
        record = {"key": cell.key, **vars(cell), **work(cell), "seconds": round(time.perf_counter() - start, 2)}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{cell.key}: accuracy {record['accuracy']:.3f}, ARI {record['ari']:.3f}, {record['seconds']} s", flush=True
        )


def parser_of(description: str | None) -> tuple[Any, Any, Any]:
    """A parser with the commands ``run`` and ``report``, its commands, and that of ``run``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--out", type=Path, required=True)
    go.add_argument("--seeds", type=int, default=3)
    go.add_argument("--samples", type=int, help="training samples (of a fine class, where they are made), for a trial")
    go.add_argument("--epochs", type=int, help="epochs of FALCON, for a trial")
    go.add_argument("--only", help="experiments, comma-separated")
    page = commands.add_parser("report")
    page.add_argument("results", type=Path, nargs="+")
    page.add_argument("--notes", type=Path, required=True, help="what stands above the tables")
    page.add_argument("--out", type=Path, required=True)
    return parser, commands, go


def act(
    arguments: argparse.Namespace, page: str, cells: Callable[[int], Iterable[Cell]], prepare: Callable[..., Work]
) -> None:
    """Run ``cells``, each by what ``prepare`` returns for the options of `falcon`, or write the page."""
    if arguments.command == "report":
        place = {cell.key: i for i, cell in enumerate(cells(10))}
        records = read_lines(*arguments.results)
        records.sort(key=lambda record: place.get(record["key"], len(place)))
        write_page(page, records, arguments.out, arguments.notes.read_text())
        return
    work = prepare(**({} if arguments.epochs is None else {"epochs": arguments.epochs}))
    wanted = None if arguments.only is None else arguments.only.split(",")
    todo = (cell for cell in cells(arguments.seeds) if wanted is None or cell.experiment in wanted)
    run(todo, arguments.out, work)

"""FALCON and its baselines on many small data sets: made Gaussians, scikit-learn's tables, groups of embeddings.

    python -m bench.falcon_zoo run --out zoo.jsonl                                          # made data and tables
    python -m bench.falcon_zoo run --out zoo.jsonl --train train.npz --test test.npz        # embeddings too
    python -m bench.falcon_zoo report zoo.jsonl

All methods have their defaults and the true number of fine classes, learn from coarse labels, and name samples they
have not seen. A seed draws data and method. A run goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .falcon_cells import Cell, fit, judge, run
from .falcon_data import Samples, digits
from .falcon_study import load
from .records import read_lines

Pair = tuple[Samples, Samples]
METHODS = {
    "FALCON": "FALCON", "FALCON's start": "its start", "GroupKMeans": "k-means inside coarse classes",
    "CoarseTrainingKMeans": "coarse training, k-means", "NeighbourClustering": "SCAN-C",
}  # fmt: skip


def gaussians(
    coarse: int, fine: int, d: int, spread: float, n: int, *, zipf: bool = False, ragged: bool = False,
    shaped: bool = False, seed: int,
) -> Pair:  # fmt: skip
    """``n`` samples for each fine class on average, once to train and once to test.

    Args:
        coarse: K_C.
        fine: K_F.
        d: Dimensions.
        spread: Standard deviation of the centres in each dimension; samples have about 1 around theirs.
        n: Samples of a class.
        zipf: Classes as large as 1 / rank, at least 3 samples, in place of equal ones.
        ragged: Groups of random size in place of equal ones.
        shaped: A random covariance for each class in place of the identity.
        seed: Of everything.
    """
    rng = np.random.default_rng(1000 + seed)
    sizes = np.full(coarse, fine // coarse) + (np.arange(coarse) < fine % coarse)
    if ragged:
        sizes = 1 + rng.multinomial(fine - coarse, rng.dirichlet(np.ones(coarse)))
    parents = np.repeat(np.arange(coarse), sizes)
    centres = rng.normal(size=(fine, d)) * spread
    weights = 1 / (1 + rng.permutation(fine)) if zipf else np.ones(fine)
    counts = np.maximum(3, np.round(n * fine * weights / weights.sum()).astype(int))
    shapes = rng.normal(size=(fine, d, d)) / np.sqrt(d) if shaped else np.broadcast_to(np.eye(d), (fine, d, d))
    y = np.repeat(np.arange(fine), counts)

    def draw() -> Samples:
        noise = np.concatenate([rng.normal(size=(c, d)) @ s for c, s in zip(counts, shapes, strict=True)])
        return Samples((centres[y] + noise).astype(np.float32), parents[y], y)

    return draw(), draw()


def of_sklearn(name: str, parents: list[int] | int, *, seed: int) -> Pair:
    """A table of scikit-learn, a third of it to test; ``parents`` is the grouping, or a number of random groups."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    rng = np.random.default_rng(2000 + seed)
    order = rng.permutation(len(x))
    groups = np.asarray(parents)
    if isinstance(parents, int):
        groups = rng.permutation(np.arange(y.max() + 1) % parents)
    both = np.split(order, [len(x) // 3])
    test, train = (Samples(x[rows].astype(np.float32), groups[y[rows]], y[rows]) for rows in both)
    return train, test


def embeddings(both: Pair, coarse: int, *, zipf: bool = False, seed: int) -> Pair:
    """Some coarse classes of embeddings, all samples of them, or fine classes as large as 1 / rank."""
    rng = np.random.default_rng(4000 + seed)
    groups = np.sort(rng.permutation(both[0].coarse.max() + 1)[:coarse])
    fines = np.unique(both[0].fine[np.isin(both[0].coarse, groups)])
    share = 1 / (1 + rng.permutation(len(fines))) if zipf else np.ones(len(fines))
    parts = []
    for part in both:
        rows = np.flatnonzero(np.isin(part.coarse, groups))
        fine = np.searchsorted(fines, part.fine[rows])
        kept = rng.random(len(rows)) < share[fine]
        rows, fine = rows[kept], fine[kept]
        parts.append(Samples(part.x[rows], np.searchsorted(groups, part.coarse[rows]), fine))
    return parts[0], parts[1]


def zoo(both: Pair | None) -> dict[str, Callable[..., Pair]]:
    """Settings by name: functions of ``seed``."""
    g = partial(partial, gaussians)
    made = {
        "18 Gaussians, K_C 6, d 20": g(6, 18, 20, 1.2, 40),
        "30 Gaussians, K_C 8, d 64": g(8, 30, 64, 0.7, 50),
        "9 Gaussians, K_C 3, d 4": g(3, 9, 4, 2.5, 150),
        "50 Gaussians, K_C 10, d 24": g(10, 50, 24, 1.0, 40),
        "20 Gaussians of any shape, K_C 5, d 24": g(5, 20, 24, 0.8, 60, shaped=True),
        "24 Gaussians, groups of any size, K_C 6, d 32": g(6, 24, 32, 1.0, 50, ragged=True),
        "12 Gaussians as 1/rank, K_C 4, d 32": g(4, 12, 32, 1.5, 80, zipf=True),
        "30 Gaussians as 1/rank, K_C 6, d 10": g(6, 30, 10, 2.5, 100, zipf=True),
        "20 Gaussians as 1/rank, groups of any size, K_C 5, d 12": g(5, 20, 12, 2.0, 100, ragged=True, zipf=True),
        "digits in 3 groups, one split": lambda seed: digits(),
        "digits in 2 random groups": partial(of_sklearn, "digits", 2),
        "digits in 4 random groups": partial(of_sklearn, "digits", 4),
        "iris, {0} and {1, 2}": partial(of_sklearn, "iris", [0, 1, 1]),
        "breast cancer, one group": partial(of_sklearn, "breast_cancer", [0, 0]),
    }
    if both is not None:
        made["embeddings, 4 coarse classes"] = partial(embeddings, both, 4)
        made["embeddings as 1/rank, 6 coarse classes"] = partial(embeddings, both, 6, zipf=True)
    return made


def cells(settings: list[str], seeds: list[int]) -> Iterator[Cell]:
    """Everything to compute, seed by seed."""
    return (Cell("zoo", name, method, seed) for seed in seeds for name in settings for method in METHODS)


def compute(cell: Cell, settings: dict[str, Callable[..., Pair]]) -> dict[str, Any]:
    """The metrics of one cell."""
    train, test = settings[cell.setting](seed=cell.seed)
    n_fine = int(train.fine.max()) + 1
    start = cell.method == "FALCON's start"
    method, options = ("FALCON", {"epochs": 0}) if start else (cell.method, {})
    return judge(test, fit(method, train, test.x, n_fine, cell.seed, **options))


def report(records: list[dict[str, Any]]) -> str:
    """Mean accuracy and that of the worst seed, in percent, as a Markdown table."""
    table: dict[str, dict[str, list[float]]] = {}
    for r in records:
        table.setdefault(r["setting"], {}).setdefault(METHODS[r["method"]], []).append(100 * r["accuracy"])
    lines = [f"| setting | {' | '.join(METHODS.values())} |", "|---|" + "---:|" * len(METHODS)]
    for name, row in table.items():
        best = max(round(float(np.mean(a)), 1) for a in row.values())
        shown = (f"{np.mean(row[m]):.1f} ({min(row[m]):.1f})" for m in METHODS.values())
        lines.append(
            f"| {name} | " + " | ".join(f"**{s}**" if float(s.split()[0]) == best else s for s in shown) + " |"
        )
    means = (np.mean([np.mean(row[m]) for row in table.values()]) for m in METHODS.values())
    return "\n".join([*lines, f"| mean | {' | '.join(f'{m:.1f}' for m in means)} |"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--out", type=Path, required=True)
    go.add_argument("--seeds", type=int, nargs="+", default=[1, 3])
    go.add_argument("--train", type=Path, help="embeddings to train on")
    go.add_argument("--test", type=Path, help="embeddings to test on")
    commands.add_parser("report").add_argument("results", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "report":
        print(report(read_lines(arguments.results)))
        return
    both = None if arguments.train is None else (load(arguments.train), load(arguments.test))
    settings = zoo(both)
    run(cells(list(settings), arguments.seeds), arguments.out, lambda cell: compute(cell, settings))


if __name__ == "__main__":
    main()

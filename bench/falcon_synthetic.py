"""FALCON on data made for one question each: a page of results that needs no file.

    python -m c2f_ops.bench.falcon_synthetic run --out synthetic.jsonl
    python -m c2f_ops.bench.falcon_synthetic report synthetic.jsonl --notes notes.md --out docs/results

Classes, samples and labels are drawn anew for each seed. Methods see coarse labels of the training samples only.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from c2f_ops.metrics import match_classes
from c2f_ops.relations import balance_threshold

from .falcon_cells import BASELINES, Cell, Work, act, estimated, falcon, fit, judge, parser_of
from .falcon_data import (
    Gaussians,
    Samples,
    spectra,
    true_relations,
    with_noise,
    with_pair_noise,
    with_taxonomies,
    with_two_parents,
)  # fmt: skip
from .falcon_large import Size, large

LARGE = Size()
EPOCHS = 30
WIDTH = 32
NUISANCE = 4
EVEN = (5,) * 10
UNEVEN = (2, 3, 4, 5, 6, 7, 8, 3, 5, 7)
CUB = (1,) * 9 + (2,) * 6 + (3,) * 5 + (4,) * 4 + (5, 6, 6, 7, 9, 15)  # species in the families of 100 CUB species
RATES = (0.0, 0.1, 0.2, 0.4)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
WEIGHTS = {"0": 0.0, "threshold / 2": 0.5, "2 x threshold": 2.0}
DATA = ("Gaussians", "Gaussians with nuisance", "spectra")
TAXONOMIES = ("first taxonomy", "second taxonomy", "both")
METHODS = ("FALCON", "KMeans", *BASELINES)


def cells(seeds: int) -> Iterator[Cell]:
    """Everything to compute, one seed after the other, and at last the large fit, of one seed."""
    for seed in range(seeds):
        yield from (Cell("data", data, method, seed) for data in DATA for method in METHODS)
        yield from (Cell("data", data, "NearestCentre", seed) for data in DATA[:2])
        for counts in ("equal counts", "Zipf counts"):
            for prior in ("equal", "proportional"):
                for weight in WEIGHTS:
                    yield Cell("unbalanced", f"{counts}, {prior} prior, lambda_m {weight}", "FALCON", seed)
            yield Cell("unbalanced", f"{counts}, true relations given", "FALCON", seed)
            yield from (Cell("unbalanced", counts, method, seed) for method in ("GroupKMeans", "NearestCentre"))
        for count in (1, 10):
            for share in SHARES:
                for method in ("FALCON", "GroupKMeans"):
                    yield Cell(f"two parents, {count} of 50", f"{share:.0%}", method, seed)
        for kind, rates in (("noise", RATES), ("noise in pairs", RATES[1:])):  # none is none
            for rate in rates:
                for method in ("FALCON", "FALCON drop", "FALCON smooth", "GroupKMeans"):
                    yield Cell(kind, f"{rate:.0%}", method, seed)
        for sizes in ("5 in each", "2 to 8"):
            yield from (Cell("estimate", f"{sizes}, {given}", "FALCON", seed) for given in ("estimated", "true count"))
        yield from (Cell("taxonomies", f"{data}, {which}", "FALCON", seed) for data in DATA for which in TAXONOMIES)
    yield from (Cell("large", "1,000 coarse", method, 0) for method in ("FALCON", "GroupKMeans"))


def compute(cell: Cell, samples: int = 50, size: Size = LARGE, **options: Any) -> dict[str, Any]:
    """The metrics of one cell: ``samples`` of a fine class on average; ``options`` are those of `falcon`."""
    if cell.experiment == "large":
        return large(cell, size)
    options = {"epochs": EPOCHS, **options}
    rng = np.random.default_rng(cell.seed)
    if cell.experiment == "unbalanced":
        return unbalanced(cell, samples, rng, **options)
    if cell.experiment == "estimate":
        sizes = UNEVEN if "2 to 8" in cell.setting else EVEN
        classes = Gaussians.of(sizes, WIDTH, rng)
        train, test = (classes.draw(np.full(sum(sizes), samples), rng) for _ in range(2))
        return estimated(cell, train, test, **options)
    classes = Gaussians.of(EVEN, WIDTH, rng, NUISANCE if "nuisance" in cell.setting else 0)
    train, test = (classes.draw(np.full(sum(EVEN), samples), rng) for _ in range(2))
    if "spectra" in cell.setting:
        train, test = spectra(EVEN, samples, rng)
    if cell.experiment.startswith("two parents"):
        return two_parents(cell, train, test, rng, **options)
    if cell.experiment == "noise":
        train = with_noise(train, cell.rate, rng)
    elif cell.experiment == "noise in pairs":
        train = with_pair_noise(train, cell.rate, rng)
    elif cell.experiment == "taxonomies":
        train = with_taxonomies(train, cell.setting.split(", ")[1])
    return answer(cell, classes, train, test, **options)


def answer(cell: Cell, classes: Gaussians, train: Samples, test: Samples, **options: Any) -> dict[str, Any]:
    """The metrics of a method."""
    if cell.method == "NearestCentre":
        return judge(test, (classes.nearest(test.x), classes.parents[None]))
    predicted, relations = fit(cell.method, train, test.x, len(classes.parents), cell.seed, **options)
    second = cell.setting.endswith("second taxonomy")  # not the taxonomy of the test samples' labels
    return judge(test, (predicted, None if second else relations))


def unbalanced(cell: Cell, samples: int, rng: np.random.Generator, **options: Any) -> dict[str, Any]:
    """Groups of 1 to 15 fine classes, of equal or Zipf sizes (rank r of a random order has a share 1 / r)."""
    classes = Gaussians.of(CUB, WIDTH, rng)
    share = 1 / (1 + rng.permutation(sum(CUB)))
    equal = cell.setting.startswith("equal counts")
    counts = np.full(len(share), samples) if equal else np.ceil(samples * len(share) * share / share.sum()).astype(int)
    train, test = (classes.draw(counts, rng) for _ in range(2))
    if cell.method != "FALCON":
        return answer(cell, classes, train, test)
    if "given" in cell.setting:
        switches: dict[str, Any] = {"learn_relations": False}
        options["relations"] = classes.parents
    else:
        _, prior, weight = cell.setting.split(", ")
        threshold = len(CUB) / (2 * sum(CUB))  # of fine classes with equal mass
        switches = {"group_prior": prior.split()[0], "lambda_m": WEIGHTS[weight.removeprefix("lambda_m ")] * threshold}
    model = falcon(train, sum(CUB), cell.seed, switches=switches, **options)
    return {
        **judge(test, (model.predict(test.x), model.relations_)),
        "balance_forced": model.balance_forced_,
        "threshold": balance_threshold(model._falcon.cooccurrence()[0].numpy()),
    }


def two_parents(cell: Cell, train: Samples, test: Samples, rng: np.random.Generator, **options: Any) -> dict[str, Any]:
    """A share of some fine classes under a second coarse class, and what `FalconClusterer.multi_parent_` says."""
    first = true_relations(test)
    train = with_two_parents(train, int(cell.experiment.split()[2]), rng, cell.rate)
    if cell.method != "FALCON":
        return judge(test, fit(cell.method, train, test.x, len(first), cell.seed))
    split = np.unique(train.fine[train.coarse != first[train.fine]])
    model = falcon(train, len(first), cell.seed, **options)
    predicted = model.predict(test.x)
    match = match_classes(test.fine, predicted)
    named = {int(match[row.fine]) if row.fine < len(match) else -1 for row in model.multi_parent_}
    return {
        **judge(test, (predicted, model.relations_)),
        "split": len(split), "found": len(named & set(split.tolist())), "reported": len(model.multi_parent_),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser, _, _ = parser_of(__doc__)
    arguments = parser.parse_args()

    def prepare(**options: Any) -> Work:
        return partial(compute, samples=arguments.samples or 50, **options)

    act(arguments, "falcon-synthetic", cells, prepare)


if __name__ == "__main__":
    main()

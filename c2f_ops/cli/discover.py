"""`c2f discover`: fine classes from embeddings and coarse labels."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ._common import given, listed, option

_FILE = "File"
_Coarse = Annotated[str | None, option(_FILE, "Column or key of the coarse labels; several, comma-separated.")]
_Fine = Annotated[str | None, option(_FILE, "Column or key of fine labels, which only judge.")]
_Features = Annotated[str | None, option(_FILE, "Key of the matrix, or feature columns, comma-separated.")]
_Labels = Annotated[Path | None, option(_FILE, "Label table beside a .npy or .npz file.")]
_Layer = Annotated[str | None, option(_FILE, "Layer of an h5ad file.")]
_Obsm = Annotated[str | None, option(_FILE, "Entry of obsm of an h5ad file, X_pca say.")]
_Unlabeled = Annotated[str | None, option(_FILE, "Label that means unknown.")]
_Input = Annotated[Path, typer.Argument(help="Embeddings: npz, npy, csv, tsv, parquet or h5ad.", show_default=False)]
_Run = Annotated[Path, typer.Argument(help="Folder that `fit` wrote.", show_default=False)]


def fit(
    file: _Input,
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    num_fine: Annotated[int | None, typer.Option(help="Number of fine classes.", show_default=False)] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Estimate the number of fine classes.")] = False,
    preset: Annotated[str | None, typer.Option(help="recommended, paper or reference.", show_default=False)] = None,
    switch: Annotated[
        list[str] | None, typer.Option("--set", help="A switch of FalconConfig: lambda_m=0.1", show_default=False)
    ] = None,
    hidden: Annotated[str | None, typer.Option(help="Sizes of hidden layers, 256,256.", show_default=False)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a step.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", show_default=False)] = None,
    drop_uncertain: Annotated[
        float | None, typer.Option(help="Share of the labels to drop as noise.", show_default=False)
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Neighbours: cosine, l2 or ip.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="These options as JSON or TOML; the command line wins.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for each epoch.")] = False,
    coarse: _Coarse = None,
    fine: _Fine = None,
    features: _Features = None,
    labels: _Labels = None,
    layer: _Layer = None,
    obsm: _Obsm = None,
    unlabeled: _Unlabeled = None,
) -> None:  # fmt: skip
    """Fit FALCON; write model, predictions, relations, log, pictures, and metrics where fine labels are known."""
    from ..estimators.runs import DiscoverOptions, fit_run
    from ..training._typed import parse_setting, read_settings

    op = "discover fit"
    values = {} if config is None else read_settings(op, config)
    values |= given(
        n_fine=num_fine, preset=preset, epochs=epochs, lr=lr, seed=seed, batch_size=batch_size, metric=metric,
        switches=dict(parse_setting(op, text) for text in switch) if switch else None, drop_uncertain=drop_uncertain,
        hidden=None if hidden is None else listed("hidden", hidden, int),
    )  # fmt: skip
    options = DiscoverOptions.of(values)
    if (options.n_fine is None) != estimate:
        raise ValueError("discover fit: give either --num-fine or --estimate")
    data = _load(file, coarse, fine, features, labels, layer, obsm, unlabeled)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FalconClusterer: n_fine is None")
        model = fit_run(data, options, out, verbose=int(verbose))
    console = _console()
    if model.n_fine_estimate_ is not None:
        console.print(str(model.n_fine_estimate_), highlight=False, markup=False)
    _print_hierarchy(console, model, model.labels_)
    if (out / "metrics.json").is_file():
        _print_metrics(console, json.loads((out / "metrics.json").read_text()))
    console.print(f"run folder: {out}", highlight=False, markup=False)


def predict(
    run: _Run,
    file: _Input,
    out: Annotated[Path, typer.Option(help="csv, tsv, npz, parquet or h5ad file to write.", show_default=False)],
    features: _Features = None,
    labels: _Labels = None,
    layer: _Layer = None,
    obsm: _Obsm = None,
) -> None:
    """Name the fine and coarse class of new samples; their labels are not read."""
    from ..estimators.runs import load_run, write_predictions

    model, data = load_run(run), _load(file, None, None, features, labels, layer, obsm, None)
    write_predictions(model, data, out)
    _console().print(f"{len(data)} samples: {out}", highlight=False, markup=False)


def relations(
    run: _Run, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:  # fmt: skip
    """Show which fine classes lie under each coarse class."""
    from ..estimators.runs import class_names, load_run

    model = load_run(run)
    if not as_json:
        _print_hierarchy(_console(), model, model.labels_)
        return
    tree = [
        {name: [int(k) for k in (parents == j).nonzero()[0]] for j, name in enumerate(names)}
        for names, parents in zip(class_names(model), model.relations_, strict=True)
    ]
    print(json.dumps(tree[0] if len(tree) == 1 else tree, indent=1))


def estimate_k(
    file: _Input,
    k_max: Annotated[
        int | None, typer.Option(help="Most fine classes of one coarse class.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    coarse: _Coarse = None,
    features: _Features = None,
    labels: _Labels = None,
    layer: _Layer = None,
    obsm: _Obsm = None,
    unlabeled: _Unlabeled = None,
) -> None:
    """Estimate the number of fine classes of each coarse class, with every vote; a proposal, not a choice."""
    from ..estimators import estimate_n_fine
    from ..estimators.runs import named

    data = _load(file, coarse, None, features, labels, layer, obsm, unlabeled)
    if data.coarse is None or data.coarse.ndim != 1:
        raise ValueError("discover estimate-k: coarse must name one column of labels")
    bound: dict[str, Any] = {} if k_max is None else {"k_max": k_max}
    estimated = estimate_n_fine(data.X, named(data.coarse, data.coarse_names), random_state=seed, **bound)
    if as_json:
        print(json.dumps(estimated.to_dict(), indent=1))
    else:
        _console().print(str(estimated), highlight=False, markup=False)


def evaluate(
    run: _Run,
    file: _Input,
    protocol: Annotated[str, typer.Option(help="heldout or transductive (the samples of the fit).")] = "heldout",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    coarse: _Coarse = None,
    fine: _Fine = None,
    features: _Features = None,
    labels: _Labels = None,
    layer: _Layer = None,
    obsm: _Obsm = None,
    unlabeled: _Unlabeled = None,
) -> None:
    """Compare predictions with fine labels: accuracy after the best matching, ARI, NMI, relations, tree distance."""
    from ..estimators.runs import judge, load_run

    metrics = judge(load_run(run), _load(file, coarse, fine, features, labels, layer, obsm, unlabeled), protocol)
    if as_json:
        print(json.dumps(metrics, indent=1))
    else:
        _print_metrics(_console(), metrics)


def _load(
    file: Path, coarse: str | None, fine: str | None, features: str | None, labels: Path | None, layer: str | None,
    obsm: str | None, unlabeled: str | None,
) -> Any:  # fmt: skip
    from ..data.embeddings import load_embeddings

    return load_embeddings(
        file, x=None if features is None else features.split(","), coarse=None if coarse is None else coarse.split(","),
        fine=fine, labels=labels, layer=layer, obsm=obsm, unlabeled=unlabeled,
    )  # fmt: skip


def _console() -> Console:
    return Console(soft_wrap=True)


def _print_hierarchy(console: Console, model: Any, fine: Any) -> None:
    from ..estimators.runs import relation_rows

    rows = relation_rows(model, fine)
    several = len({taxonomy for taxonomy, *_ in rows}) > 1
    table = Table(title=f"{model.n_fine_} fine classes", title_justify="left")
    for heading in (*(["taxonomy"] if several else []), "coarse class", "fine classes (samples)"):
        table.add_column(heading)
    groups: dict[tuple[str, str], list[str]] = {}
    for taxonomy, name, k, count in rows:
        groups.setdefault((taxonomy, name), []).append(f"{k} ({count})")
    for (taxonomy, name), members in groups.items():  # names are no markup
        table.add_row(*([taxonomy] if several else []), escape(name), ", ".join(members))
    console.print(table)


_SHOWN = {
    "accuracy": "accuracy, best matching", "macro_accuracy": "macro accuracy", "ari": "ARI", "nmi": "NMI",
    "within_group_accuracy": "accuracy inside coarse classes", "relation_accuracy": "right relations",
    "ged": "tree edit distance (sizes only)", "used_clusters": "fine classes in use",
}  # fmt: skip


def _print_metrics(console: Console, metrics: dict[str, Any]) -> None:
    table = Table(title=f"{metrics['num_samples']} samples, {metrics['protocol']}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, text in _SHOWN.items():
        value = metrics[key]
        if value is not None:
            share = isinstance(value, float) and key != "ged"
            table.add_row(text, f"{100 * value:.1f} %" if share else f"{value:g}")
    console.print(table)

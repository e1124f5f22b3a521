"""Pages and curves from the results of `falcon_study` and `falcon_synthetic`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Record = Mapping[str, Any]
Rows = Mapping[tuple[str, str], list[Record]]  # by setting and method
Groups = Mapping[str, Rows]  # by experiment

# Heading, factor and digits of a column.
COLUMNS = {
    "accuracy": ("accuracy", 100, 1),
    "ari": ("ARI", 100, 1),
    "within_group_accuracy": ("within group", 100, 1),
    "relation_accuracy": ("relations", 100, 1),
    "used_clusters": ("classes used", 1, 0),
}
ESTIMATE = {
    "estimate": ("estimate", 1, 1),
    "low": ("least vote", 1, 1),
    "high": ("greatest vote", 1, 1),
    "off_per_coarse": ("off by, a coarse class", 1, 2),
    "estimate_seconds": ("seconds to estimate", 1, 1),
}
PARENTS = {"reported": ("reported", 1, 1), "found": ("of them split", 1, 1), "split": ("split", 1, 1)}
SIZES = {
    "macro_accuracy": ("macro accuracy", 100, 1),
    "group_size_error": ("group size error", 1, 1),
    "threshold": ("threshold of the last solve", 1, 2),
}
PAGES = {
    "falcon-cifar100": {
        "methods": ("Methods", {}),
        "ablation": ("Terms of the loss", {}),
        "presets": ("Presets, and relations given", {}),
        "classes": ("Number of fine classes", {}),
        "estimate": ("Number of fine classes, estimated", ESTIMATE),
        "noise": ("Noise in the coarse labels, symmetric", {}),
        "noise in pairs": ("Noise in the coarse labels, within pairs", {}),
        "taxonomies": ("Two taxonomies", {}),
        "two parents": ("Fine classes under two coarse classes", {}),
        "variants": ("CIFAR-68 and CIFAR-SI", {"macro_accuracy": SIZES["macro_accuracy"]}),
        "digits": ("Handwritten digits", {}),
    },
    "falcon-synthetic": {
        "data": ("The data", {}),
        "large": ("1,000 coarse and 10,000 fine classes", {}),
        "unbalanced": ("Uneven groups, uneven classes", SIZES),
        "two parents, 1 of 50": ("One fine class under two coarse classes", PARENTS),
        "two parents, 10 of 50": ("Ten fine classes under two coarse classes", PARENTS),
        "noise": ("Noise in the coarse labels, symmetric", {}),
        "noise in pairs": ("Noise in the coarse labels, within pairs", {}),
        "estimate": ("Number of fine classes, estimated", ESTIMATE),
        "taxonomies": ("Two taxonomies", {}),
    },
}
NAMES = {
    "FALCON": "FALCON",
    "FALCON drop": "FALCON, `drop_uncertain=0.2`",
    "FALCON smooth": "FALCON, `label_smoothing_coarse=0.2`",
    "KMeans": "k-means, no labels",
    "GroupKMeans": "k-means inside coarse classes",
    "CoarseTrainingKMeans": "coarse training, then k-means",
    "NeighbourClustering": "neighbour clustering inside coarse classes (SCAN-C)",
    "SupervisedUpperBound": "fine labels (upper bound)",
    "NearestCentre": "nearest true centre (bound)",
}
# Paper, Tables 2, 4, 5, 6, J1 and M1: accuracy / ARI on CIFAR-100 with ResNet-18 trained end to end.
PAPER: dict[tuple[str, ...], str] = {
    ("methods", "FALCON"): "59.6 / 42.5",
    ("methods", "CoarseTrainingKMeans"): "51.9 / 36.0 (GEORGE)",
    ("methods", "NeighbourClustering"): "48.7 / 36.1",
    ("methods", "SupervisedUpperBound"): "74.5 / 57.0",
    ("ablation", "full"): "59.6 / 42.5",
    ("ablation", "without L_nn and L_conf"): "22.9 / 14.6",
    ("ablation", "without L_reg"): "18.7 / 22.8",
    ("ablation", "without L_coarse and L_conf"): "51.0 / 32.0",
    ("taxonomies", "first taxonomy"): "56.0 / 38.6",
    ("taxonomies", "second taxonomy"): "56.6 / 38.7",
    ("taxonomies", "both"): "61.5 / 43.9",
    ("classes", "80%"): "55.1 / -",
    ("classes", "100%"): "60.4 / -",
    ("classes", "120%"): "57.5 / -",
    ("classes", "150%"): "57.6 / -",
    ("estimate", "FALCON"): "54.9 / 39.9 (89 classes)",
    ("variants", "CIFAR-68", "FALCON"): "60.4 / 47.0",
    ("variants", "CIFAR-68", "CoarseTrainingKMeans"): "59.6 / 42.8 (GEORGE)",
    ("variants", "CIFAR-68", "NeighbourClustering"): "54.3 / 41.9",
    ("variants", "CIFAR-68", "SupervisedUpperBound"): "78.8 / 62.9",
    ("variants", "CIFAR-SI", "FALCON"): "55.6 / 39.1",
    ("variants", "CIFAR-SI", "CoarseTrainingKMeans"): "51.2 / 36.7 (GEORGE)",
    ("variants", "CIFAR-SI", "NeighbourClustering"): "48.6 / 38.0",
    ("variants", "CIFAR-SI", "SupervisedUpperBound"): "73.0 / 56.6",
}


def write_page(page: str, records: Iterable[Record], out: Path, notes: str) -> Path:
    """Write ``notes`` and then the tables of ``page`` (of `PAGES`), and its curves beside ``out``; returns its path."""
    groups: dict[str, dict[tuple[str, str], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record["experiment"]][record["setting"], record["method"]].append(record)
    parts = [notes.strip()]
    for experiment, (title, extra) in PAGES[page].items():
        rows = groups.get(experiment)
        if not rows:
            continue
        paper = PAPER if page == "falcon-cifar100" else {}
        parts += [f"## {title}", table(experiment, rows, extra, paper)]
        if experiment == "large":
            parts += [costs(record) for records in rows.values() for record in records if "solves" in record]
        draw = DRAWINGS.get(experiment)
        if draw is not None:
            name = f"{page}-{experiment.replace(',', '').replace(' ', '-')}.png"
            save(draw(groups), out.parent / "images" / name)
            parts.append(f"![{title}](../images/{name})")
    path = out / f"{page}.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def table(
    experiment: str, rows: Rows, extra: Mapping[str, tuple[str, float, int]], paper: Mapping[tuple[str, ...], str]
) -> str:
    """A Markdown table: mean and standard deviation over seeds, every seed's accuracy, the ``paper``'s figures."""
    shown = len({setting for setting, _ in rows}) > 1
    several = len({method for _, method in rows}) > 1
    columns = {**COLUMNS, **extra}
    papers = any(key in paper for setting, method in rows for key in places(experiment, setting, method))
    heads = [*(["setting"] if shown else []), *(["method"] if several else [])]
    heads += [*(head for head, *_ in columns.values()), "accuracy of each seed"]
    heads += ["paper: accuracy / ARI"] if papers else []
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (setting, method), records in rows.items():
        cells = [*([setting] if shown else []), *([NAMES[method]] if several else [])]
        cells += [spread([r.get(name) for r in records], scale, digits) for name, (_, scale, digits) in columns.items()]
        by_seed = sorted(records, key=lambda r: r["seed"])
        cells.append(", ".join(f"{100 * r['accuracy']:.1f}" for r in by_seed))
        if papers:
            cells.append(next((paper[key] for key in places(experiment, setting, method) if key in paper), ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def places(experiment: str, setting: str, method: str) -> list[tuple[str, ...]]:
    """Where the paper's figure for a row may stand."""
    by_setting = [(experiment, setting)] if method == "FALCON" else []
    return [(experiment, setting, method), (experiment, method), *by_setting]


def spread(values: list[Any], scale: float, digits: int) -> str:
    """Mean +- standard deviation of the values that are there, times ``scale``."""
    known = np.array([v for v in values if v is not None and v == v], dtype=float) * scale
    if not len(known):
        return "-"
    return f"{known.mean():.{digits}f}" + (f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else "")


def costs(record: Record) -> str:
    """What the large fit took."""
    solves = defaultdict(list)
    for solve in record["solves"]:
        solves[solve["method"]].append(solve["seconds"])
    kinds = "; ".join(f"{len(s)} {kind}: {np.median(s):.2f} s, at most {max(s):.2f}" for kind, s in solves.items())
    facts = {
        "epochs": record["epochs"],
        "fit, CPU time of one thread": f"{record['fit_cpu_seconds']:.0f} s",
        "most memory held (RSS)": f"{record['peak_mib']} MiB, of it {record['peak_before_mib']} before the fit",
        "solves inside the fit, median CPU time": kinds,
        "solve from nothing on the last co-occurrence": f"{record['cold_seconds']:.2f} s",
        "the fit's relations are its optimum": "yes" if record["cold_same"] else "no",
        "gap to the proven bound": f"{record['gap']:.1e}, of an objective of {record['objective']:.3f}",
        "nearest true centre names": f"{100 * record['nearest_centre']:.1f} %",
    }
    return "\n".join(["| FALCON | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


# ---- curves ----------------------------------------------------------------------------------------------------------

COLOURS = {"FALCON": "#0072B2", "FALCON drop": "#009E73", "FALCON smooth": "#CC79A7", "GroupKMeans": "#E69F00"}
LABELS = {"accuracy": "accuracy, %", "relation_accuracy": "right relations, %"}


def curves(axes: Any, rows: Rows, column: str) -> None:
    """A column against the setting in per cent, a line for each method, a dot for each seed."""
    settings = list(dict.fromkeys(setting for setting, _ in rows))
    for method in dict.fromkeys(method for _, method in rows):
        means = []
        for setting in settings:
            values = [100 * r[column] for r in rows.get((setting, method), []) if r[column] is not None]
            place = float(setting.rstrip("%"))
            axes.plot([place] * len(values), values, "o", color=COLOURS[method], alpha=0.4, markersize=4)
            means += [(place, np.mean(values))] if values else []
        axes.plot(*zip(*means, strict=True), color=COLOURS[method], label=NAMES[method].replace("`", ""))
    axes.set_xticks([float(setting.rstrip("%")) for setting in settings])
    axes.set_ylabel(LABELS[column])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)


def pair() -> tuple[Any, Any]:
    """A figure and its two axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    return figure, figure.subplots(1, 2)


def both_columns(experiment: str, label: str) -> Callable[[Groups], Any]:
    """Draw accuracy and relation accuracy of one experiment."""

    def draw(groups: Groups) -> Any:
        figure, axes = pair()
        for one, column in zip(axes, LABELS, strict=True):
            curves(one, groups[experiment], column)
            one.set_xlabel(label)
        axes[1].legend(frameon=False, fontsize=8)
        return figure

    return draw


def draw_noise(groups: Groups) -> Any:
    """Accuracy against the rate of both kinds of noise."""
    if "noise in pairs" not in groups:
        return both_columns("noise", "wrong coarse labels, %")(groups)
    figure, axes = pair()
    none = {key: records for key, records in groups["noise"].items() if key[0] == "0%"}
    for one, kind in zip(axes, ("noise", "noise in pairs"), strict=True):
        curves(one, {**none, **groups[kind]}, "accuracy")
        one.set_xlabel("wrong coarse labels, %: " + ("any other class" if kind == "noise" else "the other of a pair"))
    axes[1].sharey(axes[0])
    axes[1].legend(frameon=False, fontsize=8)
    return figure


DRAWINGS: dict[str, Callable[[Groups], Any]] = {
    "classes": both_columns("classes", "fine classes looked for, % of those there are"),
    "noise": draw_noise,
    "two parents, 10 of 50": both_columns("two parents, 10 of 50", "samples with a second parent's label, %"),
}


def save(figure: Any, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)

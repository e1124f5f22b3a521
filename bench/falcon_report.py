"""Pages and curves from the results of `falcon_study`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Record = Mapping[str, Any]

COLUMNS = {
    "accuracy": "accuracy",
    "ari": "ARI",
    "within_group_accuracy": "within group",
    "relation_accuracy": "relations",
    "used_clusters": "classes used",
}
TITLES = {
    "methods": "Methods",
    "ablation": "Terms of the loss",
    "presets": "Presets, and relations given",
    "classes": "Number of fine classes",
    "noise": "Noise in the coarse labels",
    "taxonomies": "Two taxonomies",
    "two parents": "Fine classes under two coarse classes",
    "digits": "Handwritten digits",
}
NAMES = {
    "FALCON": "FALCON",
    "KMeans": "k-means, no labels",
    "GroupKMeans": "k-means inside coarse classes",
    "CoarseTrainingKMeans": "coarse training, then k-means",
    "NeighbourClustering": "neighbour clustering inside coarse classes (SCAN-C)",
    "SupervisedUpperBound": "fine labels (upper bound)",
}
# Paper, Tables 2, 4, 5, J1 and M1: accuracy / ARI on CIFAR-100 with ResNet-18 trained end to end.
PAPER = {
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
}


def write_page(records: Iterable[Record], out: Path, notes: str) -> Path:
    """Write ``falcon-cifar100.md``, ``notes`` and then the tables, and its curves beside ``out``; returns the page."""
    groups: dict[str, dict[tuple[str, str], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record["experiment"]][record["setting"], record["method"]].append(record)
    parts = [notes.strip()]
    for experiment, title in TITLES.items():
        if experiment in groups:
            parts += [f"## {title}", table(experiment, groups[experiment])]
            if experiment in ("classes", "noise"):
                name = f"falcon-{experiment}.png"
                curves(groups[experiment], TITLES[experiment], out.parent / "images" / name)
                parts.append(f"![{title}](../images/{name})")
    page = out / "falcon-cifar100.md"
    page.write_text("\n\n".join(parts) + "\n")
    return page


def table(experiment: str, rows: Mapping[tuple[str, str], list[Record]]) -> str:
    """A Markdown table: mean and standard deviation over seeds, every seed's accuracy, the paper's figures."""
    shown = experiment not in ("methods", "digits")
    several = len({method for _, method in rows}) > 1
    heads = [*(["setting"] if shown else []), *(["method"] if several else [])]
    heads += [*COLUMNS.values(), "accuracy of each seed", "paper: accuracy / ARI"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (setting, method), records in rows.items():
        cells = [*([setting] if shown else []), *([NAMES[method]] if several else [])]
        cells += [spread([r[name] for r in records], name) for name in COLUMNS]
        by_seed = sorted(records, key=lambda r: r["seed"])
        key = method if experiment == "methods" else setting
        paper = PAPER.get((experiment, key), "") if method == "FALCON" or experiment == "methods" else ""
        cells += [", ".join(f"{100 * r['accuracy']:.1f}" for r in by_seed), paper]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float | None], name: str) -> str:
    """Mean +- standard deviation, shares in per cent."""
    known = np.array([v for v in values if v is not None and v == v], dtype=float)
    if not len(known):
        return "-"
    scale, digits = (1, 0) if name == "used_clusters" else (100, 1)
    deviation = known.std(ddof=1) * scale if len(known) > 1 else float("nan")
    return f"{known.mean() * scale:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(known) > 1 else "")


def curves(rows: Mapping[tuple[str, str], list[Record]], title: str, path: Path) -> None:
    """Accuracy and relation accuracy against the setting, a line for each method, a dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    settings = list(dict.fromkeys(setting for setting, _ in rows))
    x = [float(setting.rstrip("%")) for setting in settings]
    for axes, (name, label) in zip(
        figure.subplots(1, 2), (("accuracy", "accuracy, %"), ("relation_accuracy", "right relations, %")), strict=True
    ):
        for colour, method in zip(("#0072B2", "#E69F00"), ("FALCON", "GroupKMeans"), strict=True):
            means = []
            for place, setting in zip(x, settings, strict=True):
                values = [100 * r[name] for r in rows.get((setting, method), []) if r[name] is not None]
                axes.plot([place] * len(values), values, "o", color=colour, alpha=0.4, markersize=4)
                means.append(np.mean(values) if values else np.nan)
            axes.plot(x, means, color=colour, label=NAMES[method])
        axes.set_xlabel(f"{title.lower()}, %")
        axes.set_ylabel(label)
        axes.set_xticks(x)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)

"""Results to look at: the table and training curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..logs import read_log
from ..report import _FAINT, _INK, _LEVEL_COLOURS, _figure
from ..words import percent

CURVES, CLASSES = "curves.png", "classes.png"
_ROWS = {
    "accuracy": "accuracy",
    "macro_accuracy": "macro accuracy",
    "ari": "ARI",
    "nmi": "NMI",
    "within_group_accuracy": "accuracy inside coarse classes",
    "relation_accuracy": "relation accuracy",
}


def format_table(metrics: Mapping[str, Any]) -> Any:
    """Lay out the metrics as a rich table, FALCON beside what needs no FALCON."""
    from rich.table import Table

    columns = {"FALCON": metrics["falcon"], "k-means": metrics["kmeans"]}
    notes = ["k-means: inside the coarse classes, on the features of the start."]
    if metrics.get("heads") is not None:
        several = len(metrics["num_coarse"]) > 1
        columns["classifiers" if several else "classifier"] = metrics["heads"]
        notes.append(
            "classifiers: those of the coarse start, one for each taxonomy; pairs of answers are the classes."
            if several
            else "classifier: that of the coarse start; its coarse classes are the classes."
        )
    if metrics.get("largest") is not None:
        columns["largest"] = {"accuracy": metrics["largest"]}
        notes.append("largest: coarse class known, its largest fine class named.")
    title = f"{metrics['data']}, {metrics['images']} test images, protocol {metrics['falcon']['protocol']}"
    caption = "\n".join(["No fine label was used in training.", *notes])
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("%")
    for name in columns:
        table.add_column(name, justify="right", style="bold" if name == "FALCON" else None)
    for key, name in _ROWS.items():
        if metrics["falcon"].get(key) is not None:
            table.add_row(name, *(percent((part or {}).get(key)) for part in columns.values()))
    coarse = "  ".join(percent(value) for value in metrics["falcon"]["coarse_accuracy"])
    table.add_row("coarse accuracy", coarse, *["-"] * (len(columns) - 1))
    counts = ((part or {}).get("used_clusters") for part in columns.values())
    table.add_row("used clusters", *("-" if count is None else str(count) for count in counts))
    return table


def plot_curves(run: Path, num_fine: int, path: Path) -> None:
    """Draw the terms of the loss, the classes in use and the fine classes that changed parents over the epochs."""
    records = read_log(run)
    figure = _figure(11, 3.6)
    terms_axes, used_axes, moved_axes = figure.subplots(1, 3)
    train = [r for r in records if r["kind"] == "train"]
    epochs = [r["epoch"] for r in train]
    words = {"coarse": "coarse", "nn": "neighbours", "conf": "confidence", "reg": "balance"}
    for (term, word), colour in zip(words.items(), _LEVEL_COLOURS, strict=False):
        terms_axes.plot(epochs, [r["terms"][term] for r in train], color=colour, lw=1.6, label=word)
    terms_axes.set_ylabel("terms of the loss")
    terms_axes.legend(frameon=False)
    used = [r for r in records if r["kind"] == "clusters"]
    used_axes.plot([r["epoch"] for r in used], [r["used"] for r in used], color=_INK, lw=1.6, marker="o", ms=3)
    used_axes.axhline(num_fine, color=_FAINT, lw=0.8, ls=":")
    used_axes.set_ylabel("fine classes in use")
    used_axes.set_ylim(0, 1.08 * num_fine)
    solved = [r for r in records if r["kind"] == "relations"]
    moved_axes.bar([r["epoch"] for r in solved], [r["moved"] for r in solved], width=0.12, color=_INK)
    moved_axes.set_ylabel("fine classes that changed parents")
    moved_axes.set_ylim(0, max([1.0, *(1.1 * r["moved"] for r in solved)]))
    for axes in (terms_axes, used_axes, moved_axes):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.grid(color="#e6e6e6", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    terms_axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)

"""Results to look at: the table, training curves, and rows of test images for each discovered class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..logs import read_log
from ..report import _FAINT, _INK, _LEVEL_COLOURS, _RIGHT, _WRONG, _figure
from .data import CoarseImages, Truth

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
    """Lay out the metrics as a rich table, FALCON beside k-means of the features that it started from."""
    from rich.table import Table

    result, floor = metrics["falcon"], metrics["kmeans"]
    table = Table(
        title=f"{metrics['data']}, {metrics['images']} test images, protocol {result['protocol']}",
        title_justify="left", caption_justify="left",
        caption="No fine label was used in training. k-means: inside the coarse classes, on the features of the start.",
    )  # fmt: skip
    for name in ("%", "FALCON", "k-means"):
        table.add_column(name, justify="left" if name == "%" else "right")
    for key, name in _ROWS.items():
        if result.get(key) is not None:
            table.add_row(name, _percent(result[key]), _percent((floor or {}).get(key)))
    coarse = "  ".join(_percent(value) for value in result["coarse_accuracy"])
    table.add_row("coarse accuracy", coarse, "-")
    used = [f"{part['used_clusters']} of {metrics['num_fine']}" if part else "-" for part in (result, floor)]
    table.add_row("used clusters", *used)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


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


def plot_classes(
    path: Path,
    data: CoarseImages,
    logits: Tensor,
    relations: Tensor,
    truth: Truth | None,
    metrics: Mapping[str, Any],
    *,
    most: int = 20,
    count: int = 10,
) -> None:
    """Draw the surest test images of each discovered class in a row, grouped by coarse class.

    Args:
        path: PNG file to write.
        data: The test images.
        logits: ``[N, K_F]``.
        relations: int ``[D, K_F]``.
        truth: Names the true class that a row is matched with, and frames images of others; None leaves both out.
        metrics: With the ``matching`` of `evaluate_discovery`.
        most: Classes shown, evenly spread where there are more; those without images are left out.
        count: Images of each.
    """
    sure, predicted = logits.softmax(1).max(1)
    sizes = predicted.bincount(minlength=relations.shape[1])
    order = sorted(predicted.unique().tolist(), key=lambda k: (int(relations[0, k]), k))
    picks = torch.linspace(0, len(order) - 1, min(most, len(order))).round().long()
    shown = [order[i] for i in picks.unique().tolist()]
    cell, gap, left, top = 0.72, 0.06, 2.35, 0.72  # inches
    breaks = [i for i in range(1, len(shown)) if relations[0, shown[i]] != relations[0, shown[i - 1]]]
    width = left + count * (cell + gap) + 0.15
    height = top + len(shown) * (cell + gap) + 0.16 * len(breaks) + 0.1
    figure = _figure(width, height, tight=False)

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, va="top", **{"color": _INK, "size": 8, **style})

    matching = metrics.get("matching")
    text(0.15, 0.12, "FALCON: the surest test images of each discovered class", size=11, weight="bold")
    notes = [] if matching is None else ["green: of the true class that the row is matched with, red: of another"]
    notes += [f"{len(shown)} of {len(order)} classes shown"] if len(shown) < len(order) else []
    notes += [f"without images: {unused} of {len(sizes)} classes"] if (unused := int((sizes == 0).sum())) else []
    text(0.15, 0.4, ".  ".join(notes), color=_FAINT)
    y = top
    for i, k in enumerate(shown):
        y += 0.16 if i in breaks else 0.0
        members = (predicted == k).nonzero().flatten()
        members = members[sure[members].argsort(descending=True)][:count]
        match = matching[k] if matching is not None and k < len(matching) else -1
        if i == 0 or i in breaks:
            text(0.15, y + 0.02, _short(data.names[0][int(relations[0, k])]), weight="bold")
        text(0.3, y + 0.2, f"class {k}, {int(sizes[k])} images")
        if truth is not None:
            text(0.3, y + 0.37, f"as {_short(truth.names[match])}" if match >= 0 else "no match", color=_FAINT)
            if match >= 0:
                share = float((truth.fine[predicted == k] == match).float().mean())
                text(0.3, y + 0.53, f"{share:.0%} of them", color=_FAINT, size=7.5)
        for column, member in enumerate(members.tolist()):
            x = left + column * (cell + gap)
            axes = figure.add_axes((x / width, 1 - (y + cell) / height, cell / width, cell / height))
            axes.imshow(data.images[member].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            colour = _FAINT
            if truth is not None and match >= 0:
                colour = _RIGHT if int(truth.fine[member]) == match else _WRONG
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=1.6)
        y += cell + gap
    figure.savefig(path, dpi=150)


def _short(name: str) -> str:
    name = name.replace("_", " ")
    return name if len(name) <= 24 else name[:23] + "\N{HORIZONTAL ELLIPSIS}"

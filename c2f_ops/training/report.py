"""Results to look at: the table of levels and resolutions, training curves, test images with their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.degrade import resize_uint8
from ..hierarchy import Hierarchy
from ..models import MLPH
from .augment import centre_crop
from .config import Config
from .evaluate import answers, predict_logits
from .logs import read_log
from .words import percent, shortened, spoken

# Okabe and Ito's colours, told apart by colour-blind readers too.
_LEVEL_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKS = ("\N{BALLOT X}", "\N{CHECK MARK}")
_RIGHT, _WRONG, _INK, _FAINT = "#00734f", "#c0392b", "#222222", "#8a8a8a"


def format_table(metrics: Mapping[str, Any], title: str) -> Any:
    """Lay out accuracy as a rich table: a row per level, fine to coarse, a column per resolution.

    The levels trained at a resolution are bold. Beside each head's accuracy, in brackets, that of the prediction of the
    finest trained head mapped upwards. Of many resolutions only those of the run are shown.
    """
    from rich.table import Table

    accuracy, mapped = metrics["accuracy"], metrics["mapped_accuracy"]
    sides = list(accuracy) if len(accuracy) <= 8 else own_sides(metrics)
    levels, trained = list(metrics["resolutions"]), {(level, str(side)) for level, side in metrics["tasks"]}
    table = Table(title=title, title_justify="left", caption_justify="left")
    finest = max((level for level, _ in trained), key=levels.index)
    table.caption = "Bold: trained at that resolution."
    if finest != levels[0]:
        table.caption += f" In brackets: from the {finest} head, mapped upwards."
    table.add_column("accuracy, %")
    for side in sides:
        table.add_column(f"{side} px", justify="right")
    for level in reversed(levels):
        cells = []
        for side in sides:
            text = percent(accuracy[side][level])
            text = f"[bold]{text}[/bold]" if (level, side) in trained else text
            above = levels.index(level) < levels.index(finest)
            cells.append(f"{text} [dim]({percent(mapped[side][level])})[/dim]" if above else text)
        table.add_row(level, *cells)
    return table


def own_sides(metrics: Mapping[str, Any]) -> list[str]:
    """Return the sides among those measured that the run was trained at or has for its levels; all if there is none."""
    own = {str(side) for _, side in metrics["tasks"]} | {str(side) for side in metrics["resolutions"].values()}
    return [side for side in metrics["accuracy"] if side in own] or list(metrics["accuracy"])


def plot_curves(run: Path, levels: Sequence[str], config: Config, path: Path) -> None:
    """Draw loss and accuracy per level over the epochs of a run."""
    figure = _figure(10, 3.9)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    records, ends = read_log(run), _stage_ends(run)
    cycle = config.cycle(levels)
    for k, colour in zip(config.trained_levels(levels), _LEVEL_COLOURS, strict=False):
        level, sides = levels[k], sorted({side for task, side in cycle if task == k}, reverse=True)
        x, loss, hits = _series(records, "train", level, ends)
        loss_axes.plot(x, loss, color=colour, lw=1.6, label=f"{level}, {', '.join(map(str, sides))} px")
        accuracy_axes.plot(x, hits, color=colour, lw=1.2, alpha=0.45)
        x, _, held = _series(records, "held_out", level, ends)
        accuracy_axes.plot(x, held, color=colour, lw=1.8, marker="o", ms=3.5)
    loss_axes.set_ylabel("training loss")
    accuracy_axes.set_ylabel("accuracy, %")
    accuracy_axes.set_ylim(0, 102)
    loss_axes.set_ylim(bottom=0)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.grid(color="#e6e6e6", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        for end in list(ends.values())[1:]:
            axes.axvline(end, color=_FAINT, lw=0.8, ls=":")
    loss_axes.legend(frameon=False)
    if any(record["kind"] == "held_out" for record in records):
        accuracy_axes.plot([], [], color=_INK, lw=1.8, marker="o", ms=3.5, label="held out")
        accuracy_axes.plot([], [], color=_INK, lw=1.2, alpha=0.45, label="training batches")
        accuracy_axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def _stage_ends(run: Path) -> dict[str, float]:
    """Where each stage starts on a common axis of epochs."""
    starts: dict[str, float] = {}
    end = 0.0
    for record in read_log(run):
        start = starts.setdefault(record["stage"], end)
        end = max(end, start + record["epoch"])
    return starts


def _series(
    records: Sequence[Mapping[str, Any]], kind: str, level: str, starts: Mapping[str, float]
) -> tuple[list[float], list[float], list[float]]:
    """Epochs, losses and accuracies (%) of one level."""
    rows = [r for r in records if r["kind"] == kind and level in r["accuracy"]]
    x = [starts[r["stage"]] + r["epoch"] for r in rows]
    return x, [r.get("loss", {}).get(level, 0.0) for r in rows], [100 * (r["accuracy"][level] or 0.0) for r in rows]


def plot_contact_sheet(
    model: MLPH,
    images: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    config: Config,
    path: Path,
    count: int = 6,
) -> None:
    """Draw test images at each resolution of the run with predicted names, right ones green and wrong ones red.

    Args:
        model: of the run.
        images: uint8 ``[N, 3, load, load]``.
        labels: LongTensor ``[N, K]``.
        hierarchy: their tree.
        config: of the run.
        path: PNG file to write.
        count: images shown: the first of classes spread evenly over the finest level.
    """
    chosen = _spread(labels[:, -1], count)
    shown, truth = centre_crop(images[chosen], config.image_size), labels[chosen]
    sides, cycle = config.measured_sides, config.cycle(hierarchy.levels)
    heads = config.trained_levels(hierarchy.levels)
    predicted = {
        side: answers(predict_logits(model, images[chosen], config, side, precision=config.precision), hierarchy, heads)
        for side in sides
    }
    # Lengths in inches. Two blocks side by side, each with the true names and one picture per resolution.
    line, cell, gap, name_width, head, blocks = 0.155, 1.4, 0.25, 1.6, 0.78, 2
    levels = hierarchy.num_levels
    row, block = cell + line * levels + 0.24, name_width + len(sides) * (cell + gap)
    per_block = -(-len(chosen) // blocks)
    width, height = blocks * block + 0.1, head + per_block * row
    figure = _figure(width, height, tight=False)

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, va="top", **{"color": _INK, "size": 7.5, **style})

    text(0.15, 0.14, f"{config.data}: test images as seen at each resolution, and the answers", size=11, weight="bold")
    for i in range(len(chosen)):
        start, top = 0.15 + (i // per_block) * block, head + (i % per_block) * row
        text(start, top, "true", color=_FAINT, size=7)
        for k in range(levels):
            text(start, top + 0.16 + line * (levels - 1 - k), _name(hierarchy, k, int(truth[i, k])))
        for column, side in enumerate(sides):
            left = start + name_width - 0.15 + column * (cell + gap)
            if i % per_block == 0:
                names = ", ".join(hierarchy.levels[k] for k in reversed(heads) if (k, side) in cycle)
                text(left, head - 0.2, f"{side} px, trained for {names}" if names else f"{side} px", size=8)
            axes = figure.add_axes((left / width, 1 - (top + cell) / height, cell / width, cell / height))
            seen = shown[i : i + 1] if side >= config.image_size else resize_uint8(shown[i : i + 1], (side, side))
            axes.imshow(seen[0].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_axis_off()
            for k in range(levels):
                answer, true = int(predicted[side][i, k]), int(truth[i, k])
                text(
                    left,
                    top + cell + 0.04 + line * (levels - 1 - k),
                    f"{_MARKS[answer == true]} {_name(hierarchy, k, answer)}",
                    color=_RIGHT if answer == true else _WRONG,
                    weight="bold" if (k, side) in cycle else "normal",
                )
    figure.savefig(path, dpi=150)


def _spread(fine: Tensor, count: int) -> Tensor:
    """Return the first image of each of ``count`` classes, spread evenly."""
    classes = fine[fine >= 0].unique()
    picked = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).round().long()]
    return torch.stack([(fine == value).nonzero()[0, 0] for value in picked])


def _name(hierarchy: Hierarchy, level: int, index: int) -> str:
    if index < 0:
        return "unknown"
    return shortened(spoken(hierarchy.names[level][index]), 24)


def _figure(width: float, height: float, *, tight: bool = True) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('report: matplotlib is not installed; pip install "c2f_ops[train]"') from None
    figure = Figure(figsize=(width, height), layout="constrained" if tight else None, facecolor="white")
    FigureCanvasAgg(figure)
    return figure

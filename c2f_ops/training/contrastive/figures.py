"""Figures of a run: embeddings side by side, class weights, distances from prototypes, epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics import own_and_wrong_distances
from ..report import _FAINT, _INK, _LEVEL_COLOURS, _figure
from .config import ContrastiveConfig

Records = Mapping[str, Sequence[Mapping[str, Any]]]
SHORT = {
    "attentive": "class-attentive", "plain": "plain SupCon", "cross-entropy": "cross-entropy", "paper": "as printed",
    "paper-plain": "as printed, no weights", "pairwise": "attentive pairwise", "pairwise-plain": "plain pairwise",
    "attentive-embedding": "class embeddings", "attentive-fast": "attentive, fast weights",
    "attentive-hard": "attentive, hard negatives",
}  # fmt: skip
_SAMPLES = 600  # in a t-SNE
_PERPLEXITY = 30.0


def draw_figures(run: Path, by_method: Records, config: ContrastiveConfig) -> list[tuple[str, str]]:
    """Draw what the folder has data for; return file and caption of each figure."""
    kept = {m: dict(np.load(path)) for m in by_method if (path := run / "embeddings" / f"{m}.npz").is_file()}
    drawn = [("epochs.png", draw_epochs(run / "epochs.png", by_method))]
    if kept:
        drawn.insert(0, ("embeddings.png", draw_embeddings(run / "embeddings.png", kept, by_method)))
        drawn.append(("distances.png", draw_distances(run / "distances.png", kept, by_method)))
    weighted = {m: v for m, v in kept.items() if v["w"].size}
    if weighted:
        drawn.append(("weights.png", draw_weights(run / "weights.png", weighted)))
    return drawn


def draw_embeddings(path: Path, kept: Mapping[str, Mapping[str, np.ndarray]], by_method: Records) -> str:
    """t-SNE of the directions of the same test samples under each method."""
    from sklearn.manifold import TSNE

    across = min(len(kept), 5)
    down = -(-len(kept) // across)
    figure = _figure(3.1 * across, 3.5 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(kept) :]:
        axes.set_visible(False)
    for axes, (method, data) in zip(grid.flat, kept.items(), strict=False):
        rows = np.sort(np.random.default_rng(0).permutation(len(data["z_test"]))[:_SAMPLES])
        z, y = data["z_test"][rows].astype(np.float64), data["y_test"][rows]
        z /= np.linalg.norm(z, axis=1, keepdims=True).clip(1e-30)
        place = TSNE(2, perplexity=min(_PERPLEXITY, (len(z) - 1) / 4), random_state=0, init="pca").fit_transform(z)
        place = (place - place.mean(0)) / np.abs(place - place.mean(0)).max()  # one rule for all axes
        if y.max() < len(_LEVEL_COLOURS):
            for c in np.unique(y):
                axes.scatter(*place[y == c].T, s=6, color=_LEVEL_COLOURS[c], linewidths=0, label=str(data["names"][c]))
        else:
            axes.scatter(*place.T, s=6, c=y, cmap="tab20", linewidths=0)
        record = by_method[method][0]
        axes.set_title(
            f"{SHORT[method]}\nlabel-free {100 * record['label_free']:.1f} %, probe {100 * record['probe']:.1f} %\n"
            f"{record['status']}, trace {record['trace']:.1g}", fontsize=9, color=_INK,
        )  # fmt: skip
        axes.set(xticks=[], yticks=[], xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
        axes.spines[:].set_color(_FAINT)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, title="class", markerscale=2
        )
    figure.savefig(path, dpi=110)
    return (
        f"t-SNE of z/|z| of {_SAMPLES} test samples at most, the same for all methods, seed 0, perplexity "
        f"{_PERPLEXITY:g}; axes have no unit, and t-SNE spreads out collapsed embeddings like any other: see the trace."
    )


def draw_weights(path: Path, kept: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Heat maps of the class weights, each divided by its mean."""
    most = max(len(v["w"]) for v in kept.values())
    figure = _figure(7.5, len(kept) * float(np.clip(0.2 * most + 1, 1.6, 4)) + 0.2)
    grid = figure.subplots(len(kept), 1, squeeze=False)[:, 0]
    for axes, (method, data) in zip(grid, kept.items(), strict=True):
        w = data["w"] / np.abs(data["w"]).mean(1, keepdims=True)
        order = np.lexsort((-w.max(0), w.argmax(0)))
        reach = max(0.02, float(np.abs(w - 1).max()))
        image = axes.imshow(w[:, order], aspect="auto", cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach)
        axes.set_ylabel("class")
        axes.set_xlabel("feature of z, ordered by the class that weighs it most")
        axes.set_title(SHORT[method], fontsize=9, color=_INK, loc="left")
        if len(w) <= 20:
            axes.set_yticks(range(len(w)), data["names"])
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, label="w / mean")
    figure.savefig(path, dpi=110)
    return "Class weights, divided by the mean of each class; white is an equal share. Seed 0."


def draw_distances(path: Path, kept: Mapping[str, Mapping[str, np.ndarray]], by_method: Records) -> str:
    """Histograms of the distances that the error bound is made of."""
    across = min(len(kept), 5)
    down = -(-len(kept) // across)
    figure = _figure(3.1 * across, 2.8 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(kept) :]:
        axes.set_visible(False)
    for axes, (method, data) in zip(grid.flat, kept.items(), strict=False):
        w = data["w"] if data["w"].size else None
        own, wrong = own_and_wrong_distances(data["z"], data["y"], w, data["prototypes"])
        record = by_method[method][0]
        edges = np.linspace(0, max(float(wrong.max()), float(own.max()), record["gamma"]) * 1.02 + 1e-12, 50)
        axes.hist(own, edges, color=_LEVEL_COLOURS[0], alpha=0.75, label="own prototype, d_y")
        axes.hist(wrong, edges, color=_LEVEL_COLOURS[1], alpha=0.75, label="nearest wrong one, r")
        axes.axvline(record["gamma"], color=_INK, lw=1.2, ls="--", label="gamma")
        axes.set_title(f"{SHORT[method]}\nbound {record['bound']:.3f}", fontsize=9, color=_INK)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
        axes.set(xlabel="distance", yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    return (
        "Distances of training samples from their own and the nearest wrong prototype, with gamma of the bound; the "
        "horizontal scales differ. Seed 0."
    )


def draw_epochs(path: Path, by_method: Records) -> str:
    """Loss, effective rank and bound of each epoch."""
    figure = _figure(10.5, 3.4)
    panels = figure.subplots(1, 3)
    for (method, records), colour in zip(by_method.items(), cycle((*_LEVEL_COLOURS, _INK, _FAINT)), strict=False):
        history = records[0]["history"]
        epochs = [h["epoch"] for h in history]
        start = abs(history[0]["loss"]) or 1.0
        for axes, key, scale in zip(panels, ("loss", "effective_rank", "bound"), (start, 1, 1), strict=True):
            axes.plot(
                epochs,
                [h[key] / scale for h in history],
                color=colour,
                lw=1.6,
                ls="--" if "plain" in method else "-",
                label=SHORT[method],
            )
        panels[2].plot(epochs, [max(h["true_error"], 1e-4) for h in history], color=colour, lw=1.0, ls=":")
    for axes, name in zip(
        panels, ("loss / loss of the first epoch", "effective rank of z", "bound (dotted: true error)"), strict=True
    ):
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(color="#e6e6e6", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yscale("log")
    panels[2].set_yscale("log")
    panels[2].axhline(1, color=_FAINT, lw=0.8, ls="--")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    return (
        "Loss, effective rank, bound and true error (no error is drawn at 1e-4) of up to 2048 training samples after "
        "each epoch. Seed 0."
    )

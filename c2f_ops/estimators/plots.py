"""Pictures of a discovery: the samples by class given and class found, and the relation matrix."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

_INK, _FAINT = "#222222", "#b8b8b8"
_HUES = (0.58, 0.09, 0.40, 0.92, 0.50, 0.02, 0.75, 0.16, 0.33, 0.83)  # neighbours in this order are easy to tell apart


def class_colours(relations: np.ndarray, num_coarse: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB of each coarse class ``[K_C, 3]``, and of each fine class ``[K_F, 3]``: shades of its coarse class."""
    coarse, fine = np.zeros((num_coarse, 3)), np.zeros((len(relations), 3))
    for j in range(num_coarse):
        hue = _HUES[j % len(_HUES)] + 0.045 * (j // len(_HUES))
        saturation = 0.75 if j // len(_HUES) % 2 == 0 else 0.45
        coarse[j] = colorsys.hls_to_rgb(hue % 1, 0.45, saturation)
        members = np.flatnonzero(relations == j)
        for rank, k in enumerate(members):
            place = rank / max(1, len(members) - 1)
            fine[k] = colorsys.hls_to_rgb((hue + 0.07 * (place - 0.5)) % 1, 0.28 + 0.44 * place, saturation)
    return coarse, fine


def project(x: Any, *, random_state: int = 0) -> np.ndarray:
    """``[N, 2]`` coordinates by t-SNE, after reduction to 50 dimensions."""
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.manifold import TSNE

    if min(x.shape) > 51:
        reduce = PCA if isinstance(x, np.ndarray) else TruncatedSVD
        x = reduce(50, random_state=random_state).fit_transform(x)
    x = x if isinstance(x, np.ndarray) else x.toarray()
    if len(x) < 2:
        return np.zeros((len(x), 2))
    perplexity = min(30.0, max(1.0, (len(x) - 1) / 4))
    init = "pca" if x.shape[1] > 1 else "random"
    return TSNE(2, init=init, perplexity=perplexity, random_state=random_state).fit_transform(x)


def plot_classes(
    x: Any,
    coarse: np.ndarray,
    fine: np.ndarray,
    relations: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    samples: int = 3000,
    random_state: int = 0,
) -> None:
    """Draw the samples twice in one projection: by the coarse class given, and by the fine class found.

    Args:
        x: ``[N, d]`` features, dense or sparse.
        coarse: ``[N]`` coarse labels, -1 for none (grey).
        fine: ``[N]`` discovered classes.
        relations: ``[K_F]`` coarse class of each of them.
        names: Names of the coarse classes.
        path: Picture to write.
        samples: At most so many samples are drawn, chosen at random.
        random_state: Seed of choice and projection.
    """
    from matplotlib.figure import Figure

    rng = np.random.default_rng(random_state)
    rows = np.sort(rng.permutation(x.shape[0])[:samples])
    place = project(x[rows], random_state=random_state)
    coarse, fine = coarse[rows], fine[rows]
    coarse_colours, fine_colours = class_colours(relations, len(names))
    given = np.where(coarse[:, None] >= 0, coarse_colours[coarse.clip(0)], 0.75)
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    size = float(np.clip(9000 / len(rows), 2, 14))
    used = np.unique(fine)
    for axes, colours, title in (
        (left, given, f"given: {len(names)} coarse classes"),
        (right, fine_colours[fine], f"found: {len(used)} fine classes"),
    ):
        axes.scatter(*place.T, c=colours, s=size, linewidths=0)
        axes.set_title(title, color=_INK, fontsize=11, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(_FAINT)
    if len(names) <= 12:
        handles = [left.scatter([], [], color=c, s=24) for c in coarse_colours]
        left.legend(handles, [_short(n) for n in names], frameon=False, fontsize=8, ncols=2 if len(names) > 6 else 1)
    if len(used) <= 60:
        for k in used:
            members = place[fine == k]
            centre = members[np.linalg.norm(members - np.median(members, axis=0), axis=1).argmin()]
            right.annotate(
                str(k), centre, ha="center", va="center", fontsize=7, color=_INK,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75},
            )  # fmt: skip
    figure.savefig(path, dpi=150)


def plot_relations(
    cooccurrence: np.ndarray, relations: np.ndarray, names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Draw how the samples of each fine class spread over the coarse labels; a frame marks the class it belongs to.

    Args:
        cooccurrence: ``[K_F, K_C]`` counts or masses.
        relations: ``[K_F]`` coarse class of each fine class.
        names: Names of the coarse classes.
        path: Picture to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    order = np.argsort(relations, kind="stable")
    share = cooccurrence[order] / np.maximum(cooccurrence[order].sum(1, keepdims=True), np.finfo(float).tiny)
    classes, parents = share.shape
    cell = float(np.clip(9 / classes, 0.02, 0.32))
    figure = Figure(
        figsize=(max(4.2, classes * cell + 2.6), max(2.2, parents * max(cell, 0.14) + 1)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(share.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    starts = np.flatnonzero(np.diff(relations[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], classes], strict=True):
        corner = (start - 0.5, relations[order][start] - 0.5)
        axes.add_patch(Rectangle(corner, stop - start, 1, fill=False, ec="#D55E00", lw=1.2))
    axes.set_yticks(range(parents) if parents <= 40 else [])
    if parents <= 40:
        axes.set_yticklabels([_short(n) for n in names], fontsize=7)
    axes.set_xticks(range(classes) if classes <= 60 else [])
    if classes <= 60:
        axes.set_xticklabels([str(k) for k in order], fontsize=7)
    axes.set_xlabel("discovered class")
    axes.set_ylabel("coarse class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("share of the samples", fontsize=8)
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=150)


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"

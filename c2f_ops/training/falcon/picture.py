"""Pictures of the discovered classes: in a grid of two taxonomies where there is room, else in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..report import _FAINT, _INK, _RIGHT, _WRONG, _figure
from ..words import shortened, spoken
from .data import CoarseImages, Truth

_LARGEST_GRID, _IN_A_PLACE = 8, 2  # coarse classes of a taxonomy; fine classes with the same two


class _Classes:
    """What is known of the discovered classes, with the means to draw them; lengths in inches from the top left."""

    def __init__(
        self, data: CoarseImages, images: Tensor, logits: Tensor, relations: Tensor, truth: Truth | None,
        matching: Sequence[int] | None,
    ) -> None:  # fmt: skip
        self.names, self.images, self.relations, self.truth = data.names, images, relations, truth
        self.matching, self.both = matching, bool((data.y >= 0).all(1).any())
        self.sure, self.predicted = logits.softmax(1).max(1)
        self.sizes = self.predicted.bincount(minlength=relations.shape[1])
        self.used = sorted(self.predicted.unique().tolist(), key=lambda k: (*relations[:, k].tolist(), k))

    def open(self, width: float, height: float) -> None:
        """Start a figure."""
        self.width, self.height = width, height
        self.figure = _figure(width, height, tight=False)

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write below and right of a point."""
        self.figure.text(x / self.width, 1 - y / self.height, words, **{"va": "top", "color": _INK, "size": 8, **style})

    def match(self, k: int) -> int:
        """The true class matched with class k, -1 for none."""
        return self.matching[k] if self.matching is not None and k < len(self.matching) else -1

    def share(self, k: int) -> float:
        """Share of the images of class k that are of the true class matched with it."""
        assert self.truth is not None
        return float((self.truth.fine[self.predicted == k] == self.match(k)).float().mean())

    def mosaic(self, k: int, x: float, y: float, cell: float, gap: float, columns: int, rows: int = 1) -> None:
        """Draw the surest images of class k in a frame that says whether they belong together."""
        members = (self.predicted == k).nonzero().flatten()
        members = members[self.sure[members].argsort(descending=True)][: columns * rows]
        for i, member in enumerate(members.tolist()):
            left, top = x + i % columns * (cell + gap), y + i // columns * (cell + gap)
            box = (left / self.width, 1 - (top + cell) / self.height, cell / self.width, cell / self.height)
            axes = self.figure.add_axes(box)
            axes.imshow(self.images[member].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            colour = _FAINT
            if self.truth is not None and self.match(k) >= 0:
                colour = _RIGHT if int(self.truth.fine[member]) == self.match(k) else _WRONG
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=1.6)

    def blank(self, x: float, y: float, width: float, height: float) -> None:
        """Draw an empty place."""
        from matplotlib.patches import Rectangle

        place = (x / self.width, 1 - (y + height) / self.height)
        size = width / self.width, height / self.height
        self.figure.add_artist(Rectangle(place, *size, color="#f4f4f2", transform=self.figure.transFigure))

    def legend(self) -> list[str]:
        """What the frames mean, and what is not shown."""
        notes = ["green: of the true class that the class is matched with, red: of another"] if self.matching else []
        unused = int((self.sizes == 0).sum())
        return notes + ([f"without images: {unused} of {len(self.sizes)} classes"] if unused else [])


def plot_classes(
    path: Path,
    data: CoarseImages,
    images: Tensor,
    logits: Tensor,
    relations: Tensor,
    truth: Truth | None,
    metrics: Mapping[str, Any],
) -> None:
    """Draw the surest test images of each discovered class.

    Args:
        path: PNG file to write.
        data: The test images.
        images: uint8 ``[N, 3, S', S']``, the same to look at.
        logits: ``[N, K_F]``.
        relations: int ``[D, K_F]``.
        truth: Names the true class that a class is matched with, and frames images of others; None leaves both out.
        metrics: With the ``matching`` of `evaluate_discovery`.
    """
    classes = _Classes(data, images, logits, relations, truth, metrics.get("matching"))
    _, crowd = relations[:, classes.used].unique(dim=1, return_counts=True)
    if len(relations) == 2 and int(crowd.max()) <= _IN_A_PLACE and max(data.num_coarse) <= _LARGEST_GRID:
        _draw_grid(classes)
    else:
        _draw_rows(classes)
    classes.figure.savefig(path, dpi=150)


def _draw_grid(c: _Classes) -> None:
    """Draw a row for each class of the first taxonomy, a column for each of the second, images where a class is."""
    columns, rows, cell, gap, left, top, between = 3, 2, 0.68, 0.045, 1.45, 1.08, 0.18
    wide, high = columns * (cell + gap), rows * (cell + gap) + 0.24
    across, down = c.names[1], c.names[0]
    c.open(left + len(across) * (wide + between), top + len(down) * (high + between))
    title = f"FALCON: {len(c.used)} classes found, each in the row and the column that were found for it"
    c.text(0.15, 0.14, title, size=13, weight="bold")
    notes = ["The surest test images of each", *c.legend()]
    if not c.both:
        notes.append("in training an image has the name of its row or of its column, never both")
    c.text(0.15, 0.43, "; ".join(notes), color=_FAINT, size=9)
    for j, name in enumerate(across):
        c.text(left + j * (wide + between), top - 0.34, _short(name), weight="bold", size=11)
    for i, name in enumerate(down):
        y = top + i * (high + between)
        c.text(0.15, y + 0.24, _short(name), weight="bold", size=11)
        for j in range(len(across)):
            x, here = left + j * (wide + between), [k for k in c.used if c.relations[:, k].tolist() == [i, j]]
            if not here:
                c.blank(x, y + 0.2, columns * (cell + gap) - gap, rows * (cell + gap) - gap)
            c.text(x, y, "  /  ".join(_words(c, k) for k in here), size=9 if len(here) == 1 else 6.5)
            for line, k in enumerate(here):  # two classes in one place have a line each
                c.mosaic(k, x, y + 0.2 + line * (cell + gap), cell, gap, columns, rows // len(here))


def _words(c: _Classes, k: int) -> str:
    """What class k is, in the width of a place."""
    if c.truth is None or c.match(k) < 0:
        return f"class {k}, {int(c.sizes[k])} images"
    return f"{_short(c.truth.names[c.match(k)])}: {c.share(k):.0%} of {int(c.sizes[k])}"


def _draw_rows(c: _Classes, most: int = 20, count: int = 10) -> None:
    """A row for each class, grouped by coarse class; of many classes ``most``, evenly spread."""
    picks = torch.linspace(0, len(c.used) - 1, min(most, len(c.used))).round().long()
    shown = [c.used[i] for i in picks.unique().tolist()]
    cell, gap, left, top = 0.72, 0.06, 2.35, 0.72
    breaks = [i for i in range(1, len(shown)) if c.relations[0, shown[i]] != c.relations[0, shown[i - 1]]]
    c.open(left + count * (cell + gap) + 0.15, top + len(shown) * (cell + gap) + 0.16 * len(breaks) + 0.1)
    c.text(0.15, 0.12, "FALCON: the surest test images of each discovered class", size=11, weight="bold")
    notes = c.legend() + ([f"{len(shown)} of {len(c.used)} classes shown"] if len(shown) < len(c.used) else [])
    c.text(0.15, 0.4, "; ".join(notes), color=_FAINT)
    y = top
    for i, k in enumerate(shown):
        y += 0.16 if i in breaks else 0.0
        if i == 0 or i in breaks:
            c.text(0.15, y + 0.02, _short(c.names[0][int(c.relations[0, k])]), weight="bold")
        others = [_short(c.names[d][int(c.relations[d, k])]) for d in range(1, len(c.relations))]
        c.text(0.3, y + 0.2, ", ".join([f"class {k}, {int(c.sizes[k])} images", *others]))
        if c.truth is not None:
            match = c.match(k)
            c.text(0.3, y + 0.37, f"as {_short(c.truth.names[match])}" if match >= 0 else "no match", color=_FAINT)
            if match >= 0:
                c.text(0.3, y + 0.53, f"{c.share(k):.0%} of them", color=_FAINT, size=7.5)
        c.mosaic(k, left, y, cell, gap, count)
        y += cell + gap


def _short(name: str) -> str:
    return shortened(spoken(name), 24)

"""The worst confusions, with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from ...data import degrade
from ...data.degrade import resize_uint8
from ...hierarchy import Hierarchy
from ..augment import centre_crop
from ..config import Config
from ..sampler import ImageBatches
from ..summaries import Outputs
from ..words import spoken

LARGEST_PICTURE = 128  # pixels


def confusion_cards(
    metrics: Mapping[str, Any], outputs: Outputs, images: ImageBatches, hierarchy: Hierarchy, config: Config
) -> str:
    """Return the section: a card per pair of classes, with images of both."""
    data = metrics["worst_confusions"]
    level, i = hierarchy.levels.index(data["level"]), outputs.sides.index(data["side"])

    def name(k: int, index: int) -> str:
        return escape(spoken(hierarchy.names[k][index]))

    def pictures(rows: Sequence[int], words: str) -> str:
        seen = "".join(
            f'<img src="{_jpeg(images[torch.tensor([row])], config, data["side"])}" alt="{words}">' for row in rows
        )
        return f"<span>{seen}</span>"

    cards = []
    for pair in data["pairs"]:
        true, taken = name(level, pair["true"]), name(level, pair["predicted"])
        like = _examples(outputs, i, level, pair["predicted"])
        figure = f'<figure style="--n: {len(like)}">'
        shared = level + 1 - pair["height"]  # levels from the root
        ancestor = _ancestor(hierarchy, level, pair["true"], shared - 1) if shared else 0
        meet = (
            f"Same {escape(hierarchy.levels[shared - 1])}: {name(shared - 1, ancestor)}."
            if shared
            else f"They share no {escape(hierarchy.levels[0])}."
        )
        count, of = pair["count"], pair["labeled"]
        cards.append(
            f'<div class="pair"><div><figure style="--n: {len(pair["images"])}"><figcaption><b>{true}</b><br>'
            f'<span class="wrong">called {taken}</span></figcaption>'
            f"{pictures(pair['images'], true)}</figure>"
            + (f"{figure}<figcaption><b>{taken}</b></figcaption>{pictures(like, taken)}</figure>" if like else "")
            + f"</div><p>{count} of {of} images, mean confidence {100 * pair['confidence']:.0f} %. {meet}</p></div>"
        )
    if not cards:
        return f"<h2>Worst confusions</h2><p>No {escape(data['level'])} was taken for another.</p>"
    return (
        f'<h2>Worst confusions</h2><p class="quiet">Pairs of {escape(data["level"])} that add most to the distance '
        f"in the tree at {data['side']} px: images mistaken, the most confident first, and images of the class they "
        f'were taken for, as the network sees them.</p><div class="pairs">{"".join(cards)}</div>'
    )


def _examples(outputs: Outputs, side: int, level: int, index: int, count: int = 2) -> list[int]:
    """Images of a class, those answered right and with most confidence first."""
    rows = (outputs.labels[:, level] == index).nonzero()[:, 0]
    right = outputs.predicted[side, rows, level] == index
    return rows[(right + outputs.confidence[side, rows, level]).argsort(descending=True, stable=True)][:count].tolist()


def _ancestor(hierarchy: Hierarchy, level: int, index: int, above: int) -> int:
    for k in range(level, above, -1):
        index = int(hierarchy.parents[k][index])  # type: ignore[index]
    return index


def _jpeg(image: Tensor, config: Config, side: int) -> str:
    """Return ``[1, 3, load, load]`` as seen at a side, as a data URI."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError('report: Pillow is not installed; pip install "c2f_ops[train]"') from None
    seen = degrade(centre_crop(image, config.image_size), side)
    size = min(config.image_size, LARGEST_PICTURE)
    pixels = resize_uint8(seen, (size, size))[0].permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

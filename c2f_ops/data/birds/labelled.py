"""The drawn birds as a labelled data set: their own tree, or two keys to their genera."""

from __future__ import annotations

from ...hierarchy import Hierarchy
from ..images import LabeledImages
from ..taxonomies import grouping, mix_taxonomies
from .dataset import birds_hierarchy, generate_birds
from .taxonomy import LEVELS, NAMES, PARENTS, plumage_key


def load_birds(split: str, n: int, *, size: int, seed: int = 0, two_keys: bool = False) -> LabeledImages:
    """Draw pictures ``0 .. n - 1`` of a split.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        n: number of pictures.
        size: side in pixels.
        seed: of the stream.
        two_keys: levels family and genus alone, and ``taxonomies``: even items have a family and no plumage, odd items
            a plumage and no family. No two genera share both.
    """
    images, labels = generate_birds(n, size=size, seed=seed, split=split)
    name, tree = "birds", birds_hierarchy()
    if two_keys:
        name, labels = "birds-two-keys", labels[:, :2]
        tree = Hierarchy(LEVELS[:2], NAMES[:2], PARENTS[:2], tree.meta)
    ids = [f"birds/{split}/{seed}/{i:06d}" for i in range(n)]
    birds = LabeledImages(name, split, tree, labels, ids, images, size=size)
    return mix_taxonomies(birds, grouping(tree), plumage_key()) if two_keys else birds

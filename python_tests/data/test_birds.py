"""The drawn birds: determinism, balance, splits, and that each level lives at its own resolution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from c2f_ops.data import load_dataset
from c2f_ops.data.birds import LEVELS, NAMES, PARENTS, birds_hierarchy, generate_birds, load_birds
from c2f_ops.data.birds.anatomy import BUILDERS, Pose
from c2f_ops.data.birds.dataset import _stream, render
from c2f_ops.data.birds.paint import Frame
from c2f_ops.data.birds.plumage import PERIOD, texture, wavelet
from c2f_ops.data.birds.taxonomy import SPECIES

FAMILIES, GENERA = list(NAMES[0]), list(NAMES[1])
SIBLINGS = [
    pair for pair in itertools.combinations(range(len(SPECIES)), 2) if PARENTS[2][pair[0]] == PARENTS[2][pair[1]]
]


def shrink(image: np.ndarray, side: int) -> torch.Tensor:
    picture = torch.from_numpy(image)[None].float()
    return F.interpolate(picture, size=(side, side), mode="bilinear", antialias=True)[0]


def test_tree() -> None:
    assert LEVELS == ("family", "genus", "species")
    assert [len(names) for names in NAMES] == [6, 15, 40]
    assert PARENTS[0] is None
    for names in NAMES:
        assert len(set(names)) == len(names)
    for k in (1, 2):
        assert len(PARENTS[k]) == len(NAMES[k])
        children = np.bincount(PARENTS[k], minlength=len(NAMES[k - 1]))
        assert children.min() >= 2 and children.max() <= 4
    assert all(name.endswith("idae") for name in FAMILIES)
    assert all(name.split()[0] == GENERA[parent] for name, parent in zip(NAMES[2], PARENTS[2], strict=True))


def test_siblings_differ_in_marks_only_and_genera_in_pattern() -> None:
    for a, b in SIBLINGS:
        assert SPECIES[a][1:3] == SPECIES[b][1:3] and SPECIES[a].marks != SPECIES[b].marks
    patterns = {(PARENTS[1][PARENTS[2][s]], kind.pattern) for s, kind in enumerate(SPECIES)}
    assert len(patterns) == len(GENERA)


def test_hierarchy_object() -> None:
    tree = birds_hierarchy()
    assert tuple(tree.levels) == LEVELS
    assert [list(names) for names in tree.names] == [list(names) for names in NAMES]


@pytest.mark.parametrize("size", [8, 33, 64, 96, 128, 160])
def test_shapes_and_dtypes(size: int) -> None:
    images, labels = generate_birds(3, size=size)
    assert images.shape == (3, 3, size, size) and images.dtype == torch.uint8
    assert labels.shape == (3, 3) and labels.dtype == torch.int64
    assert images.float().std() > 20


def test_empty() -> None:
    images, labels = generate_birds(0, size=64)
    assert images.shape == (0, 3, 64, 64) and labels.shape == (0, 3)


def test_picture_depends_on_its_index_only() -> None:
    images, labels = generate_birds(45, size=48, seed=3)
    for start, n in ((0, 7), (39, 3), (44, 1)):
        part, part_labels = generate_birds(n, size=48, seed=3, start=start)
        assert torch.equal(part, images[start : start + n])
        assert torch.equal(part_labels, labels[start : start + n])


def test_threads_do_not_matter() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = generate_birds(6, size=64)
        torch.set_num_threads(2)
        two = generate_birds(6, size=64)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_labels_are_balanced_shuffled_and_consistent() -> None:
    _, labels = generate_birds(120, size=8, seed=1)
    for block in labels[:, 2].split(40):
        assert torch.equal(block.sort().values, torch.arange(40))
    assert not torch.equal(labels[:40, 2], labels[40:80, 2])
    genus = torch.tensor(PARENTS[2])[labels[:, 2]]
    assert torch.equal(labels[:, 1], genus)
    assert torch.equal(labels[:, 0], torch.tensor(PARENTS[1])[genus])


def test_seeds_and_splits_are_disjoint_streams() -> None:
    keys = [(seed, split) for seed in (0, 1) for split in ("train", "val", "test")]
    streams = [generate_birds(40, size=16, seed=seed, split=split)[0] for seed, split in keys]
    pictures = {bytes(picture.numpy().tobytes()) for stream in streams for picture in stream}
    assert len(pictures) == 40 * len(streams)


def test_sizes_show_the_same_scene() -> None:
    small, _ = generate_birds(10, size=64, seed=5)
    large, _ = generate_birds(10, size=192, seed=5)
    for s, b in zip(small, large, strict=True):
        difference = shrink(s.numpy(), 32) - shrink(b.numpy(), 32)
        assert difference.abs().mean() < 3


def silhouette(family: str, seed: int) -> np.ndarray:
    """Mask of the whole bird on a 32 x 32 grid, without any scene."""
    frame, anatomy = Frame(32, scale=0.95), BUILDERS[family](Pose(np.random.default_rng(seed)))
    feathers = anatomy.far_wing + [feather for wing in anatomy.wings for feather in wing.feathers]
    mask = np.zeros((32, 32))
    for bones in [anatomy.body, *feathers] + [[bone] for bone in anatomy.bill + anatomy.tail + anatomy.legs]:
        f = frame.field(bones)
        mask[f.where] = np.maximum(mask[f.where], frame.coverage(f.distance))
    return mask


def test_silhouettes_tell_the_family() -> None:
    """At 32 px the best overlapping silhouette of another bird belongs to the same family, for every pose."""
    masks = np.stack([silhouette(family, seed) for family in FAMILIES for seed in range(8)])
    family = np.repeat(np.arange(len(FAMILIES)), 8)
    common = np.minimum(masks[:, None], masks[None]).sum((2, 3))
    overlap = common / np.maximum(masks[:, None], masks[None]).sum((2, 3))
    np.fill_diagonal(overlap, 0)
    assert (family[overlap.argmax(1)] == family).all()
    same = family[:, None] == family[None]
    assert overlap[same].sum() / (same.sum() - len(family)) > 0.7 and overlap[~same].max() < 0.6


@pytest.mark.parametrize("pair", SIBLINGS)
def test_marks_of_siblings_vanish_at_a_quarter_of_the_side(pair: tuple[int, int]) -> None:
    """One scene, two species of a genus: what is left of their difference at half and at a quarter of the side."""
    a, b = (render(species, _stream(0, 9, 1), 128) for species in pair)
    difference = np.abs(a.astype(np.float32) - b)
    changed = difference.max(axis=0) > 10
    assert changed.sum() >= 150, "the marks must show at full size"

    def left(side: int) -> float:
        here = F.interpolate(torch.from_numpy(changed)[None, None].float(), size=(side, side), mode="area")[0, 0] > 0.3
        return float((shrink(a, side) - shrink(b, side)).abs()[:, here].mean() / difference[:, changed].mean())

    assert left(64) > 0.3
    assert left(32) < 0.2


def test_pattern_of_the_genus_survives_half_the_side() -> None:
    for family in range(len(FAMILIES)):
        genera = [g for g, parent in enumerate(PARENTS[1]) if parent == family]
        pictures = [render(PARENTS[2].index(genus), _stream(0, 9, 2), 128) for genus in genera]
        for a, b in itertools.combinations(pictures, 2):
            assert (shrink(a, 48) - shrink(b, 48)).abs().amax(0).gt(25).sum() >= 8


def test_marks_have_zero_mean() -> None:
    axis = np.arange(256, dtype=np.float32) * np.float32(PERIOD / 64)  # whole periods of every texture
    x, y = np.meshgrid(axis, axis, indexing="ij")
    for kind in ("bars", "streaks", "spots"):
        assert abs(texture(kind, x, y).mean()) < 1e-3
    line = np.linspace(-0.1, 0.1, 20001, dtype=np.float32)
    assert abs(wavelet(line, 0.05).mean()) < 1e-3


def test_colour_does_not_tell_the_species() -> None:
    """Mean colours of the species of a stream spread no more than chance allows."""
    images, labels = generate_birds(600, size=16, seed=11)
    colour = images.float().mean(dim=(2, 3))
    means = torch.stack([colour[labels[:, 2] == s].mean(0) for s in range(40)])
    expected = colour.var(0) / 15
    assert (means.var(0) < 2.2 * expected).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"n": -1}, ValueError, "n must be at least 0, got -1"),
        ({"n": 1.5}, TypeError, "n must be an integer, got float"),
        ({"n": True}, TypeError, "n must be an integer, got bool"),
        ({"n": 1, "size": 4}, ValueError, "size must be at least 8, got 4"),
        ({"n": 1, "seed": -2}, ValueError, "seed must be at least 0, got -2"),
        ({"n": 1, "start": -2}, ValueError, "start must be at least 0, got -2"),
        ({"n": 1, "split": "dev"}, ValueError, "split must be one of train, val, test, got 'dev'"),
    ],
)
def test_bad_input(kwargs: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        generate_birds(**kwargs)


def test_two_keys_tell_every_genus() -> None:
    both = load_birds("train", 80, size=8, seed=2, two_keys=True)
    images, labels = generate_birds(80, size=8, seed=2)
    assert torch.equal(both.stacked(), images) and torch.equal(both.labels, labels[:, :2])
    keys = both.taxonomies
    assert [len(names) for names in keys.names] == [6, 5]
    assert keys.meet_is_fine and list(keys.names[0]) == list(NAMES[0])
    for species, kind in enumerate(SPECIES):
        genus = PARENTS[2][species]
        assert keys.names[0][keys.relations[0, genus]] == kind.family
        assert keys.names[1][keys.relations[1, genus]] == kind.pattern
    families_of = [keys.relations[0, keys.relations[1] == pattern].unique() for pattern in range(5)]
    assert all(len(families) > 1 for families in families_of), "no pattern stays inside a family"
    assert torch.equal(keys.y[0::2, 0], labels[0::2, 0]) and (keys.y[0::2, 1] == -1).all()
    assert torch.equal(keys.y[1::2, 1], keys.relations[1, labels[1::2, 1]].long()) and (keys.y[1::2, 0] == -1).all()
    assert load_dataset("birds-two-keys", n=80, size=8, seed=2).ids == both.ids

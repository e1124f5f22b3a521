"""Groupings of fine classes, data sets with several taxonomies, and the views of CIFAR-100."""

import pickle
import re

import numpy as np
import pytest
import torch

from c2f_ops.data import (
    LabeledImages,
    Taxonomies,
    cifar_variants,
    grouping,
    load_dataset,
    mix_taxonomies,
    read_grouping,
    regroup,
    second_taxonomy,
)
from c2f_ops.hierarchy import Hierarchy

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

TREE = Hierarchy(("coarse", "fine"), (("A", "B"), tuple("132456")), (None, [0, 1, 0, 1, 1, 0]))
CIFAR68_SIZES = [2, 5, 4, 2, 2, 3, 3, 4, 3, 5, 4, 3, 5, 3, 3, 3, 4, 4, 4, 2]


def images_of(fine, split="test", tree=TREE, **options):
    labels = tree.validate_labels([[-1] * (tree.num_levels - 1) + [i] for i in fine])
    pixels = torch.arange(len(fine), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    return LabeledImages("toy", split, tree, labels, [f"image{i}" for i in range(len(fine))], pixels, **options)


def pixel_of(dataset):
    return [int(dataset[i][0][0, 0, 0]) for i in range(len(dataset))]


def square_tree(groups, size):
    return Hierarchy.from_paths([f"g{i}/g{i} c{j}" for i in range(groups) for j in range(size)])


def test_grouping_is_ordered_by_coarse_class():
    assert list(grouping(TREE).items()) == [("1", "A"), ("2", "A"), ("6", "A"), ("3", "B"), ("4", "B"), ("5", "B")]
    deep = Hierarchy.from_paths(["X/P/1", "X/Q/2", "Y/R/3"])
    assert grouping(deep, 1) == {"1": "P", "2": "Q", "3": "R"}
    with pytest.raises(ValueError, match=r"level must be in 0\.\.0, got 1"):
        grouping(TREE, 1)


def test_regroup_keeps_fine_ids_and_images():
    dataset = images_of([4, 0, 2, -1, 3])
    new = regroup(dataset, {"5": "odd", "1": "odd", "3": "odd", "2": "even", "4": "even", "6": "even"}, name="parity")
    assert new.name == "parity"
    assert new.hierarchy.names == (("odd", "even"), TREE.names[1])
    assert new.labels.tolist() == [[0, 4], [0, 0], [1, 2], [-1, -1], [1, 3]]
    assert pixel_of(new) == [0, 1, 2, 3, 4]
    assert dataset.hierarchy == TREE, "the first data set must stay as it was"
    assert dataset.labels[:, 0].tolist() == [1, 0, 0, -1, 1]


def test_regroup_drops_classes():
    new = regroup(images_of([0, 1, 2, 3, 4, 1]), {"4": "B", "3": "B", "1": "A"}, drop=True)
    assert new.hierarchy.names == (("B", "A"), ("1", "3", "4"))
    assert new.labels.tolist() == [[1, 0], [0, 1], [0, 2], [0, 1]]
    assert pixel_of(new) == [0, 1, 3, 5]
    assert new.ids == ["image0", "image1", "image3", "image5"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"1": "A"}, "must have every fine class (or drop=True), got none for classes '3', '2', '4', '5', '6'"),
        ({**grouping(TREE), "seven": "A"}, "must be of fine classes of the data set, got others: 'seven'"),
    ],
)
def test_regroup_errors(groups, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        regroup(images_of([0]), groups)


@pytest.mark.parametrize(("groups", "size"), [(20, 5), (4, 4), (7, 1), (34, 18)])
def test_second_taxonomy_cuts_across_the_first(groups, size):
    tree = square_tree(groups, size)
    first, second = grouping(tree), second_taxonomy(tree)
    assert len({(first[fine], second[fine]) for fine in first}) == groups * size
    counts = list(map(list(second.values()).count, dict.fromkeys(second.values())))
    assert counts == [size] * groups


def test_second_taxonomy_of_uneven_groups():
    tree = Hierarchy.from_paths([f"g{i}/g{i} c{j}" for i, n in enumerate(CIFAR68_SIZES) for j in range(n)])
    for seed, groups in ((0, None), (1, 13), (2, 5)):
        first, second = grouping(tree), second_taxonomy(tree, num_groups=groups, seed=seed)
        assert len({(first[fine], second[fine]) for fine in first}) == 68
        sizes = np.unique(list(second.values()), return_counts=True)[1]
        assert len(sizes) == (groups or 20)
        assert sizes.max() - sizes.min() <= 1
    with pytest.raises(ValueError, match="num_groups must be at least 5, the fine classes of 'g1', got 4"):
        second_taxonomy(tree, num_groups=4)


def test_second_taxonomy_depends_on_names_and_seed_alone():
    tree = square_tree(5, 3)
    names = [f"g{i}/g{i} c{j}" for j in (2, 0, 1) for i in (4, 1, 0, 3, 2)]
    assert second_taxonomy(Hierarchy.from_paths(names)) == second_taxonomy(tree)
    assert second_taxonomy(tree, seed=1) != second_taxonomy(tree)
    # The order is a hash of the names: this must hold on every platform and in every later version.
    assert second_taxonomy(square_tree(2, 2)) == {
        "g0 c0": "group 01",
        "g0 c1": "group 00",
        "g1 c0": "group 01",
        "g1 c1": "group 00",
    }


def test_read_grouping(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("class,fine,group\nx,a,G\ny,b,H\nz,a,G\n")
    assert read_grouping(path, coarse="group") == {"a": "G", "b": "H"}
    for text, message in [
        ("fine\na\n", "t.csv must have the columns fine, coarse, got none named coarse"),
        ("fine,coarse\na,G\n,H\n", "line 3 of t.csv must name a fine and a coarse class, got '', 'H'"),
        ("fine,coarse\na,G\nb\n", "line 3 of t.csv must name a fine and a coarse class, got 'b', ''"),
        ("fine,coarse\na,G\nb,G\na,H\n", "'a' must have one coarse class, got 'G' and 'H' (lines 2, 4 of t.csv)"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            read_grouping(path)


def test_mix_taxonomies_alternates():
    dataset = images_of([0, 1, 2, 3, -1, 4])
    other = {"1": "x", "3": "x", "2": "y", "4": "y", "5": "z", "6": "z"}
    mixed = mix_taxonomies(dataset, grouping(TREE), other)
    assert mixed.taxonomies.y.tolist() == [[0, -1], [-1, 0], [0, -1], [-1, 1], [-1, -1], [-1, 2]]
    assert mixed.taxonomies.relations.tolist() == [[0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 2, 2]]
    assert mixed.taxonomies.relations.dtype == torch.int32
    assert mixed.taxonomies.names == (("A", "B"), ("x", "y", "z"))
    assert mixed.taxonomies.meet_is_fine
    assert torch.equal(mixed.labels, dataset.labels)
    assert dataset.taxonomies is None
    both = mix_taxonomies(dataset, grouping(TREE), other, alternate=False)
    assert both.taxonomies.y.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [-1, -1], [1, 2]]


def test_meet_is_fine_can_fail():
    assert not mix_taxonomies(images_of([0]), grouping(TREE), grouping(TREE)).taxonomies.meet_is_fine
    assert not Taxonomies(torch.zeros(1, 1), torch.tensor([[0, -1]]), (("a",),)).meet_is_fine


def test_taxonomies_follow_subset_and_corrupt_images():
    pytest.importorskip("PIL")  # reports the broken image
    mixed = mix_taxonomies(images_of([0, 1, 2, 3]), grouping(TREE), grouping(TREE))
    assert mixed.subset([3, 0]).taxonomies.y.tolist() == [[-1, 1], [0, -1]]
    y = torch.tensor([[0], [1], [0]])
    taxonomies = Taxonomies(y, torch.tensor([[0, 1, 0, 1, 1, 0]]), (("A", "B"),))
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    images = [pixels, b"", pixels]
    toy = LabeledImages(
        "t", "test", TREE, TREE.from_fine([0, 1, 2]), "abc", images, corrupt="skip", taxonomies=taxonomies
    )
    assert toy.taxonomies.y.tolist() == [[0], [0]]


def test_mix_taxonomies_errors():
    with pytest.raises(ValueError, match="must have every fine class, got none for classes 3, 4, 5, 6"):
        mix_taxonomies(images_of([0]), grouping(TREE), {"1": "x", "2": "y"})
    with pytest.raises(ValueError, match="at least one mapping, got none"):
        mix_taxonomies(images_of([0]))


# Views of CIFAR-100: on a written folder with its class names, ten images a class, and on the developers' data.


@pytest.fixture(scope="module")
def written_cifar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar") / "cifar-100-python"
    folder.mkdir()
    fine_names = [row["fine"] for row in cifar_variants._table()]
    fine = np.random.default_rng(0).permutation(1000) % 100
    data = {
        "data": np.zeros((1000, 3072), np.uint8),
        "fine_labels": fine.tolist(),
        "coarse_labels": (fine // 5).tolist(),
        "filenames": [f"{i}.png" for i in range(1000)],
    }
    meta = {"fine_label_names": fine_names, "coarse_label_names": [f"c{i}" for i in range(20)]}
    for name, content in (("test", data), ("meta", meta)):
        (folder / name).write_bytes(pickle.dumps(content))
    return folder.parent


def test_table_of_cifar_views():
    rows = cifar_variants._table()
    assert [row["fine"] for row in rows] == sorted({row["fine"] for row in rows})
    assert (len(rows), sum(row["in_cifar68"] == "1" for row in rows)) == (100, 68)
    assert sum(int(row["si_images"]) for row in rows) == 32282
    assert all(0.3 <= int(row["si_images"]) / 500 <= 1 for row in rows)


def test_cifar68(written_cifar):
    dataset = load_dataset("cifar68", root=written_cifar, split="test")
    kept = [row["fine"] for row in cifar_variants._table() if row["in_cifar68"] == "1"]
    assert dataset.hierarchy.names == (tuple(f"c{i}" for i in range(20)), tuple(kept))
    assert dataset.labels[:, 1].bincount().tolist() == [10] * 68


def test_cifar_si_keeps_the_first_images_of_each_class(written_cifar):
    full = load_dataset("cifar100", root=written_cifar, split="test")
    dataset = load_dataset("cifar-si", root=written_cifar, split="test")
    assert dataset.name == "cifar100-si"
    assert dataset.hierarchy == full.hierarchy
    expected = [10 * int(row["si_images"]) // 500 for row in cifar_variants._table()]
    assert dataset.labels[:, 1].bincount().tolist() == expected
    seen = [0] * 100
    kept = []
    for image_id, label in zip(full.ids, full.labels[:, 1].tolist(), strict=True):
        seen[label] += 1
        kept += [image_id] if seen[label] <= expected[label] else []
    assert dataset.ids == kept


def test_two_taxonomies_of_cifar(written_cifar):
    full, second, mixed = (
        load_dataset(name, root=written_cifar, split="test") for name in ("cifar100", "cifar100-t2", "cifar100-t1t2")
    )
    assert second.hierarchy.sizes == (20, 100)
    assert [len(children) for children in second.hierarchy.children[0]] == [5] * 20
    assert torch.equal(second.labels[:, 1], full.labels[:, 1])
    assert len(torch.stack([second.labels[:, 0], full.labels[:, 0]], 1).unique(dim=0)) == 100
    assert mixed.taxonomies.meet_is_fine
    assert torch.equal(mixed.taxonomies.y[0::2, 0], full.labels[0::2, 0])
    assert torch.equal(mixed.taxonomies.y[1::2, 1], second.labels[1::2, 0])
    assert (mixed.taxonomies.y[0::2, 1] == -1).all()
    assert (mixed.taxonomies.y[1::2, 0] == -1).all()
    assert mixed.taxonomies.names == (full.hierarchy.names[0], second.hierarchy.names[0])
    part = load_dataset("cifar100-t1t2", root=written_cifar, split="test", n=50)
    assert part.taxonomies.y.shape == (50, 2)


def test_group_sizes_of_real_cifar(shared_data):
    real = load_dataset("cifar100", root=shared_data, split="test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar_variants, "load_cifar100", lambda *_, **__: real)  # decode it once
        small, part, mixed = (
            load_dataset(name, root=shared_data, split="test") for name in ("cifar68", "cifar-si", "cifar100-t1t2")
        )
    assert [len(children) for children in small.hierarchy.children[0]] == CIFAR68_SIZES
    assert small.hierarchy.names[0] == real.hierarchy.names[0]
    assert (len(small), len(part)) == (6800, 6415)
    assert mixed.taxonomies.meet_is_fine

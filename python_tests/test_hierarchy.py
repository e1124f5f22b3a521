"""Hierarchy: derived quantities, label rules, storage, warnings."""

import hashlib
import json
import re
import unicodedata

import numpy as np
import pytest
import torch

from c2f_ops.hierarchy import Hierarchy, HierarchyWarning

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

LEVELS = ("order", "family", "species")
#   passerine(0): crow(0): carrion(0), hooded(1)
#                 tit(1):  blue(2)
#   owl(1):       barn(2): barn owl(3)
NAMES = (["passerine", "owl"], ["crow", "tit", "barn"], ["carrion", "hooded", "blue", "barn owl"])
PARENTS = (None, [0, 0, 1], [0, 0, 1, 2])


@pytest.fixture
def tree():
    return Hierarchy(LEVELS, NAMES, PARENTS, {"source": "hand"})


def test_derived(tree):
    assert tree.num_levels == 3
    assert tree.sizes == (2, 3, 4)
    assert tree.ancestors.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert [[kids.tolist() for kids in level] for level in tree.children] == [[[0, 1], [2]], [[0, 1], [2], [3]]]
    assert tree.lca_level.tolist() == [[2, 1, 0, -1], [1, 2, 0, -1], [0, 0, 2, -1], [-1, -1, -1, 2]]
    assert tree.mask(1).tolist() == [[True, False], [True, False], [False, True]]
    assert tree.mask(2).shape == (4, 3)
    assert [prior.tolist() for prior in tree.priors] == [[0.75, 0.25], [0.5, 0.25, 0.25], [0.25] * 4]
    with pytest.raises(ValueError, match=re.escape("level must be in 1..2, got 0")):
        tree.mask(0)


def test_children_of_unsorted_parents():
    tree = Hierarchy(("c", "f"), (["x", "y"], ["p", "q", "r", "s"]), (None, [1, 0, 1, 0]))
    assert [kids.tolist() for kids in tree.children[0]] == [[1, 3], [0, 2]]


def test_one_level():
    tree = Hierarchy(["species"], [["a", "b"]], [None])
    assert tree.ancestors.tolist() == [[0], [1]]
    assert tree.children == ()
    assert tree.lca_level.tolist() == [[0, -1], [-1, 0]]
    assert tree.expand([1, -1, 0]).tolist() == [[1], [-1], [0]]


def test_names_are_nfc_and_trimmed():
    tree = Hierarchy(["s"], [[unicodedata.normalize("NFD", " Séné ")]], [None])
    assert tree.names == (("Séné",),)


@pytest.mark.parametrize("parents", [np.array([0, 0, 1], np.uint8), torch.tensor([0, 0, 1]), (0, 0, np.int64(1))])
def test_parents_in_any_integer_form(parents, tree):
    assert Hierarchy(LEVELS, NAMES, (None, parents, PARENTS[2])) == tree


# Labels.


def test_labels_are_filled_from_finer_ones(tree):
    given = torch.tensor([[-1, -1, 3], [0, -1, 2], [-1, 1, -1], [1, -1, -1], [-1, -1, -1]])
    filled = [[1, 2, 3], [0, 1, 2], [0, 1, -1], [1, -1, -1], [-1, -1, -1]]
    before = given.clone()
    assert tree.validate_labels(given).tolist() == filled
    assert torch.equal(given, before)


def test_expand_takes_all_forms(tree):
    full = [[0, 0, 1], [1, 2, 3]]
    assert tree.expand([1, 3]).tolist() == full
    assert tree.from_fine(np.array([1, 3], np.uint8)).tolist() == full
    assert tree.expand(np.array(full)).tolist() == full
    assert tree.expand(np.array(full)[:, ::-1], order="fine_to_coarse").tolist() == full
    assert tree.expand(["passerine/crow/hooded", "owl / barn"]).tolist() == [[0, 0, 1], [1, 2, -1]]
    assert tree.expand(["owl>barn>barn owl"], sep=">").tolist() == [[1, 2, 3]]
    assert tree.expand([]).shape == (0, 3)


def test_match_names(tree):
    other = Hierarchy(
        LEVELS,
        (["owl", "passerine"], ["barn", "crow"], ["barn owl", "hooded", "rook"]),
        (None, [0, 1], [0, 1, 1]),
    )
    assert [ids.tolist() for ids in tree.match_names(other)] == [[1, 0], [1, -1, 0], [-1, 1, -1, 0]]
    with pytest.raises(ValueError, match="other must have levels"):
        tree.match_names(Hierarchy(["x"], [["a"]], [None]))


# Storage.


def random_tree(seed, depth):
    """A random tree whose ids are not in order of first appearance."""
    generator = torch.Generator().manual_seed(seed)
    names, parents, above = [], [], 0
    for k in range(depth):
        n = above + int(torch.randint(1, 5, (1,), generator=generator))
        extra = torch.randint(max(above, 1), (n - above,), generator=generator)
        links = torch.cat([torch.arange(above), extra])[torch.randperm(n, generator=generator)]
        names.append([f"n{k} é, {i}" for i in range(n)])
        parents.append(links if k else None)
        above = n
    return Hierarchy([f"level {k}" for k in range(depth)], names, parents, {"source": "random", "date": "2025-01-01"})


@pytest.mark.parametrize("depth", range(1, 7))
def test_round_trips_keep_the_hash(depth, tmp_path):
    tree = random_tree(depth, depth)
    tree.to_json(tmp_path / "tree.json")
    tree.to_csv(tmp_path / "tree.csv")
    from_json = Hierarchy.from_json(tmp_path / "tree.json")
    from_csv = Hierarchy.from_csv(tmp_path / "tree.csv", tree.levels)
    assert from_json.sha256 == from_csv.sha256 == Hierarchy.from_dict(tree.to_dict()).sha256 == tree.sha256
    assert from_json.meta == tree.meta
    again = tmp_path / "again.json"
    from_json.to_json(again)
    assert again.read_bytes() == (tmp_path / "tree.json").read_bytes()


def test_hash_depends_on_the_tree_only(tree):
    assert Hierarchy(LEVELS, NAMES, PARENTS).sha256 == tree.sha256
    assert Hierarchy(LEVELS, NAMES, (None, [0, 0, 1], [0, 1, 1, 2])).sha256 != tree.sha256
    assert Hierarchy(("o", "f", "s"), NAMES, PARENTS).sha256 != tree.sha256
    # The bytes written out: a change of the canonical form would break every stored checkpoint.
    two = Hierarchy(["c", "f"], [["é"], ["a"]], [None, [0]])
    canonical = '{"levels":["c","f"],"names":[["é"],["a"]],"parents":[null,[0]]}'
    assert two.sha256 == hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def test_from_rows_orders_ids_by_first_appearance():
    tree = Hierarchy.from_rows(("c", "f"), [("z", "b"), ("a", "c"), ("z", "a"), ("z", "b")])
    assert tree.names == (("z", "a"), ("b", "c", "a"))
    assert tree.parents[1].tolist() == [0, 1, 0]


def test_from_rows_takes_ids():
    tree = Hierarchy.from_rows(("c", "f"), [("z", "b"), ("a", "c"), ("z", "a")], ids=[(1, 2), (0, 0), (1, 1)])
    assert tree.names == (("a", "z"), ("c", "a", "b"))
    assert tree.parents[1].tolist() == [0, 1, 1]


def test_qualify_names_prefixes_the_parent():
    tree = Hierarchy.from_paths(["a/x/1", "b/x/1", "b/y/2"], qualify_names=True)
    assert tree.names[1:] == (("a:x", "b:x", "y"), ("a:x:1", "b:x:1", "2"))
    assert tree.meta["qualified"] == {"level1": ["x"], "level2": ["1"]}


def test_pad_repeats_the_leaf():
    tree = Hierarchy.from_paths(["a/x/1", "b"], pad="repeat")
    assert tree.names == (("a", "b"), ("x", "b"), ("1", "b"))
    assert tree.meta["padded"] == ["b"]
    assert "padded" not in Hierarchy.from_paths(["a/x"], pad="repeat").meta


def test_from_edges():
    tree = Hierarchy.from_edges([("x", "a"), ("a", None), ("1", "x"), ("y", "a"), ("2", "y")])
    assert tree.names == (("a",), ("x", "y"), ("1", "2"))


def test_from_csv_filters_and_renames(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufefffam,name,no,use\nA,a1,1,y\nA,a2,0,y\nB,b1,5,n\n", encoding="utf-8")
    tree = Hierarchy.from_csv(
        path, ["fam", "name"], levels=["family", "species"], id_columns={"name": "no"}, where=lambda r: r["use"] == "y"
    )
    assert tree.levels == ("family", "species")
    assert tree.names == (("A",), ("a2", "a1"))


# Warnings.


@pytest.mark.filterwarnings("default::c2f_ops.hierarchy.HierarchyWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hierarchy(LEVELS, NAMES, PARENTS), "level 'order': node 'passerine' holds 75% of the finest classes"),
        (lambda: Hierarchy(LEVELS, NAMES, PARENTS), "level 'family': 2 of 3 nodes have a single child"),
        (
            lambda: Hierarchy(LEVELS, NAMES, PARENTS).validate_labels([[0, 0, 1]], training=True),
            "level 'species': 3 of 4 classes have no training image: nodes carrion, blue, barn owl",
        ),
    ],
)
def test_warnings(make, message):
    with pytest.warns(HierarchyWarning, match=re.escape(message)) as caught:
        make()
    assert {warning.filename for warning in caught} == {__file__}  # the line of the caller, not one of the package


def test_balanced_tree_does_not_warn(recwarn):
    tree = Hierarchy.from_paths(["a/1", "a/2", "b/3", "b/4"])
    tree.validate_labels([[-1, i] for i in range(4)], training=True)
    assert not recwarn.list


def test_json_is_canonical(tree, tmp_path):
    tree.to_json(tmp_path / "tree.json")
    text = (tmp_path / "tree.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

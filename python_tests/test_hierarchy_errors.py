"""Hierarchy: every way in which a tree or its labels can be wrong."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from c2f_ops.hierarchy import Hierarchy

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

LEVELS = ("order", "family", "species")
#   passerine(0): crow(0): carrion(0), hooded(1)
#                 tit(1):  blue(2)
#   owl(1):       barn(2): barn owl(3)
NAMES = (["passerine", "owl"], ["crow", "tit", "barn"], ["carrion", "hooded", "blue", "barn owl"])
PARENTS = (None, [0, 0, 1], [0, 0, 1, 2])


def build(levels=LEVELS, names=NAMES, parents=PARENTS, meta=None):
    return lambda: Hierarchy(levels, names, parents, meta)


def rows(*table, levels=("a", "b"), **options):
    return lambda: Hierarchy.from_rows(levels, table, **options)


def labels(*table):
    return lambda: Hierarchy(LEVELS, NAMES, PARENTS).validate_labels(list(table))


def edges(*links, **options):
    return lambda: Hierarchy.from_edges(links, **options)


def csv_case(text, columns=("fam", "sp"), **options):
    def make():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "bad.csv")
            path.write_text(text, encoding="utf-8")
            return Hierarchy.from_csv(path, columns, **options)

    return make


def dict_case(**changes):
    data = {"levels": LEVELS, "names": NAMES, "parents": PARENTS, **changes}
    return lambda: Hierarchy.from_dict({key: value for key, value in data.items() if value is not ...})


# What is wrong, exception, how to build it, parts of the message.
BAD = [
    # 1. levels
    ("no level", ValueError, build((), (), ()), "levels must name at least one level, got none"),
    ("empty level", ValueError, build(names=(["a"], [], ["b"])), "level 'family': names must hold at least one node"),
    ("repeated level", ValueError, build(("a", "b", "a")), "levels must be distinct, got 'a' at 0 and 2"),
    ("repeated after trimming", ValueError, build(("a", "b", " a")), "got 'a' at 0 and 2"),
    ("level without name", ValueError, build(("a", " ", "b")), "levels must not have an empty name"),
    ("levels as one string", TypeError, build("abc"), "levels must be a sequence of strings, got 'abc'"),
    (
        "names for fewer levels",
        ValueError,
        build(names=NAMES[:2]),
        "names must have one entry for each of the 3 levels",
    ),
    (
        "parents for fewer levels",
        ValueError,
        build(parents=(None, [0])),
        "parents must have one entry for each of the 3",
    ),
    # 2. names
    (
        "duplicate name",
        ValueError,
        build(names=(NAMES[0], ["tit", "crow", "tit"], NAMES[2])),
        "level 'family': node 'tit' must appear once, got rows 0, 2",
    ),
    (
        "duplicate after trimming",
        ValueError,
        build(names=(["a", " a"], *NAMES[1:])),
        "'a' must appear once, got rows 0, 1",
    ),
    (
        "duplicate after NFC",
        ValueError,
        build(names=(["é", "e\u0301"], *NAMES[1:])),
        "'é' must appear once, got rows 0, 1",
    ),
    (
        "many duplicates",
        ValueError,
        build(["s"], [["a"] * 8], [None]),
        "node 'a' must appear once, got rows 0, 1, 2, 3, 4 and 3 more",
    ),
    ("empty name", ValueError, build(names=(["a", ""], *NAMES[1:])), "level 'order': node name must not be empty"),
    ("names as one string", TypeError, build(names=("ab", *NAMES[1:])), "level 'order': names must be a sequence"),
    ("name of another type", TypeError, build(names=(["a", 3], *NAMES[1:])), "level 'order': names must be a sequence"),
    # 3. parents
    (
        "parent too large",
        ValueError,
        build(parents=(None, [0, 2, 1], PARENTS[2])),
        "level 'family': parent of node 'tit' must be in 0..1 (level 'order'), got 2 (rows 1)",
    ),
    (
        "negative parent",
        ValueError,
        build(parents=(None, [-1, 0, -1], PARENTS[2])),
        "'crow' must be in 0..1",
        "(rows 0, 2)",
    ),
    (
        "parent missing",
        ValueError,
        build(parents=(None, [0, 1], PARENTS[2])),
        "an id for each node, got none for nodes 'barn'",
    ),
    (
        "no parents at all",
        ValueError,
        build(parents=(None, None, PARENTS[2])),
        "got none for nodes 'crow', 'tit', 'barn'",
    ),
    (
        "parent None",
        ValueError,
        build(parents=(None, [0, None, 1], PARENTS[2])),
        "'tit' must be an integer, got None (rows 1)",
    ),
    ("too many parents", ValueError, build(parents=(None, [0, 0, 1, 1], PARENTS[2])), "must have 3 ids, got 4"),
    (
        "float parents",
        ValueError,
        build(parents=(None, np.array([0.0, 0, 1]), PARENTS[2])),
        "must be an integer, got 0.0",
    ),
    ("boolean parents", ValueError, build(parents=(None, [False, 0, 1], PARENTS[2])), "must be an integer, got False"),
    # 4. two parents
    (
        "two parents",
        ValueError,
        rows(("A", "x"), ("A", "y"), ("B", "x"), ("B", "x")),
        "level 'b': node 'x' must have one parent, got 'A' (rows 0) and 'B' (rows 2, 3)",
    ),
    ("two parents after trimming", ValueError, rows(("A", "x"), ("B", " x ")), "node 'x' must have one parent"),
    (
        "two parents in links",
        ValueError,
        edges(("x", "a"), ("x", "b")),
        "node 'x' must have one parent, got 'a' and 'b' (rows 0, 1)",
    ),
    (
        "qualified name taken",
        ValueError,
        rows(("A", "x"), ("B", "x"), ("B", "A:x"), qualify_names=True),
        "level 'b': node 'A:x' must appear once, got rows 0, 2",
    ),
    # 5. cycles
    (
        "coarsest level with parents",
        ValueError,
        build(parents=([0, 0], *PARENTS[1:])),
        "parents[0] must be None",
        "one level up",
    ),
    ("cycle of two", ValueError, edges(("a", "b"), ("b", "a")), "got a cycle a -> b -> a (rows 0, 1)"),
    ("own parent", ValueError, edges(("a", "a")), "got a cycle a -> a (rows 0)"),
    (
        "cycle beside a tree",
        ValueError,
        edges(("x", "r"), ("a", "b"), ("b", "c"), ("c", "a")),
        "cycle a -> b -> c -> a",
    ),
    # 6. no children
    (
        "childless node",
        ValueError,
        build(parents=(None, [0, 0, 1], [0, 0, 2, 2])),
        "level 'family': node 'tit' must have a child in level 'species', got none (rows 1)",
    ),
    # 7. ids
    (
        "ids from one",
        ValueError,
        rows(("A", "x"), ("A", "y"), ids=[(0, 1), (0, 2)]),
        "level 'b': ids must be 0..1 without gaps, got no id 0 but id 2 for node 'y' (rows 1)",
    ),
    ("id gap", ValueError, rows(("A", "x"), ("A", "y"), ids=[(0, 0), (0, 7)]), "got no id 1 but id 7 for node 'y'"),
    ("negative id", ValueError, rows(("A", "x"), ids=[(0, -1)]), "got no id 0 but id -1 for node 'x'"),
    (
        "id of two nodes",
        ValueError,
        rows(("A", "x"), ("A", "y"), ids=[(0, 0), (0, 0)]),
        "id 0 must name one node, got 'x' and 'y' (row 1)",
    ),
    (
        "two ids of a node",
        ValueError,
        rows(("A", "x"), ("A", "y"), ids=[(0, 0), (1, 1)]),
        "level 'a': node 'A' must have one id, got 0 and 1",
    ),
    (
        "id not a number",
        ValueError,
        rows(("A", "x"), ids=[(0, "one")]),
        "id of node 'x' must be an integer, got 'one' (row 0)",
    ),
    # 8. labels against the tree
    (
        "wrong parent",
        ValueError,
        labels((0, 0, 0), (0, 1, 1), (0, 1, 0)),
        "level 'species': node 'hooded' must come with family 'crow', got 'tit' (rows 1, 2)",
    ),
    (
        "wrong grandparent",
        ValueError,
        labels((1, -1, 2)),
        "level 'family': node 'tit' must come with order 'passerine', got 'owl' (rows 0)",
    ),
    (
        "many wrong rows",
        ValueError,
        labels(*[(1, 0, 0)] * 9),
        "(rows 0, 1, 2, 3, 4 and 4 more)",
    ),
    # 9. labels out of range
    (
        "label too large",
        ValueError,
        labels((0, 0, 0), (0, 0, 4)),
        "labels of level 'species' must be in -1..3, got node 4 (rows 1)",
    ),
    (
        "label below -1",
        ValueError,
        labels((-2, 0, 0)),
        "labels of level 'order' must be in -1..1, got node -2 (rows 0)",
    ),
    ("labels of another width", ValueError, labels((0, 0)), "labels must have shape [N, 3], got [1, 2]"),
    ("float labels", TypeError, labels((0.0, 0.0, 0.0)), "labels must be integers, got torch.float32"),
    ("ragged labels", TypeError, labels((0, 0, 0), (0, 0)), "labels must be an array of integers"),
    (
        "fine labels [N, K]",
        ValueError,
        lambda: build()().from_fine([[0, 0, 0]]),
        "fine must have shape [N], got [1, 3]",
    ),
    (
        "fine label too large",
        ValueError,
        lambda: build()().from_fine([0, 9]),
        "level 'species' must be in -1..3, got node 9 (rows 1)",
    ),
    (
        "unknown name",
        ValueError,
        lambda: build()().expand(["owl/crow/rook"]),
        "level 'species'",
        "got node 'rook' (row 0)",
    ),
    (
        "path against the tree",
        ValueError,
        lambda: build()().expand(["owl/crow"]),
        "node 'crow' must come with order 'passerine', got 'owl'",
    ),
    ("path too long", ValueError, lambda: build()().expand(["a/b/c/d"]), "labels must be paths of at most 3 names"),
    ("one path as string", TypeError, lambda: build()().expand("owl/barn"), "labels must be a sequence of paths"),
    ("unknown order", ValueError, lambda: build()().expand([0], order="up"), "order must be 'coarse_to_fine' or"),
    # 10. depth
    (
        "unequal depth",
        ValueError,
        rows(("A", "x"), ("B",), ("A", "y"), ("C", "")),
        "level 'a': node 'B' must reach level 'b' (equal depth), got a leaf above it (rows 1, 3)",
    ),
    (
        "hole in a row",
        ValueError,
        rows(("A", "", "x"), levels=tuple("abc"), pad="repeat"),
        "level 'b': node name must not be empty",
        "(row 0)",
    ),
    ("empty row", ValueError, rows(("A", "x"), ()), "level 'a': node name must not be empty", "(row 1)"),
    (
        "row too long",
        ValueError,
        rows(("A", "x", "y")),
        "rows must have 2 cells (levels a, b), got 3 with node 'y' (row 0)",
    ),
    (
        "inner node padded",
        ValueError,
        rows(("A", "x"), ("A",), pad="repeat"),
        "level 'a': node 'A' must be a leaf to be padded",
    ),
    (
        "unequal depth in links",
        ValueError,
        edges(("x", "a"), ("b", None)),
        "level 'level0': node 'b' must reach level 'level1'",
    ),
    ("unknown pad", ValueError, rows(("A", "x"), pad="zero"), "pad must be None or 'repeat', got 'zero'"),
    ("no rows", ValueError, rows(), "rows must hold at least one row, got none"),
    ("row as string", TypeError, rows("Ax"), "rows must be sequences of names, got 'Ax'"),
    ("link without child", ValueError, edges((None, "a")), "edges must name a child, got None (row 0)"),
    # files
    ("column missing", ValueError, csv_case("fam,species\nA,x\n"), "columns must be among fam, species", "got sp"),
    ("line too short", ValueError, csv_case("fam,sp\nA,x\nB\n"), "line 3 of", "must have 2 cells"),
    ("line too long", ValueError, csv_case("fam,sp\nA,x,y\n"), "line 2 of", "must have 2 cells"),
    (
        "lines named",
        ValueError,
        csv_case("fam,sp\nA,x\nB,y\nB,x\n"),
        "node 'x' must have one parent, got 'A' (rows 2) and 'B' (rows 4)",
    ),
    (
        "id column checked",
        ValueError,
        csv_case("fam,sp,sp_id\nA,x,1\nB,y,2\n"),
        "level 'sp': ids must be 0..1 without gaps",
    ),
    ("key missing", ValueError, dict_case(names=...), "data must have levels, names and parents, got no names"),
    ("hash wrong", ValueError, dict_case(sha256="0" * 64), "sha256 must be", "for this tree"),
    ("meta not plain", TypeError, build(meta={"x": object()}), "not JSON serializable"),
]


@pytest.mark.parametrize(("error", "make", "parts"), [pytest.param(e, m, p, id=i) for i, e, m, *p in BAD])
def test_bad_hierarchies_are_rejected(error, make, parts):
    with pytest.raises(error) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)

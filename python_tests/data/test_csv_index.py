"""Index files: columns, unknown classes, splits, several taxonomies, and messages with line numbers."""

import re

import numpy as np
import pytest
import torch

from c2f_ops.data import load_dataset

pil = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


@pytest.fixture
def index(tmp_path):
    for i in range(6):
        pil.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")

    def write(text, name="index.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path

    return write


def test_levels_unknowns_and_splits(index):
    root = index(
        "path,coarse,fine,split\n0.png,bird,crow,train\n1.png,bird,,train\n2.png,fish,-1,test\n"
        '3.png,,trout,train\n4.png,fish,trout,test\n5.png,"",,train\n'
    )
    train, test = (load_dataset("csv", root=root, split=split) for split in ("train", "test"))
    assert train.hierarchy == test.hierarchy
    assert train.hierarchy.names == (("bird", "fish"), ("crow", "trout"))
    assert train.labels.tolist() == [[0, 0], [0, -1], [1, 1], [-1, -1]]
    assert test.labels.tolist() == [[1, -1], [1, 1]]
    assert test.ids == ["2.png", "4.png"]
    assert [int(test[i][0][0, 0, 0]) for i in range(2)] == [20, 40]
    assert train.taxonomies is None
    assert load_dataset("csv", root=root / "index.csv", split="test").ids == test.ids
    with pytest.raises(ValueError, match=r"index.csv must have lines of split 'val', got none"):
        load_dataset("csv", root=root, split="val")


def test_without_fine_classes_there_is_one_level(index):
    dataset = load_dataset("csv", root=index("path,coarse\n0.png,10\n1.png,9\n2.png,-1\n"))
    assert dataset.hierarchy.names == (("9", "10"),)
    assert dataset.labels.tolist() == [[1], [0], [-1]]


def test_tsv_with_several_taxonomies(index):
    text = "path\tcoarse\tfine\tcoarse_diet\n0.png\tbird\tcrow\tany\n1.png\tfish\ttrout\t\n2.png\tfish\tcarp\tplant\n"
    root = index(text + "3.png\tbird\t\tplant\n4.png\t\t\tany\n", "index.tsv")
    dataset = load_dataset("csv", root=root / "index.tsv")
    assert dataset.hierarchy.names == (("bird", "fish"), ("carp", "crow", "trout"))
    assert dataset.taxonomies.y.tolist() == [[0, 0], [1, -1], [1, 1], [0, 1], [-1, 0]]
    assert dataset.taxonomies.relations.tolist() == [[1, 0, 1], [1, 0, -1]]
    assert dataset.taxonomies.relations.dtype == torch.int32
    assert dataset.taxonomies.names == (("bird", "fish"), ("any", "plant"))
    (root / "1.png").write_bytes(b"broken")
    skipped = load_dataset("csv", root=root / "index.tsv", corrupt="skip")
    assert skipped.taxonomies.y.tolist() == [[0, 0], [1, 1], [0, 1], [-1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,fine\n", "index.csv must have the columns path, coarse (or several coarse...) and may have fine, split"),
        ("path,coarse,colour\n", "each once, got path, coarse, colour"),
        ("path,coarse,coarse\n", "each once, got path, coarse, coarse"),
        ("", "each once, got none"),
        ("path,coarse\n0.png,a\n1.png\n", "line 3 of index.csv must have 2 cells, got 1"),
        ("path,coarse\n0.png,a\n1.png,b,c,d\n", "line 3 of index.csv must have 2 cells, got 4"),
        ("path,coarse\n0.png,a\n,b\n", "line 3 of index.csv must have a path, got ''"),
        ("path,coarse,split\n0.png,a,\n", "line 2 of index.csv must have a split, got ''"),
        ("path,coarse\n0.png,-1\n", "column coarse of index.csv must name a class, got none"),
        ("path,coarse\n", "column coarse of index.csv must name a class, got none"),
        (
            "path,coarse,fine\n0.png,a,x\n1.png,a,\n2.png,b,x\n",
            "fine class 'x' must have one class in coarse, got 'a' and 'b' (lines 2, 4 of index.csv)",
        ),
        ("path,coarse,fine\n0.png,a,x\n1.png,,y\n", "index.csv must give a coarse class to fine classes 'y'"),
        ("path,coarse,fine\n0.png,a,x\n1.png,b,\n", "leave the column fine empty) of coarse classes 'b'"),
    ],
)
def test_messages(index, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_dataset("csv", root=index(text))


def test_missing_files(index):
    root = index("path,coarse\n0.png,a\nno.png,b\n1.png,a\nnot.png,b\n")
    with pytest.raises(
        FileNotFoundError, match=r"images of index.csv must be files beside it, got none for lines 3, 5"
    ):
        load_dataset("csv", root=root)
    assert load_dataset("csv", root=root, corrupt="skip").ids == ["0.png", "1.png"]
    with pytest.raises(FileNotFoundError, match=r"root must be an index file or hold index.csv"):
        load_dataset("csv", root=root / "elsewhere")


LEVELS = "path,level:order,level:family,level:species,split\n"


def test_columns_of_levels(index):
    root = index(
        LEVELS + "0.png,Aves,Corvidae,crow,train\n1.png,Aves,Laridae,gull,train\n2.png,Pisces,Salmonidae,9,train\n"
        "3.png,Aves,,,train\n4.png,,,gull,test\n5.png,-1,Salmonidae,,test\n"
    )
    train, test = (load_dataset("csv", root=root, split=split) for split in ("train", "test"))
    assert train.hierarchy == test.hierarchy
    assert train.hierarchy.levels == ("order", "family", "species")
    assert train.hierarchy.names == (("Aves", "Pisces"), ("Corvidae", "Laridae", "Salmonidae"), ("9", "crow", "gull"))
    assert train.labels.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 0], [0, -1, -1]]
    assert test.labels.tolist() == [[0, 1, 2], [1, 2, -1]]  # ancestors are filled in
    assert [int(test[i][0][0, 0, 0]) for i in range(2)] == [40, 50]
    assert train.taxonomies is None


def test_one_level_in_numeric_order(index):
    dataset = load_dataset("csv", root=index("path,level:class\n0.png,10\n1.png,9\n"))
    assert dataset.hierarchy.names == (("9", "10"),)
    assert dataset.labels.tolist() == [[1], [0]]


def test_equal_numbers_are_in_alphabetical_order(index):
    """Six names of 1: in the order of a set, which changes with the process, one time in 720 alone."""
    names = ["0" * i + "1" for i in range(6)]
    dataset = load_dataset("csv", root=index("path,level:class\n" + "".join(f"0.png,{name}\n" for name in names)))
    assert dataset.hierarchy.names == (tuple(sorted(names)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,level:a,coarse\n0.png,x,y\n", "each once, got path, level:a, coarse"),
        ("path,level:\n0.png,x\n", "each once, got path, level:"),
        (LEVELS + "0.png,a,,,train\n", "must have a line with a class at every level, got none"),
        (LEVELS + "0.png,a,b,c,train\n1.png,z,,,train\n", "of level:order in index.csv must stand in a line"),
        (LEVELS + "0.png,a,b,c,train\n1.png,z,,,train\n", "got others (lines 3)"),
        (LEVELS + "0.png,a,b,c,train\n1.png,a,d,c,train\n", "(rows 2) and 'd' (rows 3)"),
        (LEVELS + "0.png,a,b,c,train\n1.png,x,y,z,train\n2.png,a,y,,train\n", "node 'y' must come with order 'x'"),
    ],
)  # fmt: skip
def test_messages_of_levels(index, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_dataset("csv", root=index(text))

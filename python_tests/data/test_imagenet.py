"""Subsets of ImageNet: the class tables, and the reader on small written folders."""

import csv
import io
import re
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from c2f_ops.data import load_dataset
from c2f_ops.data.imagenet import SUBSETS, load_imagenet_subset

pil = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


def table(name):
    text = (resources.files("c2f_ops.data") / "tables" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def jpeg(value):
    buffer = io.BytesIO()
    pil.fromarray(np.full((5, 7, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(root, wnids, folders=("train", "val"), count=1):
    for folder in folders:
        for i, wnid in enumerate(wnids):
            (root / folder / wnid).mkdir(parents=True)
            for j in range(count):
                (root / folder / wnid / f"{wnid}_{j}.JPEG").write_bytes(jpeg(3 * i + j))


@pytest.mark.parametrize(
    ("name", "per_class"), [("living17", 4), ("nonliving26", 4), ("entity13", 20), ("entity30", 8)]
)
def test_breeds_tables(name, per_class):
    rows = table(name)
    coarse, fine = SUBSETS[name]
    assert len({row["wnid"] for row in rows}) == len({row["name"] for row in rows}) == len(rows) == fine
    assert Counter(Counter(row["coarse"] for row in rows).values()) == {per_class: coarse}
    assert all(re.fullmatch(r"n\d{8}", row["wnid"]) for row in rows)


def test_known_members():
    of = {name: {row["wnid"]: row["coarse"] for row in table(name)} for name in SUBSETS}
    assert of["living17"]["n01630670"] == "salamander"  # common newt
    assert of["living17"]["n02490219"] == "monkey"  # marmoset
    assert of["entity13"]["n02730930"] == "garment"  # apron
    assert of["nonliving26"]["n02769748"] == "bag"  # backpack
    assert of["tieredimagenet"]["n07565083"] == "substance"  # menu


def test_tiered_table():
    rows = table("tieredimagenet")
    assert len({row["wnid"] for row in rows}) == len(rows) == 608
    assert Counter(row["part"] for row in rows) == {"train": 351, "val": 97, "test": 160}
    parts = {(row["coarse"], row["part"]) for row in rows}  # no super-category stands in two parts
    assert Counter(part for _, part in parts) == {"train": 20, "val": 6, "test": 8}


def test_reader(tmp_path):
    rows = table("living17")
    write_images(tmp_path, [row["wnid"] for row in rows] + ["n99999999"], count=2)
    (tmp_path / "train" / rows[3]["wnid"] / "notes.txt").write_text("no image")
    train = load_dataset("living17", root=tmp_path, size=4)
    assert train.hierarchy.sizes == SUBSETS["living17"]
    assert len(train) == 136
    assert train.ids[:3] == [f"{rows[i]['wnid']}/{rows[i]['wnid']}_{j}.JPEG" for i, j in ((0, 0), (0, 1), (1, 0))]
    for item in (0, 41, 135):
        image, label = train[item]
        row = rows[item // 2]
        assert abs(int(image[0, 0, 0]) - (3 * (item // 2) + item % 2)) <= 2  # JPEG
        assert train.hierarchy.names[0][label[0]] == row["coarse"]
        assert train.hierarchy.names[1][label[1]] == row["name"]
    assert train.hierarchy.meta["wnids"] == [row["wnid"] for row in rows]
    assert len(load_dataset("living17", root=tmp_path, split="test")) == 136  # the folder val
    write_images(tmp_path, [row["wnid"] for row in rows], folders=["test"])
    assert len(load_dataset("living17", root=tmp_path, split="test")) == 68


def test_missing_folders(tmp_path):
    wnids = [row["wnid"] for row in table("living17")]
    write_images(tmp_path, wnids[2:], folders=["train"])
    (tmp_path / "train" / wnids[1]).mkdir()
    message = f"must hold images of the 68 classes of living17 in <wnid>/, got none for classes {wnids[0]}, {wnids[1]}"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_dataset("living17", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="root must hold the folder val of ImageNet"):
        load_dataset("living17", root=tmp_path, split="test")


def test_own_classes(tmp_path):
    write_images(tmp_path, ["n1", "n2", "n3"])
    classes = tmp_path / "classes.csv"
    classes.write_text("wnid,name,coarse\nn3,c,X\nn1,a,Y\nn2,b,X\n")
    dataset = load_imagenet_subset(tmp_path, "test", name="mine", classes_csv=classes)
    assert dataset.hierarchy.names == (("X", "Y"), ("c", "a", "b"))
    assert dataset.ids == ["n3/n3_0.JPEG", "n1/n1_0.JPEG", "n2/n2_0.JPEG"]
    assert dataset.labels.tolist() == [[0, 0], [1, 1], [0, 2]]
    for text, message in [
        ("wnid,name\nn1,a\n", "classes.csv must have lines with the columns wnid, name, coarse"),
        ("wnid,name,coarse\nn1,a,\n", "classes.csv must have lines with the columns wnid, name, coarse"),
        ("wnid,name,coarse\nn1,a,X\nn1,b,X\n", "classes.csv must have each class once, got wnids n1 again"),
    ]:
        classes.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_imagenet_subset(tmp_path, "test", name="mine", classes_csv=classes)
    with pytest.raises(ValueError, match=r"name must be one of entity13, .* got 'mine'"):
        load_imagenet_subset(tmp_path, "test", name="mine")

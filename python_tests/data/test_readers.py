"""Readers on small written files, and on the developers' data where it is present."""

import csv
import io
import pickle
import re
import zipfile

import pytest
import torch

from c2f_ops import data
from c2f_ops.data import cars_hierarchy, load_dataset
from c2f_ops.hierarchy import Hierarchy

pil = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

TREE = Hierarchy.from_paths(["A/1", "A/2", "B/3", "B/4"])


def picture(value):
    """An encoded image of one colour."""
    buffer = io.BytesIO()
    pil.new("RGB", (8, 8), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


# Readers on written files.

TAXONOMY = """class_id,cub_name,genus,family,subset_id
1,Albatross,Phoebastria,Diomedeidae,1
2,Ani,Crotophaga,Cuculidae,
3,Auklet,Aethia,Alcidae,0
"""


def write_cub(root):
    (root / "cub200_taxonomy.csv").write_text(TAXONOMY)
    folder = root / "CUB_200_2011"
    names = ["001.Albatross", "002.Ani", "003.Auklet"]
    for i, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for j in range(2):
            (folder / "images" / name / f"{j}.jpg").write_bytes(picture(40 * i + 10 * j))
    ids = [(i, j) for i in range(3) for j in range(2)]
    tables = {
        "images.txt": [f"{2 * i + j + 1} {names[i]}/{j}.jpg" for i, j in ids],
        "classes.txt": [f"{i + 1} {name}" for i, name in enumerate(names)],
        "image_class_labels.txt": [f"{2 * i + j + 1} {i + 1}" for i, j in ids],
        "train_test_split.txt": [f"{2 * i + j + 1} {1 - j}" for i, j in ids],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_cub_folder(tmp_path):
    write_cub(tmp_path)
    test = load_dataset("cub", root=tmp_path, split="test", size=4)
    assert test.ids == ["001.Albatross/1.jpg", "002.Ani/1.jpg", "003.Auklet/1.jpg"]
    assert [int(image[0, 0, 0]) for image, _ in (test[i] for i in range(3))] == [10, 50, 90]
    assert test.hierarchy.levels == ("family", "genus", "species")
    assert test.hierarchy.names[2] == ("Albatross", "Ani", "Auklet")
    assert test.labels[:, 2].tolist() == [0, 1, 2]
    train = load_dataset("cub", root=tmp_path / "CUB_200_2011" / "..")
    assert train.ids == [f"{name}/0.jpg" for name in ("001.Albatross", "002.Ani", "003.Auklet")]
    assert train.hierarchy == test.hierarchy


def test_cub_folder_errors(tmp_path):
    folder = write_cub(tmp_path)
    taxonomy = tmp_path / "cub200_taxonomy.csv"
    cases = [
        (taxonomy, TAXONOMY.replace("Ani,", "Crow,"), "class 2 of cub200_taxonomy.csv must have cub_name 'Ani'"),
        (taxonomy, TAXONOMY.replace("3,Auklet,Aethia,Alcidae,0\n", ""), "got none for class_id [3]"),
        (
            taxonomy,
            TAXONOMY.replace("genus", "gen"),
            "must have the columns class_id (1..200), family, genus and species",
        ),
        (taxonomy, TAXONOMY.replace("Aethia", "Crotophaga"), "node 'Crotophaga' must have one parent"),
        (folder / "train_test_split.txt", "1 1\n", "must list the same images, got ids 2, 3, 4, 5, 6"),
        (folder / "images.txt", "1\n", "must have lines '<number> <value>', got others (lines 1)"),
    ]
    for path, text, message in cases:
        original = path.read_text()
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_dataset("cub", root=tmp_path)
        path.write_text(original)
    taxonomy.unlink()
    with pytest.raises(FileNotFoundError, match=r"root must hold cub200_taxonomy.csv.*columns class_id"):
        load_dataset("cub", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"root must hold images.txt"):
        load_dataset("cub", root=tmp_path / "images")


def write_cub100(root, members):
    (root / "cub200_taxonomy.csv").write_text(TAXONOMY)
    with zipfile.ZipFile(root / "cub100_train.zip", "w") as archive:
        for i, member in enumerate(members):
            archive.writestr(member, picture(10 * i))


def test_cub100_zip(tmp_path):
    write_cub100(tmp_path, ["003/b.jpg", "001/a.jpg"])
    dataset = load_dataset("cub100", root=tmp_path)
    assert dataset.ids == ["001/a.jpg", "003/b.jpg"]
    assert dataset.hierarchy.names[2] == ("Auklet", "Albatross")  # the order of subset_id
    assert dataset.labels[:, 2].tolist() == [1, 0]
    assert int(dataset[0][0][0, 0, 0]) == 10
    copy = pickle.loads(pickle.dumps(dataset))  # what a worker process gets
    assert torch.equal(copy[1][0], dataset[1][0])
    write_cub100(tmp_path, ["002/c.jpg"])
    with pytest.raises(ValueError, match=r"must start with a class id that has a subset_id, got \['002/c.jpg'\]"):
        load_dataset("cub100", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"root must hold cub100_test.zip"):
        load_dataset("cub100", root=tmp_path, split="test")


def test_zip_is_opened_again_in_another_process(tmp_path, monkeypatch):
    """Two processes that read through one open file would move each other's position: rarely seen, never repeatable."""
    write_cub100(tmp_path, ["001/a.jpg"])
    source = load_dataset("cub100", root=tmp_path)._images
    encoded, archive = source[0], source._archive
    assert source[0] == encoded
    assert source._archive is archive
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert source[0] == encoded
    assert source._archive is not archive


def test_zip_in_worker_processes(tmp_path):
    write_cub100(tmp_path, [f"001/{i:02d}.jpg" for i in range(12)])
    dataset = load_dataset("cub100", root=tmp_path)
    expected = [int(dataset[i][0][0, 0, 0]) for i in range(12)]  # opens the archive before the fork
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert [int(image[0, 0, 0]) for image, _ in loader] == expected == [10 * i for i in range(12)]


def write_folder(root, *names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(10 * i))


def test_folder_tree(tmp_path):
    write_folder(tmp_path, "B/b/1.PNG", "A/a/2.jpg", "A/c/3.jpg", "A/a/.hidden.jpg")
    (tmp_path / "A" / "notes.txt").write_text("no image")
    dataset = load_dataset("folder", root=tmp_path)
    assert dataset.ids == ["A/a/2.jpg", "A/c/3.jpg", "B/b/1.PNG"]
    assert dataset.hierarchy.names == (("A", "B"), ("a", "c", "b"))
    assert int(dataset[2][0][0, 0, 0]) == 0
    with pytest.raises(FileNotFoundError, match="must hold the folders train and test"):
        load_dataset("folder", root=tmp_path, split="test")


def test_folder_splits_share_the_hierarchy_of_train(tmp_path):
    write_folder(tmp_path, "train/A/a/1.jpg", "train/B/b/2.jpg", "val/B/b/3.jpg")
    val = load_dataset("folder", root=tmp_path, split="val")
    assert val.labels.tolist() == [[1, 1]]
    assert val.hierarchy == load_dataset("folder", root=tmp_path).hierarchy
    write_folder(tmp_path, "val/B/z/4.jpg")
    with pytest.raises(ValueError, match="got node 'z'"):
        load_dataset("folder", root=tmp_path, split="val")


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold images"):
        load_dataset("folder", root=tmp_path)
    write_folder(tmp_path, "A/a/1.jpg", "A/2.jpg")
    with pytest.raises(ValueError, match="node 'A' must reach level"):
        load_dataset("folder", root=tmp_path)
    write_folder(tmp_path, "0.jpg")
    with pytest.raises(ValueError, match=r"must stand in class folders, got 0.jpg directly"):
        load_dataset("folder", root=tmp_path)


# The registry.


def test_birds_are_generated(monkeypatch):
    """Only the wiring: the generator has its own tests."""
    calls = []

    def generate_birds(n, *, size=128, seed=0, split="train", start=0):
        calls.append((n, size, seed, split))
        return torch.zeros(n, 3, size, size, dtype=torch.uint8), TREE.from_fine(torch.arange(n) % 4)

    monkeypatch.setattr("c2f_ops.data.birds.labelled.generate_birds", generate_birds)
    monkeypatch.setattr("c2f_ops.data.birds.labelled.birds_hierarchy", lambda: TREE)
    dataset = load_dataset("birds", split="test", size=16, seed=3, n=5)
    assert calls == [(5, 16, 3, "test")]
    assert dataset.stacked().shape == (5, 3, 16, 16)
    assert len(set(dataset.ids)) == 5


def test_n_chooses_the_same_images_for_a_seed(tmp_path):
    write_folder(tmp_path, *(f"A/{c}/{i}.jpg" for c in "ab" for i in range(10)))
    first, again, other = (load_dataset("folder", root=tmp_path, n=8, seed=s) for s in (1, 1, 2))
    assert len(first) == 8
    assert first.ids == again.ids != other.ids
    assert set(first.labels[:, 1].tolist()) == {0, 1}
    with pytest.raises(ValueError, match="n must be at most 20"):
        load_dataset("folder", root=tmp_path, n=21)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "imagenet"},
            f"load_dataset: name must be one of {', '.join(data.DATASETS)}, got 'imagenet'",
        ),
        ({"name": "cub"}, "load_dataset: root must be the folder of cub, got None"),
        ({"name": "cub", "split": "val"}, "load_dataset: split must be one of train, test, got 'val'"),
        ({"name": "cub", "root": ".", "n": 0}, "load_dataset: n must be at least 1, got 0"),
    ],
)
def test_bad_names(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_dataset(**arguments)


def test_listed_names_have_readers():
    assert all(callable(data.registry._reader(name)) for name in data.DATASETS if not name.startswith("birds"))


def test_cars_rule_on_names():
    names = ["Aston Martin V8 Vantage Coupe 2012", "Ford Ranger SuperCab 2011", "FIAT 500 Abarth 2012"]
    names += ["Chevrolet Silverado 1500 Extended Cab 2012", "Ford E-Series Wagon Van 2012"]
    tree = cars_hierarchy(names)
    assert tree.names[0] == ("Coupe", "SuperCab", "Hatchback", "Extended Cab", "Van")
    assert tree.names[1][0] == "Aston Martin Coupe"
    assert tree.names[2] == tuple(names)
    assert cars_hierarchy(names, merge_supercab=True).sizes == (4, 5, 5)
    for bad in ("Tesla Cybertruck 2024", "Sedan 2012", "Cab 2012", ""):
        with pytest.raises(ValueError, match=f"must end in a body type .* got '{bad}'"):
            cars_hierarchy([bad])


# The developers' data.


def test_cars_counts_of_the_paper(shared_data):
    with open(shared_data / "stanford_cars_bodytype.csv", newline="") as file:
        names = [row["model"] for row in csv.DictReader(file)]
    assert cars_hierarchy(names).sizes == (14, 113, 196)
    assert cars_hierarchy(names, merge_supercab=True).sizes == (13, 113, 196)


def test_aircraft_counts(shared_data):
    path = shared_data / "fgvc_aircraft_hierarchy.csv"
    tree = Hierarchy.from_csv(path, ["manufacturer", "family", "variant"])
    assert tree.sizes == (30, 70, 100)
    with open(path, newline="") as file:
        rows = [(int(r["manufacturer_id"]), int(r["family_id"]), int(r["variant_id"])) for r in csv.DictReader(file)]
    assert tree.validate_labels(rows).tolist() == [list(row) for row in rows]


@pytest.mark.parametrize(
    ("prefix", "order_first", "sizes"),
    [("", False, (37, 121, 200)), ("", True, (13, 37, 121, 200)), ("subset", False, (30, 76, 100))],
)
def test_cub_counts(shared_data, prefix, order_first, sizes):
    tree = Hierarchy.from_csv(
        shared_data / "cub200_taxonomy.csv",
        ["order"] * order_first + ["family", "genus", "cub_name"],
        id_columns={"cub_name": "subset_id"} if prefix else None,
        where=(lambda row: row["subset_id"] != "") if prefix else None,
    )
    assert tree.sizes == sizes


def test_second_cub_assignment_is_no_tree_with_its_orders(shared_data):
    path = shared_data / "cub200_taxonomy.csv"
    assert Hierarchy.from_csv(path, ["pris_family", "cub_name"]).sizes == (38, 200)
    message = r"'Laridae' must have one parent, got 'Charadriiformes' \(.*\) and 'Coraciiformes' \(rows 85\)"
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_csv(path, ["pris_order", "pris_family", "cub_name"])


@pytest.mark.parametrize(("split", "count"), [("train", 2999), ("test", 2903)])
def test_cub100_files(shared_data, split, count):
    dataset = load_dataset("cub100", root=shared_data, split=split)
    assert len(dataset) == count
    assert dataset.hierarchy.sizes == (30, 76, 100)
    assert dataset.labels.unique(dim=0).shape == (100, 3)
    image, label = dataset[count // 2]
    assert image.shape == (3, 227, 227)
    assert label.tolist() == dataset.labels[count // 2].tolist()

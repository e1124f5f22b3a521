"""Readers of Stanford Cars and FGVC-Aircraft on small written trees in the published forms."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest

from c2f_ops.data import load_dataset
from c2f_ops.data.cars_files import load_cars

pil = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

MODELS = ["Audi S4 Sedan 2012", "Ford Ranger SuperCab 2011", "Audi TT RS Coupe 2012"]


def picture(value):
    buffer = io.BytesIO()
    pil.new("RGB", (12, 8), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_pictures(folder, names, first=0):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(first + 10 * i))


def annotations(fields, rows):
    """Rows as MATLAB's struct arrays are read: objects in an array ``[1, N]``."""
    table = np.zeros((1, len(rows)), dtype=[(field, "O") for field in fields])
    for i, row in enumerate(rows):
        table[0, i] = row
    return table


def class_names():
    names = np.zeros((1, len(MODELS)), dtype=object)
    names[0] = MODELS
    return names


def write_devkit(root, train, test):
    """Annotations (file, class from 1) of the splits."""
    savemat = pytest.importorskip("scipy.io").savemat
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": class_names()})
    for split, rows, path in (
        ("train", train, root / "devkit" / "cars_train_annos.mat"),
        ("test", test, root / "cars_test_annos_withlabels.mat"),
    ):
        fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        savemat(path, {"annotations": annotations(fields, [(1, 1, 5, 5, label, name) for name, label in rows])})
        write_pictures(root / f"cars_{split}", [name for name, _ in rows], 0 if split == "train" else 100)


def values(dataset):
    return [int(dataset[i][0][0, 0, 0]) for i in range(len(dataset))]


def test_cars_devkit(tmp_path):
    write_devkit(tmp_path / "stanford_cars", [("00001.jpg", 3), ("00002.jpg", 1), ("00003.jpg", 2)], [("1.jpg", 2)])
    for root in (tmp_path, tmp_path / "stanford_cars"):
        train = load_dataset("cars", root=root, size=6, resize_mode="squash")
        assert train.hierarchy.levels == ("body_type", "make_body_type", "model")
        assert train.hierarchy.names[2] == tuple(MODELS)
        assert train.ids == ["00001.jpg", "00002.jpg", "00003.jpg"]
        assert train.labels[:, 2].tolist() == [2, 0, 1]
        assert values(train) == [0, 10, 20]
    test = load_dataset("cars", root=tmp_path, split="test")  # one line: MATLAB drops the dimension
    assert test.hierarchy == train.hierarchy
    assert test.labels[:, 2].tolist() == [1]
    assert values(test) == [100]
    assert test.hierarchy.names[0] == ("Sedan", "SuperCab", "Coupe")
    assert load_cars(tmp_path, "test", merge_supercab=True).hierarchy.names[0] == ("Sedan", "Extended Cab", "Coupe")


def test_cars_in_one_table(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    rows = [("car_ims/1.jpg", 1, 0), ("car_ims/2.jpg", 2, 1), ("car_ims/3.jpg", 3, 0)]
    table = annotations(("relative_im_path", "class", "test"), rows)
    savemat(tmp_path / "cars_annos.mat", {"annotations": table, "class_names": class_names()})
    write_pictures(tmp_path, [name for name, _, _ in rows])
    train, test = (load_dataset("cars", root=tmp_path, split=split) for split in ("train", "test"))
    assert train.labels[:, 2].tolist() == [0, 2]
    assert values(train) == [0, 20]
    assert test.ids == ["car_ims/2.jpg"]
    assert test.hierarchy == train.hierarchy


def test_cars_csv(tmp_path):
    rows = [("a.jpg", MODELS[1], "train"), ("b.jpg", MODELS[0], "test"), ("c.jpg", MODELS[0], "train")]
    (tmp_path / "cars.csv").write_text("path,model,split\n" + "".join(",".join(row) + "\n" for row in rows))
    write_pictures(tmp_path, [row[0] for row in rows])
    train = load_dataset("cars", root=tmp_path)
    assert train.hierarchy.names[2] == tuple(sorted(MODELS[:2]))
    assert train.labels[:, 2].tolist() == [1, 0]
    assert values(train) == [0, 20]
    (tmp_path / "cars.csv").write_text("path,class\n")
    with pytest.raises(ValueError, match=r"cars.csv must have the columns path, model, split, got path, class"):
        load_dataset("cars", root=tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.jpg,M,train\nb.jpg,M,Train\nc.jpg,M,val\n", r"train or test in column split, got others \(lines 3, 4\)"),
        ("a.jpg,M,train\n,M,train\n", r"a file in column path, got others \(lines 3\)"),
        ("a.jpg,M,train\nb.jpg,,train\n", r"a class name in column model, got others \(lines 3\)"),
        ("a.jpg,M,train\nb.jpg,M\n", r"train or test in column split, got others \(lines 3\)"),
        ("a.jpg,M,test\n", "lines of split 'train', got none"),
        ("", "lines of split 'train', got none"),
    ],
)
def test_cars_csv_cells(tmp_path, lines, message):
    (tmp_path / "cars.csv").write_text("path,model,split\n" + lines.replace("M", MODELS[0]))
    with pytest.raises(ValueError, match=f"load_dataset: cars.csv must have {message}"):
        load_dataset("cars", root=tmp_path)


def test_cars_fields_of_the_tables(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    table = annotations(("relative_im_path", "label", "test"), [("1.jpg", 1, 0), ("2.jpg", 2, 0)])
    savemat(tmp_path / "cars_annos.mat", {"annotations": table, "class_names": class_names()})
    with pytest.raises(ValueError, match=r"cars_annos.mat must have test, relative_im_path, class, got none for class"):
        load_dataset("cars", root=tmp_path)
    whole = annotations(("relative_im_path", "class", "test"), [("1.jpg", 1, 0), ("2.jpg", 2, 0)])
    savemat(tmp_path / "cars_annos.mat", {"annotations": whole, "class_names": class_names()})
    with pytest.raises(ValueError, match=r"cars_annos.mat must have lines of split 'test', got none"):
        load_dataset("cars", root=tmp_path, split="test")


def test_cars_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"must hold cars.csv, cars_annos.mat or devkit"):
        load_dataset("cars", root=tmp_path)
    write_devkit(tmp_path, [("1.jpg", 4)], [("1.jpg", 0)])
    for split, wrong in (("train", 4), ("test", 0)):
        with pytest.raises(ValueError, match=f"must be of classes 1 to 3, got classes {wrong}"):
            load_dataset("cars", root=tmp_path, split=split)
    meta = tmp_path / "devkit" / "cars_meta.mat"
    meta.write_bytes((tmp_path / "devkit" / "cars_train_annos.mat").read_bytes())
    with pytest.raises(ValueError, match=r"cars_meta.mat must hold class_names, got none for class_names"):
        load_dataset("cars", root=tmp_path)
    meta.write_bytes(meta.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cars_meta.mat must be a MATLAB file, got "):
        load_dataset("cars", root=tmp_path)
    meta.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold cars_meta.mat of Stanford Cars"):
        load_dataset("cars", root=tmp_path)
    found = builtins.__import__

    def without_scipy(name, *rest):
        if name.startswith("scipy"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(ImportError, match=r"scipy, which reads .mat, is not installed; pip install"):
        load_dataset("cars", root=tmp_path)


AIRCRAFT = {  # image: variant, family, manufacturer, part
    "0034309": ("A340-200", "A340", "Airbus", "trainval"),
    "1025794": ("737-300", "Boeing 737", "Boeing", "trainval"),
    "1167113": ("737-200", "Boeing 737", "Boeing", "test"),
    "0900914": ("F-16A/B", "F-16", "Lockheed Martin", "test"),
    "1340192": ("737-300", "Boeing 737", "Boeing", "test"),
}


def write_aircraft(folder):
    for part in ("trainval", "test"):
        for column, level in enumerate(("variant", "family", "manufacturer")):
            lines = [f"{image} {row[column]}\n" for image, row in AIRCRAFT.items() if row[3] == part]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"images_{level}_{part}.txt").write_text("".join(lines))
    write_pictures(folder / "images", [f"{image}.jpg" for image in AIRCRAFT])


def test_aircraft(tmp_path):
    write_aircraft(tmp_path / "fgvc-aircraft-2013b" / "data")
    for root in (tmp_path, tmp_path / "fgvc-aircraft-2013b", tmp_path / "fgvc-aircraft-2013b" / "data"):
        train, test = (load_dataset("aircraft", root=root, split=split) for split in ("train", "test"))
        assert train.hierarchy == test.hierarchy
        assert train.hierarchy.levels == ("manufacturer", "family", "variant")
        assert train.hierarchy.names[2] == ("737-200", "737-300", "A340-200", "F-16A/B")
        assert train.hierarchy.sizes == (3, 3, 4)
        assert train.ids == ["0034309.jpg", "1025794.jpg"]
        assert train.labels[:, 2].tolist() == [2, 1]
        assert [train.hierarchy.names[0][i] for i in train.labels[:, 0].tolist()] == ["Airbus", "Boeing"]
        assert test.labels[:, 2].tolist() == [0, 3, 1]
        assert values(test) == [20, 30, 40]


def test_aircraft_errors(tmp_path):
    folder = tmp_path / "data"
    write_aircraft(folder)
    families = folder / "images_family_test.txt"
    lines = families.read_text()
    families.write_text(lines.replace("1167113 ", "1167114 "))
    with pytest.raises(ValueError, match=r"lists of test .* must name the same images, got ids 1167113, 1167114"):
        load_dataset("aircraft", root=tmp_path)
    families.write_text(lines.replace("1167113 Boeing 737", "1167113"))
    with pytest.raises(ValueError, match=r"must have lines '<image> <class>', got '1167113' \(line 1\)"):
        load_dataset("aircraft", root=tmp_path)
    families.write_text(lines.replace("1340192 Boeing 737", "1340192 F-16"))
    with pytest.raises(ValueError, match="'F-16' must have one parent, got 'Boeing'"):
        load_dataset("aircraft", root=tmp_path)
    families.write_text(lines)
    variants = folder / "images_variant_test.txt"
    whole = variants.read_text()
    variants.write_text(whole + "1340192 737-200\n")
    with pytest.raises(ValueError, match=r"image 1340192 one class, got '737-300' and '737-200' \(line 4\)"):
        load_dataset("aircraft", root=tmp_path)
    variants.write_text(whole)
    for level, name in zip(("variant", "family", "manufacturer"), AIRCRAFT["0034309"], strict=False):
        with open(folder / f"images_{level}_test.txt", "a") as file:
            file.write(f"0034309 {name}\n")
    with pytest.raises(ValueError, match=r"trainval and test in .* must share no image, got ids 0034309"):
        load_dataset("aircraft", root=tmp_path)
    for level in ("variant", "family", "manufacturer"):
        (folder / f"images_{level}_trainval.txt").write_text("")
    with pytest.raises(ValueError, match=r"images_variant_trainval.txt in .* must have lines, got none"):
        load_dataset("aircraft", root=tmp_path)
    families.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold images_family_test.txt of FGVC-Aircraft"):
        load_dataset("aircraft", root=tmp_path)


def test_runs_on_them_squash():
    from c2f_ops.training import make_config

    assert [make_config(name, {}).resize_mode for name in ("cars", "aircraft", "cub")] == [
        "squash",
        "squash",
        "shorter",
    ]

"""`check_dataset` and `c2f data check`: each fault is found where it is, and nothing is found in good data."""

from __future__ import annotations

import csv
import io
import json
import sys

import numpy as np
import pytest

from c2f_ops.data import check_dataset

pil = pytest.importorskip("PIL.Image")


def picture(seed, mode="RGB", side=24):
    return pil.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).convert(mode)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path):
    """A sound folder tree: two splits, two coarse classes with two fine ones each, three images in each."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in ("A/a", "A/b", "B/c", "B/d")]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(encode(picture(10 * number + i)))
    return tmp_path


def found(root, name="folder", **options):
    return {(f.severity, f.kind, f.split): f.items for f in check_dataset(name, root=root, **options)}


def test_sound_data_have_no_findings(tree):
    assert check_dataset("folder", root=tree) == []


def test_faults_of_images(tree):
    (tree / "train/A/a/0.png").write_bytes(encode(picture(0))[:300])
    (tree / "train/A/a/1.jpg").write_bytes(encode(picture(101)))
    (tree / "train/A/a/2.jpg").write_bytes(encode(picture(102, "CMYK"), "JPEG"))
    (tree / "train/A/a/3.png").write_bytes(encode(picture(103, "RGBA")))
    deep = np.random.default_rng(0).integers(0, 65536, (24, 24)).astype(np.uint16)
    (tree / "train/A/a/4.png").write_bytes(encode(pil.fromarray(deep)))
    frames = [picture(104 + i, side=8) for i in range(2)]
    (tree / "test/B/c/3.webp").write_bytes(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    (tree / "test/B/c/folder.jpg").mkdir()
    (tree / "test/B/c/dangling.jpg").symlink_to(tree / "nowhere.jpg")
    findings = found(tree)
    assert findings.pop(("error", "unreadable", "train"))[0].startswith("A/a/0.png: OSError: ")
    assert [item.split(": ")[:2] for item in findings.pop(("error", "unreadable", "test"))] == [
        ["B/c/dangling.jpg", "FileNotFoundError"],
        ["B/c/folder.jpg", "IsADirectoryError"],
    ]
    assert findings == {
        ("warning", "wrong suffix", "train"): ("A/a/1.jpg: PNG",),
        ("warning", "CMYK", "train"): ("A/a/2.jpg: CMYK",),
        ("warning", "transparent", "train"): ("A/a/3.png: RGBA",),
        ("warning", "16 bits", "train"): ("A/a/4.png: I;16",),
        ("warning", "animated", "test"): ("B/c/3.webp: 2 frames",),
        ("warning", "tiny", "test"): ("B/c/3.webp: 8 x 8",),
    }
    assert len(found(tree, min_side=25)[("warning", "tiny", "train")]) == 15


def test_same_bytes(tree):
    (tree / "train/A/a/again.png").write_bytes((tree / "train/A/a/0.png").read_bytes())
    (tree / "train/A/b/other.png").write_bytes((tree / "train/A/a/1.png").read_bytes())
    (tree / "test/A/a/leak.png").write_bytes((tree / "train/A/a/2.png").read_bytes())
    (tree / "test/B/c/leak.png").write_bytes((tree / "train/B/d/2.png").read_bytes())
    assert found(tree) == {
        ("error", "in several splits", "train, test"): (
            "train/A/a/2.png [a] = test/A/a/leak.png [a]",
            "train/B/d/2.png [d] = test/B/c/leak.png [c]",
        ),
        ("error", "contradiction", "train, test"): ("train/B/d/2.png [d] = test/B/c/leak.png [c]",),
        ("error", "contradiction", "train"): ("A/a/1.png [a] = A/b/other.png [b]",),
        ("warning", "duplicate", "train"): ("A/a/0.png [a] = A/a/again.png [a]", "A/a/1.png [a] = A/b/other.png [b]"),
    }


def test_classes(tree):
    for file in ("train/A/a/0.png", "train/A/a/1.png", *(f"test/B/d/{i}.png" for i in range(3))):
        (tree / file).unlink()
    for i in range(3):
        (tree / f"train/A/b/{i}.png").write_bytes(b"")
    (tree / "train/B/e").mkdir()
    (tree / "train/B/c/notes.txt").write_text("?")
    (tree / "train/B/c/drawing.svg").write_text("<svg/>")
    (tree / "train/B/c/.hidden").write_text("")
    (tree / "test/C/f").mkdir(parents=True)
    findings = found(tree)
    assert len(findings.pop(("error", "unreadable", "train"))) == 3
    assert findings == {
        ("error", "no training image", "train"): ("b",),
        ("warning", "single image", "train"): ("a",),
        ("warning", "missing class", "test"): ("d",),
        ("warning", "ignored", "train"): ("B/c/drawing.svg", "B/c/notes.txt"),
        ("warning", "empty folder", "train"): ("B/e",),
        ("warning", "empty folder", "test"): ("B/d", "C", "C/f"),
    }


def test_a_split_that_cannot_be_read(tree):
    (tree / "test/B/new").mkdir()
    (tree / "test/B/new/0.png").write_bytes(encode(picture(300)))
    ((key, _),) = found(tree).items()
    assert key == ("error", "split", "test")
    with pytest.raises(ValueError, match="name must be one of"):
        check_dataset("none", root=tree)
    with pytest.raises(ValueError, match="must stand in class folders"):
        check_dataset("folder", root=tree / "train/A/a")


@pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
def test_index_file(tree):
    """Missing files and unlabelled levels of an index file; its splits are those that it names."""
    with open(tree / "index.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "coarse", "fine", "split"))
        writer.writerows((f"train/A/a/{i}.png", "A", "a", "train") for i in range(3))
        writer.writerows((f"train/B/c/{i}.png", "B", "c", "train") for i in range(3))
        writer.writerows((f"test/A/a/{i}.png", "A", "", "val") for i in range(3))
        writer.writerow(("gone.png", "A", "a", "train"))
    findings = found(tree, "csv")
    assert [item[:10] for item in findings.pop(("error", "unreadable", "train"))] == ["gone.png: "]
    assert findings == {("warning", "missing class", "val"): ("B",), ("warning", "no labels", "val"): ()}


def test_index_file_without_lines(tmp_path):
    (tmp_path / "index.csv").write_text("path,coarse\n")
    with pytest.raises(ValueError, match=r"check_dataset: csv in .* must have a split with images, got none"):
        check_dataset("csv", root=tmp_path)


def test_command(tree, monkeypatch, capsys):
    pytest.importorskip("typer")
    from c2f_ops.cli import main

    def c2f(*arguments):
        monkeypatch.setattr(sys, "argv", ["c2f", "data", "check", "folder", "--root", str(tree), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().out

    (tree / "train/A/a/note.txt").write_text("")
    status, printed = c2f()
    assert status == 0
    assert printed.splitlines() == [
        "warning  train: ignored (1): files are not read: their suffix is not one of images",
        "           A/a/note.txt",
        "errors: 0, warnings: 1",
    ]
    (tree / "train/A/a/0.png").write_bytes(b"")
    status, printed = c2f("--splits", "train", "--json")
    report = json.loads(printed)
    assert status == 1
    assert report["errors"] == 1
    assert [finding["kind"] for finding in report["findings"]] == ["unreadable", "ignored"]

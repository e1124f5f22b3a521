"""CIFAR-100: the official folder and its pickles, shards, and the developers' shards where they are present."""

import io
import pickle
import zlib

import numpy as np
import pytest
import torch

from c2f_ops.data import load_dataset
from c2f_ops.hierarchy import Hierarchy

pil = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


def cifar_arrays(n=6):
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    fine = np.arange(n) % 3
    return images, fine, np.array([1, 0, 1])[fine]


def write_cifar_folder(root, split="train", **changes):
    images, fine, coarse = cifar_arrays()
    folder = root / "cifar-100-python"
    folder.mkdir(exist_ok=True)
    data = {
        "data": images.reshape(len(images), -1),
        "fine_labels": fine.tolist(),
        "coarse_labels": coarse.tolist(),
        "filenames": [f"{i}.png" for i in range(len(images))],
        **changes,
    }
    meta = {"fine_label_names": ["ant", "bee", "cat"], "coarse_label_names": ["x", "y"]}
    (folder / split).write_bytes(pickle.dumps(data, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=4))
    return folder / split


def test_cifar_folder(tmp_path):
    write_cifar_folder(tmp_path)
    images, fine, coarse = cifar_arrays()
    for root in (tmp_path, tmp_path / "cifar-100-python"):
        dataset = load_dataset("cifar100", root=root)
        assert np.array_equal(dataset.stacked().numpy(), images)
        assert dataset.labels.tolist() == np.stack([coarse, fine], 1).tolist()
        assert dataset.hierarchy.names == (("x", "y"), ("ant", "bee", "cat"))
        assert dataset.ids[3] == "3.png"


def test_python_2_pickles_are_read(tmp_path):
    """Protocol 2 as Python 2 wrote it: byte strings, and the old home of NumPy's functions."""
    path = write_cifar_folder(tmp_path)
    images, _, _ = cifar_arrays(2)
    raw = images.tobytes()
    pixels = b"T" + len(raw).to_bytes(4, "little") + raw  # BINSTRING
    shape = b"K\x02M" + (3072).to_bytes(2, "little") + b"\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + dtype
        + b"\x89"
        + pixels
        + b"tb"
    )
    labels = b"](K\x00K\x01e"
    body = b"U\x04data" + array + b"U\x0bfine_labels" + labels + b"U\rcoarse_labels" + labels
    body += b"U\tfilenames](U\x01aU\x01be"
    path.write_bytes(b"\x80\x02}(" + body + b"u.")
    meta = {"fine_label_names": ["ant", "bee"], "coarse_label_names": ["x", "y"]}
    (path.parent / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    dataset = load_dataset("cifar100", root=tmp_path)
    assert np.array_equal(dataset.stacked().numpy(), images)
    assert dataset.ids == ["a", "b"]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_array_pickles_of_all_protocols(tmp_path, protocol):
    path = write_cifar_folder(tmp_path)
    data = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    assert len(load_dataset("cifar100", root=tmp_path)) == 6


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("function", [print, eval, exec, getattr, __import__, bytearray, zlib.decompress])
def test_pickles_that_call_are_refused(tmp_path, function):
    write_cifar_folder(tmp_path, filenames=Call(function, "1"))
    with pytest.raises(ValueError, match=r"must be a pickle of plain data and arrays, got \w+\.\w+$"):
        load_dataset("cifar100", root=tmp_path)


def test_missing_keys_are_named(tmp_path):
    file = write_cifar_folder(tmp_path)
    for content, missing in (({"data": 0, "fine_labels": [1]}, "filenames, coarse_labels"), ([], "data, filenames,")):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=f"train must hold data, .*, got none for {missing}"):
            load_dataset("cifar100", root=tmp_path)


def test_fine_class_with_two_coarse_classes_is_refused(tmp_path):
    write_cifar_folder(tmp_path, coarse_labels=[0, 1, 1, 1, 0, 1])
    with pytest.raises(ValueError, match="must give each fine class one coarse class, got 5 pairs"):
        load_dataset("cifar100", root=tmp_path)


def test_cifar_shards(tmp_path):
    images, fine, _ = cifar_arrays(12)
    for part, name in enumerate(("cifar100_test_a.npz", "cifar100_test_b.npz")):
        tiles = images[6 * part : 6 * part + 6].reshape(2, 3, 3, 32, 32)
        atlas = tiles.transpose(0, 3, 1, 4, 2).reshape(64, 96, 3)
        buffer = io.BytesIO()
        pil.fromarray(atlas).save(buffer, "PNG")
        np.savez(
            tmp_path / name,
            atlas_00=np.frombuffer(buffer.getvalue(), np.uint8),
            fine=fine[6 * part : 6 * part + 6].astype(np.uint8),
            fine_names=np.array([b"ant", b"bee", b"cat"]),
            coarse_names=np.array([b"x", b"y"]),
            fine_to_coarse=np.array([1, 0, 1]),
            filename_zlib=np.frombuffer(zlib.compress("\n".join(f"{part}{i}" for i in range(6)).encode()), np.uint8),
            scale=np.array(1),
        )
    dataset = load_dataset("cifar100", root=tmp_path, split="test")
    assert np.array_equal(dataset.stacked().numpy(), images)
    assert dataset.ids[7] == "11"
    assert dataset.labels[:3].tolist() == [[1, 0], [0, 1], [1, 2]]
    with pytest.raises(FileNotFoundError, match=r"root must hold cifar100_train\*.npz or the folder cifar-100-python"):
        load_dataset("cifar100", root=tmp_path)


def test_cifar_shard_file(shared_data):
    dataset = load_dataset("cifar100", root=shared_data, split="test")
    tree = Hierarchy.from_csv(shared_data / "cifar100_fine_to_coarse.csv", ["coarse", "fine"])
    assert dataset.hierarchy == tree
    assert tree.sizes == (20, 100)
    assert dataset.stacked().shape == (10_000, 3, 32, 32)
    assert dataset.labels[:, 1].bincount().unique().tolist() == [100]
    assert dataset.labels[:, 0].bincount().unique().tolist() == [500]
    for i in (0, 4_999, 9_999):  # file names begin with a word of the class only by chance, but these are CIFAR's own
        assert dataset.ids[i].endswith(".png")
    mean = dataset.stacked().double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.5088, 0.4874, 0.4419]).double(), atol=2e-3, rtol=0)

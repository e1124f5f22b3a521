"""Broken and odd images, a file of each kind: what each policy does with them, and that runs report them."""

from __future__ import annotations

import json
import os
import warnings

import numpy as np
import pytest
import torch
from c2f_ops.bench import broken_images

from c2f_ops.data import LabeledImages, load_dataset
from c2f_ops.data.images import CORRUPT_POLICIES, FileSource, decode_image
from c2f_ops.hierarchy import Hierarchy

pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

KINDS = broken_images.KINDS
TREE = Hierarchy.from_paths(["A/1", "A/2", "B/3", "B/4"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    paths = broken_images.write(tmp_path_factory.mktemp("broken"))
    assert list(paths) == list(KINDS)
    return paths


@pytest.fixture(params=KINDS)
def kind(request):
    """A kind; for the file that must not be read, the rights of root, who may read all, are laid down."""
    root = request.param == "no permission to read" and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield request.param
    if root:
        os.seteuid(0)


class Between:
    """The file as the second of three images; its neighbours are readable."""

    def __init__(self, path):
        self.files = FileSource([path])
        turned = (broken_images.picture().rotate(angle) for angle in (0, 90))
        self.before, self.after = (broken_images.encode(image, "PNG") for image in turned)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return (self.before, None, self.after)[index] or self.files[0]


@pytest.mark.parametrize("policy", CORRUPT_POLICIES)
def test_policy(kind, policy, files):
    images = Between(files[kind])
    readable = KINDS[kind].readable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = LabeledImages("toy", "test", TREE, TREE.from_fine([0, 0, 0]), "abc", images, size=32, corrupt=policy)
        if policy == "raise" and not readable:
            with pytest.raises(ValueError, match="image b of toy must be readable, got ") as caught:
                dataset.stacked()
            assert "0x" not in str(caught.value)
            assert "\n" not in str(caught.value)
            return
        stacked = dataset.stacked()
    assert torch.equal(stacked[0], decode_image_at(images, 0))
    assert torch.equal(stacked[-1], decode_image_at(images, 2))
    assert len(stacked) == len(dataset) == 3 - (policy == "skip" and not readable)
    assert [image_id for image_id, _ in dataset.corrupt] == ([] if readable else ["b"])
    if readable:
        assert stacked[1].float().std() > 20  # a picture, neither black nor white
    elif policy == "substitute":
        assert torch.equal(stacked[1], stacked[2])
        assert dataset.ids == ["a", "b", "c"]
    elif policy == "skip":
        assert dataset.ids == ["a", "c"]


def decode_image_at(images, index):
    return LabeledImages("toy", "test", TREE, TREE.from_fine([0]), "x", [images[index]], size=32).stacked()[0]


@pytest.mark.parametrize("kind", ["16-bit grey PNG", "16-bit colour PNG"])
def test_16_bits_are_scaled_not_clipped(kind, files):
    pixels = decode_image(files[kind].read_bytes()).numpy()
    assert np.array_equal(pixels, np.repeat((broken_images.ramp() >> 8)[None], 3, axis=0))


def test_odd_images_show_what_they_show(files):
    """The first frame of several, the colours under transparency; garbage is ignored."""
    shown = np.asarray(broken_images.picture(), np.float32).transpose(2, 0, 1)
    for kind in ("PNG named .jpg", "garbage after the end", "animated GIF", "palette with transparency", "CMYK"):
        error = np.abs(decode_image(files[kind].read_bytes()).numpy() - shown).mean()
        assert error <= (0 if kind == "PNG named .jpg" else 12), kind


@pytest.fixture
def folder(tmp_path):
    """A folder of images with broken ones in both splits."""
    broken = broken_images.contents()
    for split, kinds in (("train", ["empty", "HTML", "SVG"]), ("test", ["one byte"])):
        for name in ("A/1", "B/2"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                data = broken_images.encode(broken_images.picture().rotate(10 * i), "PNG")
                (tmp_path / split / name / f"{i}.png").write_bytes(data)
        for kind in kinds:
            (tmp_path / split / "A" / "1" / f"{kind}.jpg").write_bytes(broken[kind])
    return tmp_path


def of_mlph(folder, monkeypatch):
    pytest.importorskip("timm")
    from c2f_ops.training import make_config, run, train

    for figure in ("plot_curves", "plot_contact_sheet"):
        monkeypatch.setattr(run, figure, lambda *_: None)  # they take most of the time
    fields = {
        "root": str(folder), "image_size": 32, "load_size": 32, "padding": 0, "held_out": 0.0,
        "resolutions": (16, 32), "backbone": "timm/resnet10t", "taps": ("layer3.0", "layer3.1", "layer3.2"),
        "backbone_options": {"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}, "dim": 8,
        "recipe": "scratch", "weights": None, "precision": "fp32", "device": "cpu", "threads": 1, "corrupt": "skip",
    }  # fmt: skip
    train(make_config("folder", fields, {"epochs": [1.0], "batch_size": [4], "warmup": [1]}), folder / "run")


def of_falcon(folder, monkeypatch):
    pytest.importorskip("sklearn")
    from c2f_ops.training.falcon import FalconRun, run, train_falcon

    for figure in ("plot_curves", "plot_classes"):
        monkeypatch.setattr(run, figure, lambda *_: None)
    settings = FalconRun(
        data="folder", root=str(folder), corrupt="skip", image_size=16, backbone="cifar_resnet_small",
        backbone_options={"widths": [4, 8], "blocks": [1, 1]}, epochs=1, batch_size=4, precision="fp32", device="cpu",
        threads=1,
    )  # fmt: skip
    train_falcon(settings, folder / "run")


@pytest.mark.parametrize("train", [of_mlph, of_falcon])
def test_runs_report_broken_images_of_both_splits(folder, train, monkeypatch):
    for library in ("accelerate", "safetensors", "matplotlib"):
        pytest.importorskip(library)
    train(folder, monkeypatch)
    counted = json.loads((folder / "run" / "metrics.json").read_text())["corrupt"]
    assert [image_id for image_id, _ in counted["train"]] == ["A/1/HTML.jpg", "A/1/SVG.jpg", "A/1/empty.jpg"]
    assert [image_id for image_id, _ in counted["test"]] == ["A/1/one byte.jpg"]
    assert all("no image of a format that Pillow knows" in reason for _, reason in counted["train"] + counted["test"])
    with pytest.raises(ValueError, match=r"image A/1/\w+.jpg of folder must be readable"):
        load_dataset("folder", root=folder, size=8).stacked()

"""From a search for resolutions to a stream of frames, on shapes whose texture vanishes at low resolution."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from c2f_ops.training import load_run, train
from c2f_ops.training.approach import simulate_streams
from c2f_ops.training.calibrate import read_calibration
from c2f_ops.training.recipes import hbp_stages
from c2f_ops.training.run import load_split
from c2f_ops.training.search import search_resolutions

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
SIDE, PERIOD = 32, 4  # stripes of 4 px: at a side of 16 they are at the limit
NETWORK = {"layers": [1, 1, 3, 1], "channels": [16, 16, 32, 32], "stem_width": 16, "output_stride": 8}


def draw(rng: np.random.Generator, shape: str, stripes: str) -> np.ndarray:
    """A disc or a cross on a grey ground, covered with stripes across or down."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-2, 2, (2, 1, 1))
    size = rng.uniform(9, 12)
    inside = np.hypot(x, y) < size if shape == "disc" else np.minimum(abs(x), abs(y)) < size / 4
    wave = np.sin(2 * math.pi * ((y if stripes == "across" else x) / PERIOD + rng.random()))
    image = np.where(inside, 150 + 70 * wave, 60)[..., None] + rng.normal(0, 6, (SIDE, SIDE, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """80 training and 20 test images of each of four classes."""
    image_module = pytest.importorskip("PIL.Image")
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for split, count in (("train", 80), ("test", 20)):
        for shape in ("disc", "cross"):
            for stripes in ("across", "down"):
                place = root / split / shape / f"{shape} {stripes}"
                place.mkdir(parents=True)
                for i in range(count):
                    image_module.fromarray(draw(rng, shape, stripes)).save(place / f"{i:02}.png")
    return root


def ridge_accuracy(config) -> float:
    """Test accuracy of ridge regression from pixels to the finest class, with the best of its weights."""
    (x, y), (x_test, y_test) = (
        (data.stacked(config.load_size).flatten(1).double() / 255, data.labels[:, -1])
        for data in (load_split(config, "train"), load_split(config, "test"))
    )
    mean = x.mean(0)
    gram, across = (x - mean) @ (x - mean).T, (x_test - mean) @ (x - mean).T
    targets = torch.nn.functional.one_hot(y).double() - y.bincount() / len(y)
    eye = torch.eye(len(x), dtype=torch.float64)
    answers = [(across @ torch.linalg.solve(gram + w * eye, targets)).argmax(1) for w in (0.1, 1, 10, 100, 1000)]
    return max(float((answer == y_test).double().mean()) for answer in answers)


def test_search_two_stages_evaluation_stream(tiny, folder, tmp_path) -> None:
    stages = {"epochs": [1.0, 12.0], "batch_size": [16], "lr": [0.05], "head_lr": [10.0],
              "milestones": [()], "schedule": ["cosine"], "batch_norm": ["frozen", "per_resolution"]}  # fmt: skip
    config = tiny(
        stages, data="folder", root=str(folder), recipe="hbp", stages=hbp_stages(), padding=2, held_out=0.2,
        resolutions=(16, 32), train_images=None, test_images=None, dim=32, backbone_options=NETWORK,
    )  # fmt: skip
    assert [stage.trained for stage in config.stages] == ["head", "all"]

    found = search_resolutions(config, tmp_path / "search", grid=(32, 24, 16, 12, 8))
    coarse, fine = found.sides
    assert coarse < fine == SIDE
    assert found.curves[0].accuracy[0] > 0.9 and found.curves[0].accuracy[-1] < 0.7, "texture is lost at 8 px"

    metrics = train(replace(config, resolutions=found.sides), tmp_path / "run")
    (shape, texture), (shape_low, _) = (metrics["accuracy"][str(s)].values() for s in (fine, coarse))
    assert min(shape, texture, shape_low) > 0.85
    assert texture > ridge_accuracy(config) + 0.2, "stripes of any phase are not for a linear classifier"

    model, config, tree = load_run(tmp_path / "run", "cpu")
    calibration = read_calibration(tmp_path / "run", tree, config)
    assert calibration.images == 64
    test = load_split(config, "test")
    report = simulate_streams(
        model, test.stacked(config.load_size), test.labels, tree, config, calibration, frames=8, seed=2, target=0.8
    )  # fmt: skip
    shape_at, texture_at = (reached["side"] for reached in report["reached"].values())
    assert shape_at < texture_at, "answers deepen as the object comes closer"
    assert min(report["final"]["coverage"].values()) > 0.8
    assert min(report["final"]["answered_accuracy"].values()) > 0.85 and report["flip_rate"] < 0.2

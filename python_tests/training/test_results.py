"""Evaluation, run folder, figures, answers for files; two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import c2f_ops
from c2f_ops.answering import Calibration
from c2f_ops.data import load_dataset
from c2f_ops.data.birds import birds_hierarchy
from c2f_ops.training import evaluate, load_run, run, train
from c2f_ops.training.calibrate import CALIBRATION
from c2f_ops.training.evaluate import predict_logits
from c2f_ops.training.logs import RunLog, format_seconds, plain, read_log
from c2f_ops.training.predict import predict_paths
from c2f_ops.training.run import build_model

LEVELS = ("family", "genus", "species")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A run with everything that belongs to it."""
    from rich.console import Console

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    console = Console(file=open(folder.parent / "said.txt", "w"), width=200)
    metrics = train(tiny(held_out=0.25), folder, console=console)
    console.file.flush()
    return folder, metrics


def test_run_folder_is_complete(finished) -> None:
    folder, metrics = finished
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "hierarchy.json",
        "metrics.json",
        "log.jsonl",
        "checkpoints",
        "curves.png",
        "contact_sheet.png",
    } <= names
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    for name in ("curves.png", "contact_sheet.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG" and (folder / name).stat().st_size > 10_000


def test_metrics_have_every_level_at_every_resolution(finished) -> None:
    _, metrics = finished
    for table in ("accuracy", "mapped_accuracy"):
        assert list(metrics[table]) == ["32", "16", "8"]
        assert all(tuple(row) == LEVELS for row in metrics[table].values())
    assert metrics["own_resolution"] == {
        "family": metrics["accuracy"]["8"]["family"],
        "genus": metrics["accuracy"]["16"]["genus"],
        "species": metrics["accuracy"]["32"]["species"],
    }
    assert metrics["hierarchical"]["8"]["num_images"] == metrics["images"] == 12
    assert metrics["hierarchy"] == birds_hierarchy().sha256


def test_the_best_on_held_out_images_is_kept(tiny, tmp_path, monkeypatch) -> None:
    """Three epochs, of which the second is the best; resuming does not take a worse one."""
    scores = iter([0.3, 0.5, 0.4])
    kept = []

    def scripted(model, *_):
        kept.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"species": next(scores), "genus": float("nan")}

    monkeypatch.setattr(run, "own_accuracy", scripted)
    metrics = train(tiny({"epochs": [3.0]}, train_images=80, held_out=0.5), tmp_path / "a")
    assert metrics["best_held_out"] == {"step": 24, "held_out": {"species": 0.5, "genus": None}, "mean": 0.5}
    best, last = (load_run(tmp_path / "a", "cpu", best=best)[0].state_dict() for best in (True, False))
    assert all(torch.equal(best[key], kept[1][key]) and torch.equal(last[key], kept[2][key]) for key in best)
    assert run.best_so_far(tmp_path / "a", birds_hierarchy())["mean"] == 0.5
    fitted, fitted_best = (
        Calibration.from_json(folder / CALIBRATION) for folder in (tmp_path / "a", tmp_path / "a" / run.BEST)
    )
    assert fitted.images == fitted_best.images > 0 and fitted.temperatures != fitted_best.temperatures
    train(tiny({"epochs": [0.25]}), tmp_path / "b")
    assert not (tmp_path / "b" / CALIBRATION).exists()
    with pytest.raises(FileNotFoundError, match="run must hold an intact checkpoint"):
        load_run(tmp_path / "b", "cpu", best=True)


def test_a_finished_run_goes_on_without_its_best(tiny, tmp_path) -> None:
    config = tiny({"epochs": [0.25]}, train_images=80, held_out=0.5)
    metrics = train(config, tmp_path / "run")
    fitted = Calibration.from_json(tmp_path / "run" / CALIBRATION)
    for damage in (lambda file: file.write_bytes(b""), Path.unlink):
        for name in (CALIBRATION, "metrics.json"):
            (tmp_path / "run" / name).unlink()
        for file in (tmp_path / "run" / run.BEST).rglob("model.safetensors"):
            damage(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the damaged checkpoint
            again = train(config, tmp_path / "run", resume=True)
        assert again["accuracy"] == metrics["accuracy"] and again["best_held_out"] is None
        assert Calibration.from_json(tmp_path / "run" / CALIBRATION) == fitted


@pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
def test_unreadable_images_of_both_splits_are_recorded(tiny, tmp_path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    for split, count in (("train", 6), ("test", 3)):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
                image_module.fromarray(pixels).save(folder / f"{i}.png")
    for file in ("train/a/0.png", "train/b/1.png", "test/b/0.png"):
        (tmp_path / "data" / file).write_bytes(b"broken")
    config = tiny(
        {"epochs": [1.0], "batch_size": [5]}, data="folder", root=str(tmp_path / "data"), corrupt="skip",
        resolutions=(32,), train_images=None, test_images=None,
    )  # fmt: skip
    metrics = train(config, tmp_path / "run")
    names = {split: [name for name, _ in found] for split, found in metrics["corrupt"].items()}
    assert names == {"train": ["a/0.png", "b/1.png"], "test": ["b/0.png"]} and metrics["images"] == 5


def test_evaluation_counts_what_it_should(tiny) -> None:
    config, tree = tiny(), birds_hierarchy()
    data = load_dataset("birds", split="test", n=20, size=32)
    model = build_model(config, tree)
    metrics = evaluate(model, data.stacked(), data.labels, tree, config)
    fine = predict_logits(model, data.stacked(), config, 16)[2].argmax(1)
    assert metrics["accuracy"]["16"]["species"] == pytest.approx((fine == data.labels[:, 2]).float().mean().item())
    mapped = (tree.ancestors[fine] == data.labels).float().mean(0).tolist()
    assert list(metrics["mapped_accuracy"]["16"].values()) == pytest.approx(mapped)
    assert list(evaluate(model, data.stacked(), data.labels, tree, config, resolutions=[12])["accuracy"]) == ["12"]


def test_logits_do_not_depend_on_the_batch(tiny) -> None:
    config = tiny()
    model, images = build_model(config, birds_hierarchy()), load_dataset("birds", split="test", n=7, size=32).stacked()
    for whole, parts in zip(
        predict_logits(model, images, config, 8), predict_logits(model, images, config, 8, batch=3), strict=True
    ):
        torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize(("side", "level"), [(8, 0), (11, 0), (12, 1), (22, 1), (23, 2), (100, 2)])
def test_nearest_side(tiny, side: int, level: int) -> None:
    assert tiny().nearest_side(side) == level


def test_of_two_sides_as_near_the_smaller(tiny) -> None:
    assert tiny(resolutions=(4, 9, 32)).nearest_side(6) == 0


def test_answers_for_files(finished, tmp_path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    folder, _ = finished
    model, config, tree = load_run(folder, "cpu")
    pixels = load_dataset("birds", split="test", n=1, size=32).stacked()
    for name, side in (("large.png", 32), ("small.png", 9)):
        image_module.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((side, side)).save(tmp_path / name)
    files = [tmp_path / "large.png", tmp_path / "small.png"]
    (large, small), _ = predict_paths(model, files, tree, config, mode="independent")
    assert (large["resolution"], large["trained_level"]) == (32, "species")
    assert (small["resolution"], small["trained_level"]) == (9, "family")
    expected = predict_logits(model, pixels, config, 32)
    for level, answer in enumerate(large["levels"].values()):
        assert answer["id"] == int(expected[level].argmax())
        assert answer["name"] == tree.names[level][answer["id"]]
    (tmp_path / "broken.png").write_bytes(b"not an image")
    for name in ("broken.png", "absent.png"):
        with pytest.raises(ValueError, match=f"must be a readable image file, got .*{name}"):
            predict_paths(model, [tmp_path / name], tree, config)


def test_without_a_terminal_a_line_per_epoch(finished) -> None:
    folder, _ = finished
    said = (folder.parent / "said.txt").read_text()
    assert said.count("epoch") == 2 and len(said.splitlines()) < 8


def test_log_drops_what_a_killed_run_wrote_later(tmp_path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": {"a": float("nan")}})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"kind": "tr')
    RunLog(tmp_path, step=2).close()
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
    assert plain({"a": [float("inf"), 1.5]}) == {"a": [None, 1.5]}
    assert [format_seconds(s) for s in (5, 75, 7500)] == ["0:05", "1:15", "2:05:00"]


def test_two_processes_learn_what_one_does(tiny, tmp_path) -> None:
    """torchrun with gloo; batch statistics and dropped paths, which depend on the process, are switched off."""
    calm = {"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}
    config = tiny({"epochs": [0.5], "batch_norm": ["frozen"]}, backbone_options=calm)
    train(config, tmp_path / "one")
    config.to_json(tmp_path / "config.json")
    (tmp_path / "job.py").write_text(
        "import os, sys; from pathlib import Path; from c2f_ops.training import Config, train\n"
        "metrics = train(Config.from_json(sys.argv[1]), Path(sys.argv[2]))\n"
        "Path(sys.argv[2] + '-rank' + os.environ['RANK']).write_text(str(metrics is not None))\n"
    )
    path = os.pathsep.join([str(Path(c2f_ops.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "job.py"),
         str(tmp_path / "config.json"), str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"two-rank{rank}").read_text() for rank in (0, 1)] == ["True", "False"]
    one, two = (load_run(tmp_path / name, "cpu")[0].state_dict() for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)

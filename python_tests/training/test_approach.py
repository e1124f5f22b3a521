"""Calibration of a run, answers for files and folders, and an image that comes closer."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
from dataclasses import replace

import pytest
import torch

from c2f_ops.answering import Answer, Calibration, decode
from c2f_ops.data import load_dataset
from c2f_ops.data.birds import birds_hierarchy
from c2f_ops.training import predict, predict_logits
from c2f_ops.training.approach import Approach, approach, seeded_sides, simulate_streams
from c2f_ops.training.approach_picture import plot_approach
from c2f_ops.training.calibrate import CALIBRATION, calibrate_run, read_calibration
from c2f_ops.training.folder import CONFIG, HIERARCHY
from c2f_ops.training.grid import default_grid
from c2f_ops.training.predict import native_side, predict_paths
from c2f_ops.training.run import build_model

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def model_of(tiny):
    """A network without training: its heads disagree, which path decoding must not."""
    torch.manual_seed(0)
    config, tree = tiny(), birds_hierarchy()
    model = build_model(config, tree)
    for head in model.heads:
        torch.nn.init.normal_(head.weight, std=3.0)
    return model.eval(), config, tree


@pytest.fixture(scope="module")
def held():
    data = load_dataset("birds", split="train", n=60, size=32)
    return data.stacked(), data.labels


@pytest.fixture(scope="module")
def calibration(model_of, held) -> Calibration:
    model, config, tree = model_of
    return calibrate_run(model, *held, tree, config)


def loose(calibration: Calibration, *thresholds: float) -> Calibration:
    """The calibration with other thresholds."""
    return replace(calibration, targets=(0.95,), thresholds=(thresholds,))


def save(pixels: torch.Tensor, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def test_calibration_covers_the_grid(model_of, calibration, tmp_path) -> None:
    _, config, tree = model_of
    assert calibration.sides == tuple(reversed(default_grid(32))) and calibration.images == 60
    assert calibration.thresholds_of(0.95) == (math.inf,) * 3, "a network without training is never sure"
    assert all(t > 1.2 for row in calibration.temperatures for t in row), "wild heads are cooled down"
    assert read_calibration(tmp_path, tree, config) == Calibration.none(tree)
    calibration.to_json(tmp_path / CALIBRATION)
    assert read_calibration(tmp_path, tree, config) == calibration
    other = tree.select(["family"])[0]
    with pytest.raises(ValueError, match="hierarchy must have sha256"):
        read_calibration(tmp_path, other, config)


def test_heads_without_a_task_stay_out(model_of, held, tmp_path, tiny) -> None:
    model, _, tree = model_of
    config = tiny(tasks=(("genus", 16),))
    c = calibrate_run(model, *held, tree, config, sides=(8, 32))
    assert c.sides == (8, 32) and all(row[0] == row[2] == 0.0 for row in c.weights)
    none = read_calibration(tmp_path, tree, config)
    assert none.thresholds_of() == (0.0, 0.0, math.inf)
    save(held[0][0], tmp_path / "bird.png")
    ((result,), _) = predict_paths(model, [tmp_path / "bird.png"], tree, config, none)
    assert set(result["levels"]) == {"genus"} and result["answer"]["level"] == 1


def test_files_and_folders(model_of, held, calibration, tmp_path, monkeypatch) -> None:
    model, config, tree = model_of
    for i in range(5):
        save(held[0][i], tmp_path / "birds" / f"{'ab'[i % 2]}" / f"{i}.png")
    (tmp_path / "birds" / "broken.jpg").write_bytes(b"not an image")
    (tmp_path / "birds" / "a" / "empty.PNG").write_bytes(b"")
    (tmp_path / "birds" / "notes.txt").write_text("no image")
    (tmp_path / "birds" / "a" / "._0.png").write_bytes(b"what some systems keep beside 0.png")
    results, unreadable = predict_paths(
        model, [tmp_path / "birds", tmp_path / "birds" / "a" / "0.png"], tree, config, loose(calibration, 0, 0, 0)
    )
    assert [r["image"][-7:] for r in results] == [f"{'ab'[i % 2]}/{i}.png"[-7:] for i in (0, 2, 4, 1, 3)], "each once"
    assert sorted(file[-10:] for file, _ in unreadable) == ["/empty.PNG", "broken.jpg"]
    assert all(reason for _, reason in unreadable)
    monkeypatch.setattr(predict, "CHUNK", 2)
    pieces, again = predict_paths(model, [tmp_path / "birds"], tree, config, loose(calibration, 0, 0, 0))
    assert [(r["image"], r["answer"]["nodes"]) for r in pieces] == [(r["image"], r["answer"]["nodes"]) for r in results]
    assert again == unreadable, "nothing is lost between two chunks"
    logits = predict_logits(model, held[0][[0, 2, 4, 1, 3]], config, 32)
    expected = decode(
        logits, tree, temperatures=calibration.temperatures_of(32), weights=calibration.weights_of(32)
    )  # fmt: skip
    for result, nodes in zip(results, expected.tolist(), strict=True):
        assert [level["id"] for level in result["levels"].values()] == nodes == list(result["answer"]["nodes"])
        falling = [level["probability"] for level in result["levels"].values()]
        assert falling == sorted(falling, reverse=True)
        assert tuple(nodes) == tuple(tree.ancestors[nodes[-1]].tolist())
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"folder must hold images \(\.bmp, .*got .*none"):
        predict_paths(model, [tmp_path / "none"], tree, config)
    with pytest.raises(ValueError, match=r"must be a readable image file, got .*broken\.jpg"):
        predict_paths(model, [tmp_path / "birds" / "broken.jpg"], tree, config)


@pytest.mark.parametrize("mode", ["best_leaf", "top_down", "independent"])
def test_other_modes_promise_nothing(model_of, held, calibration, tmp_path, mode) -> None:
    model, config, tree = model_of
    save(held[0][0], tmp_path / "bird.png")
    ((result,), _) = predict_paths(model, [tmp_path / "bird.png"], tree, config, calibration, mode=mode, resolution=8)
    logits = predict_logits(model, held[0][:1], config, 8)
    nodes = decode(logits, tree, mode=mode, temperatures=calibration.temperatures_of(8),
                   weights=calibration.weights_of(8))  # fmt: skip
    assert [level["id"] for level in result["levels"].values()] == nodes[0].tolist()
    assert result["answer"] is None and result["resolution"] == 8


def test_images_of_many_sides_keep_their_order(model_of, held, tmp_path) -> None:
    model, config, tree = model_of
    files = []
    for i, side in enumerate((32, 9, 32, 20, 9)):
        files.append(tmp_path / f"{i}.png")
        save(torch.nn.functional.interpolate(held[0][i : i + 1], (side, side))[0], files[-1])
    together, _ = predict_paths(model, files, tree, config)
    assert [r["resolution"] for r in together] == [32, 9, 32, 20, 9]
    for file, result in zip(files, together, strict=True):
        ((alone,), _) = predict_paths(model, [file], tree, config)
        assert {k: v["id"] for k, v in alone["levels"].items()} == {k: v["id"] for k, v in result["levels"].items()}


def test_approach_is_a_stream(model_of, held, calibration) -> None:
    model, config, tree = model_of
    image = torch.nn.functional.interpolate(held[0][:1], (20, 24))[0]
    shown = approach(model, image, tree, config, loose(calibration, 0.3, 0.2, 0.2))
    assert native_side(image, config) == 20
    assert shown.sides == tuple(s for s in sorted(default_grid(32)) if s <= 20), (
        "an image has no more than its own side"
    )
    assert [tuple(f.shape) for f in shown.frames] == [(3, s, s) for s in shown.sides]
    assert (shown.posteriors.diff(dim=1) <= 0).all()
    for said in shown.answers:
        depth = said.level + 1
        assert said.path == tuple(tree.names[k][n] for k, n in enumerate(said.nodes[:depth]))
        assert depth == 0 or said.nodes[:depth] == tuple(tree.ancestors[tree.ancestors[:, depth - 1] == said.nodes[
            depth - 1]][0, :depth].tolist())  # fmt: skip
    chosen = approach(model, image, tree, config, calibration, sides=[64, 8, 16, 8])
    assert chosen.sides == (8, 16, 20) and json.dumps(chosen.to_dict())
    with pytest.raises(ValueError, match=r"sides must be at least one number from 1 up, got \[0\]"):
        approach(model, image, tree, config, calibration, sides=[0])


def test_simulated_streams_are_seeded(model_of, held, calibration) -> None:
    model, config, tree = model_of
    assert seeded_sides(32, 6, 1) == seeded_sides(32, 6, 1) != seeded_sides(32, 6, 2)
    sides = seeded_sides(448, 40, 0)
    assert sides == sorted(sides) and 32 <= sides[0] and sides[-1] == 448 and len(sides) == 40
    relaxed = loose(calibration, 0.2, 0.1, 0.2)
    images, labels = held[0][:8], held[1][:8]
    first, second = (simulate_streams(model, images, labels, tree, config, relaxed, frames=4) for _ in range(2))
    assert first == second and first["objects"] == 8 and first["sides"] == seeded_sides(32, 4, 0)
    single = approach(model, images[3], tree, config, relaxed, sides=first["sides"]).answers[-1]
    alone = simulate_streams(model, images[3:4], labels[3:4], tree, config, relaxed, frames=4)["final"]
    for k, level in enumerate(tree.levels):
        given = single.nodes[k] >= 0
        assert alone["coverage"][level] == given
        assert alone["answered_accuracy"][level] == (single.nodes[k] == int(labels[3, k]) if given else None)
    assert single.level == 1, "something is answered and something is not"
    with pytest.raises(ValueError, match="seeded_sides: frames must be at least 1, got 0"):
        simulate_streams(model, images, labels, tree, config, relaxed, frames=0)


@pytest.mark.parametrize("frames", [True, False])
def test_picture(model_of, held, calibration, tmp_path, frames) -> None:
    model, config, tree = model_of
    shown = approach(model, held[0][0], tree, config, loose(calibration, 0.1, 0.1, math.inf))
    plot_approach(shown, tmp_path / "a.png", frames=frames, title="a bird")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 500 and len(picture.convert("L").getcolors()) > 20


def test_picture_of_one_frame_and_long_names(tmp_path) -> None:
    said = Answer("x" * 80, 0, 0.9, ("x" * 80,), (0, -1), None, "")
    shown = Approach(("a", "b"), (9,), (torch.zeros(3, 9, 9, dtype=torch.uint8),), (said,), ("x" * 80, "y" * 80),
                     torch.tensor([[0.9, 0.2]]), (0.5, math.inf), 0.95)  # fmt: skip
    plot_approach(shown, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def call(monkeypatch, *arguments: object) -> int:
    from c2f_ops import cli

    monkeypatch.setattr(sys, "argv", ["c2f", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def run(model_of, calibration, tmp_path_factory):
    """A run folder of the network."""
    pytest.importorskip("typer")
    from c2f_ops.training.checkpoint import save_checkpoint

    model, config, tree = model_of
    folder = tmp_path_factory.mktemp("answering") / "run"
    folder.mkdir()
    tree.to_json(folder / HIERARCHY)
    config.to_json(folder / CONFIG)
    save_checkpoint(folder, 1, model, None, {}, tree.sha256)
    return folder


def test_command_line(run, held, calibration, monkeypatch, capsys, tmp_path) -> None:
    images = tmp_path / "birds"
    save(held[0][0], images / "0.png")
    (images / "1.png").write_bytes(b"")
    assert call(monkeypatch, "predict", run, images) == 0
    said = capsys.readouterr()
    assert "nothing is calibrated" in said.out and "answer:" in said.out
    assert "unreadable: " in said.err and "1 of 2 files were unreadable" in said.err
    loose(calibration, 0.05, 0.05, math.inf).to_json(run / CALIBRATION)
    assert call(monkeypatch, "predict", run, images / "0.png", "--approach", "--out", tmp_path / "a.png") == 0
    said = capsys.readouterr().out
    assert "32 px" in said and "species is never answered" in said and (tmp_path / "a.png").is_file()
    assert call(monkeypatch, "predict", run, images / "0.png", "--approach", "--sides", "8,32", "--json") == 0
    assert [frame["side"] for frame in json.loads(capsys.readouterr().out)["frames"]] == [8, 32]
    decode = predict.decode_image

    def noisy(encoded):
        warnings.warn("odd pixels", stacklevel=1)
        return decode(encoded)

    monkeypatch.setattr(predict, "decode_image", noisy)
    assert call(monkeypatch, "predict", run, images / "0.png", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["resolution"] == 32 and "note: odd pixels" in said.err
    monkeypatch.undo()
    (images / "0.png").write_bytes(b"")
    assert call(monkeypatch, "predict", run, images) == 1, "nothing was readable"


def test_an_evaluation_takes_the_temperatures_of_the_run(run, calibration, monkeypatch, capsys, tmp_path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / CALIBRATION).unlink(missing_ok=True)

    def evaluated() -> dict:
        assert call(monkeypatch, "evaluate", copied, "--grid", "none", "--no-html", "--json") == 0
        return json.loads(capsys.readouterr().out)

    before = evaluated()
    hot = replace(calibration, temperatures=((20.0,) * 3,) * len(calibration.temperatures))
    hot.to_json(copied / CALIBRATION)
    after = evaluated()
    assert after["accuracy"] == before["accuracy"] and after["hierarchical"] == before["hierarchical"]
    for side, levels in after["calibration"].items():
        for level, row in levels.items():
            plain = before["calibration"][side][level]
            assert plain["temperature"] is None and row["temperature"] == 20.0
            assert (row["ece"], row["nll"]) == (plain["ece"], plain["nll"])
            assert row["nll_scaled"] < row["nll"] and row["ece_scaled"] < row["ece"], "wild heads are cooled down"
        assert after["selective"][side]["thresholds"][1] != before["selective"][side]["thresholds"][1]
    assert call(monkeypatch, "evaluate", copied, "--grid", "64,16") == 2
    assert "--grid must be sides in 1..32, the image_size of the run, got 64,16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a.png"], "--sides and --out must come with --approach"),
        (["--approach", "--mode", "top_down"], "--approach must come with one image"),
        (["--approach", "--resolution", "8"], "nor --resolution, got 1 images, mode path, resolution 8"),
        (["--approach", "--no-frames"], "--no-frames must come with --out"),
        (["--resolution", "33"], "resolution must be in 1..32, the image_size, got 33"),
        (["--mode", "best"], "mode must be one of path, best_leaf, top_down, independent, got 'best'"),
        (["--approach", "--sides", "8,x"], "--sides must be whole numbers separated by commas"),
    ],
)
def test_refused_options(run, held, monkeypatch, capsys, tmp_path, options, message) -> None:
    save(held[0][0], tmp_path / "0.png")
    assert call(monkeypatch, "predict", run, tmp_path / "0.png", *options) == 2
    assert message in capsys.readouterr().err

"""`c2f train contrastive`: data, methods, readouts, page, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from c2f_ops.data.embeddings import load_embeddings
from c2f_ops.training.contrastive import (
    METHODS,
    ContrastiveConfig,
    fit_method,
    judge,
    load_problem,
    train,
    write_report,
)
from c2f_ops.training.contrastive.images import ImageEncoder, ImageRows
from c2f_ops.training.contrastive.report import LABELS, difference, group, read_results, table

QUICK = {"n_per_class": 30, "epochs": 2, "seeds": 2, "probe_epochs": 2, "hidden": 16, "dim": 8, "threads": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrastive") / "run"
    train(ContrastiveConfig().changed(QUICK), folder)
    return folder


def test_the_page_has_every_method_and_its_figures(run):
    page = (run / "report.md").read_text()
    for method in ContrastiveConfig().methods:
        assert f"| {LABELS[method]} | 2 |" in page
    figures = ("embeddings.png", "epochs.png", "distances.png", "weights.png")
    assert all(f"]({name})" in page and (run / name).stat().st_size > 5000 for name in figures)
    assert "Paired over seeds" in page and "circles, 30 per class, raw features" in page


def test_a_run_goes_on_where_it_stopped_and_equals_an_uninterrupted_one(run, tmp_path):
    lines = (run / "results.jsonl").read_text().splitlines()
    assert [(r["seed"], r["method"]) for r in map(json.loads, lines)] == [
        (seed, method) for seed in range(2) for method in ContrastiveConfig().methods
    ]
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text((run / "config.json").read_text())
    (part / "results.jsonl").write_text("\n".join(lines[:7]) + "\n")
    train(ContrastiveConfig(), part, resume=True)
    for ours, theirs in zip(read_results(run), read_results(part), strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}


def test_the_page_can_be_written_again(run):
    before = (run / "report.md").read_text()
    write_report(run, ContrastiveConfig.from_json(run / "config.json"))
    assert (run / "report.md").read_text() == before


def test_a_folder_with_a_run_is_not_overwritten(run):
    with pytest.raises(FileExistsError, match="folder must be new"):
        train(ContrastiveConfig(), run)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_separated_classes(tmp_path, method):
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = 3 * rng.standard_normal((3, 6))[y] + rng.standard_normal((300, 6))
    np.savez(tmp_path / "f.npz", X=x, fine=y, coarse=y // 2)
    config = ContrastiveConfig(data=str(tmp_path / "f.npz"), epochs=5, probe_solver="ridge", hidden=32, dim=8)
    problem = load_problem(config, 0)
    assert len(problem.x) == 240 and len(problem.x_test) == 60
    record = judge(problem, fit_method(method, problem, config, 0), config, 0)
    assert record["label_free"] > 0.9
    assert record["true_error"] <= record["direct"] <= record["bound"]
    assert (record["classifier"] is not None) == (method == "cross-entropy")


def test_folds_cover_every_sample_once():
    config = ContrastiveConfig(data="digits")
    problems = [load_problem(config, seed) for seed in range(5)]
    rows = np.concatenate([p.x_test for p in problems])
    assert len(rows) == 1797 == len(problems[0].x) + len(problems[0].x_test)
    whole = np.concatenate([problems[0].x, problems[0].x_test])
    assert np.array_equal(rows[np.lexsort(rows.T)], whole[np.lexsort(whole.T)])


def test_generated_test_samples_are_other_samples():
    for data in ("circles", "planted"):
        problem = load_problem(ContrastiveConfig(data=data, n_per_class=5), 1)
        assert problem.x.shape == problem.x_test.shape and not np.isin(problem.x_test[:, 0], problem.x[:, 0]).any()


def test_a_test_file_with_other_classes_is_refused(tmp_path):
    for name, classes in (("a", 3), ("b", 2)):
        np.savez(tmp_path / f"{name}.npz", X=np.eye(12), fine=np.arange(12) % classes)
    assert load_embeddings(tmp_path / "a.npz").fine is not None
    config = ContrastiveConfig(data=str(tmp_path / "a.npz"), test=str(tmp_path / "b.npz"))
    with pytest.raises(ValueError, match="test must have the classes of data"):
        load_problem(config, 0)


def test_planted_overlap_is_that_of_the_largest_weights():
    config = ContrastiveConfig(
        data="planted", n_per_class=40, backbone="identity", attention_lr=0.1, epochs=5, probe_solver="ridge"
    )
    problem = load_problem(config, 0)
    outcome = fit_method("attentive", problem, config, 0)
    top = outcome.w.argsort(1)[:, -4:]
    expected = np.mean([np.isin(a, b).mean() for a, b in zip(top, problem.planted, strict=True)])
    assert judge(problem, outcome, config, 0)["overlap"] == pytest.approx(expected)
    assert expected > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("attentive", "triplet")}, "methods must be different names out of"),
        ({"methods": ("plain", "plain")}, "methods must be different names"),
        ({"test": "x.npz"}, "test must be None"), ({"epochs": 0}, "epochs must be positive"),
        ({"angles": "square"}, "angles must be one of"), ({"backbone": "vit"}, "backbone must be one of"),
        ({"n_classes": 3}, "setting must be a field"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveConfig().changed(changes)


def test_differences_are_paired():
    cells = difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.65])
    assert cells.startswith("+8.33 | +10.00, +10.00, +5.00 | ")
    from scipy.stats import ttest_rel

    assert float(cells.split("|")[-1]) == pytest.approx(ttest_rel([0.5, 0.6, 0.7], [0.4, 0.5, 0.65]).pvalue, rel=0.05)


def test_the_table_counts_states(run):
    records = read_results(run)
    for record in records:
        record["status"] = "collapsed" if record["seed"] else "ok"
    assert "collapsed 1, ok 1" in table(group(records))


def test_command_line(tmp_path, monkeypatch):
    from c2f_ops.cli.commands import app

    monkeypatch.chdir(tmp_path)
    arguments = "train contrastive --n-per-class 20 --epochs 1 --seeds 1 --methods attentive,paper --hidden 8 --dim 4"
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    assert "attentive, seed 0: label-free" in result.output
    page = (tmp_path / "runs/contrastive-circles/report.md").read_text()
    assert "as printed" in page and "cross-entropy" not in page


# ---- images ----------------------------------------------------------------------------------------------------------

BIRDS = {
    "data": "birds", "coarse_classes": 3, "train_images": 160, "test_images": 80, "image_size": 16, "epochs": 2,
    "batch_size": 16, "dim": 16, "seeds": 1, "threads": 1,
}  # fmt: skip


def birds(**changes):
    return ContrastiveConfig().changed({**BIRDS, **changes})


@pytest.fixture(scope="module")
def image_problem():
    return load_problem(birds(), 0)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Class folders a/ab, a/ac, b/bd, b/be of ten noisy images each, told apart by their brightness."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for c, name in enumerate(("a/ab", "a/ac", "b/bd", "b/be")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(60 * c, 60 * c + 60, (20, 20, 3), dtype=np.uint8)).save(
                root / name / f"{i}.png"
            )
    return root


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_images(coloured, method):
    config = birds(
        data="folder", root=str(coloured), coarse_classes=None, train_images=None, test_images=None, epochs=8
    )
    config = config.changed({"lr": 3e-3})
    problem = load_problem(config, 0)
    outcome = fit_method(method, problem, config, 0)
    record = judge(problem, outcome, config, 0)
    assert max(record["label_free"], record["probe_standardized"]) >= 0.75  # 8 images of 4 classes
    assert record["true_error"] <= record["direct"] <= record["bound"]
    assert (record["classifier"] is not None) == (method == "cross-entropy")
    assert (outcome.w is None) == (method in ("plain", "paper-plain", "pairwise-plain", "cross-entropy"))


def test_a_folder_without_a_test_split_is_held_out_by_the_seed(coloured):
    config = birds(data="folder", root=str(coloured), coarse_classes=None, train_images=None, test_images=None)
    first, second = (load_problem(config, seed) for seed in (0, 1))
    for problem in (first, second):
        assert problem.names == ("ab", "ac", "bd", "be") and problem.x.dtype == np.uint8
        assert problem.x.shape == (32, 3, 16, 16) and problem.x_test.shape == (8, 3, 16, 16)
        assert np.array_equal(problem.coarse, problem.y // 2) and np.array_equal(np.bincount(problem.y_test), [2] * 4)
        kept = {x.tobytes() for x in problem.x}
        assert len(kept) == 32 and not kept & {x.tobytes() for x in problem.x_test}
    assert not {x.tobytes() for x in first.x_test} & {x.tobytes() for x in second.x_test}
    with pytest.raises(ValueError, match="test_images must be None where a fold is held out"):
        load_problem(config.changed({"test_images": 5}), 0)


def test_splits_of_an_index_are_kept_and_missing_ones_held_out(coloured, tmp_path):
    files = sorted(coloured.rglob("*.png"))
    lines = [f"{f},{f.parts[-3]},{f.parts[-2]},{'test' if f.stem in '012' else 'train'}" for f in files]
    index = tmp_path / "index.csv"
    index.write_text("\n".join(["path,coarse,fine,split", *lines]))
    config = birds(data="csv", root=str(index), coarse_classes=1, train_images=None, test_images=None)
    problem = load_problem(config, 0)
    assert problem.names == ("ab", "ac") and problem.coarse.tolist() == [0] * 14
    assert np.bincount(problem.y).tolist() == [7, 7] and np.bincount(problem.y_test).tolist() == [3, 3]
    index.write_text("\n".join(["path,coarse,fine", *(line.rpartition(",")[0] for line in lines)]))
    assert np.bincount(load_problem(config, 0).y_test).tolist() == [2, 2]


def test_classes_without_a_training_image_are_left_out(coloured, tmp_path):
    files = sorted(coloured.rglob("*.png"))
    lines = [
        f"{f},{f.parts[-3]},{f.parts[-2]},{'test' if f.stem in '01' or 'ab' in f.parts else 'train'}" for f in files
    ]
    (tmp_path / "index.csv").write_text("\n".join(["path,coarse,fine,split", *lines]))
    changes = {"coarse_classes": None, "train_images": None, "test_images": None}
    problem = load_problem(birds(data="csv", root=str(tmp_path), **changes), 0)
    assert problem.names == ("ac", "bd", "be") and problem.coarse.tolist() == [0] * 8 + [1] * 16
    assert np.bincount(problem.y).tolist() == [8] * 3 and np.bincount(problem.y_test).tolist() == [2] * 3
    brightness = [problem.x_test[problem.y_test == c].mean() for c in range(3)]
    assert brightness == pytest.approx([problem.x[problem.y == c].mean() for c in range(3)], abs=5)


def test_classes_are_those_of_the_first_coarse_ones(image_problem):
    whole = load_problem(birds(coarse_classes=None), 0)
    kept = whole.coarse < 3
    assert 0 < kept.sum() < len(kept) and np.array_equal(image_problem.x, whole.x[kept])
    assert [image_problem.names[c] for c in image_problem.y] == [whole.names[c] for c in whole.y[kept]]
    assert np.array_equal(image_problem.coarse, whole.coarse[kept])
    assert set(image_problem.y) == set(range(len(image_problem.names)))


def test_a_run_on_images_goes_on_and_equals_an_uninterrupted_one(tmp_path):
    config = birds(methods=("attentive", "attentive-hard", "cross-entropy"))
    page = train(config, tmp_path / "whole").read_text()
    assert "images of 16 pixels" in page and LABELS["attentive-hard"] in page
    lines = (tmp_path / "whole/results.jsonl").read_text().splitlines()
    (tmp_path / "part").mkdir()
    (tmp_path / "part/config.json").write_text((tmp_path / "whole/config.json").read_text())
    (tmp_path / "part/results.jsonl").write_text(lines[0] + "\n")
    train(config, tmp_path / "part", resume=True)
    whole, part = read_results(tmp_path / "whole"), read_results(tmp_path / "part")
    assert len(whole) == len(part) == 3
    assert [r | {"seconds": 0} for r in whole] == [r | {"seconds": 0} for r in part]
    assert whole[0]["history"] != whole[1]["history"]


def test_views_are_for_training_alone(image_problem):
    encoder = ImageEncoder("cifar_resnet_small", 8)
    rows = ImageRows(image_problem.x, encoder.backbone, torch.device("cpu"), min_area=0.3, seed=1)
    index = torch.tensor([3, 0, 5])
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (encoder.backbone.mean, encoder.backbone.std))
    expected = (image_problem.x[[3, 0, 5]] / np.float32(255) - mean) / std
    np.testing.assert_allclose(rows.take(index), expected, atol=1e-5)
    assert torch.equal(torch.cat([x for _, x in rows.chunks()])[index], rows.take(index))
    assert torch.equal(rows.view(index, 7), rows.view(index, 7))
    others = (
        rows.take(index),
        rows.view(index, 8),
        ImageRows(image_problem.x, encoder.backbone, rows.device).view(index, 7),
    )
    assert not any(torch.allclose(rows.view(index, 7), other) for other in others)


def test_training_sees_views_and_the_monitor_whole_images(image_problem, monkeypatch):
    seen = []
    monkeypatch.setattr(ImageRows, "view", lambda self, index, step: seen.append(step) or self.take(index) * 0)
    outcome = fit_method("plain", image_problem, birds(), 0)
    batches = -(-len(image_problem.x) // 16)
    assert seen == list(range(2 * batches))  # each step once, and nothing else
    assert outcome.history[-1]["trace"] > 1e-8 and np.ptp(outcome.z_test, 0).max() > 0


def test_bfloat16_is_for_the_backbone_alone():
    encoder, x = ImageEncoder("cifar_resnet_small", 8, bf16=True).eval(), torch.randn(4, 3, 16, 16)
    z = encoder(x)
    assert z.dtype == torch.float32 and not torch.equal(z, z.bfloat16().float())
    encoder.bf16 = False
    assert not torch.equal(z, encoder(x))
    torch.testing.assert_close(z, encoder(x), atol=0.05, rtol=0.05)


def test_hard_negatives_need_coarse_classes(tmp_path):
    np.savez(tmp_path / "f.npz", X=np.eye(12), fine=np.arange(12) % 3)
    for data in ("digits", str(tmp_path / "f.npz")):
        config = ContrastiveConfig(data=data, methods=("plain", "attentive-hard"))
        with pytest.raises(ValueError, match="data must have coarse classes above the fine ones for attentive-hard"):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()  # nothing in the way of the next try


def test_more_coarse_classes_than_there_are_are_refused():
    with pytest.raises(ValueError, match="coarse_classes must be at most the 15 coarse classes of birds"):
        load_problem(birds(coarse_classes=500), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "birds", "test": "x.npz"}, "test must be None with data 'birds'"),
        ({"data": "birds", "backbone": "mlp"}, "backbone must be one of cifar_resnet18, .* with images, got 'mlp'"),
        ({"data": "birds", "standardize": True}, "standardize must be None with images"),
        ({"data": "birds", "front_end": "polar"}, "front_end must be None with images"),
        ({"data": "birds", "batch_norm": True}, "batch_norm must be False with images"),
        ({"data": "birds", "image_size": 0}, "image_size must be positive"),
        ({"data": "birds", "min_area": 0.0}, r"min_area must be in \(0, 1\]"),
        ({"batch_size": 1}, "batch_size must be at least 2"), ({"attention_lr": 0.0}, "attention_lr must be positive"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16"),
        ({"precision": "bf16"}, "precision must be auto or fp32 with features"),
        ({"backbone": "cifar_resnet18"}, "backbone must be one of mlp, linear, identity with features"),
        ({"data": "digits", "coarse_classes": 2}, "coarse_classes must be None unless data names a set of images"),
        ({"root": "x"}, "root must be None unless"), ({"probe_solver": "lbfgs"}, "probe_solver must be one of"),
    ],
)  # fmt: skip
def test_wrong_settings_of_images_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveConfig().changed(changes)


def test_command_line_trains_on_images(tmp_path, monkeypatch):
    from c2f_ops.cli.commands import app

    monkeypatch.chdir(tmp_path)
    arguments = (
        "train contrastive --data birds --image-size 16 --coarse-classes 2 --train-images 80 --test-images 40 "
        "--min-area 0.5 --backbone cifar_resnet_small --precision fp32 --methods attentive-hard --epochs 1 --seeds 1"
    )
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    config = ContrastiveConfig.from_json(tmp_path / "runs/contrastive-birds/config.json")
    assert (config.image_size, config.coarse_classes, config.train_images, config.min_area) == (16, 2, 80, 0.5)
    assert "attentive-hard, seed 0: label-free" in result.output

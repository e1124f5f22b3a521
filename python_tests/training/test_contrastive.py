"""`c2f train contrastive`: data, methods, readouts, page, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
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
    "data": "birds", "coarse_classes": 3, "train_images": 240, "test_images": 120, "image_size": 16, "epochs": 3,
    "batch_size": 32, "dim": 16, "lr": 3e-3, "seeds": 1, "threads": 1,
}  # fmt: skip


def birds(**changes):
    return ContrastiveConfig().changed({**BIRDS, **changes})


@pytest.fixture(scope="module")
def image_problem():
    return load_problem(birds(), 0)


def tree(root, splits, count=5):
    """PNGs of 2 coarse classes with 2 fine ones each, told apart by their colour."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in splits:
        for c, name in enumerate(("a/ab", "a/ac", "b/bd", "b/be")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(60 * c, 60 * c + 40, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root

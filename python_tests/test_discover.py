"""`c2f discover` from files to files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from typer.testing import CliRunner

from c2f_ops.cli.commands import app
from c2f_ops.estimators import FalconClusterer
from c2f_ops.estimators.plots import class_colours
from c2f_ops.estimators.runs import DiscoverOptions, load_run, named

COARSE = ("animal", "plant", "stone")
PARENTS = np.array([0, 0, 0, 1, 1, 2])


def mixture(n, seed):
    """Features of six well separated fine classes under three coarse ones."""
    centres = np.random.default_rng(0).normal(size=(6, 8)) * 3
    rng = np.random.default_rng(seed)
    fine = rng.integers(6, size=n)
    return (centres[fine] + rng.normal(size=(n, 8)) * 0.4).astype(np.float32), fine


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Training npz with names, and the same kind of test csv."""
    folder = tmp_path_factory.mktemp("files")
    x, fine = mixture(360, 1)
    coarse = np.where(np.arange(360) % 20 == 0, -1, PARENTS[fine])
    np.savez(folder / "train.npz", X=x, coarse=coarse, coarse_names=np.array(COARSE), fine=fine)
    x, fine = mixture(120, 2)
    with (folder / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *[f"x{i}" for i in range(8)], "kind", "name"])
        writer.writerows(
            [f"s{i}", *row, COARSE[PARENTS[k]], f"fine {k}"] for i, (row, k) in enumerate(zip(x, fine, strict=True))
        )
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["discover", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def fitted(files):
    result = run("fit", files / "train.npz", "--num-fine", 6, "--epochs", 10, "--out", files / "run")
    assert result.exit_code == 0, result.output
    return files / "run", result.output


def test_fit_writes_a_run_that_can_be_read_again(files, fitted):
    folder, output = fitted
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "options.json", "log.jsonl", "predictions.npz", "relations.csv", "metrics.json",
        "classes.png", "relations.png",
    }  # fmt: skip
    assert all(name in output for name in COARSE) and "ARI" in output
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.95 and metrics["relation_accuracy"] == 1 and metrics["protocol"] == "transductive"
    assert len((folder / "log.jsonl").read_text().splitlines()) == 10
    with np.load(files / "train.npz") as data, np.load(folder / "predictions.npz") as predicted:
        model = load_run(folder)
        assert np.array_equal(model.predict(data["X"]), predicted["c2f_fine"])
        assert np.array_equal(model.relations_[0][predicted["c2f_fine"]], predicted["c2f_coarse"])
    rows = list(csv.DictReader((folder / "relations.csv").open()))
    assert len(rows) == 6 and sum(int(row["samples"]) for row in rows) == 360


def test_prediction_does_not_depend_on_labels_in_the_file(files, fitted):
    folder, _ = fitted
    test = files / "test.csv"
    names = ",".join(f"x{i}" for i in range(8))
    assert run("predict", folder, test, "--features", names, "--out", files / "p.csv").exit_code == 0
    shuffled = files / "shuffled.csv"
    lines = test.read_text().splitlines()
    shuffled.write_text("\n".join([lines[0], *(line.rsplit(",", 2)[0] + ",stone,fine 0" for line in lines[1:])]) + "\n")
    assert run("predict", folder, shuffled, "--features", names, "--out", files / "q.csv").exit_code == 0
    assert (files / "p.csv").read_text() == (files / "q.csv").read_text()


def test_eval_on_other_samples_with_names_in_other_columns(files, fitted):
    folder, _ = fitted
    names = ",".join(f"x{i}" for i in range(8))
    result = run(
        "eval", folder, files / "test.csv", "--features", names, "--coarse", "kind", "--fine", "name", "--json"
    )  # fmt: skip
    metrics = json.loads(result.output)
    assert metrics["accuracy"] > 0.95 and metrics["relation_accuracy"] == 1 and metrics["num_samples"] == 120
    assert metrics["protocol"] == "heldout"


def test_relations_prints_the_tree(fitted):
    tree = json.loads(run("relations", fitted[0], "--json").output)
    assert {name: len(members) for name, members in tree.items()} == {"animal": 3, "plant": 2, "stone": 1}
    assert sorted(k for members in tree.values() for k in members) == list(range(6))


def test_estimate_k_gives_every_vote(files):
    result = run("estimate-k", files / "train.npz", "--k-max", 5, "--json")
    estimated = json.loads(result.output)
    assert estimated["total"] == sum(estimated["per_coarse"]) and estimated["low"] <= estimated["high"]
    assert len(estimated["votes"]) >= 3
    assert estimated["per_coarse"][:2] == [3, 2] and min(vote[2] for vote in estimated["votes"].values()) == 1


def test_a_configuration_file_gives_options_and_the_command_line_wins(files):
    config = files / "options.json"
    config.write_text(json.dumps({"n_fine": 5, "epochs": 2, "switches": {"mstep_every": 3}}))
    arguments = ("fit", files / "train.npz", "--config", config, "--num-fine", 7, "--set", "temperature=0.8")
    assert run(*arguments, "--out", files / "configured").exit_code == 0
    options = json.loads((files / "configured" / "options.json").read_text())
    assert options["n_fine"] == 7 and options["epochs"] == 2 and options["switches"] == {"temperature": 0.8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "train.npz", "--out", "x"], "--num-fine or --estimate"),
        (["fit", "train.npz", "--num-fine", "2", "--out", "x"], "n_fine must be at least the 3 coarse classes, got 2"),
        (["fit", "absent.npz", "--num-fine", "6", "--out", "x"], "path must be a file"),
        (["fit", "test.csv", "--num-fine", "6", "--out", "x"], "test.csv"),
        (["fit", "train.npz", "--num-fine", "6", "--set", "tau", "--out", "x"], "--set must be name=value, got 'tau'"),
        (["fit", "train.npz", "--num-fine", "6", "--set", "mstep_init=9", "--out", "x"], "mstep_init must be one of"),
        (["relations", "."], "run must be a folder with model.safetensors"),
    ],
)
def test_errors_are_one_clear_sentence(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(*arguments)
    assert not (files / "x").exists()


def test_several_taxonomies_keep_their_names(tmp_path):
    x, fine = mixture(240, 3)
    second = np.array([0, 1, 0, 1, 0, 1])
    even = np.arange(240) % 2 == 0
    first_names, second_names = np.array(COARSE), np.array(["odd", "even"])
    np.savez(
        tmp_path / "two.npz", X=x, a=np.where(even, PARENTS[fine], -1), a_names=first_names,
        b=np.where(even, -1, second[fine]), b_names=second_names,
    )  # fmt: skip
    arguments = ("fit", tmp_path / "two.npz", "--coarse", "a,b", "--num-fine", 6, "--epochs", 10)
    assert run(*arguments, "--out", tmp_path / "run").exit_code == 0
    trees = json.loads(run("relations", tmp_path / "run", "--json").output)
    assert [set(tree) for tree in trees] == [set(COARSE), {"odd", "even"}]


def test_names_and_colours():
    assert named(np.array([1, -1, 0]), (("a", "b"),)).tolist() == ["b", None, "a"]
    coarse, fine = class_colours(np.array([0, 0, 1]), 2)
    assert len({tuple(row) for row in fine}) == 3 and not np.allclose(coarse[0], coarse[1])


def test_options_are_those_of_the_estimator():
    options = DiscoverOptions.of({"n_fine": 4, "epochs": 3, "lr": 0.2, "switches": {"lambda_m": 0.3}, "hidden": [8]})
    model = options.estimator()
    assert isinstance(model, FalconClusterer)
    assert (model.n_fine, model.epochs, model.lr, model.hidden, model.config.lambda_m) == (4, 3, 0.2, (8,), 0.3)
    with pytest.raises(ValueError, match=r"options must be among .*, got rate"):
        DiscoverOptions.of({"rate": 1})

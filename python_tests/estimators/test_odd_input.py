"""Odd and wrong input of the estimators, their files and `c2f discover`: each error names what was expected."""

# ruff: noqa: E501  (tables of bad calls)

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("typer")
pytest.importorskip("matplotlib")
pytest.importorskip("safetensors")

from c2f_ops import cli
from c2f_ops.data.embeddings import load_embeddings
from c2f_ops.estimators import FalconClusterer, GroupKMeans, estimate_n_fine
from c2f_ops.estimators.plots import project
from c2f_ops.losses import FalconLoss
from c2f_ops.models import FalconConfig

rng = np.random.default_rng(0)
FINE = np.arange(60) % 6
X = (3 * rng.standard_normal((6, 4))[FINE] + 0.4 * rng.standard_normal((60, 4))).astype(np.float32)
Y = np.array([0, 0, 0, 1, 1, 2])[FINE]


def fit(x=X, y=Y, dataset=None, **options):
    return FalconClusterer(6, **({"epochs": 1, "random_state": 0} | options)).fit(x, y, dataset)


@pytest.fixture(scope="module")
def model():
    return fit()


BAD = [
    (lambda m: fit(y=Y * 1e300), ValueError, "y_coarse must hold class labels, got the continuous value np.float64(1e+300)"),
    (lambda m: fit(y=np.where(Y == 0, np.inf, Y)), ValueError, "y_coarse must hold class labels, got the continuous value np.float64(inf)"),
    (lambda m: fit(y=np.full(60, -1)), ValueError, "y_coarse must have a label in every data set, got none in 0"),
    (lambda m: fit(x=X.astype(np.float64) * 1e300), ValueError, "X must fit float32, got values from"),
    (lambda m: m.predict(X.astype(np.float64) * 1e300), ValueError, "X must fit float32, got values from"),
    (lambda m: fit(x=torch.from_numpy(X).to_sparse()), TypeError, "X must be a dense tensor, an array or a SciPy matrix, got a tensor in torch.sparse_coo"),
    (lambda m: fit(dataset=np.array([None, "a"] * 30, dtype=object)), ValueError, "dataset must name a data set for each sample, got None"),
    (lambda m: fit(dataset=np.array([1, "a"] * 30, dtype=object)), TypeError, "dataset must hold labels of one type"),
    (lambda m: fit(hidden=8), ValueError, "hidden must be sizes of layers, integers of at least 1, got 8"),
    (lambda m: fit(hidden=(8, -1)), ValueError, "hidden must be sizes of layers, integers of at least 1, got (8, -1)"),
    (lambda m: fit(hidden="ab"), ValueError, "hidden must be sizes of layers"),
    (lambda m: fit(relations=["a"] * 6), TypeError, "g must hold integers, got ['a'"),
    (lambda m: fit(relations=[0.5] * 6), TypeError, "g must hold integers, got torch.float"),
    (lambda m: FalconLoss(3, 2).set_relations([True, False, True]), TypeError, "g must hold integers, got torch.bool"),
    (lambda m: fit(device="gpu"), ValueError, "device must be 'auto' or a torch device, got 'gpu'"),
    (lambda m: fit(device=None), ValueError, "device must be 'auto' or a torch device, got None"),
    (lambda m: m.predict_coarse(X, np.array([0, 1])), ValueError, "dataset must be one of [0], got array([0, 1])"),
    (lambda m: m.score(X, FINE + 0.5), ValueError, "y_fine must hold class labels, got the continuous value"),
    (lambda m: m.score(X, FINE[:3]), ValueError, "y_fine must have shape [N] or [N, D] with N=60"),
    (lambda m: m.score(X, np.stack([FINE, FINE], 1)), ValueError, "y_fine must have shape [N], got [60, 2]"),
    (lambda m: FalconClusterer(6).partial_fit(X, np.full(60, -1), classes=[0, 1, 2]), ValueError, "y_coarse must have a label where training begins, got none"),
    (lambda m: GroupKMeans("6").fit(X, Y), ValueError, "n_fine must be between the 3 coarse classes and the 60 samples, got '6'"),
    (lambda m: estimate_n_fine(np.where(X > 3, np.nan, X), Y), ValueError, "X contains NaN"),
    (lambda m: estimate_n_fine(X[:, 0], Y), ValueError, "Expected 2D array"),
    (lambda m: estimate_n_fine(X, np.stack([Y, Y], 1)), ValueError, "y_coarse must have shape [N], got [60, 2]"),
    (lambda m: estimate_n_fine(X, Y, True), ValueError, "k_max must be an integer of at least 1, got True"),
    (lambda m: FalconConfig(balanced="no"), TypeError, "FalconConfig: balanced must be bool, got 'no'"),
    (lambda m: FalconConfig(mstep_every=2.5), TypeError, "FalconConfig: mstep_every must be int, got 2.5"),
    (lambda m: FalconConfig(lambdas=(1, "a", 2)), TypeError, "FalconConfig: lambdas must be tuple[float, ...], got (1, 'a', 2)"),
    (lambda m: FalconConfig(soft_epochs=True), TypeError, "FalconConfig: soft_epochs must be int | None, got True"),
    (lambda m: FalconConfig.preset("paper", foo=1), ValueError, "FalconConfig: there is no switch foo"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)))
def test_errors_name_the_argument(model, case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=re.escape(message)):
        call(model)


def test_unlabelled_samples_have_no_part_in_the_score(model):
    half = np.arange(60) < 30
    expected = model.score(X[half], FINE[half])
    for truth in (np.where(half, FINE, -1), np.where(half, FINE, np.nan), np.where(half, FINE.astype(object), None)):
        assert model.score(X, truth) == expected


def test_files_of_estimators(tmp_path, model):
    path = tmp_path / "m.safetensors"
    large = fit(y=Y.astype(np.uint64) * 2**62 + 5, device=torch.device("cpu"))
    again = FalconClusterer.load(large.save(path))
    assert again.classes_coarse_.dtype == np.uint64 and np.array_equal(again.classes_coarse_, large.classes_coarse_)
    with pytest.raises(OSError, match="path must be a file in a folder that exists, got"):
        model.save(tmp_path / "absent" / "m.safetensors")
    with pytest.raises(OSError, match="path must be a file in a folder"):
        model.save(tmp_path)
    with pytest.raises(TypeError, match="labels must be integers, strings or booleans to be saved, got bytes"):
        fit(y=np.array([b"a", b"b", b"c"])[Y]).save(path)
    path.write_bytes(b"nothing of the kind")
    for place in (path, tmp_path):
        with pytest.raises(ValueError, match="path must be a file that save wrote, got"):
            FalconClusterer.load(place)


FILES = {
    "cut.npz": (b"PK\x03\x04 cut off", "cut.npz must be a readable .npz file"),
    "text.npz": (b"X", "text.npz must be a readable .npz file, got one that begins b'X'"),
    "empty.npz": (b"", "empty.npz must be a readable .npz file, got one that begins b''"),
    "text.npy": (b"X", "text.npy must be a readable .npy file"),
    "latin.csv": ("a,coarse\n1,bö\n".encode("latin1"), "latin.csv must be UTF-8 text, got one with"),
    "twice.csv": (b"a,a,coarse\n1,2,x\n3,4,y\n", "columns of twice.csv must have different names, got 'a' twice"),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_named(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_embeddings(tmp_path / name)


def test_labels_beyond_the_integers_of_a_float(tmp_path):
    for value in (1e300, np.inf):
        np.savez(tmp_path / "a.npz", X=X, coarse=Y * value if np.isfinite(value) else np.where(Y, value, 0.0))
        with pytest.raises(ValueError, match="labels must be integers or names, got"):
            load_embeddings(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (3, 1), (4, 2)])
def test_pictures_of_few_samples(shape):
    place = project(rng.standard_normal(shape).astype(np.float32))
    assert place.shape == (shape[0], 2) and np.isfinite(place).all()


# ---- c2f discover ----------------------------------------------------------------------------------------------------


@pytest.fixture
def c2f(tmp_path, monkeypatch, capsys):
    """A function (*arguments) -> (status, output, errors) in a folder with ``ok.npz`` and ``odd.npz``."""
    monkeypatch.chdir(tmp_path)
    np.savez("ok.npz", X=X, coarse=Y, fine=FINE)
    np.savez("odd.npz", X=X, coarse=np.array(["böse", "[red]", "ø"])[Y])

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["c2f", "discover", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


FIT = ("fit", "ok.npz", "--num-fine", "6", "--epochs", "1", "--out", "run")
BAD_COMMANDS = [
    ((*FIT, "--hidden", "8,,8"), "--hidden must be whole numbers separated by commas, got '8,,8'"),
    ((*FIT, "--set", "foo=1"), "FalconConfig: there is no switch foo"),
    ((*FIT, "--set", "balanced=no"), "balanced must be bool, got 'no'"),
    ((*FIT, "--set", "temperature=open('evaluated','w')"), "temperature must be float, got \"open('evaluated','w')\""),
    ((*FIT, "--config", "bad.json"), "config must be JSON, got bad.json with"),
    ((*FIT, "--config", "sizes.json"), "discover: hidden must be a list of sizes, got 5"),
    ((*FIT, "--config", "switches.json"), "discover: switches must be given by name, got 3"),
    ((*FIT[:-1], "ok.npz/x"), "out must be a folder that can be written, got ok.npz/x"),
    (("relations", "broken"), "path must be a file that save wrote, got broken/model.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS)
def test_a_bad_command_ends_with_one_line(c2f, tmp_path, arguments, message):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "sizes.json").write_text('{"hidden": 5}')
    (tmp_path / "switches.json").write_text('{"switches": 3}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_text("x")
    status, out, err = c2f(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert not (tmp_path / "run").exists() and not (tmp_path / "evaluated").exists()


def test_a_folder_used_again_keeps_no_metrics_of_the_run_before(c2f, tmp_path):
    assert c2f(*FIT)[0] == 0 and (tmp_path / "run" / "metrics.json").is_file()
    status, out, _ = c2f("fit", "odd.npz", *FIT[2:])
    assert status == 0 and "ARI" not in out and not (tmp_path / "run" / "metrics.json").exists()
    assert "[red]" in out and "böse" in out, "names of classes are no markup"
    assert "[red]" in c2f("relations", "run")[1]


def test_predictions_of_an_npz_file_go_into_a_new_h5ad_file(c2f, tmp_path):
    anndata = pytest.importorskip("anndata")
    assert c2f(*FIT)[0] == 0
    assert c2f("predict", "run", "ok.npz", "--out", "p.h5ad")[0] == 0
    assert anndata.read_h5ad(tmp_path / "p.h5ad").n_obs == 60

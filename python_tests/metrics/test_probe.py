"""The linear probe: what each solver finds, and why 25 % may hide perfect information."""

import numpy as np
import pytest
import torch

from c2f_ops.metrics import linear_probe


@pytest.fixture(params=["adam", "ridge", "logistic"])
def solver(request):
    if request.param == "logistic":
        pytest.importorskip("sklearn")
    return request.param


def clusters(seed, scale=1.0, offset=0.0, n=400, classes=4):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (offset + scale * (3 * np.eye(8)[y] + 0.5 * rng.standard_normal((n, 8)))).astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 4])
def test_solvers_find_linear_classes(solver, classes):
    train, test = clusters(0, classes=classes), clusters(1, classes=classes)
    report = linear_probe(*train, *test, solver=solver, epochs=40, lr=1e-2)
    assert report.accuracy > 0.98 and report.train_accuracy > 0.98 and report.num_test == 400
    shuffled = np.random.default_rng(0).permutation(train[1])
    assert linear_probe(train[0], shuffled, *test, solver=solver, epochs=5).accuracy < 0.75


def test_adam_does_not_see_what_standardising_restores():
    """Embeddings alike to a few ten-thousandths: chance with the probe of the paper, everything after standardising."""
    train, test = clusters(0, scale=1e-4, offset=1.0), clusters(1, scale=1e-4, offset=1.0)
    raw = linear_probe(*train, *test)
    assert raw.accuracy < 0.35 and not raw.standardize
    assert linear_probe(*train, *test, standardize=True).accuracy > 0.98


def test_normalize_removes_the_length():
    train, test = clusters(0), clusters(1)
    stretch = np.exp(np.random.default_rng(2).uniform(-4, 4, (400, 1)))
    options = dict(solver="ridge", normalize=True)
    expected = linear_probe(*train, *test, **options)
    report = linear_probe(train[0] * stretch, train[1], test[0] * stretch, test[1], **options)
    assert report == expected and report.accuracy > 0.98


def test_unlabelled_samples_are_left_out():
    (x, y), (x_test, y_test) = clusters(0), clusters(1)
    hide, hide_test = y.copy(), y_test.copy()
    hide[::3], hide_test[::5] = -1, -7
    poisoned = x.copy()
    poisoned[::3] = 100.0
    for solver in ("adam", "ridge"):
        options = dict(solver=solver, epochs=3)
        report = linear_probe(poisoned, hide, x_test, hide_test, **options)
        assert report == linear_probe(
            x[hide >= 0], y[hide >= 0], x_test[hide_test >= 0], y_test[hide_test >= 0], **options
        )
        assert report.num_train == (hide >= 0).sum() and report.num_test == (hide_test >= 0).sum()


def test_repeatable_and_no_influence_on_the_generator():
    (x, y), test = clusters(0), clusters(1)
    x = x + 3 * np.random.default_rng(3).standard_normal(x.shape)
    state = torch.random.get_rng_state()
    runs = [linear_probe(x, y, *test, epochs=2, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert runs[0] == runs[1] != runs[2]
    with torch.no_grad():
        assert linear_probe(torch.from_numpy(x), torch.from_numpy(y), *test, epochs=2) == runs[0]


def test_ridge_solves_the_normal_equations():
    sklearn = pytest.importorskip("sklearn.linear_model")
    (x, y), (x_test, y_test) = clusters(0), clusters(1)
    x, x_test = x + np.random.default_rng(4).standard_normal(x.shape) * 2, x_test * 0.7
    model = sklearn.RidgeClassifier(alpha=7.0).fit(x.astype(float), y)
    report = linear_probe(x, y, x_test, y_test, solver="ridge", penalty=7.0)
    assert report.accuracy == model.score(x_test.astype(float), y_test)
    assert report.train_accuracy == model.score(x.astype(float), y) < 1


def test_constant_features_and_absent_classes(solver):
    (x, y), (x_test, y_test) = clusters(0), clusters(1)
    x[:, -1] = x_test[:, -1] = 0.1
    report = linear_probe(x, y * 3, x_test, y_test * 3, solver=solver, standardize=True, epochs=40, lr=1e-2)
    assert report.accuracy > 0.98
    # A class that only the test set has cannot be right.
    y_test[:100] = 5
    assert linear_probe(x, y, x_test, y_test, solver=solver, epochs=40, lr=1e-2).accuracy <= 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(solver="svm"), "linear_probe: solver must be one of"),
        (dict(epochs=0), "epochs must be a positive int, got 0"),
        (dict(batch_size=1.5), "batch_size must be a positive int, got 1.5"),
        (dict(lr=-1), "lr must be positive, got -1"),
        (dict(penalty=0), "penalty must be positive, got 0"),
        (dict(y_test=[0]), r"y_test must have shape \[N\] = \[400\], got \[1\]"),
        (dict(Z_test=np.ones((400, 3))), "Z_test must have the 8 features of Z_train, got 3"),
        (dict(Z_train=np.full((400, 8), np.inf)), "Z_train must be finite"),
    ],
)
def test_errors_name_the_argument(options, message):
    (x, y), (x_test, y_test) = clusters(0), clusters(1)
    with pytest.raises(ValueError, match=message):
        linear_probe(**{**dict(Z_train=x, y_train=y, Z_test=x_test, y_test=y_test), **options})

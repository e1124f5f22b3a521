"""The generated vectors: shapes, laws, seeds."""

import numpy as np
import pytest

from c2f_ops.data import circles_toy, planted_features


def test_fixed_circles_without_noise_are_the_formula():
    x, y = circles_toy(3, radii=(1.0, 2.0), sigma=0.0, points=5)
    assert x.shape == (6, 10) and x.dtype == np.float32 and y.dtype == np.int64
    assert y.tolist() == [0, 1, 0, 1, 0, 1]
    t = 2 * np.pi * np.arange(5) / 5
    for row, label in zip(x, y, strict=True):
        np.testing.assert_allclose(row[0::2], (1.0, 2.0)[label] * np.cos(t), atol=1e-6)
        np.testing.assert_allclose(row[1::2], (1.0, 2.0)[label] * np.sin(t), atol=1e-6)


@pytest.mark.parametrize("angles", ["fixed", "phase", "iid"])
def test_radii_tell_the_classes_whatever_the_angles(angles):
    x, y = circles_toy(250, angles=angles, seed=3)
    assert x.shape == (1000, 200) and np.bincount(y).tolist() == [250] * 4
    points = x.reshape(1000, 100, 2).astype(float)
    radius = np.linalg.norm(points, axis=2).mean(1)
    middle = 1.0 + 0.05 * np.arange(3) + 0.025 + 0.05**2 / 2 / 1.05  # the noise adds about sigma^2 / 2 r
    assert (np.digitize(radius, middle) == y).mean() > 0.999
    spread = np.stack([radius[y == c] for c in range(4)]).std(1)
    np.testing.assert_allclose(spread, 0.05 / 10, rtol=0.2)


def test_angle_laws():
    def step(angles):
        x, _ = circles_toy(50, sigma=0.0, angles=angles)
        t = np.arctan2(x[:, 1::2], x[:, 0::2])
        return t[:, 0], np.mod(np.diff(t, axis=1), 2 * np.pi)

    first, steps = step("fixed")
    np.testing.assert_allclose(first, 0, atol=1e-6)
    np.testing.assert_allclose(steps, 2 * np.pi / 100, atol=1e-5)
    first, steps = step("phase")
    assert first.std() > 1.5 and np.unique(first).size == 200
    np.testing.assert_allclose(steps, 2 * np.pi / 100, atol=1e-5)
    first, steps = step("iid")
    assert first.std() > 1.5 and steps.std() > 1.5


def test_noise_has_its_size():
    x, _ = circles_toy(200, sigma=0.05)
    clean, _ = circles_toy(200, sigma=0.0)
    noise = x - clean
    assert noise.std() == pytest.approx(0.05, rel=0.01) and abs(noise.mean()) < 1e-3


@pytest.mark.parametrize("angles", ["fixed", "phase", "iid"])
def test_seeds(angles):
    a, b, c = (circles_toy(20, angles=angles, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.isclose(a, c).all(1).any()


# ---- planted features ------------------------------------------------------------------------------------------------


def test_planted_pattern_and_nuisance():
    data = planted_features(200, nuisance=3.0, noise=0.1)
    assert data.X.shape == (4000, 256) and data.X.dtype == np.float32 and np.bincount(data.y).tolist() == [200] * 20
    assert data.subsets.shape == data.patterns.shape == (20, 4)
    assert np.unique(data.subsets).size == 80 and set(np.unique(data.patterns)) == {-1.0, 1.0}
    for c in range(20):
        shown = data.X[data.y == c][:, data.subsets[c]]
        np.testing.assert_allclose(shown.mean(0), data.patterns[c], atol=0.05)
        np.testing.assert_allclose(shown.std(0), 0.1, rtol=0.25)
        others = np.setdiff1d(np.arange(256), data.subsets[c])
        rest = data.X[data.y == c][:, others]
        assert rest.std() == pytest.approx(3.0, rel=0.05) and abs(rest.mean()) < 0.2


def test_nuisance_is_shared_by_the_classes():
    """Half of its variance lies in few directions, the same for every class and every seed of the samples."""
    halves = []
    for seed in (0, 1):
        data = planted_features(500, num_classes=2, seed=seed, nuisance=2.0)
        free = np.setdiff1d(np.arange(256), data.subsets)
        for c in (0, 1):
            values, vectors = np.linalg.eigh(np.cov(data.X[data.y == c][:, free].T))
            halves.append(vectors[:, -8:])
            assert 0.45 < values[-8:].sum() / values.sum() < 0.65
    for other in halves[1:]:
        cosines = np.linalg.svd(halves[0].T @ other, compute_uv=False)
        assert cosines.min() > 0.8
    independent = planted_features(500, num_classes=2, factors=0).X
    values = np.linalg.eigvalsh(np.cov(independent.T))
    assert values[-8:].sum() / values.sum() < 0.1


def test_planted_seeds_and_overlap():
    a, b, c, d = (planted_features(3, seed=s, plant_seed=p) for s, p in ((0, 0), (0, 0), (1, 0), (0, 1)))
    assert np.array_equal(a.X, b.X) and not np.isclose(a.X, c.X).all(1).any()
    assert np.array_equal(a.subsets, c.subsets) and np.array_equal(a.patterns, c.patterns)
    assert not np.array_equal(a.subsets, d.subsets)
    crowded = planted_features(2, num_classes=10, num_features=6, m=4)
    assert all(np.unique(row).size == 4 for row in crowded.subsets)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: circles_toy(0), "circles_toy: n_per_class must be a positive int, got 0"),
        (lambda: circles_toy(1, points=2.5), r"points must be a positive int, got 2\.5"),
        (lambda: circles_toy(1, radii=()), r"radii must hold positive numbers, got \(\)"),
        (lambda: circles_toy(1, radii=(1, -1)), "radii must hold positive numbers"),
        (lambda: circles_toy(1, sigma=-1), "sigma must be at least 0, got -1"),
        (lambda: circles_toy(1, angles="spiral"), "angles must be one of .* got 'spiral'"),
        (lambda: planted_features(True), "planted_features: n_per_class must be a positive int, got True"),
        (lambda: planted_features(1, m=300), "m must be at most num_features = 256, got 300"),
        (lambda: planted_features(1, factors=-1), "factors must be an int of at least 0, got -1"),
        (lambda: planted_features(1, nuisance=-1), "nuisance must be at least 0, got -1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()

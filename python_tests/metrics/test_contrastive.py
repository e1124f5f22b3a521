"""Prototypes, scores and the error bound against their definitions, written out with all differences ``[N, C, d]``."""

import doctest

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from c2f_ops.data import circles_toy, planted_features
from c2f_ops.metrics import (
    _embeddings,
    class_attentive_prototypes,
    class_attentive_scores,
    contrastive,
    epsilon_margin,
    error_bound,
    own_and_wrong_distances,
)

TIGHT = 1e-12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def naive_u(z, w):
    """Every u_c(x), ``[N, C, d]``."""
    v = z[:, None, :] * w[None]
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.divide(v, norm, out=np.zeros_like(v), where=norm > 0)


def naive_means(z, y, w):
    u = naive_u(z, w)
    return np.stack([u[y == c, c].mean(0) for c in range(len(w))])


def naive_distances(z, w, m):
    return np.linalg.norm(naive_u(z, w) - m[None], axis=-1)


def worst_case_errors(d, y):
    """Samples with a wrong class at most as far as their own."""
    own = d[np.arange(len(y)), y]
    return ((d <= own[:, None] + TIGHT) & (np.arange(d.shape[1]) != y[:, None])).any(1)


def assert_same(report, expected):
    """Up to the last bits, which depend on how the memory of the embeddings is aligned."""
    for field, value in expected.to_dict().items():
        assert getattr(report, field) == (None if value is None else pytest.approx(value, rel=TIGHT)), field


def instance(rng, low=2):
    """Unbalanced classes, random weights, embeddings from useless to well separated, some of them repeated."""
    classes, d = int(rng.integers(2, 6)), int(rng.integers(1, 8))
    counts = rng.integers(low, 20, classes)
    y = rng.permutation(np.repeat(np.arange(classes), counts))
    centres = rng.standard_normal((classes, d)) * rng.choice([0.0, 0.5, 3.0])
    z = centres[y] + rng.standard_normal((len(y), d)) * rng.choice([0.02, 0.3, 1.0])
    if rng.random() < 0.2:
        z = np.round(z) + 0.5  # many exact ties
    w = rng.uniform(0.05, 2.0, (classes, d))
    return z, y, w


@pytest.mark.parametrize("kind", ["mean", "unit"])
@pytest.mark.parametrize("weighted", [True, False])
def test_prototypes_and_scores_equal_the_definition(rng, kind, weighted):
    z, y, w = instance(rng)
    ones = w if weighted else np.ones_like(w)
    expected = naive_means(z, y, ones)
    if kind == "unit":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    m = class_attentive_prototypes(z, y, w if weighted else None, kind=kind)
    np.testing.assert_allclose(m, expected, atol=TIGHT)
    scores = class_attentive_scores(z, w if weighted else None, m)
    d = naive_distances(z, ones, expected)
    np.testing.assert_allclose(scores, -(d**2), atol=TIGHT)
    own, wrong = own_and_wrong_distances(z, y, w if weighted else None, m)
    np.testing.assert_allclose(own, d[np.arange(len(y)), y], atol=1e-7)
    d[np.arange(len(y)), y] = np.inf
    np.testing.assert_allclose(wrong, d.min(1), atol=1e-7)


def test_tensors_give_tensors_and_the_same_numbers(rng):
    z, y, w = instance(rng)
    z32 = torch.from_numpy(z).float().requires_grad_()
    m = class_attentive_prototypes(z32, torch.from_numpy(y), torch.from_numpy(w))
    assert isinstance(m, torch.Tensor) and m.dtype == torch.float64 and not m.requires_grad
    z = z32.detach().numpy()
    np.testing.assert_allclose(m.numpy(), class_attentive_prototypes(z, y, w), atol=TIGHT)
    np.testing.assert_allclose(class_attentive_scores(z32, w, m), class_attentive_scores(z, w, m), atol=TIGHT)
    assert_same(error_bound(z32, torch.from_numpy(y), torch.from_numpy(w)), error_bound(z, y, w))
    half = z32.to(torch.bfloat16)
    assert_same(error_bound(half, y, w), error_bound(half.detach().float().numpy(), y, w))


def test_chunks_and_memory_maps_change_nothing(rng, monkeypatch, tmp_path):
    z, y = rng.standard_normal((257, 7)).astype(np.float32), rng.integers(-1, 3, 257)
    w = rng.uniform(0.1, 1, (3, 7))
    report, scores = error_bound(z, y, w), class_attentive_scores(z, w, class_attentive_prototypes(z, y, w))
    np.save(tmp_path / "z.npy", z)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    monkeypatch.setattr(_embeddings, "CHUNK", 100)
    assert [len(part) for _, part in _embeddings.chunks("test", mapped, 13)] == [7] * 36 + [5]
    assert_same(error_bound(mapped, y, w), report)
    np.testing.assert_allclose(class_attentive_scores(mapped, w, class_attentive_prototypes(mapped, y, w)), scores)


class Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that any op returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            self.numel = max(self.numel, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return out


def test_no_tensor_has_samples_classes_and_features_at_once(monkeypatch):
    n, classes, d = 3000, 40, 30
    z, y, w = torch.randn(n, d), torch.arange(n) % classes, torch.rand(classes, d) + 0.1
    monkeypatch.setattr(_embeddings, "CHUNK", 10_000)
    with Largest() as largest:
        scores = class_attentive_scores(z, w, class_attentive_prototypes(z, y, w))
        error_bound(z, y, w)
    assert scores.numel() == largest.numel == n * classes
    with Largest() as largest:
        error_bound(z, y, w)
    assert largest.numel <= n * d  # the embeddings themselves


def test_unlabelled_samples_and_absent_classes(rng):
    z, y, w = rng.standard_normal((60, 5)), rng.integers(0, 3, 60), rng.uniform(0.1, 1, (4, 5))
    y[::7] = -1
    y[1::7] = -5
    known = y >= 0
    m = class_attentive_prototypes(z, y, w)
    assert np.isnan(m[3]).all()
    np.testing.assert_allclose(m[:3], naive_means(z[known], y[known], w[:3]), atol=TIGHT)
    scores = class_attentive_scores(z, w, m)
    assert (scores[:, 3] == -np.inf).all() and np.isfinite(scores[:, :3]).all()
    report = error_bound(z, y, w)
    assert report.num_samples == known.sum() and report.priors[3] == 0
    assert report.bound == pytest.approx(error_bound(z[known], y[known], w[:3]).bound)


def test_scores_do_not_depend_on_scale(rng):
    z, y, w = instance(rng)
    m = class_attentive_prototypes(z, y, w)
    for row, each in ((1e-170, 1e150), (1e150, 1e-170)):
        factors = rng.uniform(0.5, 2, (len(w), 1)) * each
        np.testing.assert_allclose(class_attentive_prototypes(z * row, y, w * factors), m, atol=TIGHT)
        np.testing.assert_allclose(
            class_attentive_scores(z * row, w * factors, m), class_attentive_scores(z, w, m), atol=TIGHT
        )


# ---- the lemma -------------------------------------------------------------------------------------------------------


def pair_losses(z, y, w):
    """For each class 1 - <u, u'> over all ordered pairs, ``[n_c, n_c]``."""
    return [1 - (u := naive_u(z[y == c], w)[:, c]) @ u.T for c in range(len(w))]


def test_lemma_loss_of_pairs_is_spread_around_the_mean(rng):
    for _ in range(50):
        z, y, w = instance(rng)
        report = error_bound(z, y, w)
        pi = np.bincount(y) / len(y)
        own = naive_distances(z, w, naive_means(z, y, w))[np.arange(len(y)), y]
        losses = pair_losses(z, y, w)
        assert report.ell == pytest.approx(pi @ [p.mean() for p in losses], abs=TIGHT)
        assert report.ell == pytest.approx((own**2).mean(), abs=TIGHT)
        off = [(p.sum() - np.trace(p)) / (len(p) * (len(p) - 1)) for p in losses]
        assert report.ell_unbiased == pytest.approx(pi @ off, abs=TIGHT)
        assert report.ell_unbiased >= report.ell
        assert report.Delta == 0


def test_a_mean_over_all_pairs_is_not_the_loss_of_the_theorem(rng):
    # 30 scattered samples against 5 in one place: pairs count the first class 36 times, samples 6 times.
    y = np.repeat([0, 1], [30, 5])
    z = np.where(y[:, None] == 0, rng.standard_normal((35, 6)), 1.0)
    w = np.ones((2, 6))
    losses = pair_losses(z, y, w)
    pair_uniform = sum(p.sum() for p in losses) / sum(p.size for p in losses)
    report = error_bound(z, y, w)
    own = naive_distances(z, w, naive_means(z, y, w))[np.arange(len(y)), y]
    assert report.ell == pytest.approx((own**2).mean(), abs=TIGHT)
    assert pair_uniform > report.ell + 0.08


def test_a_single_sample_has_no_unbiased_loss(rng):
    report = error_bound(rng.standard_normal((4, 3)), [0, 0, 0, 1])
    assert np.isnan(report.ell_unbiased) and np.isfinite(report.bound)


def test_priors_weight_classes(rng):
    z, y, w = instance(rng)
    pi = rng.dirichlet(np.ones(len(w)))
    report = error_bound(z, y, w, priors=torch.from_numpy(pi))
    means = naive_means(z, y, w)
    d = naive_distances(z, w, means)
    wrong = worst_case_errors(d, y)
    assert report.priors == pytest.approx(tuple(pi))
    assert report.ell == pytest.approx(pi @ (1 - (means**2).sum(1)), abs=TIGHT)
    assert report.true_error == pytest.approx(pi @ [wrong[y == c].mean() for c in range(len(w))])
    assert report.chance == pytest.approx(1 - pi.max())
    assert report.true_error <= report.direct + TIGHT <= report.bound + 2 * TIGHT


# ---- the theorem -----------------------------------------------------------------------------------------------------


def test_theorem_holds_on_random_instances(rng):
    """Ties count as errors; gamma is chosen, on the observed grid and off it."""
    telling = nontrivial = 0
    for trial in range(2000):
        z, y, w = instance(rng)
        kind = ("mean", "unit")[trial % 2]
        means = naive_means(z, y, w)
        m = means if kind == "mean" else means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-300)
        d = naive_distances(z, w, m)
        error = worst_case_errors(d, y).mean()
        own = d[np.arange(len(y)), y]
        wrong = np.where(np.arange(d.shape[1]) == y[:, None], np.inf, d).min(1)
        off = rng.uniform(0.01, 2)
        other = (off, rng.choice(wrong) or off, rng.choice(own) or off)[trial % 3]
        for gamma in (other, None):
            report = error_bound(z, y, w, gamma=gamma, kind=kind)
            assert report.true_error == pytest.approx(error, abs=TIGHT)
            assert error <= report.direct + TIGHT
            assert report.direct <= report.bound + TIGHT
            assert report.bound == pytest.approx(
                report.C1 * (report.ell + report.Delta + report.rounding) + report.C2, rel=TIGHT
            )
            assert 0 < report.rounding < TIGHT
            direct = (own >= report.gamma - 1e-7).mean() + (wrong < report.gamma + 1e-7).mean()
            least = (own >= report.gamma + 1e-7).mean() + (wrong < report.gamma - 1e-7).mean()
            assert least - TIGHT <= report.direct <= direct + TIGHT
        telling += report.bound < report.chance
        nontrivial += 0 < error
    assert telling > 100 and nontrivial > 1000


def test_chosen_gamma_is_the_best(rng):
    for _ in range(40):
        z, y, w = instance(rng)
        best = error_bound(z, y, w)
        _, wrong = own_and_wrong_distances(z, y, w, class_attentive_prototypes(z, y, w))
        if wrong.max() < 1e-6:
            assert best.gamma == 2 and best.bound >= best.delta == 1
            continue
        assert np.abs(wrong - best.gamma).min() < 1e-9
        grid = np.concatenate([wrong, np.linspace(0.01, wrong.max(), 50)])
        for gamma in grid[grid > 1e-6]:
            assert error_bound(z, y, w, gamma=gamma * (1 - 1e-9)).bound >= best.bound - 1e-6


def test_theorem_holds_for_other_prototypes(rng):
    shifts = 0
    for _ in range(300):
        z, y, w = instance(rng, low=4)
        half = np.zeros(len(y), bool)
        for c in range(len(w)):
            half[np.flatnonzero(y == c)[::2]] = True
        m = class_attentive_prototypes(z[half], y[half], w)
        gamma = error_bound(z[half], y[half], w).gamma
        z, y = z[~half], y[~half]
        for g in (gamma, None):
            report = error_bound(z, y, w, prototypes=m, gamma=g)
            d = naive_distances(z, w, m)
            own = d[np.arange(len(y)), y]
            assert report.ell + report.Delta == pytest.approx((own**2).mean(), abs=1e-11)
            assert report.true_error == pytest.approx(worst_case_errors(d, y).mean())
            assert report.true_error <= report.direct + TIGHT <= report.bound + 2 * TIGHT
            assert (report.holdout is None) == (g is None)
        shifts += report.Delta > 0.01
    assert shifts > 50


def test_unit_prototypes_at_most_double_the_loss(rng):
    for _ in range(50):
        z, y, w = instance(rng)
        report = error_bound(z, y, w, kind="unit")
        pi, length = np.bincount(y) / len(y), np.linalg.norm(naive_means(z, y, w), axis=1)
        assert report.ell + report.Delta == pytest.approx(pi @ (2 * (1 - length)), abs=TIGHT)
        assert report.Delta <= report.ell + TIGHT


def test_statement_about_the_population(rng):
    """Fresh samples of a finite population whose error is known; gamma and prototypes from a training sample."""
    population, truth = rng.standard_normal((5000, 4)), rng.integers(0, 3, 5000)
    population[:, :3] += 1.2 * np.eye(3)[truth]
    train = rng.choice(5000, 300)
    m = class_attentive_prototypes(population[train], truth[train])
    gamma = error_bound(population[train], truth[train]).gamma
    whole = error_bound(population, truth, prototypes=m, gamma=gamma)
    assert 0.1 < whole.true_error < 0.9
    unsafe = whole.holdout - whole.holdout_slack
    covered, below = 0, 0
    for _ in range(200):
        fresh = rng.choice(5000, 60)
        report = error_bound(population[fresh], truth[fresh], prototypes=m, gamma=gamma, alpha=0.1)
        assert report.holdout_slack == pytest.approx(np.sqrt(np.log(10) / 120))
        covered += report.holdout >= unsafe
        below += report.holdout - report.holdout_slack < unsafe  # the slack is needed
    assert unsafe >= whole.true_error and covered >= 180 and below > 40


def test_slack_with_given_priors():
    z, y = np.eye(2)[[0, 0, 0, 1]], [0, 0, 0, 1]
    report = error_bound(z, y, prototypes=np.eye(2), gamma=1.0, priors=[0.5, 0.5], alpha=0.05)
    assert report.holdout_slack == pytest.approx(np.sqrt(np.log(20) / 2 * (0.25 / 3 + 0.25 / 1)))
    assert report.holdout == report.holdout_slack


def test_margin_covers_moved_inputs(rng):
    """The embedding is the identity, Lipschitz 1; weights stretch it by their ratio."""
    hits = 0
    for _ in range(100):
        y = np.repeat([0, 1, 2], 15)
        z = 2 * np.eye(3)[y] + 0.1 * rng.standard_normal((45, 3))
        w = rng.uniform(0.5, 1.0, (3, 3))
        epsilon = 0.1
        radius = np.linalg.norm(z, axis=1).min() - epsilon
        margin = epsilon_margin(epsilon, lipschitz=1, radius=radius, w=w)
        assert margin == pytest.approx(2 * (w.max(1) / w.min(1)).max() * epsilon / radius)
        report = error_bound(z, y, w, margin=margin)
        assert report.weight_ratio == pytest.approx((w.max(1) / w.min(1)).max())
        assert report.bound >= error_bound(z, y, w).bound - TIGHT
        m = naive_means(z, y, w)
        _, wrong = own_and_wrong_distances(z, y, w, m)
        gamma = np.median(wrong) - margin / 2
        fixed = error_bound(z, y, w, gamma=gamma, margin=margin)
        assert fixed.delta == pytest.approx((wrong < gamma + margin).mean())
        assert np.abs(wrong - margin - report.gamma).min() < 1e-9
        push = rng.standard_normal(z.shape)
        moved = z + epsilon * push / np.linalg.norm(push, axis=1, keepdims=True)
        change = np.abs(naive_distances(moved, w, m) - naive_distances(z, w, m)).max()
        assert change <= margin / 2
        assert worst_case_errors(naive_distances(moved, w, m), y).mean() <= report.direct + TIGHT
        hits += report.bound < 1
    assert hits > 50


# ---- collapse, and where the printed theorem fails -------------------------------------------------------------------


def test_constant_embedding_is_vacuous(rng):
    """The loss is 0 and the error that of a guess: no constants C_1, C_2 < 0.75 that know neither f nor w exist.

    Rounding must not look like structure: distances of some 1e-8 are all there is.
    """
    for _ in range(200):
        d = int(rng.integers(1, 65))
        n = int(rng.integers(4, 100)) * 4
        z = np.repeat(rng.standard_normal((1, d)), n, axis=0)
        w = rng.uniform(0.05, 2.0, (4, d))
        y = np.arange(n) % 4
        for kind in ("mean", "unit"):
            report = error_bound(z, y, w, kind=kind)
            assert report.ell == pytest.approx(0, abs=TIGHT) and report.true_error >= report.chance == 0.75
            assert report.vacuous and report.bound >= 1 and report.delta == report.true_error == 1
        for gamma in (1e-9, 1e-3, 1.0):
            assert error_bound(z, y, w, gamma=gamma).delta == 1


def test_one_coordinate_weights_reach_zero_loss_without_any_information(rng):
    z, y = np.abs(rng.standard_normal((80, 6))), np.arange(80) % 4
    w = np.tile(np.eye(6)[2], (4, 1))
    report = error_bound(z, y, w)
    assert report.ell == pytest.approx(0, abs=TIGHT) and report.vacuous
    assert report.weight_ratio == np.inf


def test_labels_leak_through_own_weights_but_not_through_anchor_weights():
    """Constant z, almost disjoint supports: cosines of z_i w_{y_i} with z_j w_{y_j} show the label, scores do not."""
    z, y = np.ones((40, 8)), np.arange(40) % 4
    w = np.full((4, 8), 0.03)
    w[np.arange(4)[:, None], np.arange(8).reshape(4, 2)] = 1.0
    own = naive_u(z, w)[np.arange(40), y]
    own_weights = own @ own.T
    same = y[:, None] == y
    assert own_weights[same].min() > 1 - TIGHT and own_weights[~same].max() < 0.1
    anchored = np.einsum("icd,jcd->cij", *(naive_u(z, w),) * 2)  # class of the anchor on both sides
    np.testing.assert_allclose(anchored, 1, atol=TIGHT)
    scores = class_attentive_scores(z, w, class_attentive_prototypes(z, y, w))
    np.testing.assert_allclose(scores, 0, atol=TIGHT)


def test_zero_embeddings_do_not_break_the_bound(rng):
    """A zero vector, or one whose support misses that of w_c, has u = 0: shorter than 1, and the bound still holds."""
    for _ in range(100):
        z, y, w = instance(rng)
        z[:: int(rng.integers(2, 5))] = 0
        w[0, : w.shape[1] // 2] = 0
        z[1::3, w.shape[1] // 2 :] = 0
        report = error_bound(z, y, w)
        d = naive_distances(z, w, naive_means(z, y, w))
        assert report.true_error == pytest.approx(worst_case_errors(d, y).mean())
        assert report.true_error <= report.direct + TIGHT <= report.bound + 2 * TIGHT
        assert report.ell + TIGHT >= (d[np.arange(len(y)), y] ** 2).mean()


def test_planted_features_are_found_by_their_weights_alone():
    """Weights on the planted features certify an error of less than a half where ones certify nothing."""
    train, test = planted_features(50, seed=0), planted_features(50, seed=1)
    w = np.full((20, 256), 0.05)
    np.put_along_axis(w, train.subsets, 2.0, axis=1)
    accuracy = {}
    for name, weights in (("plain", None), ("planted", w)):
        m = class_attentive_prototypes(train.X, train.y, weights)
        accuracy[name] = (class_attentive_scores(test.X, weights, m).argmax(1) == test.y).mean()
    assert accuracy["planted"] > 0.98 and accuracy["plain"] < 0.4
    assert error_bound(train.X, train.y).vacuous
    assert error_bound(train.X, train.y, w).bound < 0.5


def test_bound_says_something_on_the_circles_by_their_radii():
    """Mean radius of a circle on an arc: the classes are far apart in angle, and the bound is close to the error."""
    x, y = circles_toy(250)
    radius = np.linalg.norm(x.reshape(-1, 100, 2), axis=2).mean(1)
    angle = 20 * (radius - 1)
    report = error_bound(np.stack([np.cos(angle), np.sin(angle)], 1), y)
    assert report.true_error <= report.direct <= report.bound < 0.2


# ---- arguments -------------------------------------------------------------------------------------------------------

Z, Y, W = np.ones((4, 3)), np.array([0, 1, 0, 1]), np.ones((2, 3))
BAD = [
    (lambda: error_bound(Z[0], Y), ValueError, r"error_bound: z must have shape \[N, d\].*got \[3\]"),
    (lambda: error_bound(Z.astype(int), Y), TypeError, "z must be floating point, got int64"),
    (lambda: error_bound(Z * np.nan, Y), ValueError, "z must be finite, got NaN or infinity in row 0"),
    (lambda: error_bound(Z, Y[:3]), ValueError, r"y must have shape \[N\] = \[4\], got \[3\]"),
    (lambda: error_bound(Z, Y * 1.0), TypeError, "y must be integers, got float64"),
    (lambda: error_bound(Z, Y - 2), ValueError, "y must hold at least one label that is not negative"),
    (lambda: error_bound(Z, Y + 1, W), ValueError, "y must be below the 2 classes, got 2"),
    (lambda: error_bound(Z, Y * 0), ValueError, "y must hold at least 2 classes, got 1"),
    (lambda: error_bound(Z, Y, W[:, :2]), ValueError, r"w must have shape \[C, d\] = \[C, 3\], got \[2, 2\]"),
    (lambda: error_bound(Z, Y, W * [[1], [0]]), ValueError, "w must have a non-zero entry in every row.*class 1"),
    (lambda: error_bound(Z, Y, W * np.inf), ValueError, "w must be finite"),
    (lambda: error_bound(Z, Y, W, prototypes=W[:1]), ValueError, r"w must have shape \[C, d\] = \[1, 3\]"),
    (lambda: error_bound(Z, Y, prototypes=W * np.inf), ValueError, "prototypes must be finite"),
    (
        lambda: error_bound(Z, Y, prototypes=np.array([[1.0] * 3, [np.nan] * 3, [1.0] * 3])),
        ValueError,
        "prototypes must have a row for each class of y, got NaN for class 1",
    ),
    (lambda: error_bound(Z, Y, gamma=0), ValueError, "gamma must be positive and finite, got 0"),
    (lambda: error_bound(Z, Y, margin=-1), ValueError, "margin must be finite and at least 0, got -1"),
    (lambda: error_bound(Z, Y, alpha=1), ValueError, "alpha must lie between 0 and 1, got 1"),
    (lambda: error_bound(Z, Y, kind="median"), ValueError, r"kind must be one of \('mean', 'unit'\), got 'median'"),
    (lambda: error_bound(Z, Y, priors=[1.0]), ValueError, r"priors must have shape \[C\] = \[2\], got \[1\]"),
    (lambda: error_bound(Z, Y, priors=[1.0, 0.5]), ValueError, "priors must be non-negative with sum 1, got sum 1.5"),
    (lambda: error_bound(Z, Y * 2, priors=[0.3, 0.4, 0.3]), ValueError, "priors must be 0 for classes.*got 0.4 for 1"),
    (lambda: class_attentive_prototypes(Z, Y, W, num_classes=3), ValueError, r"w must have shape .* = \[3, 3\]"),
    (lambda: class_attentive_prototypes(Z, Y, num_classes=0), ValueError, "num_classes must be a positive int, got 0"),
    (lambda: class_attentive_scores(Z, W, W[:, :2]), ValueError, r"prototypes must have shape .* = \[2, 3\]"),
    (lambda: epsilon_margin(-1, lipschitz=1, radius=1), ValueError, "epsilon must be finite and at least 0"),
    (lambda: epsilon_margin(1, lipschitz=1, radius=0), ValueError, "radius must be positive, got 0"),
    (lambda: epsilon_margin(1, lipschitz=1, radius=1, w=W[0]), ValueError, r"w must have shape \[C, d\]"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_examples():
    assert doctest.testmod(contrastive).failed == 0

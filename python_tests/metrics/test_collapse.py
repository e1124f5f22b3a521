"""The monitor of collapse: constant, rank-1 and healthy embeddings, and each figure against its definition."""

import numpy as np
import pytest
import torch

from c2f_ops.metrics import _embeddings, collapse_report

Y = np.arange(200) % 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_healthy_embeddings(rng):
    report = collapse_report(rng.standard_normal((200, 8)) + 3 * np.eye(8)[Y], Y, np.ones((4, 8)))
    assert report.status == "ok" and report.variance_ratio > 0.5 and report.attention_dimension == pytest.approx(8)
    assert 3 < report.effective_rank <= 8 and report.trace > 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_embeddings(value, dtype):
    report = collapse_report(np.full((200, 8), value, dtype), Y)
    assert report.status == "collapsed" and "supcon" in report.reason and "\n" not in report.reason
    assert report.trace == pytest.approx(0, abs=1e-12) and report.effective_rank == report.variance_ratio == 0
    assert report.uniformity == pytest.approx(0, abs=1e-12)
    assert report.between_cosine == pytest.approx(float(value > 0))


def test_almost_constant_embeddings(rng):
    """What 20 epochs of the printed loss leave: every cosine 1.0000, the classes still told apart by a millionth."""
    z = 1 + 1e-3 * (np.eye(8)[Y] + 0.1 * rng.standard_normal((200, 8)))
    report = collapse_report(z, Y)
    assert report.status == "collapsed" and 1e-8 < report.trace < 1e-5
    assert report.between_cosine > 0.99999 and report.variance_ratio > 2
    z = 1 + 0.08 * rng.standard_normal((200, 8))
    assert collapse_report(z).status == "warning" and "draw together" in collapse_report(z).reason
    assert collapse_report(z, trace_collapsed=1e-2).status == "collapsed"
    assert collapse_report(z, trace_warning=1e-3).status == "ok"


def test_a_line_is_a_collapse_unless_it_separates_the_classes(rng):
    direction = rng.standard_normal(8)
    mixed = rng.standard_normal((200, 1)) * direction
    report = collapse_report(mixed, Y)
    assert report.status == "collapsed" and "line" in report.reason and report.effective_rank == pytest.approx(1)
    assert report.trace > 0.5
    blind = collapse_report(mixed)
    assert blind.status == "warning" and "pass y" in blind.reason and blind.variance_ratio is None
    two = np.where(Y % 2, 1.0, -1.0)[:, None] * (direction + 0.01 * rng.standard_normal((200, 8)))
    report = collapse_report(two, Y % 2)
    assert report.status == "ok" and report.effective_rank < 1.5 and report.variance_ratio > 100
    assert collapse_report(mixed, Y, rank_collapsed=0.5).status == "ok"


def test_classes_without_extent(rng):
    assert collapse_report(np.eye(8)[Y], Y).variance_ratio == np.inf


def test_attention_on_a_single_feature(rng):
    z, w = rng.standard_normal((200, 8)), np.full((4, 8), 0.01)
    w[:, :4] += 1
    assert collapse_report(z, Y, w).status == "ok"
    w[2] = np.eye(8)[3]
    report = collapse_report(z, Y, w)
    assert report.status == "warning" and report.attention_dimension == pytest.approx(1)
    assert "lower bound of the weights" in report.reason
    alone = collapse_report(z[:, :1], (z[:, 0] > 0).astype(int), w[:2, 3:4])  # one feature is all there is
    assert alone.attention_dimension == 1 and alone.status == "ok"


def test_figures_equal_their_definitions(rng):
    y = rng.integers(-1, 4, 200)
    z = rng.standard_normal((200, 8)) + np.eye(8)[y]
    y[:1] = 4  # a class of one sample
    report = collapse_report(z, y)
    v = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert report.trace == pytest.approx(np.trace(np.cov(v.T, bias=True)))
    shares = np.linalg.eigvalsh(np.cov(z.T))
    shares /= shares.sum()
    assert report.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    square = ((v[:, None] - v) ** 2).sum(-1)
    off = ~np.eye(200, dtype=bool)
    assert report.uniformity == pytest.approx(np.log(np.exp(-2 * square[off]).mean()))
    weights, values = [], []
    for c in range(4):
        inside = np.flatnonzero(y == c)
        weights.append(len(inside))
        values.append(square[np.ix_(inside, inside)].sum() / (len(inside) * (len(inside) - 1)))
    assert report.alignment == pytest.approx(np.average(values, weights=weights))
    means = np.stack([v[y == c].mean(0) for c in range(5)])
    cosines = means @ means.T
    assert report.between_cosine == pytest.approx(cosines[~np.eye(5, dtype=bool)].mean())
    known, pi = y >= 0, np.bincount(y[y >= 0]) / (y >= 0).sum()
    between = pi @ ((means - v[known].mean(0)) ** 2).sum(1)
    within = ((v[known] - means[y[known]]) ** 2).sum() / known.sum()
    assert report.variance_ratio == pytest.approx(between / within)


def test_chunks_types_and_draws(rng, monkeypatch):
    z = rng.standard_normal((300, 8)).astype(np.float32)
    y = np.arange(300) % 4
    whole = collapse_report(z, y, uniformity_samples=1000)
    tensors = collapse_report(torch.from_numpy(z), torch.from_numpy(y), uniformity_samples=1000)
    monkeypatch.setattr(_embeddings, "CHUNK", 100)
    for other in (tensors, collapse_report(z, y, uniformity_samples=1000)):
        assert (other.status, other.reason) == (whole.status, whole.reason)
        for field in ("trace", "effective_rank", "alignment", "uniformity", "between_cosine", "variance_ratio"):
            assert getattr(other, field) == pytest.approx(getattr(whole, field), rel=1e-12), field
    drawn = [collapse_report(z, y, uniformity_samples=100, seed=seed).uniformity for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0] == pytest.approx(whole.uniformity, rel=0.1)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"collapse_report: z must hold at least 2 embeddings, got 1"):
        collapse_report(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"z must be finite, got NaN or infinity in row 1"):
        collapse_report(np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match=r"w must have shape \[C, d\] = \[C, 3\], got \[2, 2\]"):
        collapse_report(np.ones((4, 3)), w=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"uniformity_samples must be at least 2, got 1"):
        collapse_report(np.ones((4, 3)), uniformity_samples=1)

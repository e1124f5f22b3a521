"""Confidence and confusions against counting one answer at a time; the worked example of the documentation."""

from __future__ import annotations

import doctest
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from c2f_ops.hierarchy import Hierarchy
from c2f_ops.metrics import (
    area_under_risk_coverage,
    confident_answers,
    confusion_matrix,
    expected_calibration_error,
    hierarchical_metrics,
    negative_log_likelihood,
    reliability,
    risk_coverage,
    worst_confusions,
)

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
TREE = Hierarchy.from_paths(["A/a/1", "A/a/2", "A/b/3", "B/c/4", "B/c/5", "B/c/6"], ["order", "family", "species"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_log_likelihood_one_image_at_a_time(rng) -> None:
    logits, labels = rng.normal(0, 3, (50, 7)), rng.integers(-1, 7, 50)
    logs = [x[y] - math.log(sum(math.exp(v) for v in x)) for x, y in zip(logits, labels, strict=True) if y >= 0]
    value, count = negative_log_likelihood(torch.from_numpy(logits), torch.from_numpy(labels))
    assert value == pytest.approx(-sum(logs) / len(logs), rel=1e-12) and count == len(logs) < 50
    huge = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert negative_log_likelihood(huge, torch.tensor([0, 0])) == (5000.0, 2)
    assert math.isnan(negative_log_likelihood(torch.zeros(3, 2), torch.tensor([-1, -1, -1]))[0])
    assert negative_log_likelihood(huge, torch.tensor([0, 0], dtype=torch.int32)) == (5000.0, 2)
    with pytest.raises(ValueError, match=re.escape("negative_log_likelihood: labels must be in -1..1, got 0..2")):
        negative_log_likelihood(huge, torch.tensor([0, 2]))
    with pytest.raises(TypeError, match=r"negative_log_likelihood: labels must be integers, got torch.float32"):
        negative_log_likelihood(huge, torch.zeros(2))
    with pytest.raises(ValueError, match=re.escape("logits and labels must have shapes [N, C] and [N], got [3, 2]")):
        negative_log_likelihood(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(("n", "bins"), [(100, 15), (7, 15), (1, 1), (45, 3)])
def test_bins_of_equal_mass(rng, n: int, bins: int) -> None:
    confidence, correct = rng.random(n), rng.random(n) < 0.6
    ranked = sorted(zip(confidence, correct, strict=True))
    sizes = [n // bins + (i < n % bins) for i in range(bins)]
    found = reliability(torch.from_numpy(confidence), torch.from_numpy(correct), bins=bins)
    assert [part.count for part in found] == [size for size in sizes if size]
    error = 0.0
    for part, end in zip(found, itertools.accumulate(sizes), strict=False):
        members = ranked[end - part.count : end]
        assert part.confidence == pytest.approx(sum(c for c, _ in members) / part.count)
        assert part.accuracy == pytest.approx(sum(r for _, r in members) / part.count)
        error += part.count / n * abs(part.confidence - part.accuracy)
    whole = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct), bins=bins)
    assert whole == pytest.approx(error)
    none = torch.empty(0, dtype=torch.bool)
    assert reliability(torch.empty(0), none) == []
    assert math.isnan(expected_calibration_error(torch.empty(0), none))
    with pytest.raises(ValueError, match="reliability: bins must be at least 1, got 0"):
        reliability(torch.zeros(2), torch.tensor([True, False]), bins=0)


@pytest.mark.parametrize("function", [reliability, expected_calibration_error, risk_coverage, area_under_risk_coverage])
def test_answers_are_right_or_wrong(function) -> None:
    with pytest.raises(TypeError, match=rf"^{function.__name__}: correct must be bool, got torch.int64"):
        function(torch.zeros(2), torch.tensor([2, -1]))


def test_risk_of_the_most_confident(rng) -> None:
    confidence, correct = rng.permutation(30) / 30, rng.random(30) < 0.5
    best = [right for _, right in sorted(zip(confidence, correct, strict=True), reverse=True)]
    expected = [1 - sum(best[:n]) / n for n in range(1, 31)]
    found = risk_coverage(torch.from_numpy(confidence), torch.from_numpy(correct))
    np.testing.assert_allclose(found, expected)
    area = area_under_risk_coverage(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert area == pytest.approx(sum(expected) / 30)
    with pytest.raises(ValueError, match="risk_coverage: confidence and correct must have one shape"):
        risk_coverage(torch.zeros(2), torch.zeros(3))


def test_confident_answers_stop_where_a_level_is_unsure_or_leaves_the_path() -> None:
    pred = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 2, 3], [1, 2, -1], [0, 1, 2]])
    sure = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.5, 0.9], [0.9, 0.9, 0.9], [0.9, 0.6, math.nan], [0.3, 0.9, 0.9]])
    kept = confident_answers(pred, sure, TREE, 0.6)
    assert kept.tolist() == [[0, 0, 1], [0, -1, -1], [0, -1, -1], [1, 2, -1], [-1, -1, -1]]
    with pytest.raises(ValueError, match=re.escape("must have one shape [N, K], got [5, 3] and [5, 2]")):
        confident_answers(pred, sure[:, :2], TREE, 0.6)
    for k in (2, 4):
        wide = torch.zeros(5, k)
        with pytest.raises(ValueError, match=re.escape(f"answers: pred must have shape [N, 3], got [5, {k}]")):
            confident_answers(wide.long(), wide, TREE, 0.6)
    with pytest.raises(ValueError, match=re.escape("pred of level 'family' must be in -1..2, got node 3 (rows 2, 3)")):
        confident_answers(pred + (pred == 2).long() * torch.tensor([0, 1, 0]), sure, TREE, 0.6)


def test_confident_answers_are_paths_that_shrink_as_the_threshold_rises(rng) -> None:
    pred = torch.from_numpy(np.stack([rng.integers(-1, size, 200) for size in TREE.sizes], axis=1))
    confidence = torch.from_numpy(rng.random((200, 3)))
    before = pred
    for threshold in (0.0, 0.2, 0.5, 0.8, 1.1):
        kept = confident_answers(pred, confidence, TREE, threshold)
        assert torch.equal(TREE.validate_labels(kept), kept), "consistent, and nothing is left to fill"
        assert ((kept == -1) | (kept == before)).all()
        before = kept
    assert (before == -1).all()


def test_confusion_matrix_by_counting(rng) -> None:
    pred, target = (torch.from_numpy(rng.integers(-1, 4, 60)) for _ in range(2))
    expected = torch.zeros(4, 4, dtype=torch.long)
    for v, y in zip(pred.tolist(), target.tolist(), strict=True):
        if v >= 0 and y >= 0:
            expected[y, v] += 1
    assert torch.equal(confusion_matrix(pred, target, 4), expected)
    assert not confusion_matrix(pred[:0], target[:0], 4).any()
    with pytest.raises(ValueError, match=re.escape("confusion_matrix: pred must be in -1..2, got -1..3")):
        confusion_matrix(pred, target, 3)
    with pytest.raises(ValueError, match=re.escape("must have one shape [N], got [60] and [59]")):
        confusion_matrix(pred, target[1:], 4)


def test_worst_confusions_weigh_images_by_height() -> None:
    # Species 0 for 1: three images, height 1. 0 for 3: two, height 3. 2 for 0: one, height 2. 4 for 3: one, height 1.
    target = torch.tensor([0, 0, 0, 0, 0, 2, 4, 1, -1, 0])
    pred = torch.tensor([1, 1, 1, 3, 3, 0, 3, 1, 0, -1])
    confidence = torch.tensor([0.5, 0.9, 0.7, 0.2, 0.4, 0.8, 0.6, 1.0, 1.0, 1.0])
    found = worst_confusions(pred, target, confidence, TREE)
    assert [(c.true, c.predicted, c.height) for c in found] == [(0, 3, 3), (0, 1, 1), (2, 0, 2), (4, 3, 1)]
    assert [c.images for c in found] == [(4, 3), (1, 2, 0), (5,), (6,)]
    assert [c.labeled for c in found] == [6, 6, 1, 1]
    assert found[0].confidence == pytest.approx(0.3)
    assert worst_confusions(pred, target, confidence, TREE, count=1) == found[:1]
    assert worst_confusions(target, target, confidence, TREE) == []
    for wrong in (confidence[1:], torch.cat([confidence, confidence]), confidence[:, None]):
        with pytest.raises(ValueError, match=r"worst_confusions: confidence must have shape \[N\], \[10\], got \["):
            worst_confusions(pred, target, wrong, TREE)
    with pytest.raises(ValueError, match=re.escape("worst_confusions: pred must be in -1..5, got -1..6")):
        worst_confusions(pred + (pred == 3) * 3, target, confidence, TREE)


def test_the_pairs_account_for_the_whole_distance(rng) -> None:
    target, pred = (torch.from_numpy(rng.integers(0, 5, 80)) for _ in range(2))
    pairs = worst_confusions(pred, target, torch.ones(80), TREE, count=100)
    metrics = hierarchical_metrics(TREE.from_fine(pred), TREE.from_fine(target), TREE)
    assert sum(len(c.images) * c.height for c in pairs) / 80 == pytest.approx(metrics.hierarchical_distance)


def test_the_worked_example_of_the_documentation() -> None:
    page = Path(__file__).parents[2] / "docs" / "evaluation.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside the tests")
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted >= 10 and result.failed == 0

"""Metrics against counting one image at a time over sets of ancestors, on random trees and a case worked by hand."""

import doctest
import math
import re

import numpy as np
import pytest
import torch

from c2f_ops.hierarchy import Hierarchy
from c2f_ops.metrics import (
    area_under_risk_coverage,
    expected_calibration_error,
    hierarchical_metrics,
    predictions_from_logits,
)
from c2f_ops.metrics import hierarchical as metrics_module

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


def random_tree(rng, depth):
    names, parents, above = [], [], 0
    for k in range(depth):
        n = above + int(rng.integers(1, 4))
        links = np.concatenate([np.arange(above), rng.integers(0, max(above, 1), n - above)])
        rng.shuffle(links)
        names.append([f"{k}.{i}" for i in range(n)])
        parents.append(links if k else None)
        above = n
    return Hierarchy([f"l{k}" for k in range(depth)], names, parents)


def random_case(rng, depth, n=60, close=0.6):
    """Predictions of independent heads, some abstained, and labels, some partial or unknown."""
    tree = random_tree(rng, depth)
    target = tree.ancestors[torch.from_numpy(rng.integers(0, tree.sizes[-1], n))].numpy()
    guess = np.stack([rng.integers(0, size, n) for size in tree.sizes], axis=1)
    pred = np.where(rng.random((n, depth)) < close, target, guess)
    pred = np.where(rng.random((n, depth)) < 0.2, -1, pred)
    cut = rng.integers(0, depth * 3, n)  # labels known above level cut
    target = np.where(np.arange(depth) < cut[:, None], target, -1)
    return tree, pred, target


def brute_force(pred, target, tree):
    """The definitions, read literally, one image at a time."""
    depth = tree.num_levels
    parent = [None, *(links.tolist() for links in tree.parents[1:])]

    def ancestors(level, node):  # the node and its ancestors without the root
        found = {(level, node)}
        while level:
            node, level = parent[level][node], level - 1
            found.add((level, node))
        return found

    def deepest(row, limit):
        known = [k for k in range(depth) if row[k] >= 0]
        return {a for a in ancestors(known[-1], row[known[-1]]) if a[0] < limit} if known else set()

    def mean(values):
        return sum(values) / len(values) if values else math.nan

    out = {"accuracy": [], "coverage": [], "answered_accuracy": []}
    for k in range(depth):
        labeled = [(v[k], y[k]) for v, y in zip(pred, target, strict=True) if y[k] >= 0]
        out["accuracy"].append(mean([v == y for v, y in labeled]))
        out["coverage"].append(mean([v >= 0 for v, y in labeled]))
        out["answered_accuracy"].append(mean([v == y for v, y in labeled if v >= 0]))
    pairs = list(zip(pred, target, strict=True))
    out["full_path_accuracy"] = mean([list(v) == list(y) for v, y in pairs if y[-1] >= 0])
    out["inconsistency_rate"] = mean(
        [
            any(v[k] >= 0 and v[k - 1] >= 0 and parent[k][v[k]] != v[k - 1] for k in range(1, depth))
            for v in pred
            if max(v) >= 0
        ]
    )
    heights = [
        depth - len(ancestors(depth - 1, v[-1]) & ancestors(depth - 1, y[-1]))
        for v, y in pairs
        if v[-1] >= 0 and y[-1] >= 0
    ]
    out["lca_severity"] = mean([h for h in heights if h])
    out["hierarchical_distance"] = mean(heights)
    sets = [(deepest(v, sum(y >= 0)), deepest(y, depth)) for v, y in pairs]
    both, size_v, size_y = (sum(map(len, s)) for s in ([a & b for a, b in sets], *zip(*sets, strict=True)))
    hp, hr = (both / size if size else math.nan for size in (size_v, size_y))
    out["hierarchical_precision"], out["hierarchical_recall"] = hp, hr
    out["hierarchical_f1"] = 2 * hp * hr / (hp + hr) if hp + hr > 0 else 0.0
    out["mean_depth"] = mean([sum(v >= 0) for v in pred])
    return out


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("seed", range(8))
def test_against_brute_force(depth, seed):
    rng = np.random.default_rng([depth, seed])
    tree, pred, target = random_case(rng, depth)
    metrics = hierarchical_metrics(torch.from_numpy(pred), torch.from_numpy(target), tree)
    for key, value in brute_force(pred, target, tree).items():
        np.testing.assert_allclose(getattr(metrics, key), value, rtol=1e-12, err_msg=key)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_renaming_the_classes_changes_nothing(depth):
    rng = np.random.default_rng(depth)
    tree, pred, target = random_case(rng, depth)
    new_id = [rng.permutation(size) for size in tree.sizes]  # old id -> new id
    old_id = [np.argsort(ids) for ids in new_id]
    renamed = Hierarchy(
        tree.levels,
        [[names[i] for i in order] for names, order in zip(tree.names, old_id, strict=True)],
        [None, *(new_id[k - 1][tree.parents[k].numpy()[old_id[k]]] for k in range(1, depth))],
    )

    def rename(labels):
        return np.stack([np.where(col < 0, -1, ids[col]) for col, ids in zip(labels.T, new_id, strict=True)], axis=1)

    before = hierarchical_metrics(pred, target, tree).to_dict()
    after = hierarchical_metrics(rename(pred), rename(target), renamed).to_dict()
    np.testing.assert_equal(after, before)


def test_worked_by_hand():
    # A: a (1, 2), b (3); B: c (4, 5)
    tree = Hierarchy.from_paths(["A/a/1", "A/a/2", "A/b/3", "B/c/4", "B/c/5"], ["order", "family", "species"])
    target = tree.from_fine([0, 0, 0, 3])
    pred = tree.expand(["A/a/1", "A/a/2", "B/c/4", "B/c"])
    metrics = hierarchical_metrics(pred, target, tree)
    assert metrics.accuracy == (0.75, 0.75, 0.25)
    assert metrics.coverage == (1.0, 1.0, 0.75)
    assert metrics.answered_accuracy == (0.75, 0.75, 1 / 3)
    assert metrics.full_path_accuracy == 0.25
    assert metrics.inconsistency_rate == 0.0
    assert metrics.lca_severity == (1 + 3) / 2  # sister species: parent; other order: root
    assert metrics.hierarchical_distance == (0 + 1 + 3) / 3
    assert metrics.hierarchical_precision == (3 + 2 + 0 + 2) / (3 + 3 + 3 + 2)
    assert metrics.hierarchical_recall == (3 + 2 + 0 + 2) / 12
    assert metrics.hierarchical_f1 == pytest.approx(2 * (7 / 11) * (7 / 12) / (7 / 11 + 7 / 12))
    assert (metrics.num_wrong, metrics.num_fine, metrics.num_paths, metrics.num_images) == (2, 3, 4, 4)
    assert metrics.to_dict()["accuracy"] == {"order": 0.75, "family": 0.75, "species": 0.25}


def test_inconsistent_answers_are_counted():
    tree = Hierarchy.from_paths(["A/1", "B/2"])
    metrics = hierarchical_metrics([[0, 0], [0, 1], [-1, 1], [-1, -1]], [[0, 0]] * 4, tree)
    assert metrics.inconsistency_rate == 1 / 3
    assert metrics.num_predicted == 3


def test_unknown_labels_are_ignored():
    tree = Hierarchy.from_paths(["A/1", "A/2", "B/3"])
    metrics = hierarchical_metrics([[0, 1], [0, 0], [1, 2]], [[0, -1], [0, 0], [-1, -1]], tree)
    assert metrics.num_labeled == (2, 1)
    assert metrics.accuracy == (1.0, 1.0)
    assert metrics.hierarchical_precision == 1.0  # the species answered for row 0 is not judged
    empty = hierarchical_metrics(torch.empty(0, 2), torch.empty(0, 2), tree)
    assert empty.num_images == 0
    assert math.isnan(empty.full_path_accuracy)


def test_bad_input():
    tree = Hierarchy.from_paths(["A/1", "A/2"])
    for pred, target, message in (
        ([[0, 2]], [[0, 0]], "hierarchical_metrics: pred of level 'level1' must be in -1..1, got node 2"),
        ([[0, 0]], [[0, 0]] * 2, "pred must have 2 rows as target has, got 1"),
        ([[0]], [[0, 0]], "pred must have shape [N, 2], got [1, 1]"),
        ([[0, 0]], [[0, 3]], "labels of level 'level1' must be in -1..1, got node 3"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            hierarchical_metrics(pred, target, tree)


def test_ties_go_to_the_lowest_id():
    logits = [torch.zeros(3, 400), torch.tensor([[1.0, 2.0, 2.0], [5.0, 5.0, 5.0], [0.0, -1.0, 0.0]])]
    assert predictions_from_logits(logits).tolist() == [[0, 1], [0, 0], [0, 0]]
    with pytest.raises(ValueError, match="logits must be a sequence of tensors"):
        predictions_from_logits(torch.zeros(3, 4))


def test_calibration_error():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(20_000, generator=generator).double()
    correct = torch.rand(20_000, generator=generator) < confidence
    assert expected_calibration_error(confidence, correct) < 0.02
    # Two bins of two: |0.5 - (0.1 + 0.3) / 2| and |0.5 - (0.8 + 1.0) / 2|, each with weight 1 / 2.
    confidence, correct = torch.tensor([0.8, 0.1, 1.0, 0.3]), torch.tensor([True, False, False, True])
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx((0.3 + 0.4) / 2)
    with pytest.raises(ValueError, match="must have one shape"):
        expected_calibration_error(confidence, correct[:2])
    with pytest.raises(ValueError, match="bins must be at least 1"):
        expected_calibration_error(confidence, correct, bins=0)


def test_area_under_risk_coverage():
    confidence, correct = torch.tensor([0.2, 0.9, 0.1, 0.5]), torch.tensor([True, True, False, False])
    assert area_under_risk_coverage(confidence, correct) == pytest.approx((0 / 1 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_the_example_in_the_documentation():
    result = doctest.testmod(metrics_module)
    assert result.attempted >= 6
    assert result.failed == 0

"""Discovery metrics against exhaustive search: over all matchings, and over all edits of tiny graphs."""

import doctest
import itertools
import re
import sys

import numpy as np
import pytest
import torch

from c2f_ops.metrics import (
    clustering_accuracy,
    discovery,
    evaluate_discovery,
    graph_edit_distance,
    match_classes,
    relation_accuracy,
    relations,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def best_accuracy(truth, pred, num_true, num_pred):
    """Try every injection of the fewer labels into the more."""
    table = np.zeros((num_pred, num_true), int)
    for t, p in zip(truth, pred, strict=True):
        if p >= 0:
            table[p, t] += 1
    if num_pred > num_true:
        table = table.T
    choices = itertools.permutations(range(table.shape[1]), table.shape[0])
    return max(sum(row[j] for row, j in zip(table, chosen, strict=True)) for chosen in choices) / len(truth)


@pytest.mark.parametrize(("num_true", "num_pred"), [(1, 1), (4, 4), (7, 7), (3, 7), (7, 3), (1, 5), (5, 1)])
def test_accuracy_is_the_best_over_all_matchings(rng, num_true, num_pred):
    for _ in range(4):
        truth, pred = rng.integers(0, num_true, 60), rng.integers(-1, num_pred, 60)
        pred[::2] = (truth[::2] + 1) % num_pred
        expected = best_accuracy(truth, pred, num_true, num_pred)
        assert clustering_accuracy(truth, pred) == pytest.approx(expected)
        assert evaluate_discovery(truth, pred).accuracy == pytest.approx(expected)
        matching = match_classes(truth, pred)
        used = matching[matching >= 0]
        assert len(set(used.tolist())) == len(used) == min(len(set(truth)), len(set(pred[pred >= 0])), len(used))


def test_agreement_with_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    truth, pred = rng.integers(0, 6, 200), rng.integers(0, 9, 200)
    result = evaluate_discovery(torch.from_numpy(truth), pred.tolist())
    assert result.ari == metrics.adjusted_rand_score(truth, pred)
    assert result.nmi == metrics.normalized_mutual_info_score(truth, pred)
    assert result.within_group_accuracy is result.relation_accuracy is result.group_size_error is result.ged is None


def test_a_worked_case():
    """Class 0: 3 of 4 right; class 1: 1 of 1; class 2: 0 of 1; one sample unlabelled, one without answer."""
    truth = np.array([0, 0, 0, 0, 1, 2, -1])
    pred = np.array([2, 2, 2, -1, 0, 2, 1])
    result = evaluate_discovery(truth, pred, [0, 0, 1, 1], [0, 1, 0])
    assert result.matching == (1, -1, 0)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.macro_accuracy == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert (result.num_samples, result.used_clusters, result.n_true, result.n_pred) == (6, 2, 4, 3)
    # classes 0 and 1 have the right parent, class 2 has no cluster, class 3 does not occur
    assert result.relation_accuracy == pytest.approx(2 / 3)
    assert result.group_size_error == abs(2 - 2) + abs(2 - 1)
    assert result.ged == abs(4 - 3) + 4 + 3 - 2 * (2 + 1)
    # class 0: 3, class 1: 1; inside coarse class 1 cluster 2 counts anew
    assert result.within_group_accuracy == pytest.approx(5 / 6)


def test_within_group_accuracy_takes_coarse_labels_or_the_relation(rng):
    truth, pred = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    g = np.array([0, 0, 1, 1, 1, 2])
    expected = sum(
        best_accuracy(truth[g[truth] == j], pred[g[truth] == j], 6, 6) * (g[truth] == j).sum() for j in range(3)
    )
    assert evaluate_discovery(truth, pred, g).within_group_accuracy == pytest.approx(expected / 300)
    assert evaluate_discovery(truth, pred, y_coarse=g[truth]).within_group_accuracy == pytest.approx(expected / 300)
    half = np.where(np.arange(300) < 150, g[truth], -1)
    alone = evaluate_discovery(truth[:150], pred[:150], g).within_group_accuracy
    assert evaluate_discovery(truth, pred, y_coarse=half).within_group_accuracy == pytest.approx(alone)


def test_relations_of_several_data_sets_are_averaged():
    truth = np.arange(4).repeat(3)
    g = np.array([[0, 0, 1, 1], [0, 1, 0, -1]])  # class 3 has no parent under the second taxonomy
    found = np.array([[0, 0, 1, 0], [1, 1, 0, 0]])
    result = evaluate_discovery(truth, truth, g, found)
    assert result.relation_accuracy == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert result.group_size_error == pytest.approx((2 + 1) / 2)
    assert result.ged == pytest.approx((graph_edit_distance(g[0], found[0]) + 1 + 3 + 4 - 2 * 3) / 2)
    assert relation_accuracy(g, found, [0, 1, 2, 3]) == result.relation_accuracy
    assert relation_accuracy(g[0], found[0], [1, 0, 2, -1]) == 3 / 4  # class 3 has no cluster


def test_relation_accuracy_ignores_how_clusters_are_numbered(rng):
    g, truth = rng.integers(0, 4, 9), np.arange(9).repeat(5)
    numbering = rng.permutation(9)
    renamed = np.empty(9, int)
    renamed[numbering] = g
    assert evaluate_discovery(truth, numbering[truth], g, renamed).relation_accuracy == 1


def test_blind_spot_of_the_edit_distance():
    """Every fine class below a wrong parent, and yet the graphs are equal: same sizes."""
    g, truth = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), np.arange(9).repeat(4)
    result = evaluate_discovery(truth, truth, g, (g + 1) % 3)
    assert result.ged == 0 and result.group_size_error == 0
    assert result.relation_accuracy == 0 and result.accuracy == 1


def edits(g, other, num_coarse, num_coarse_other):
    """Least cost over all ways to keep nodes: fine nodes as fine, coarse nodes as coarse nodes. Exact, tiny only."""
    best = None
    for kept in partial_injections(num_coarse, num_coarse_other):
        for pairs in partial_injections(len(g), len(other)):
            common = sum(kept.get(g[i]) == other[j] for i, j in pairs.items())
            nodes = num_coarse + num_coarse_other - 2 * len(kept) + len(g) + len(other) - 2 * len(pairs)
            cost = nodes + len(g) + len(other) - 2 * common
            best = cost if best is None else min(best, cost)
    return best


def partial_injections(n, m):
    for size in range(min(n, m) + 1):
        for left in itertools.combinations(range(n), size):
            for right in itertools.permutations(range(m), size):
                yield dict(zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("g", "other", "k", "k_other"),
    [
        ([0], [0], 1, 1),
        ([0, 0, 1], [1, 0, 1], 2, 2),
        ([0, 0, 0], [0, 1, 2], 1, 3),
        ([0, 0, 1, 1], [0, 0, 0], 2, 1),
        ([0, 1, 1, 1], [0, 0, 1, 1], 2, 2),
        ([0, 0, 1], [0, 0, 0, 0], 3, 1),  # an empty coarse class is a node too
        ([0, 1, 2], [0, 0, 1, 1], 3, 2),
        ([], [0, 1], 1, 2),
    ],
)
def test_edit_distance_against_all_edits(g, other, k, k_other):
    closed = graph_edit_distance(np.array(g, int), np.array(other, int), num_coarse_true=k, num_coarse_pred=k_other)
    assert closed == edits(g, other, k, k_other)


def test_edit_distance_against_networkx(rng):
    networkx = pytest.importorskip("networkx")

    def graph(g, count):
        result = networkx.Graph()
        result.add_nodes_from((("coarse", j) for j in range(count)), role="coarse")
        result.add_nodes_from((("fine", i) for i in range(len(g))), role="fine")
        result.add_edges_from((("fine", i), ("coarse", int(j))) for i, j in enumerate(g))
        return result

    def same_role(a, b):
        return a["role"] == b["role"]

    for _ in range(12):
        k, k_other = rng.integers(1, 4, 2)
        g, other = rng.integers(0, k, rng.integers(1, 5)), rng.integers(0, k_other, rng.integers(1, 5))
        pair = graph(g, k), graph(other, k_other)
        closed = graph_edit_distance(g, other, num_coarse_true=int(k), num_coarse_pred=int(k_other))
        assert closed == networkx.graph_edit_distance(*pair, node_match=same_role)
        if k == k_other or len(g) == len(other):
            assert closed == networkx.graph_edit_distance(*pair), "roles change nothing here"


def test_perfect_and_empty():
    truth = np.array([3, 3, 7])
    result = evaluate_discovery(truth, [0, 0, 1], protocol="transductive")
    assert result.accuracy == result.macro_accuracy == result.ari == result.nmi == 1
    assert (result.matching, result.n_true, result.n_pred) == ((3, 7), 2, 2)
    assert result.to_dict()["protocol"] == "transductive" and result.to_dict()["matching"] == [3, 7]
    nothing = evaluate_discovery(truth, [-1, -1, -1], [0] * 8, [0, 1])
    assert nothing.accuracy == nothing.relation_accuracy == nothing.used_clusters == 0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: evaluate_discovery([0], [0], protocol="test"), ValueError, "protocol must be one of"),
        (lambda: evaluate_discovery([0, 1], [0]), ValueError, "y_pred must have 2 entries as y_true has, got 1"),
        (lambda: evaluate_discovery([0.5], [0]), TypeError, "y_true must be integers, got float64"),
        (lambda: evaluate_discovery([[0]], [0]), ValueError, "y_true must have shape [N], got [1, 1]"),
        (lambda: evaluate_discovery([-2], [0]), ValueError, "y_true must be at least -1, got -2"),
        (lambda: evaluate_discovery([-1], [0]), ValueError, "y_true must hold at least one sample"),
        (lambda: evaluate_discovery([], []), ValueError, "y_true must hold at least one sample"),
        (lambda: evaluate_discovery([0], [0], g_pred=[0]), ValueError, "g_true must be given with g_pred"),
        (lambda: evaluate_discovery([2], [0], [0, 0]), ValueError, "y_true must be below the 2 classes of g_true"),
        (lambda: evaluate_discovery([0], [3], [0], [0, 0]), ValueError, "y_pred must be below the 2 classes of g_pred"),
        (lambda: evaluate_discovery([0], [0], [[0], [0]], [0]), ValueError, "g_pred must have the 2 data sets"),
        (lambda: evaluate_discovery([0], [0], y_coarse=[0, 1]), ValueError, "y_coarse must have 1 entries"),
        (lambda: clustering_accuracy([], []), ValueError, "y_true must hold at least one sample"),
        (lambda: graph_edit_distance([-1], [0]), ValueError, "g_true must be at least 0, got -1"),
        (lambda: graph_edit_distance([3], [0], num_coarse_true=2), ValueError, "num_coarse_true must exceed"),
        (lambda: relation_accuracy([0, 0], [0], [0, 1]), ValueError, "g_pred must be [1, 2], got [1, 1]"),
        (lambda: relation_accuracy([0], [0], [1]), ValueError, "matching must be below the 1 classes, got 1"),
    ],
)
def test_errors_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


@pytest.mark.parametrize("package", ["scipy", "sklearn"])
def test_missing_packages_name_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.optimize", None)
    with pytest.raises(ImportError, match=re.escape('pip install "c2f_ops[train]"')):
        evaluate_discovery([0, 1], [0, 1])


def test_examples():
    for module in (discovery, relations):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


def test_balanced_groups_against_those_of_cifar68():
    """68 fine classes under 20: of equal size, and the published sizes. The exact distance is 8."""
    sizes = [2, 5, 4, 2, 2, 3, 3, 4, 3, 5, 4, 3, 5, 3, 3, 3, 4, 4, 4, 2]
    assert graph_edit_distance(np.arange(68) % 20, np.arange(20).repeat(sizes)) == 8

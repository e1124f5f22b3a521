"""Odd and wrong input of the functions of FALCON: taken where it has one meaning, else an error that names it."""

# ruff: noqa: E501  (tables of bad calls)

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from c2f_ops.metrics import evaluate_discovery, graph_edit_distance, relation_accuracy
from c2f_ops.neighbours import group_knn, sample_neighbours
from c2f_ops.relations import group_cost, solve_relations

C = np.random.default_rng(0).random((6, 2))
P, Y = torch.rand(5, 4), torch.tensor([0, 1, 2, -1, 0])
X = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
IDX = torch.arange(12).view(3, 4)

BAD = [
    (lambda: solve_relations(torch.ones(4, 2).to_sparse(), 0.1), TypeError, "C must be an array or a dense tensor, got torch.sparse_coo"),
    (lambda: solve_relations(torch.ones(4, 2, device="meta"), 0.1), TypeError, "C must be an array or a dense tensor, got torch.strided on meta"),
    (lambda: solve_relations(C, 0.1, lower=2**62), ValueError, f"lower must sum to at most K_F=6, got {2**63}"),
    (lambda: solve_relations(C, 0.1, lower=[2**62] * 2), ValueError, "lower must sum to at most K_F=6"),
    (lambda: group_cost(P.numpy(), Y, 3), TypeError, "group_cost: p must be a tensor, got ndarray"),
    (lambda: group_cost(P, None, 3), TypeError, "group_cost: y must be a tensor, got NoneType"),
    (lambda: group_cost(P, Y.to("meta"), 3), ValueError, "group_cost: y must be on cpu like p, got meta"),
    (lambda: group_cost(P, Y, 3.0), TypeError, "group_cost: num_coarse must be an integer, got float"),
    (lambda: group_cost(P, Y, 3, out=np.zeros((4, 3))), TypeError, "group_cost: out must be a tensor, got ndarray"),
    (lambda: group_knn(X.astype(object), None, 1), TypeError, "group_knn: X must hold numbers of at most 64 bits, got object"),
    (lambda: group_knn(X.astype(np.longdouble), None, 1), TypeError, "group_knn: X must hold numbers of at most 64 bits"),
    (lambda: group_knn(X, np.array(["a"] * 7), 1), TypeError, "group_knn: groups must hold numbers of at most 64 bits, got <U1"),
    (lambda: group_knn(torch.from_numpy(X).to_sparse(), None, 1), TypeError, "group_knn: X must be a dense tensor or an array, got torch.sparse_coo"),
    (lambda: sample_neighbours(IDX, 2, seed=0, step=0.5, samples=torch.arange(3)), TypeError, "step must be an integer, got float"),
    (lambda: evaluate_discovery([2**40, 1], [0, 1]), ValueError, f"y_true and y_pred must number classes from 0 (np.unique does), got ids up to {2**40} and 1"),
    (lambda: evaluate_discovery([10**6, 1], [0, 10**6]), ValueError, "got ids up to 1000000 and 1000000"),
    (lambda: evaluate_discovery(np.array([2**63, 1], np.uint64), [0, 1]), ValueError, f"y_true must be below 2^63, got {2**63}"),
    (lambda: evaluate_discovery([0], [0], [2**40], [0]), ValueError, f"g_true must number coarse classes from 0, got {2**40}"),
    (lambda: graph_edit_distance([2**40], [0]), ValueError, "num_coarse_true must be an integer up to 2^30"),
    (lambda: graph_edit_distance([0], [0], num_coarse_pred=1.5), ValueError, "num_coarse_pred must be an integer up to 2^30, got 1.5"),
    (lambda: relation_accuracy(None, [0], [0]), TypeError, "relation_accuracy: g_true must be integers, got None"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_errors_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_forms_of_the_same_numbers():
    g = solve_relations(C.astype(np.float32), 0.1).g
    for same in (torch.from_numpy(C).bfloat16(), C.astype(">f8"), np.asfortranarray(C), C[::-1][::-1]):
        np.testing.assert_array_equal(solve_relations(same, 0.1).g, g)
    expected, groups = group_knn(X, None, 3), np.zeros(7, np.int64)
    for same in (X.astype(">f4"), np.ascontiguousarray(X[::-1])[::-1], np.asfortranarray(X)):
        assert torch.equal(group_knn(same, groups.astype(">i8")[::-1], np.int64(3)).indices, expected.indices)
    draw = dict(seed=3, step=4, samples=torch.arange(3))
    numpy_draw = dict(seed=np.int64(3), step=np.uint8(4), samples=torch.arange(3))
    assert torch.equal(sample_neighbours(IDX, 2, **draw), sample_neighbours(IDX, np.int32(2), **numpy_draw))

"""Paths against enumeration of the leaves, on random trees of depth 1 to 6."""

import math

import numpy as np
import pytest
import torch

from c2f_ops.answering import decode, descend, path_scores, posteriors

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


def case(random_tree, noisy_logits, depth, seed, n=30):
    rng = np.random.default_rng(100 * depth + seed)
    tree = random_tree(rng, depth)
    labels = tree.ancestors[torch.from_numpy(rng.integers(0, tree.sizes[-1], n))]
    logits = noisy_logits(rng, tree, labels, 1.0)
    return tree, logits, rng.uniform(0.3, 3, depth).tolist(), rng.uniform(0, 2, depth).tolist()


def enumerated(logits, tree, temperatures, weights):
    """Posteriors of one image by the definition: leaf by leaf, node by node."""
    total = []
    for leaf in range(tree.sizes[-1]):
        score = 0.0
        for k, node in enumerate(tree.ancestors[leaf].tolist()):
            z = [v / temperatures[k] for v in logits[k].tolist()]
            score += weights[k] * (z[node] - math.log(sum(math.exp(v) for v in z)))
        total.append(math.exp(score))
    return [
        [sum(t for t, path in zip(total, tree.ancestors, strict=True) if path[k] == i) / sum(total) for i in range(n)]
        for k, n in enumerate(tree.sizes)
    ]


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("seed", range(3))
def test_posteriors_against_enumeration(random_tree, noisy_logits, depth, seed) -> None:
    tree, logits, temperatures, weights = case(random_tree, noisy_logits, depth, seed, n=4)
    got = posteriors(path_scores(logits, tree, temperatures, weights), tree)
    for i in range(4):
        want = enumerated([z[i] for z in logits], tree, temperatures, weights)
        for level, values in zip(got, want, strict=True):
            torch.testing.assert_close(level[i], torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("seed", range(5))
def test_paths_are_consistent_and_posteriors_fall(random_tree, noisy_logits, depth, seed) -> None:
    tree, logits, temperatures, weights = case(random_tree, noisy_logits, depth, seed)
    p = posteriors(path_scores(logits, tree, temperatures, weights), tree)
    for k in range(1, depth):
        assert (p[k] <= p[k - 1][:, tree.parents[k]]).all(), "no child has more than its parent, to the last bit"
    for mode in ("path", "best_leaf", "top_down"):
        nodes = decode(logits, tree, mode=mode, temperatures=temperatures, weights=weights)
        assert torch.equal(nodes, tree.ancestors[nodes[:, -1]]), mode
    nodes = decode(logits, tree, temperatures=temperatures, weights=weights)
    for i, row in enumerate(nodes.tolist()):
        above = None
        for k, node in enumerate(row):
            allowed = [j for j in range(tree.sizes[k]) if above is None or int(tree.parents[k][j]) == above]
            assert node == max(allowed, key=lambda j: (float(p[k][i, j]), -j))
            above = node


def test_greedy_descent_and_best_leaf_differ(small) -> None:
    scores = torch.tensor([[0.2, 0.2, 0.2, 0.4]], dtype=torch.float64).log()
    assert descend(posteriors(scores, small), small).tolist() == [[0, 0]]
    fine = [torch.zeros(1, 2), scores]
    assert decode(fine, small, weights=[0, 1]).tolist() == [[0, 0]]
    assert decode(fine, small, mode="best_leaf", weights=[0, 1]).tolist() == [[1, 3]]
    assert decode([torch.tensor([[1.0, 0]]), scores], small, mode="independent").tolist() == [[0, 3]]
    assert decode([torch.tensor([[0.0, 1]]), -scores], small, mode="top_down").tolist() == [[1, 3]]


def test_weights_shift_the_say(small) -> None:
    logits = [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 4.0]])]
    assert decode(logits, small, weights=[1, 0]).tolist()[0][0] == 0
    assert decode(logits, small, weights=[0, 1]).tolist() == [[1, 3]]
    silent = posteriors(path_scores(logits, small, weights=[1, 0]), small)
    torch.testing.assert_close(silent[1][0, :3], silent[1][0, :1].expand(3))


def test_no_images(small) -> None:
    logits = [torch.zeros(0, 2), torch.zeros(0, 4)]
    for mode in ("path", "best_leaf", "top_down", "independent"):
        assert decode(logits, small, mode=mode).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: decode([torch.zeros(1, 2)], t), r"logits must have the shapes \[N, 2\], \[N, 4\], got \[1, 2\]"),
        (lambda t: decode([torch.zeros(1, 2), torch.zeros(2, 4)], t), "got .1, 2., .2, 4."),
        (lambda t: decode([torch.zeros(1, 2), torch.zeros(1, 4)], t, mode="best"), "mode must be one of path"),
        (
            lambda t: path_scores([torch.zeros(1, 2), torch.zeros(1, 4)], t, temperatures=[1, 0]),
            "temperatures must be 2 numbers above 0",
        ),
        (
            lambda t: path_scores([torch.zeros(1, 2), torch.zeros(1, 4)], t, weights=[1, -1]),
            "weights must be 2 numbers from 0 up",
        ),
        (lambda t: descend([torch.zeros(1, 2)], t), "descend: values must have the shapes"),
        (lambda t: decode([torch.zeros(1, 2), torch.full((1, 4), math.nan)], t), "decode: logits must be finite"),
        (lambda t: posteriors(torch.zeros(3), t), r"scores must have shape \[N, 4\], got \[3\]"),
    ],
)
def test_bad_input(small, call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(small)

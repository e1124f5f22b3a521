"""FalconClusterer where a few fine classes hold most samples: the Gini coefficient of the class sizes is above 0.5."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from c2f_ops.estimators import FalconClusterer, GroupKMeans
from c2f_ops.metrics import evaluate_discovery
from c2f_ops.models import FalconConfig

PARENTS = np.arange(12) % 4


def gini(counts):
    ranks = np.arange(1, len(counts) + 1)
    return (2 * ranks - len(counts) - 1) @ np.sort(counts) / (len(counts) * counts.sum())


def long_tail(seed):
    """Gaussians of 12 classes under 4 coarse ones, sizes like 1 / rank^1.3; and as many test samples of each."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, 13) ** 1.3
    counts = rng.permutation((1500 * share / share.sum()).round().astype(int).clip(15))
    assert gini(counts) > 0.5
    centres = 2 * rng.standard_normal((12, 16))
    train, test = np.arange(12).repeat(counts), np.arange(12).repeat(50)
    draw = lambda fine: (centres[fine] + 0.7 * rng.standard_normal((len(fine), 16))).astype(np.float32)  # noqa: E731
    return draw(train), train, draw(test), test


def test_a_long_tail_is_found_where_little_weight_is_on_equal_sizes():
    """The paper's weights for unbalanced cells: 0.5 on L_reg in place of 2. Every class counts alike in the test."""
    config, scores = FalconConfig(lambdas=(0.5, 0.5, 0.5), group_prior="equal"), []
    for seed in range(3):
        x, fine, x_test, fine_test = long_tail(seed)
        models = FalconClusterer(12, config=config, epochs=20, random_state=seed), GroupKMeans(12, random_state=seed)
        found = []
        for model in models:
            g = np.atleast_2d(model.fit(x, PARENTS[fine]).relations_)[0]
            found.append(evaluate_discovery(fine_test, model.predict(x_test), g_true=PARENTS, g_pred=g))
        scores.append([(m.accuracy, m.relation_accuracy) for m in found])
    ours, kmeans = np.mean(scores, axis=0)
    assert ours[0] >= 0.95 and ours[1] >= 0.95 and ours[0] > kmeans[0] + 0.15, scores

"""Baselines on Gaussian mixtures: one protocol, what each can and cannot find, the same result from the same seed."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from sklearn.base import clone

from c2f_ops.estimators import baselines
from c2f_ops.estimators.baselines import (
    CoarseTrainingKMeans,
    GroupKMeans,
    NeighbourClustering,
    SupervisedUpperBound,
)
from c2f_ops.metrics import evaluate_discovery
from c2f_ops.neighbours import group_knn

ALL = [GroupKMeans, CoarseTrainingKMeans, NeighbourClustering, SupervisedUpperBound]
PARENTS = np.repeat(np.arange(4), 3)  # K_C 4, K_F 12


def mixture(seed, per_class=60, apart=4.0):
    """Unit Gaussians in 16 dimensions around 12 centres, which are the same for any seed."""
    centres = np.random.default_rng(0).standard_normal((12, 16)) * apart / np.sqrt(2)
    fine = np.repeat(np.arange(12), per_class)
    noise = np.random.default_rng(seed + 1).standard_normal((len(fine), 16))
    return (centres[fine] + noise).astype(np.float32), PARENTS[fine], fine


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small matrices: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(kind, **options):
    quick = {} if kind is GroupKMeans else {"epochs": 25, "batch_size": 120, "lr": 1e-2}
    return kind(12, random_state=0, device="cpu", **{**quick, **options})


def fitted(model, data):
    x, coarse, fine = data
    return model.fit(x, coarse, fine) if isinstance(model, SupervisedUpperBound) else model.fit(x, coarse)


@pytest.mark.parametrize("kind", ALL)
def test_finds_well_separated_classes_and_their_parents(kind):
    train, (x, coarse, fine) = mixture(0), mixture(1)
    model = fitted(make(kind), train)
    assert model.relations_.dtype == np.int32 and model.relations_.shape == (12,)
    result = evaluate_discovery(fine, model.predict(x), PARENTS, model.relations_)
    assert result.accuracy > (0.85 if kind is NeighbourClustering else 0.95), result
    assert result.relation_accuracy > (0.9 if kind is NeighbourClustering else 0.99), result
    assert (model.predict_coarse(x) == coarse).mean() > 0.85
    np.testing.assert_array_equal(model.labels_, model.predict(train[0]))


def test_neighbours_share_the_coarse_class_unless_unrestricted(monkeypatch):
    x, coarse, _ = mixture(0, per_class=20, apart=0.5)
    found = []
    monkeypatch.setattr(baselines, "group_knn", lambda *a: (found.append(group_knn(*a)), found[-1])[1])
    for unrestricted in (False, True):
        make(NeighbourClustering, epochs=1, unrestricted=unrestricted).fit(x, coarse)
    same = [(coarse[each.indices.numpy()] == coarse[:, None]).mean() for each in found]
    assert same[0] == 1 and same[1] < 0.7


@pytest.mark.parametrize("kind", ALL)
def test_same_seed_same_result_and_no_trace_in_the_global_generators(kind):
    data = mixture(0, per_class=20)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fitted(make(kind), data)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(9)
    again, other = fitted(clone(first), data), fitted(make(kind).set_params(random_state=1), data)
    scores = [m._scores(torch.from_numpy(data[0][:50])).detach() for m in (first, again, other)]
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("kind", ALL)
def test_labels_may_be_words_and_may_be_missing(kind):
    x, coarse, fine = mixture(0, per_class=20)
    words = np.array(["b", "a", "d", "c"], dtype=object)[coarse]
    words[::7] = None
    model = fitted(make(kind), (torch.from_numpy(x), words, fine))
    assert model.classes_coarse_.tolist() == ["a", "b", "c", "d"]
    assert set(model.predict_coarse(x)) <= {"a", "b", "c", "d"} and len(model.labels_) == len(x)
    if kind is not NeighbourClustering:
        assert (model.predict_coarse(x) == np.array(["b", "a", "d", "c"])[coarse]).mean() > 0.95


def test_clusters_of_each_coarse_class():
    x, coarse, _ = mixture(0, per_class=20)
    assert np.bincount(GroupKMeans(12, random_state=0).fit(x, coarse).relations_).tolist() == [3, 3, 3, 3]
    given = GroupKMeans(12, fine_per_coarse=[1, 5, 2, 4], random_state=0).fit(x, coarse)
    assert np.bincount(given.relations_).tolist() == [1, 5, 2, 4]
    few = np.concatenate([np.flatnonzero(coarse == 0)[:1], np.flatnonzero(coarse > 0)])
    assert GroupKMeans(12, random_state=0).fit(x[few], coarse[few]).relations_.tolist().count(0) == 1


@pytest.mark.parametrize("standardize", [True, False])
def test_prediction_is_the_nearest_of_all_centres(standardize):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((400, 3)) * [9, 1, 3] + 5).astype(np.float32)
    model = GroupKMeans(9, standardize=standardize, random_state=0).fit(x, rng.integers(0, 3, 400))
    spread = x.std(0) if standardize else np.sqrt(x.var(0).mean())
    rows = (x - x.mean(0)) / spread
    apart = ((rows[:, None] - model.cluster_centers_) ** 2).sum(2)
    np.testing.assert_array_equal(model.predict(x), apart.argmin(1))


def test_hidden_layers_and_linear_heads():
    data = mixture(0, per_class=20)
    assert fitted(make(CoarseTrainingKMeans, hidden=8), data).cluster_centers_.shape == (12, 8)
    assert fitted(make(CoarseTrainingKMeans, hidden=0), data).cluster_centers_.shape == (12, 4)
    for kind in (NeighbourClustering, SupervisedUpperBound):
        assert fitted(make(kind, hidden=(10, 6)), data).predict(data[0]).shape == (240,)


def test_the_mask_keeps_pseudo_labels_inside_the_coarse_class(monkeypatch):
    x, coarse, _ = mixture(0, per_class=20)
    model = make(NeighbourClustering, epochs=5, self_label_epochs=1, threshold=0.0)
    seen, real = [], torch.nn.functional.cross_entropy

    def spy(logits, label, **options):
        seen.append(label)
        return real(logits, label, **options)

    picks, relations = [], []
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spy)
    monkeypatch.setattr(model, "_relate", lambda *_: relations.append(0) or np.arange(12, dtype=np.int32) // 3)
    train = baselines.train

    def record(head, loss, samples, options, epochs):
        return train(head, lambda pick, step: (picks.append(pick), loss(pick, step))[1], samples, options, epochs)

    monkeypatch.setattr(baselines, "train", record)
    model.fit(x, coarse)
    for pick, label in zip(picks[-len(seen) :], seen, strict=True):
        assert np.array_equal(label.numpy() // 3, coarse[pick.numpy()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: GroupKMeans(3).fit(x, y),
            "n_fine must be between the 4 coarse classes and the 24 samples, got 3",
        ),
        (lambda x, y: GroupKMeans().fit(x, y), "n_fine must be between"),
        (lambda x, y: GroupKMeans(99).fit(x, y), "n_fine must be between"),
        (lambda x, y: GroupKMeans(6, fine_per_coarse=[3, 1, 1, 2]).fit(x, y), "fine_per_coarse must be 4 numbers"),
        (lambda x, y: GroupKMeans(6).fit(x, y[:3]), "y_coarse must have shape [N]"),
        (lambda x, y: GroupKMeans(6).fit(x, np.stack([y, y], 1)), "y_coarse must have shape [N], got [24, 2]"),
        (lambda x, y: GroupKMeans(6).fit(x * np.nan, y), "Input X contains NaN"),
        (lambda x, y: GroupKMeans(6).fit(x, y).predict(x[:, :3]), "X has 3 features"),
        (lambda x, y: SupervisedUpperBound(6).fit(x, y), "y_fine must be the fine labels, got None"),
        (lambda x, y: SupervisedUpperBound(2).fit(x, y, y), "n_fine must be at least the 4 fine labels, got 2"),
        (lambda x, y: NeighbourClustering(6).predict(x), "not fitted yet"),
    ],
)
def test_errors_name_the_argument(call, message):
    x, coarse, _ = mixture(0, per_class=2)
    with pytest.raises(Exception, match=re.escape(message)):
        call(x, coarse)

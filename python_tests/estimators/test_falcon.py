"""FalconClusterer end to end: what it finds, what it takes, what it refuses."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from c2f_ops.estimators import FalconClusterer
from c2f_ops.metrics import evaluate_discovery
from c2f_ops.models import FalconConfig


def quick(n_fine=12, **options):
    """An estimator with few epochs."""
    return FalconClusterer(n_fine, **({"epochs": 20, "random_state": 0} | options))


def judge(model, data, x=None, fine=None):
    fine = data.fine if fine is None else fine
    predicted = model.predict(data.x if x is None else x)
    return evaluate_discovery(fine, predicted, g_true=data.parents, g_pred=model.relations_[0])


# ---- what it finds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_gaussians_are_found_with_their_relations(gaussians, seed):
    data, test = gaussians(seed, d=16 if seed else 32), gaussians(seed, d=16 if seed else 32, n=600)
    model = quick(random_state=seed).fit(data.x, data.y)
    found = judge(model, data, test.x, test.fine)
    assert found.accuracy >= 0.95 and found.relation_accuracy == 1
    assert model.score(test.x, test.fine) == found.accuracy
    assert (model.predict_coarse(test.x) == test.y).mean() >= 0.95
    assert model.mstep_gap_ <= 1e-9
    assert model.history_[-1]["used_clusters"] == 12
    assert np.array_equal(model.labels_, model.predict(data.x))


def test_a_random_start_learns_too(gaussians):
    data = gaussians(0)
    model = quick(config=FalconConfig(mstep_init="random"), epochs=60).fit(data.x, data.y)
    assert judge(model, data).accuracy >= 0.8


def test_digits_beat_their_start(digits):
    x, y = digits.x[::2], digits.y[::2]
    held = digits.x[1::2], digits.fine[1::2]
    start = FalconClusterer(10, epochs=0, random_state=0).fit(x, y)
    model = FalconClusterer(10, random_state=0).fit(x, y)
    found = judge(model, digits, *held)
    assert found.accuracy >= judge(start, digits, *held).accuracy + 0.03
    assert found.accuracy >= 0.9
    assert found.relation_accuracy == 1


def unbalanced(gaussians, seed):
    """Eight Gaussians, two in each group, sizes as 1 / rank: one group holds the largest and the smallest."""
    data = gaussians(seed, fine=8, coarse=4, d=12, n=8 * 240)
    sizes = 240 / (1 + np.arange(8))
    rows = np.concatenate([np.flatnonzero(data.fine == k)[: int(n)] for k, n in enumerate(sizes)])
    return type(data)(data.x[rows], data.y[rows], data.fine[rows], data.parents)


@pytest.mark.parametrize("seed", range(2))
def test_classes_of_very_different_size_are_found(gaussians, seed):
    data = unbalanced(gaussians, seed)
    found = quick(8, random_state=seed).fit(data.x, data.y)
    assert judge(found, data).accuracy >= 0.98 and found.kept_start_
    assert np.bincount(found.relations_[0]).tolist() == [2, 2, 2, 2]
    assert found.predict_proba(data.x).max(1).mean() >= 0.8
    trained = quick(8, random_state=seed, may_keep_start=False).fit(data.x, data.y)
    assert judge(trained, data).accuracy <= judge(found, data).accuracy - 0.02 and not trained.kept_start_


def test_without_training_the_result_is_the_start(gaussians):
    data = gaussians(0)
    model = quick(epochs=0).fit(data.x, data.y)
    found = judge(model, data)
    assert found.accuracy >= 0.95 and found.relation_accuracy == 1
    assert model.kept_start_ is False and np.isnan(model.mstep_gap_)


ABLATIONS = {
    "full": (0.5, 0.5, 2.0),
    "without L_reg": (0.5, 0.5, 0.0),
    "without L_coarse": (0.0, 0.5, 0.0, 2.0),
    "without L_nn and L_conf": (0.5, 0.0, 2.0),
}


@pytest.mark.slow
def test_every_loss_is_needed(gaussians):
    """Overlapping Gaussians from random relations and weights, where no start does the work of a loss."""
    found = dict.fromkeys(ABLATIONS, 0.0)
    for seed in range(3):
        data = gaussians(seed, fine=20, coarse=5, n=2000, spread=0.9, noise=0.9, d=24)
        for name, lambdas in ABLATIONS.items():
            config = FalconConfig(mstep_init="random", lambdas=lambdas)
            model = FalconClusterer(20, config=config, epochs=30, random_state=seed).fit(data.x, data.y)
            found[name] += judge(model, data).accuracy / 3
    assert all(found["full"] > found[name] + 0.05 for name in list(ABLATIONS)[1:]), found


@pytest.mark.parametrize("n_fine", [10, 14, 18])
def test_too_few_or_too_many_classes(gaussians, n_fine):
    data = gaussians(1)
    found = judge(quick(n_fine).fit(data.x, data.y), data)
    # Of 12 true classes at most 10 can be named with 10; above 12 some are split.
    assert found.accuracy >= {10: 0.75, 14: 0.8, 18: 0.6}[n_fine]
    assert found.ari >= 0.6


def test_as_many_fine_classes_as_coarse_ones(gaussians):
    data = gaussians(0, fine=4, n=400)
    model = quick(4).fit(data.x, data.y)
    assert judge(model, data).accuracy >= 0.98
    assert np.array_equal(np.sort(model.relations_[0]), np.arange(4))


def test_two_taxonomies_together_beat_each_alone(gaussians):
    """Groupings that cut across each other, one label a sample; the classes overlap, so that one alone splits badly."""
    first, second = np.arange(12) % 4, np.arange(12) // 3
    scores = {"first": [], "second": [], "both": []}
    for seed in range(2):
        data = gaussians(seed, d=12, n=2400, spread=0.75, noise=1.0, parents=first)
        even = np.random.default_rng(seed).random(len(data.x)) < 0.5
        y = np.stack([np.where(even, first[data.fine], -1), np.where(even, -1, second[data.fine])], 1)
        test = gaussians(seed, d=12, n=1200, spread=0.75, noise=1.0)
        both = slice(None), y
        for name, (rows, labels) in {"first": (even, y[even, 0]), "second": (~even, y[~even, 1]), "both": both}.items():
            model = quick(epochs=40, random_state=seed).fit(data.x[rows], labels)
            scores[name].append(evaluate_discovery(test.fine, model.predict(test.x)).accuracy)
        for d, parents in enumerate((first, second)):
            found = evaluate_discovery(test.fine, model.predict(test.x), g_true=parents, g_pred=model.relations_[d])
            assert found.relation_accuracy == 1
    assert np.mean(scores["both"]) >= max(np.mean(scores["first"]), np.mean(scores["second"])), scores


@pytest.fixture
def crossed(gaussians):
    """A function seed -> x, labels of one of two groupings a sample, fine classes."""

    def make(seed, n=600, spread=1.0):
        data = gaussians(seed, d=12, n=n, spread=spread, noise=1.0)
        even = np.random.default_rng(seed).random(n) < 0.5
        y = np.stack([np.where(even, data.fine % 4, -1), np.where(even, -1, data.fine // 3)], 1)
        return data.x, y, data.fine

    return make


def meeting(**options):
    return FalconConfig(cross_dataset_neighbours="meet", **options)


def test_neighbours_meet_across_data_sets(crossed, monkeypatch):
    """After the soft epochs neighbours are of either data set, and of the same fine class."""
    from c2f_ops.estimators import falcon as module

    x, y, fine = crossed(0, spread=2.0)
    found, inner = [], module.find_neighbours

    def spy(*arguments):
        found.append(inner(*arguments))
        return found[-1]

    monkeypatch.setattr(module, "find_neighbours", spy)
    quick(epochs=4, config=meeting(soft_epochs=2)).fit(x, y)
    first, last = (near.numpy() for near in (found[0], found[-1]))
    across = [((y[near, 0] >= 0) != (y[:, None, 0] >= 0))[near >= 0].mean() for near in (first, last)]
    assert across[0] == 0 and 0.4 < across[1] < 0.6
    assert (fine[last] == fine[:, None])[last >= 0].mean() > 0.95
    for epochs, config in ((4, FalconConfig()), (2, meeting(soft_epochs=2))):
        found.clear()
        quick(epochs=epochs, config=config).fit(x, y)
        assert len(found) == 1, "nothing is sought anew while groups stay"


def test_meeting_neighbours_find_the_classes_as_well(crossed):
    accuracy = {"within": 0.0, "meet": 0.0}
    for seed in range(3):
        x, y, fine = crossed(seed)
        for mode in accuracy:
            model = quick(random_state=seed, config=FalconConfig(cross_dataset_neighbours=mode)).fit(x, y)
            accuracy[mode] += evaluate_discovery(fine, model.labels_).accuracy / 3
    assert accuracy["meet"] >= accuracy["within"] - 0.005, accuracy


def test_meeting_neighbours_in_a_stream(crossed):
    x, y, fine = crossed(1, n=1200, spread=2.0)
    model = quick(epochs=8, config=meeting())
    for chunk in np.array_split(np.random.default_rng(0).permutation(1200), 4) * 2:
        model.partial_fit(x[chunk], y[chunk], classes=[range(4)] * 2, datasets=[0, 1])
    assert evaluate_discovery(fine, model.predict(x)).accuracy >= 0.9


def test_dataset_names_are_columns(gaussians):
    data = gaussians(0)
    which = np.random.default_rng(0).choice(["a", "b"], len(data.x))
    other = data.fine // 3
    y = np.where(which == "a", data.y, other)
    model = quick(epochs=5).fit(data.x, y, which)
    columns = np.stack([np.where(which == "a", data.y, -1), np.where(which == "b", other, -1)], 1)
    assert np.array_equal(model.predict(data.x), quick(epochs=5).fit(data.x, columns).predict(data.x))
    assert (model.predict_coarse(data.x, "b") == other).mean() > 0.95
    assert np.array_equal(model.predict_coarse(data.x, "b"), model.predict_coarse(data.x, 1))
    with pytest.raises(ValueError, match="dataset must be one of"):
        model.predict_coarse(data.x, "c")


def test_given_relations_stay(gaussians):
    data = gaussians(0)
    parents = np.array([3, 1, 1, 0, 2, 2, 2, 3, 0, 0, 1, 3])
    model = quick(relations=parents, config=FalconConfig(learn_relations=False)).fit(data.x, data.y)
    assert np.array_equal(model.relations_[0], parents)
    assert judge(model, data).accuracy >= 0.95
    assert np.isnan(model.mstep_gap_)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_unlabelled_samples_take_part(gaussians):
    data = gaussians(2)
    hidden = np.random.default_rng(0).random(len(data.x)) < 0.7
    y = np.where(hidden, -1, data.y)
    model = quick().fit(data.x, y)
    assert judge(model, data, data.x[hidden], data.fine[hidden]).accuracy >= 0.95


@pytest.mark.parametrize("kind", ["strings", "object", "float", "pandas", "tensor", "bool"])
def test_kinds_of_labels(gaussians, kind):
    data = gaussians(0, n=240)
    names = np.array(["ant", "bee", "cat", "dog"])
    y = np.where(np.arange(240) < 12, -1, data.y)
    given = {
        "strings": names[data.y],
        "object": np.where(y < 0, None, names[data.y].astype(object)),
        "float": np.where(y < 0, np.nan, y.astype(float)),
        "tensor": torch.from_numpy(y),
        "bool": data.y > 1,
    }
    if kind == "pandas":
        pandas = pytest.importorskip("pandas")
        given["pandas"] = pandas.Series(pandas.Categorical(np.where(y < 0, None, names[data.y].astype(object)), names))
    model = quick(epochs=1).fit(data.x, given[kind])
    expected = {"float": [0, 1, 2, 3], "tensor": [0, 1, 2, 3], "bool": [False, True]}.get(kind, names.tolist())
    assert model.classes_coarse_.tolist() == expected
    coarse = model.predict_coarse(data.x)
    assert (coarse == np.array(expected)[(data.y > 1).astype(int) if kind == "bool" else data.y]).mean() > 0.9


def test_restricted_prediction_stays_in_the_group(gaussians):
    data = gaussians(0, spread=0.5, noise=1.0)
    model = quick(epochs=3).fit(data.x, data.y)
    inside = model.predict(data.x, y_coarse=data.y)
    assert np.array_equal(model.relations_[0][inside], data.y)
    assert not np.array_equal(inside, model.predict(data.x))
    assert np.array_equal(model.predict(data.x, y_coarse=np.full(len(data.x), -1)), model.predict(data.x))


def test_uncertain_labels_are_dropped(gaussians):
    data = gaussians(0, n=2400)
    rng = np.random.default_rng(0)
    wrong = rng.random(len(data.x)) < 0.2
    y = np.where(wrong, (data.y + rng.integers(1, 4, len(data.x))) % 4, data.y)
    model = quick(drop_uncertain=0.2).fit(data.x, y)
    dropped = model.dropped_[:, 0]
    assert dropped.mean() == pytest.approx(0.2, abs=1e-3)
    assert wrong[dropped].mean() > 0.9
    assert judge(model, data).accuracy >= 0.95
    assert not quick(epochs=8).fit(data.x, y).dropped_.any()


def test_a_class_with_two_parents_is_reported(gaussians):
    data = gaussians(0)
    y = data.y.copy()
    split = np.flatnonzero(data.fine == 5)
    y[split[: len(split) * 2 // 5]] = 3
    model = quick().fit(data.x, y)
    found = [row for row in model.multi_parent_ if row.share > 0.3]
    assert [(row.parent, row.second) for row in found] == [(1, 3)]
    assert np.bincount(model.predict(data.x[data.fine == 5])).argmax() == found[0].fine
    assert quick().fit(data.x, data.y).multi_parent_ == []


@pytest.fixture
def two_parents(gaussians):
    """A function (seed, n) -> Gaussians of which two in five samples of class 5 have the label 3 instead of 1."""

    def make(seed=0, n=1200, **options):
        data = gaussians(seed, n=n, **options)
        split = np.flatnonzero(data.fine == 5)
        data.y[split[: len(split) * 2 // 5]] = 3
        return data

    return make


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_class_with_two_parents_gets_a_copy(two_parents, hidden):
    data = two_parents()
    options = {"hidden": hidden, "multi_parent": 0.3}
    model = quick(**options, multi_parent_action="duplicate").fit(data.x, data.y)
    fine = np.bincount(model.predict(data.x[data.fine == 5])).argmax()
    assert model.copies_.tolist() == [fine] and model.n_fine_ == 12
    assert {int(model.relations_[0, fine]), int(model.relations_[0, 12])} == {1, 3}
    assert model.predict_proba(data.x).shape == model.transform(data.x).shape == (len(data.x), 12)
    assert np.allclose(model.predict_proba(data.x).sum(1), 1, atol=1e-5)
    assert np.array_equal(model.transform(data.x).argmax(1), model.predict(data.x))
    assert judge(model, data).accuracy >= 0.95
    for parent in (1, 3):  # a label of either parent allows the class
        inside = model.predict(data.x[data.fine == 5], y_coarse=np.full((data.fine == 5).sum(), parent))
        assert (inside == fine).mean() > 0.95
    found = [row for row in model.multi_parent_ if row.share > 0.3]
    assert [(row.fine, row.parent, row.second) for row in found] == [(fine, 1, 3)]
    assert np.isfinite(model.mstep_gap_)


def test_a_copy_changes_no_prediction_when_it_is_made(two_parents):
    from c2f_ops.estimators._copies import merge_copies, split_classes
    from c2f_ops.estimators._inputs import Rows

    data = two_parents()
    model = quick(epochs=3, hidden=(8,), config=FalconConfig(reg_ema=0.9)).fit(data.x, data.y)
    rows, codes = Rows(data.x, model._scaling, model._device), torch.from_numpy(data.y)[:, None]
    loop, originals = split_classes(model._loop, rows, codes, 0.3)
    assert len(originals) == 1 and loop.falcon.num_fine == 13 and not loop.falcon.config.learn_relations
    for network, before in ((loop.falcon.student, model._falcon.student), (loop.falcon.teacher, model._falcon.teacher)):
        x = rows.take(torch.arange(50))
        torch.testing.assert_close(merge_copies(network(x), originals), before(x), rtol=1e-5, atol=1e-5)
    assert float(loop.falcon.criterion.running_p.sum()) == pytest.approx(float(model._falcon.criterion.running_p.sum()))
    assert split_classes(model._loop, rows, codes, 0.6)[0] is model._loop, "no class has that share"


def test_without_a_second_parent_duplicate_is_report(gaussians):
    data = gaussians(0, n=300)
    models = [quick(epochs=4, multi_parent_action=action).fit(data.x, data.y) for action in ("report", "duplicate")]
    assert np.array_equal(*(model.transform(data.x) for model in models)) and not len(models[1].copies_)


def test_copies_live_in_files_and_streams(two_parents, tmp_path):
    pytest.importorskip("safetensors")
    data = two_parents()
    y = np.stack([data.y, data.fine // 3], 1)  # under the second taxonomy the class has one parent
    model = quick(epochs=6, multi_parent=0.3, multi_parent_action="duplicate").fit(data.x, y)
    assert len(model.copies_) == 1 and model.relations_.shape == (2, 13)
    assert model.relations_[1, 12] == model.relations_[1, model.copies_[0]]
    copy = FalconClusterer.load(model.save(tmp_path / "model.safetensors"))
    assert np.array_equal(copy.transform(data.x), model.transform(data.x))
    assert np.array_equal(copy.predict_coarse(data.x), model.predict_coarse(data.x))
    assert copy.config.learn_relations and copy.multi_parent_action == "duplicate"
    relations = copy.relations_.copy()
    copy.partial_fit(data.x, y)
    assert np.array_equal(copy.relations_, relations) and copy.copies_.tolist() == model.copies_.tolist()


# ---- degenerate data -------------------------------------------------------------------------------------------------


def test_one_coarse_class(gaussians):
    data = gaussians(0, coarse=1, fine=3, n=300)
    assert judge(quick(3).fit(data.x, data.y), data).accuracy >= 0.95


def test_tiny_classes_and_few_samples(gaussians):
    data = gaussians(0, n=24)
    y = data.y.copy()
    y[0] = 7  # a class of one sample
    model = quick(12, epochs=3).fit(data.x, y)
    assert model.labels_.shape == (24,)
    assert set(model.relations_[0]) == set(range(5))


def test_duplicates_and_constant_features(gaussians):
    data = gaussians(0, n=60)
    x = np.repeat(data.x, 4, 0)
    x[:, 3] = 1e6
    x[:, 4] = 0
    model = quick(epochs=5).fit(x, np.repeat(data.y, 4))
    assert np.isfinite(model.transform(x)).all()
    same = np.ones((50, 3), np.float32)
    assert np.isfinite(quick(4, epochs=3).fit(same, np.arange(50) % 2).transform(same)).all()


def test_a_class_absent_from_most_batches(gaussians):
    data = gaussians(0)
    y = np.where(np.arange(len(data.x)) < 3, 9, data.y)
    assert len(set(quick(epochs=3, batch_size=32).fit(data.x, y).relations_[0])) == 5


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_every_input_gives_the_same_answer(gaussians, tmp_path):
    data = gaussians(0, n=300)
    x = np.where(data.x > 1, data.x, 0).astype(np.float32)
    expected = quick(epochs=3).fit(x, data.y).transform(x)
    np.save(tmp_path / "x.npy", x)
    forms = {
        "tensor": torch.from_numpy(x),
        "memmap": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "csr": sparse.csr_matrix(x),
        "csc array": sparse.csc_array(x),
        "list": x.tolist(),
        "float16": x.astype(np.float16),
    }
    for name, form in forms.items():
        got = quick(epochs=3).fit(form, data.y).transform(form)
        assert np.allclose(got, expected, atol=0.05 if name == "float16" else 1e-2), name


def test_feature_names_of_a_frame(gaussians):
    pandas = pytest.importorskip("pandas")
    data = gaussians(0, n=120)
    frame = pandas.DataFrame(data.x, columns=[f"f{i}" for i in range(16)])
    model = quick(epochs=1).fit(frame, data.y)
    assert model.feature_names_in_[:2].tolist() == ["f0", "f1"]
    assert model.get_feature_names_out()[0] == "falconclusterer0"
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"f0": "g0"}))


def test_features_of_another_width(gaussians):
    data = gaussians(0, n=120)
    model = quick(epochs=1).fit(data.x, data.y)
    for method in (model.predict, model.transform, lambda x: model.score(x, data.fine), model.predict_proba):
        with pytest.raises(ValueError, match="expecting 16 features"):
            method(data.x[:, :1])


def test_probabilities(gaussians):
    data = gaussians(0, n=120)
    model = quick(epochs=2, hidden=(8,)).fit(data.x, data.y)
    p = model.predict_proba(data.x)
    assert p.shape == (120, 12) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert np.array_equal(p.argmax(1), model.predict(data.x))


def test_it_repeats_itself(gaussians):
    data = gaussians(0, n=300)
    first = quick(epochs=3, noise=0.1).fit(data.x, data.y)
    before = torch.get_rng_state()
    again = quick(epochs=3, noise=0.1).fit(data.x, data.y)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first.transform(data.x), again.transform(data.x))
    other = quick(epochs=3, noise=0.1, random_state=1).fit(data.x, data.y)
    assert not np.array_equal(first.transform(data.x), other.transform(data.x))


@pytest.mark.parametrize("mode", ["forward", "bank"])
def test_neighbour_modes(gaussians, mode, monkeypatch):
    data = gaussians(0)
    model = quick(epochs=5, config=FalconConfig(neighbour_mode=mode)).fit(data.x, data.y)
    assert judge(model, data).accuracy >= 0.9
    if mode == "bank":  # a bank too large to keep is a frozen teacher with the same logits
        monkeypatch.setattr("c2f_ops.estimators._loop._BANK", 0)
        again = quick(epochs=5, config=FalconConfig(neighbour_mode=mode)).fit(data.x, data.y)
        assert np.allclose(model.transform(data.x), again.transform(data.x), atol=1e-3)


# ---- streams and files -----------------------------------------------------------------------------------------------


def test_partial_fit_learns_from_a_stream(gaussians):
    data = gaussians(0, n=3000)
    model = quick(reservoir=40)
    order = np.random.default_rng(0).permutation(3000)
    for _ in range(2):
        for chunk in np.array_split(order, 10):
            model.partial_fit(data.x[chunk], data.y[chunk], classes=range(4))
    assert len(model.history_) == 20
    assert len(model._reservoir) == 4 * 40
    assert judge(model, data).accuracy >= 0.95
    with pytest.raises(ValueError, match="classes seen in fit, got 8"):
        model.partial_fit(data.x[:5], np.full(5, 8))


def test_pickle_and_file_keep_the_answers(gaussians, tmp_path):
    data = gaussians(0, n=300)
    names = np.array(["ant", "bee", "cat", "dog"])[data.y]
    model = quick(epochs=3, hidden=(8,)).fit(data.x, names)
    copies = [pickle.loads(pickle.dumps(model))]
    if pytest.importorskip("safetensors"):
        copies.append(FalconClusterer.load(model.save(tmp_path / "model.safetensors")))
    for copy in copies:
        assert np.array_equal(copy.transform(data.x), model.transform(data.x))
        assert np.array_equal(copy.predict_coarse(data.x), model.predict_coarse(data.x))
        assert copy.history_ == model.history_ and copy.get_params()["hidden"] == (8,)
        copy.partial_fit(data.x, names)
    with pytest.raises(NotFittedError):
        quick().save(tmp_path / "nothing")


def test_clone_forgets_the_fit(gaussians):
    data = gaussians(0, n=120)
    model = quick(epochs=1, config=FalconConfig(temperature=0.5)).fit(data.x, data.y)
    copy = clone(model)
    assert copy.config == model.config
    with pytest.raises(NotFittedError):
        copy.predict(data.x)


def test_anndata_round_trip(gaussians, tmp_path):
    anndata = pytest.importorskip("anndata")
    import pandas as pd

    data = gaussians(0, n=300)
    kinds = ["T", "B", "NK", "unknown", "mono"]
    coarse = np.array(["B", "T", "mono", "NK"])[data.y].astype(object)
    coarse[:20] = "unknown"
    obs = pd.DataFrame({"type": pd.Categorical(coarse, kinds)}, index=[f"c{i}" for i in range(300)])
    x = np.where(data.x > 0, data.x, 0).astype(np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(x), obs=obs, obsm={"X_pca": data.x})
    model = quick(epochs=5).fit_anndata(adata, "type", obsm="X_pca", unlabeled_category="unknown")
    fine = adata.obs["c2f_fine"]
    assert [c.split("/")[0] for c in fine.cat.categories] == ["T"] * 3 + ["B"] * 3 + ["NK"] * 3 + ["mono"] * 3
    same = fine.astype(str).str.split("/").str[0].to_numpy() == np.array(["B", "T", "mono", "NK"])[data.y]
    assert same.mean() > 0.9
    assert np.allclose(adata.obs["c2f_fine_conf"], model.predict_proba(data.x).max(1), atol=1e-6)
    assert adata.obsm["X_c2f"].shape == (300, 12)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert backed.uns["c2f"]["params"]["epochs"] == 5
    backed.uns.clear()
    quick(epochs=1).fit_anndata(backed, "type", unlabeled_category="unknown")
    assert set(backed.obs["c2f_fine"].cat.categories) == set(fine.cat.categories)


# ---- memory ----------------------------------------------------------------------------------------------------------

BIG = """
import resource, numpy as np
from c2f_ops.estimators import FalconClusterer
from c2f_ops.models import FalconConfig
fine, coarse, n, d = {fine}, {coarse}, {n}, 64
rng = np.random.default_rng(0)
centres = 2 * rng.standard_normal((fine, d), dtype=np.float32)
labels = np.arange(n) % fine
x = centres[labels] + rng.standard_normal((n, d), dtype=np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = FalconConfig(neighbour_mode="bank", mstep_every=500)
model = FalconClusterer(fine, config=config, epochs=1, batch_size=512, random_state=0).fit(x, labels % coarse)
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, model.score(x, labels))
"""


def test_memory_is_linear(tmp_path):
    """No tensor of samples x fine or batch x fine x coarse: those alone would be 480 MB and 1.5 GB here."""
    script = tmp_path / "big.py"
    script.write_text(BIG.format(fine=6000, coarse=120, n=20_000))
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    before, peak, _ = map(float, result.stdout.split())
    assert peak - before < 450, (before, peak)


# ---- errors ----------------------------------------------------------------------------------------------------------

WRONG = [
    (dict(n_fine=2), {}, "n_fine must be at least the 4 coarse classes, got 2"),
    (dict(n_fine=2.5), {}, "n_fine must be None or an integer"),
    (dict(epochs=-1), {}, "epochs must be an integer of at least 0, got -1"),
    (dict(metric="hamming"), {}, "metric must be one of"),
    (
        dict(multi_parent_action="split"),
        {},
        r"multi_parent_action must be one of \('report', 'duplicate'\), got 'split'",
    ),
    (dict(lr=float("nan")), {}, "lr must be a number in"),
    (dict(preset="fast"), {}, "preset must be one of"),
    (dict(relations=np.zeros(12, int)), {}, "must give each coarse class a fine class, got none for"),
    ({}, dict(y_coarse=None), "y_coarse must be labels, got None"),
    ({}, dict(y_coarse=np.zeros(3, int)), r"y_coarse must have shape \[N\] or \[N, D\] with N=120 like X, got \[3\]"),
    ({}, dict(y_coarse=np.linspace(0, 1, 120)), "class labels, got the continuous value"),
    ({}, dict(y_coarse=np.full(120, -1)), "must have a label in every data set"),
    ({}, dict(dataset=np.zeros(3, int)), r"dataset must have shape \[N\] = \[120\], got \[3\]"),
]


@pytest.mark.parametrize(("options", "call", "message"), WRONG, ids=[m[:30] for *_, m in WRONG])
def test_errors_say_what_was_expected(gaussians, options, call, message):
    data = gaussians(0, n=120)
    with pytest.raises(ValueError, match=message):
        quick(**options).fit(data.x, **({"y_coarse": data.y} | call))


def test_config_must_be_one():
    with pytest.raises(TypeError, match="config must be None or a FalconConfig, got dict"):
        quick(config={}).fit(np.zeros((4, 2)), [0, 1, 0, 1])


# ---- scikit-learn ----------------------------------------------------------------------------------------------------

EXPECTED_FAILURES = {
    "check_fit_score_takes_y": "labels are called y_coarse in fit and y_fine in score: they are different labels",
    "check_n_features_in_after_fitting": "calls score with y as a keyword; test_features_of_another_width stands in",
    "check_clustering": "fits without labels",
    "check_estimator_sparse_array": "takes everything with predict_proba for a classifier of the classes in y",
    "check_estimator_sparse_matrix": "the same; test_every_input_gives_the_same_answer stands in",
}


@parametrize_with_checks([FalconClusterer(epochs=2)], expected_failed_checks=lambda _: EXPECTED_FAILURES)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_the_page_names_every_exception():
    page = Path(__file__).parents[2] / "docs" / "estimators.md"
    assert all(name in page.read_text() for name in EXPECTED_FAILURES)


def test_agreement_of_two_fits(gaussians):
    data = gaussians(3)
    a, b = (quick(random_state=s).fit(data.x, data.y).labels_ for s in range(2))
    assert adjusted_rand_score(a, b) > 0.95

"""Known temperatures and weights come back; the calibration of a model survives its file."""

import json
import math

import numpy as np
import pytest
import torch

from c2f_ops.answering import Calibration, calibrate, fit_path_weights, fit_temperature, path_scores
from c2f_ops.hierarchy import Hierarchy

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


def drawn(rng, probabilities):
    """One class per row."""
    return (
        (probabilities.cumsum(1) < torch.from_numpy(rng.random((len(probabilities), 1))))
        .sum(1)
        .clamp(max=probabilities.shape[1] - 1)
    )


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7, 4.0])
def test_known_temperature_within_two_percent(rng, temperature) -> None:
    true = torch.from_numpy(rng.normal(size=(20_000, 10))) * 2
    labels = drawn(rng, true.softmax(1))
    assert fit_temperature(true * temperature, labels) == pytest.approx(temperature, rel=0.02)
    labels[::2] = -1
    assert fit_temperature(true * temperature, labels) == pytest.approx(temperature, rel=0.04)


def test_temperature_is_the_minimum(rng) -> None:
    logits, labels = torch.from_numpy(rng.normal(size=(50, 4))), torch.from_numpy(rng.integers(0, 4, 50))
    logits[torch.arange(50), labels] += 2

    def objective(t):
        nll = torch.nn.functional.cross_entropy(logits / t, labels)
        return float(nll + (1 / t - 1) ** 2 / (2 * len(labels)))

    best = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(-3, 3, 2001))
    assert objective(best) <= min(map(objective, grid)) + 1e-12


def test_temperature_at_the_edges(rng) -> None:
    one = torch.eye(3, dtype=torch.float64)
    assert fit_temperature(one, torch.full((3,), -1)) == 1.0
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 1.0
    assert 0.1 < fit_temperature(one, torch.arange(3)) < 1, "three right images are not certainty"
    assert fit_temperature(100 * one, torch.arange(3).roll(1)) == 50.0, "the least that a wrong head may say"
    with pytest.raises(ValueError, match="logits must be finite"):
        fit_temperature(one.log(), torch.arange(3))
    with pytest.raises(ValueError, match="labels must be below 3, got 3"):
        fit_temperature(one, torch.arange(3) + 1)
    with pytest.raises(ValueError, match=r"labels must have shape \[3\], got \[2\]"):
        fit_temperature(one, torch.arange(2))
    with pytest.raises(ValueError, match=r"logits must have shape \[N, C\], got \[3\]"):
        fit_temperature(one[0], torch.arange(3))


def nll(log_probs, leaves, tree, weights):
    return float(torch.nn.functional.cross_entropy(path_scores(log_probs, tree, weights=weights), leaves))


def test_known_weights_come_back(rng, small) -> None:
    logits = [torch.from_numpy(rng.normal(size=(20_000, n))) * 2 for n in small.sizes]
    log_probs = [z.log_softmax(1) for z in logits]
    true = torch.tensor([0.7, 1.6], dtype=torch.float64)
    leaves = drawn(rng, path_scores(logits, small, weights=true.tolist()).softmax(1))
    torch.testing.assert_close(fit_path_weights(log_probs, leaves, small), true, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_head_without_a_clue_gets_no_say(random_tree, noisy_logits, silent) -> None:
    rng = np.random.default_rng(3)
    tree = random_tree(rng, 3)
    labels = tree.ancestors[torch.from_numpy(rng.integers(0, tree.sizes[-1], 3000))]
    logits = noisy_logits(rng, tree, labels, 2.5)
    logits[silent] = torch.from_numpy(rng.normal(size=logits[silent].shape)) * 2
    log_probs = [z.log_softmax(1) for z in logits]
    weights = fit_path_weights(log_probs, labels[:, -1], tree)
    assert weights.min() >= 0 and weights[silent] < 0.06
    assert all(weights[k] > 0.3 for k in range(3) if k != silent and tree.sizes[k] > 1)
    least = nll(log_probs, labels[:, -1], tree, weights.tolist())
    for k in range(3):
        for step in (-0.05, 0.05):
            other = weights.clone()
            other[k] = max(0.0, float(other[k]) + step)
            assert nll(log_probs, labels[:, -1], tree, other.tolist()) > least - 1e-4


def test_an_opposing_head_is_shut_out(rng, small) -> None:
    leaves = torch.from_numpy(rng.integers(0, 4, 500))
    family = torch.nn.functional.one_hot(1 - small.ancestors[leaves, 0], 2).double() * 3  # always the other one
    species = torch.from_numpy(rng.normal(size=(500, 4)))
    species[torch.arange(500), leaves] += 2
    weights = fit_path_weights([family.log_softmax(1), species.log_softmax(1)], leaves, small)
    assert weights[0] == 0.0 and weights[1] > 0.5


def test_weights_without_images_or_heads(small) -> None:
    none = [torch.zeros(0, 2), torch.zeros(0, 4)]
    leaves = torch.zeros(0, dtype=torch.long)
    assert fit_path_weights(none, leaves, small).tolist() == [0.5, 0.5]
    assert fit_path_weights(none, leaves, small, [1]).tolist() == [0.0, 1.0]
    one = [torch.zeros(1, 2), torch.zeros(1, 4)]
    assert fit_path_weights(one, torch.tensor([-1]), small).tolist() == [0.5, 0.5]
    for heads in ([2], [0, 0], []):
        with pytest.raises(ValueError, match=r"fit_path_weights: heads must be some of the levels 0\.\.1, each once"):
            fit_path_weights(none, leaves, small, heads)


def test_fits_refuse_what_they_cannot_fit(small) -> None:
    coarse, fine = torch.zeros(3, 2), torch.zeros(3, 4)
    with pytest.raises(ValueError, match="log_probs must be finite"):
        fit_path_weights([coarse.log(), fine], torch.arange(3), small)
    assert fit_path_weights([coarse.log(), fine], torch.arange(3), small, [1])[0] == 0, "a head without a say"
    with pytest.raises(ValueError, match=r"fit_path_weights: leaves must be integers, got torch\.float32"):
        fit_path_weights([coarse, fine], torch.zeros(3), small)
    with pytest.raises(ValueError, match=r"fit_temperature: labels must be integers, got torch\.float32"):
        fit_temperature(fine, torch.zeros(3))
    with pytest.raises(ValueError, match=r"calibrate: logits must have the shapes \[N, 2\], \[N, 4\], got \[3, 2\]"):
        calibrate({8: [coarse]}, small.ancestors[:3], small)


def test_one_level_needs_one_weight(rng) -> None:
    tree = Hierarchy.from_paths(["a", "b", "c"], ["class"])
    logits = torch.from_numpy(rng.normal(size=(4000, 3))) * 3
    labels = drawn(rng, (logits / 2).softmax(1))
    temperature = fit_temperature(logits, labels)
    weights = fit_path_weights([(logits / temperature).log_softmax(1)], labels, tree)
    assert weights.tolist() == [pytest.approx(1.0, abs=0.01)], "temperature has done what a weight could"


def seen_at(rng, tree, labels, strengths, noisy_logits):
    return {side: noisy_logits(rng, tree, labels, strength) for side, strength in strengths.items()}


@pytest.fixture
def fitted(rng, noisy_logits):
    tree = Hierarchy.from_paths([f"{f}/{f}{s}" for f in "ABC" for s in "123"], ["family", "species"])
    labels = tree.ancestors[torch.from_numpy(rng.integers(0, 9, 300))]
    logits = seen_at(rng, tree, labels, {8: 0.0, 32: 4.0, 128: 9.0}, noisy_logits)
    return tree, labels, logits, calibrate(logits, labels, tree, split="train, held out", seed=5)


def test_calibration_of_sides(fitted) -> None:
    _, labels, logits, c = fitted
    assert c.sides == (8, 32, 128) and len(c.temperatures) == len(c.weights) == 4 and c.images == 300
    assert c.temperature(1, 8) > 5 > c.temperature(1, 32) > 0
    assert c.temperature(1, None) == c.temperatures[3][1] == fit_temperature(
        torch.cat([logits[s][1] for s in c.sides]), labels[:, 1].repeat(3)
    )  # fmt: skip
    assert c.weights_of(None) == c.weights[3]
    for side, row in ((1, 0), (15, 0), (16, 0), (17, 1), (63, 1), (64, 1), (65, 2), (999, 2)):
        assert c.temperatures_of(side) == c.temperatures[row], side
    for coarse, fine in c.thresholds:
        assert coarse < math.inf and fine < math.inf
    assert [row[0] for row in c.thresholds] == sorted(row[0] for row in c.thresholds), "more precision, more posterior"
    assert c.thresholds_of() == c.thresholds[c.targets.index(0.95)]


def test_calibration_survives_its_file(fitted, tmp_path) -> None:
    tree, labels, logits, c = fitted
    few = calibrate({s: [z[:20] for z in zs] for s, zs in logits.items()}, labels[:20], tree)
    assert few.thresholds_of(0.95) == (math.inf, math.inf), "20 images cannot show a precision of 0.95"
    for each in (c, few, Calibration.none(tree)):
        each.to_json(tmp_path / "c.json")
        assert Calibration.from_json(tmp_path / "c.json") == each
        assert "Infinity" not in (tmp_path / "c.json").read_text()
    data = json.loads((tmp_path / "c.json").read_text())
    for broken in ({**data, "weights": []}, {**data, "surprise": 1}, {k: v for k, v in data.items() if k != "sides"}):
        with pytest.raises(ValueError, match="Calibration: "):
            Calibration.from_dict(broken)
    (tmp_path / "c.json").write_text(json.dumps({**data, "weights": [["warm", 1.0]]}))
    with pytest.raises(ValueError, match=r"c\.json: Calibration: data must be that of to_dict, got .*'warm'"):
        Calibration.from_json(tmp_path / "c.json")


def test_of_two_sides_as_near_the_smaller(small) -> None:
    for low, side, high in ((4, 6, 9), (12, 18, 27), (16, 20, 25)):
        c = Calibration(small.levels, (low, high), ((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)), ((1.0, 1.0),) * 3, (), (),
                        small.sha256)  # fmt: skip
        assert c.temperatures_of(side) == (1.0, 1.0), (low, side, high)
    for side in (0, -4):
        with pytest.raises(ValueError, match=f"Calibration: side must be None or at least 1, got {side}"):
            c.weights_of(side)


def test_untrained_heads_stay_out(fitted) -> None:
    tree, labels, logits, _ = fitted
    c = calibrate(logits, labels, tree, heads=[1])
    assert all(row[0] == 0.0 for row in c.weights) and all(row[0] == 1.0 for row in c.temperatures)
    assert c.thresholds_of()[0] < math.inf, "families follow from species"


def test_without_held_out_images(small) -> None:
    c = Calibration.none(small, [1])
    assert (
        c.temperatures_of(17) == (1.0, 1.0) and c.weights_of(None) == (0.0, 1.0) and c.thresholds_of(0.9) == (0.0, 0.0)
    )
    assert Calibration.none(small, [0]).thresholds_of() == (0.0, math.inf), "no head knows the species"
    with pytest.raises(ValueError, match=r"Calibration: heads must be .*, each once, got \[0, 0\]"):
        Calibration.none(small, [0, 0])
    with pytest.raises(ValueError, match="at least one image at one side"):
        calibrate({}, torch.zeros(0, 2, dtype=torch.long), small)


def test_refusals(fitted, small) -> None:
    *_, c = fitted
    with pytest.raises(ValueError, match=r"one of 0\.5, 0\.6, 0\.7, 0\.8, 0\.9, 0\.95, 0\.99, got 0\.97"):
        c.thresholds_of(0.97)
    with pytest.raises(ValueError, match="hierarchy must have sha256"):
        c.check(small)

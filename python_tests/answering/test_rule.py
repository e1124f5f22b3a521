"""Wilson's bound, thresholds by brute force, and the answers that they allow."""

import math

import numpy as np
import pytest
import torch

from c2f_ops.answering import answer, choose_thresholds, path_scores, posteriors, settle, wilson_lower

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")


def test_wilson_solves_its_equation() -> None:
    for right, n in ((0, 5), (3, 7), (52, 52), (95, 100), (9990, 10000)):
        low = wilson_lower(right, n)
        assert math.isclose(abs(right / n - low), 1.645 * math.sqrt(low * (1 - low) / n), abs_tol=1e-12)
    assert wilson_lower(0, 0) == 0.0
    assert wilson_lower(51, 51) < 0.95 <= wilson_lower(52, 52)
    with pytest.raises(ValueError, match=r"right must be in 0\.\.n, got 4 of 3"):
        wilson_lower(4, 3)


def brute_force(best, right, target, images):
    thresholds, alive = [], list(range(len(best)))
    for k in range(best.shape[1]):
        found = math.inf
        for tau in sorted({float(best[i, k]) for i in alive if right[i, k] >= 0}):
            rows = [i for i in alive if best[i, k] >= tau and right[i, k] >= 0]
            n = len({int(images[i]) for i in rows})
            share = sum(int(right[i, k]) for i in rows) / len(rows)
            if wilson_lower(share * n, n) >= target:
                found = tau
                break
        thresholds.append(found)
        alive = [i for i in alive if best[i, k] >= found]
    return thresholds


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_against_brute_force(seed) -> None:
    rng = np.random.default_rng(seed)
    n = 120
    best = torch.from_numpy(np.sort(rng.random((n, 3)).round(2 if seed % 2 else 6))[:, ::-1].copy())  # with ties
    right = torch.from_numpy((rng.random((n, 3)) < best.numpy() ** 0.3).astype(int))
    right[torch.from_numpy(rng.random((n, 3)) < 0.1)] = -1
    images = torch.arange(n) % (n if seed < 4 else 40)
    for target in (0.6, 0.8, 0.9):
        got = choose_thresholds(best, right, target=target, images=images)
        assert got == pytest.approx(brute_force(best, right, target, images), rel=1e-12)


def test_a_level_that_is_never_sure() -> None:
    best = torch.linspace(1, 0.5, 100, dtype=torch.float64)[:, None].repeat(1, 3)
    right = torch.ones(100, 3, dtype=torch.long)
    right[:, 1] = torch.arange(100) % 2
    first, second, third = choose_thresholds(best, right)
    assert first == 0.5 and second == third == math.inf
    assert choose_thresholds(best[:51], right[:51, :1].expand(51, 3))[0] == math.inf, "51 images are too few"
    assert choose_thresholds(torch.zeros(0, 2), torch.zeros(0, 2)) == (math.inf, math.inf)


def test_copies_of_images_are_no_evidence() -> None:
    best, right = torch.ones(400, 1), torch.ones(400, 1)
    assert choose_thresholds(best, right) == (1.0,)
    assert choose_thresholds(best, right, images=torch.arange(400) % 40) == (math.inf,)


@pytest.mark.parametrize("depth", range(1, 7))
def test_answers_are_monotone_in_thresholds(random_tree, noisy_logits, depth) -> None:
    rng = np.random.default_rng(depth)
    tree = random_tree(rng, depth)
    labels = tree.ancestors[torch.from_numpy(rng.integers(0, tree.sizes[-1], 40))]
    p = posteriors(path_scores(noisy_logits(rng, tree, labels, 3.0), tree), tree)
    thresholds = rng.uniform(0.1, 0.9, depth)
    shallow = settle(p, tree, thresholds)
    for k in range(depth):
        lower = thresholds.copy()
        lower[k] *= 0.5
        deep = settle(p, tree, lower)
        assert ((shallow < 0) | (shallow == deep)).all(), "lower thresholds only add to the answer"
    assert (settle(p, tree, None) >= 0).all()
    for row, result in zip(shallow.tolist(), answer(p, tree, thresholds), strict=True):
        expected = next((k for k in range(depth) if row[k] < 0), depth) - 1
        assert result.level == expected and list(result.nodes) == row


def test_what_an_answer_says(small) -> None:
    p = posteriors(torch.tensor([[0.5, 0.2, 0.1, 0.2]], dtype=torch.float64).log(), small)
    (family,) = answer(p, small, (0.7, 0.9))
    assert (family.name, family.level, family.path, family.nodes) == ("A", 0, ("A",), (0, -1))
    assert family.posterior == pytest.approx(0.8) and family.runner_up == ("B", pytest.approx(0.2))
    assert family.reason == "species 1 has 0.500, needs 0.900"
    (species,) = answer(p, small, (0.7, 0.5 - 1e-9))
    assert (species.name, species.path, species.reason) == ("1", ("A", "1"), "finest level")
    assert species.runner_up == ("2", pytest.approx(0.2))
    (unknown,) = answer(p, small, (0.81, 0.1))
    assert (unknown.name, unknown.level, unknown.path, unknown.posterior) == ("unknown", -1, (), 1.0)
    assert unknown.runner_up == ("A", pytest.approx(0.8)) and unknown.reason == "family A has 0.800, needs 0.810"
    (never,) = answer(p, small, (0.7, math.inf))
    assert "species is never answered" in never.reason
    assert answer(p, small)[0] == species
    assert species.to_dict()["nodes"] == (0, 0)


def leaves(*p: float) -> torch.Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def test_a_narrow_miss_is_told_apart(small) -> None:
    (said,) = answer(posteriors(leaves(0.4997, 0.1, 0.1, 0.3003), small), small, (0.5, 0.503))
    assert said.reason == "species 1 has 0.500, needs 0.503"


@pytest.mark.parametrize("coarse", [0.0, 0.01])
def test_an_answer_below_a_level_without_threshold_is_held(small, coarse) -> None:
    p = posteriors(leaves(0.52, 0.2, 0.2, 0.08), small)
    held = torch.tensor([[0, 0]])
    assert settle(p, small, (coarse, 0.55), held=held, hysteresis=0.1).tolist() == [[0, 0]]
    assert settle(p, small, (coarse, 0.55), hysteresis=0.1).tolist() == [[0, -1]]


@pytest.mark.parametrize("threshold", [0.2, 0.05])
def test_an_answer_gives_way_to_a_better_one(small, threshold) -> None:
    p = posteriors(leaves(0.05, 0.04, 0.06, 0.85), small)
    held = torch.tensor([[0, 0]])
    assert settle(p, small, (threshold, threshold), held=held, hysteresis=0.1).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": (0.5,)}, r"settle: thresholds must be 2 numbers, got \[0.5\]"),
        ({"held": torch.zeros(3, 2)}, r"settle: held must have shape \[1, 2\], got \[3, 2\]"),
        ({"hysteresis": -0.1}, "settle: hysteresis must be from 0 up, got -0.1"),
        ({"posteriors": [torch.zeros(1, 2)]}, r"settle: posteriors must have the shapes \[N, 2\], \[N, 4\], got"),
    ],
)
def test_settle_refuses(small, options, message) -> None:
    p = posteriors(leaves(0.25, 0.25, 0.25, 0.25), small)
    with pytest.raises(ValueError, match=message):
        settle(**{"posteriors": p, "hierarchy": small, "thresholds": (0.5, 0.5), **options})


def test_answer_refuses_thresholds_that_do_not_fit(small) -> None:
    p = posteriors(leaves(0.25, 0.25, 0.25, 0.25), small)
    with pytest.raises(ValueError, match=r"answer: thresholds must be 2 numbers, got \[0.5, 0.5, 0.5\]"):
        answer(p, small, (0.5, 0.5, 0.5))


def test_images_are_one_per_row() -> None:
    with pytest.raises(ValueError, match=r"choose_thresholds: images must have shape \[3\], got \[2\]"):
        choose_thresholds(torch.ones(3, 1), torch.ones(3, 1), images=torch.arange(2))


@pytest.mark.parametrize(
    ("best", "right", "target", "message"),
    [
        (torch.zeros(3), torch.zeros(3), 0.9, r"one shape \[N, K\]"),
        (torch.zeros(3, 1), torch.zeros(2, 1), 0.9, r"got \[3, 1\] and \[2, 1\]"),
        (torch.zeros(3, 1), torch.zeros(3, 1), 1.0, "target must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_thresholds(best, right, target, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose_thresholds(best, right, target=target)

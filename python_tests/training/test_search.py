"""The search for resolutions: curves, thresholds, what it may look at, and a small search."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from c2f_ops.data import registry
from c2f_ops.training.grid import GRID, default_grid, extended
from c2f_ops.training.search import (
    Curve,
    NoCrossing,
    StartsBelow,
    TrainOnly,
    crossing,
    isotonic,
    search_resolutions,
)
from c2f_ops.training.search import run as search_run

SIDES = (448, 224, 112, 56, 28)


def curve(*accuracy: float, n: int = 100) -> Curve:
    return Curve("species", SIDES[: len(accuracy)], accuracy, (n,) * len(accuracy))


def test_grids_fall_in_the_same_ratios() -> None:
    assert default_grid(448) == GRID
    assert default_grid(224) == tuple(r // 2 for r in GRID)
    assert default_grid(32) == (32, 27, 23, 18, 16, 14, 11, 9, 8, 7, 6, 5, 4) and default_grid(4) == (4,)
    with pytest.raises(ValueError, match="side must be at least 4, got 3"):
        default_grid(3)


def test_extension_goes_on_by_the_last_ratio_down_to_four_pixels() -> None:
    assert extended((32, 16)) == (32, 16, 8, 4)
    assert extended(GRID)[: len(GRID)] == GRID and extended(GRID)[len(GRID)] == round(32 * 32 / 40)
    assert extended((5, 4)) == (5, 4)


def test_isotonic_is_the_closest_falling_curve() -> None:
    rng = np.random.default_rng(0)
    from sklearn.isotonic import IsotonicRegression

    for size in (1, 2, 7, 30):
        values, weights = rng.random(size), rng.integers(1, 50, size)
        expected = IsotonicRegression(increasing=False).fit(np.arange(size), values, weights).predict(np.arange(size))
        np.testing.assert_allclose(isotonic(values, weights), expected, atol=1e-12)
    with pytest.raises(ValueError, match="weights must be 2 positive numbers"):
        isotonic([1.0, 2.0], [1.0, 0.0])


def test_the_first_side_below_the_threshold() -> None:
    falling = curve(0.95, 0.9, 0.82, 0.6, 0.1)
    assert crossing(falling, 0.8) == 56
    assert crossing(falling, 0.93) == 224
    assert crossing(falling, 0.8, below=56) == 28  # strictly decreasing, though 56 is below the threshold as well
    assert crossing(falling, 0.65, mode="relative") == 56  # 0.6175
    assert crossing(falling, 0.8, mode="relative") == 56  # 0.76


def test_noise_does_not_decide() -> None:
    noisy = curve(0.9, 0.78, 0.88, 0.86, 0.3)  # one dip: the fit pools 0.78, 0.88, 0.86 to 0.84
    assert crossing(noisy, 0.8) == 28
    assert noisy.fitted == pytest.approx((0.9, 0.84, 0.84, 0.84, 0.3))
    assert noisy.errors[0] == pytest.approx(0.03)


def test_a_curve_that_starts_too_low_is_said_with_what_to_do() -> None:
    with pytest.raises(StartsBelow, match=r"species must reach 0.8 at 448 px, got 0.700 .*mode=\"relative\""):
        crossing(curve(0.7, 0.6, 0.5), 0.8)
    with pytest.raises(StartsBelow):
        crossing(curve(0.0, 0.0), 0.8, mode="relative")
    with pytest.raises(NoCrossing, match=r"some side under 448 px, got species: 448 px 90.0%"):
        crossing(curve(0.9, 0.89, 0.88), 0.8)
    with pytest.raises(NoCrossing):
        crossing(curve(0.9, 0.5), 0.8, below=224)
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\), got 80"):
        crossing(curve(0.9), 80)
    with pytest.raises(ValueError, match="mode must be one of"):
        crossing(curve(0.9), 0.8, mode="ratio")


def test_only_the_training_split_is_given_out(tiny) -> None:
    guard = TrainOnly(tiny())
    assert guard.load("train").split == "train"
    with pytest.raises(PermissionError, match="never opens 'test'"):
        guard.load("test")


@pytest.fixture
def many(tiny):
    """Enough images for a fifth of each class."""
    return tiny(train_images=160)


@pytest.fixture
def accuracies(monkeypatch):
    """Trainings cost nothing, and accuracies are given."""
    trained: list[tuple[int, int]] = []

    def fit(self, level, side, before):
        trained.append((level, side))
        return before or torch.nn.Linear(1, 1)

    def use(table):
        monkeypatch.setattr(search_run._Search, "_fit", fit)
        monkeypatch.setattr(search_run._Search, "_accuracy", lambda self, model, level, side: table[level](side))
        return trained

    return use


def test_levels_go_on_below_each_other(many, tmp_path, accuracies) -> None:
    trained = accuracies({2: lambda r: 0.9 if r > 20 else 0.5, 1: lambda r: 0.9 if r > 6 else 0.5})
    result = search_resolutions(many, tmp_path / "run")
    assert result.levels == ("family", "genus", "species")
    assert result.sides == (6, 18, 32) and result.option == "32,18,6"
    assert trained == [(2, 32), (1, 32)]
    assert [c.level for c in result.curves] == ["species", "genus"]
    saved = json.loads((tmp_path / "run" / "resolutions.json").read_text())
    assert saved["sides"] == [6, 18, 32] and saved["split_sha256"] == result.split_sha256
    assert saved["curves"][0]["errors"][0] > 0 and saved["degrade"] and saved["seed"] == 0
    assert (tmp_path / "run" / "resolutions.png").stat().st_size > 5000


def test_sides_fall_strictly_also_where_the_next_head_fails_at_once(many, tmp_path, accuracies) -> None:
    accuracies({2: lambda r: 0.9 if r > 20 else 0.5, 1: lambda r: 0.9 if r > 25 else 0.5})
    result = search_resolutions(many, tmp_path / "run")
    assert result.sides[1] == 18 and result.sides[0] == 16


def test_the_grid_is_extended_and_then_given_up(many, tmp_path, accuracies) -> None:
    accuracies({2: lambda r: 0.9 if r > 14 else 0.5, 1: lambda r: 0.9 if r > 5 else 0.5})
    assert search_resolutions(many, tmp_path / "a", grid=(32, 16)).sides == (4, 8, 32)
    with pytest.raises(NoCrossing):
        search_resolutions(many, tmp_path / "b", grid=(32, 16), extend=False)
    accuracies({2: lambda r: 0.9, 1: lambda r: 0.9})
    with pytest.raises(NoCrossing, match="species must fall below"):
        search_resolutions(many, tmp_path / "c")


def test_a_network_at_every_side(many, tmp_path, accuracies) -> None:
    trained = accuracies({2: lambda r: 0.9 if r > 14 else 0.5, 1: lambda r: 0.9 if r > 5 else 0.5})
    result = search_resolutions(many, tmp_path / "run", grid=(32, 16, 8, 4), retrain=True)
    assert result.retrained and trained == [(level, side) for level in (2, 1) for side in (32, 16, 8, 4)]


def test_thresholds_of_each_level_and_shares(many, tmp_path, accuracies) -> None:
    accuracies({2: lambda r: 0.5 * r / 32, 1: lambda r: r / 32})
    result = search_resolutions(many, tmp_path / "run", thresholds=(0.9, 0.5), mode="relative", grid=(32, 24, 16, 8))
    assert result.sides == (8, 24, 32)  # 0.375 < 0.45; 0.5 at 16 is not below 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": (0.8,)}, r"one for each of the 2 levels below family, got \(0.8,\)"),
        ({"thresholds": 1.0}, r"one number in \(0, 1\)"),
        ({"mode": "ratio"}, "mode must be one of absolute, relative"),
        ({"grid": (16, 8)}, r"grid must fall from image_size 32 on, got \(16, 8\)"),
        ({"grid": (32, 32)}, "grid must fall"),
    ],
)
def test_bad_options_leave_no_folder(many, tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        search_resolutions(many, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_class_of_one_image_has_nothing_to_hold_out(tiny, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"at least 3 images of some class of species, .* got 40 of 40 classes"):
        search_resolutions(tiny(), tmp_path / "run")


def test_one_level_has_nothing_to_search(tiny, tmp_path) -> None:
    with pytest.raises(ValueError, match="data must have at least 2 levels"):
        search_resolutions(tiny(levels=("species",), tasks=(("species", 32),)), tmp_path / "run")


@pytest.fixture(scope="module")
def searched(tiny, tmp_path_factory):
    """A real search of two levels that could open the test split only through an error."""
    folder = tmp_path_factory.mktemp("search") / "run"
    config = tiny({"epochs": [6.0]}, levels=("family", "species"), tasks=(("species", 32),), train_images=320)
    with pytest.MonkeyPatch.context() as patch:
        load = registry.load_dataset

        def guarded(name, **options):
            assert options["split"] == "train", "the search opened another split"
            return load(name, **options)

        patch.setattr("c2f_ops.training.run.load_dataset", guarded)
        result = search_resolutions(config, folder, thresholds=0.99, mode="relative", grid=(32, 16, 8, 4))
    return config, folder, result


def test_a_search_sees_training_images_alone_and_repeats(searched, tmp_path) -> None:
    config, _, result = searched
    again = search_resolutions(config, tmp_path / "run", thresholds=0.99, mode="relative", grid=(32, 16, 8, 4))
    assert again.curves == result.curves and again.sides == result.sides and again.split_sha256 == result.split_sha256
    assert result.curves[0].counts[0] == 80, "a fifth of each class, rounded"


def test_a_search_goes_on_without_training_again(searched, monkeypatch) -> None:
    config, folder, result = searched
    monkeypatch.setattr(search_run.Trainer, "run", lambda *_: pytest.fail("trained again"))
    again = search_resolutions(config, folder, thresholds=0.99, mode="relative", grid=(32, 16, 8, 4), resume=True)
    assert again.curves == result.curves


def test_a_new_head_leaves_backbone_and_projections_alone(tiny, tmp_path) -> None:
    config = tiny({"epochs": [1.0]}, train_images=120)
    search = search_run._Search(config, tmp_path, "absolute", False, False, None)
    model = search._fit(2, 32, None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    search._fit(1, 32, model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"heads.1.weight", "heads.1.bias"}
    tuned = search_run._Search(config, tmp_path / "tuned", "absolute", False, True, None)
    tuned._fit(1, 32, model)
    assert any(key.startswith("backbone") and not torch.equal(v, before[key]) for key, v in model.state_dict().items())

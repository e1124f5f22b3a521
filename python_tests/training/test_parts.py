"""Config, recipes, schedule, sampler, augmentation."""

from __future__ import annotations

import math

import pytest
import torch

from c2f_ops.data import degrade
from c2f_ops.training import Config, Stage, make_config
from c2f_ops.training.augment import augment, centre_crop, to_input
from c2f_ops.training.recipes import PRESETS, hbp_stages
from c2f_ops.training.sampler import BatchSampler, stratified_split
from c2f_ops.training.schedule import learning_rate


def test_config_survives_a_round_trip(tiny, tmp_path) -> None:
    config = tiny(level_weights=(1.0, 0.5, 2.0))
    config.to_json(tmp_path / "config.json")
    assert Config.from_json(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ((16, 32), "one for each of the levels species, genus, family, got 2"),
        ((16, 16, 32), "must decrease from the finest level to the coarsest, got 32,16,16"),
        ((32, 16, 8), "must decrease from the finest level to the coarsest, got 8,16,32"),
        ((8, 16, 64), "must be at most image_size 32, got 64"),
    ],
)
def test_resolutions_are_checked(tiny, resolutions, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(resolutions=resolutions).check_levels(("family", "genus", "species"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "both"}, "mode must be one of alternating, joint, got 'both'"),
        ({"held_out": 1.0}, r"held_out must be in \[0, 1\), got 1.0"),
        ({"load_size": 16}, "load_size must be at least image_size 32, got 16"),
        ({"dim": 0}, "dim must be positive, got 0"),
        ({"consistency": -0.5}, "consistency must be a number from 0 up, got -0.5"),
        ({"stage": {"batch_norm": ["some"]}}, "batch_norm must be one of"),
        ({"stage": {"epochs": [1.0, 2.0]}}, "epochs must be one value, or one for each of 1 stages, got 2"),
    ],
)
def test_bad_values_are_named(tiny, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_presets_are_valid() -> None:
    for name in PRESETS:
        config = make_config(name, {})
        assert list(config.resolutions) == sorted(set(config.resolutions))
    assert make_config("cub", {"weights": "default", "resolutions": (64, 128, 448)}).recipe == "hbp"


def test_another_backbone_does_not_inherit_taps_and_options() -> None:
    config = make_config("birds", {"backbone": "timm/resnet18"})
    assert config.taps is None and config.backbone_options == {} and config.dim == PRESETS["birds"]["dim"]


def test_hbp_recipe_is_that_of_the_released_solver() -> None:
    head, full = hbp_stages()
    assert (head.trained, head.lr, head.weight_decay, head.batch_size) == ("head", 1.0, 5e-6, 48)
    assert [learning_rate(head, c, 60_000) for c in (0, 20_000, 49_999, 50_000)] == [1.0, 0.25, 0.25**3, 0.25**4]
    assert (full.lr, full.weight_decay, full.momentum, full.bias_lr, full.bias_decay) == (1e-3, 5e-4, 0.9, 2.0, 2.0)
    assert (full.batch_size, full.milestones) == (8, (100_000, 200_000, 300_000))


def test_milestones_follow_the_batch_size() -> None:
    assert hbp_stages(batch_size=16)[1].milestones == (50_000, 100_000, 150_000)
    head, full = make_config("cub", {}, {"batch_size": [24, 32]}).stages
    assert (head.batch_size, head.milestones) == (24, (40_000, 60_000, 80_000, 100_000))
    assert (full.batch_size, full.milestones) == (32, (25_000, 50_000, 75_000))
    for changes in ({"milestones": [(7,)], "batch_size": [4]}, {"batch_size": [4], "milestones": [(7,)]}):
        assert [stage.milestones for stage in make_config("cub", {}, changes).stages] == [(7,), (7,)]


def test_the_first_stage_of_hbp_may_be_the_classifiers_alone() -> None:
    assert [stage.trained for stage in make_config("cub", {}, stage1="head_only").stages] == ["classifiers", "all"]
    assert make_config("cub", {}, stage1="head") == make_config("cub", {})
    with pytest.raises(ValueError, match="stage1 must be one of head, head_only, got 'none'"):
        make_config("cub", {}, stage1="none")
    with pytest.raises(ValueError, match="stage1 must be None for recipe scratch"):
        make_config("birds", {}, stage1="head_only")


def test_cosine_rises_then_falls_to_zero() -> None:
    stage = Stage("s", lr=2.0, schedule="cosine", warmup=9)
    rates = [learning_rate(stage, cycle, 100) for cycle in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates.index(max(rates)) in (9, 10)
    assert rates[50] == pytest.approx(1.0) and rates[99] < 0.01
    assert rates[75] == pytest.approx(1 + math.cos(math.pi * 0.75))


def test_each_epoch_is_a_shuffle_and_a_function_of_the_cycle() -> None:
    sampler = BatchSampler(10, 3, seed=1, stream="a")
    epochs = [torch.cat([sampler.batch(epoch * 3 + i) for i in range(3)]) for epoch in range(3)]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(sampler.batch(1), epochs[0][3:6]), "asked out of order"
    assert not torch.equal(BatchSampler(10, 3, seed=1, stream="b").batch(0), epochs[0][:3])
    assert len(BatchSampler(4, 9, seed=1, stream="a").batch(0)) == 4


def test_split_is_stratified_and_seeded() -> None:
    labels = torch.arange(5).repeat(10)
    kept, held = stratified_split(labels, 0.2, seed=3)
    assert sorted(kept.tolist() + held.tolist()) == list(range(50))
    assert labels[held].bincount().tolist() == [2] * 5
    assert torch.equal(held, stratified_split(labels, 0.2, seed=3)[1])
    assert len(stratified_split(labels, 0.0, seed=3)[1]) == 0


@pytest.mark.parametrize("kind", ["crop", "resized_crop"])
def test_augmentation_depends_on_the_seed_and_not_on_who_does_it(tiny, kind) -> None:
    config, images = tiny(augment=kind, load_size=40), torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)

    def run(seed: int, rows: slice) -> torch.Tensor:
        return augment(images[rows], config, torch.Generator().manual_seed(seed), batch=6, rows=rows)

    whole = run(0, slice(0, 6))
    assert whole.shape == (6, 3, 32, 32) and whole.dtype == torch.uint8
    assert torch.equal(whole, torch.cat([run(0, slice(0, 3)), run(0, slice(3, 6))]))
    assert not torch.equal(whole, run(1, slice(0, 6)))


def test_a_crop_is_a_window_of_the_image_or_its_mirror(tiny) -> None:
    config = tiny(augment="crop", padding=0, load_size=36)
    images = torch.arange(36 * 36).remainder(251).to(torch.uint8).reshape(1, 1, 36, 36).expand(20, 3, 36, 36)
    windows = {
        x.numpy().tobytes() for x in images[0].unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    }
    plain = mirrored = 0
    for x in augment(images, config, torch.Generator().manual_seed(0), batch=20, rows=slice(None)):
        plain += x.contiguous().numpy().tobytes() in windows
        mirrored += x.flip(-1).contiguous().numpy().tobytes() in windows
    assert plain + mirrored == 20 and plain and mirrored


def test_padding_reflects(tiny) -> None:
    config = tiny(augment="crop", padding=4, flip=False)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images.float(), [4] * 4, mode="reflect").to(torch.uint8)
    for x, source in zip(
        augment(images, config, torch.Generator().manual_seed(0), batch=8, rows=slice(None)), padded, strict=True
    ):
        windows = source.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert (windows == x).flatten(1).all(1).any()


def test_input_is_degraded_then_normalised() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    x = to_input(images, 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(x, (degrade(images, 8) / 255 - mean) / std)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(centre_crop(images, 30), images[..., 1:31, 1:31])

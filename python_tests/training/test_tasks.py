"""Tasks: which level learns at which side, in any number and order; runs over some of the levels."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from accelerate import Accelerator

from c2f_ops.data import load_dataset
from c2f_ops.data.birds import birds_hierarchy
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.training import Config, Trainer, load_run, train
from c2f_ops.training.evaluate import answers
from c2f_ops.training.run import build_model, load_split

LEVELS = ("family", "genus", "species")
HIERARCHY_ALONE = (("species", 32), ("genus", 32), ("family", 32))
SIDES_ALONE = (("species", 32), ("species", 16), ("species", 8))
OWN_OF_SPECIES = (None, None, 32)
CYCLES = {  # changes; the cycle; sides of training; own sides
    "the levels at their resolutions": ({}, ((2, 32), (1, 16), (0, 8)), (8, 16, 32), (8, 16, 32)),
    "the hierarchy alone": (
        {"tasks": HIERARCHY_ALONE, "resolutions": ()}, ((2, 32), (1, 32), (0, 32)), (32,), (32, 32, 32),
    ),
    "the same, measured at the resolutions": (
        {"tasks": HIERARCHY_ALONE}, ((2, 32), (1, 32), (0, 32)), (32,), (8, 16, 32),
    ),
    "the sides alone": (
        {"tasks": SIDES_ALONE, "resolutions": ()}, ((2, 32), (2, 16), (2, 8)), (8, 16, 32), OWN_OF_SPECIES,
    ),
    "the finest level three times": (
        {"tasks": SIDES_ALONE[:1] * 3, "resolutions": ()}, ((2, 32), (2, 32), (2, 32)), (32,), OWN_OF_SPECIES,
    ),
    "coarse before fine": (
        {"tasks": (("family", 16), ("species", 32)), "resolutions": ()}, ((0, 16), (2, 32)), (16, 32), (16, None, 32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CYCLES)
def test_cycle_sides_and_own_sides(tiny, tmp_path, name) -> None:
    changes, cycle, sides, own = CYCLES[name]
    config = tiny(**changes)
    config.check_levels(LEVELS)
    assert (config.cycle(LEVELS), config.sides, config.own_sides(LEVELS)) == (cycle, sides, own)
    assert config.resolution_statistics == len(sides), "one set for each side that training sees"
    config.to_json(tmp_path / "config.json")
    assert Config.from_json(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((("order", 32),), "tasks must be of the levels family, genus, species, got 'order'"),
        ((("genus", 64),), r"tasks must have sides in 1..32, the image_size, got genus@64"),
        ((("genus", 0),), r"tasks must have sides in 1..32, the image_size, got genus@0"),
    ],
)
def test_tasks_are_checked(tiny, tasks, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(tasks=tasks).check_levels(LEVELS)


def test_tasks_in_a_file_are_checked(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"tasks": [["genus", "32"]]}))
    with pytest.raises(TypeError, match=r"tasks\[0\]\[1\] must be int, got '32'"):
        Config.from_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"tasks": [["genus", 32, 8]]}))
    with pytest.raises(TypeError, match=r"tasks\[0\] must be list of str and int, got \['genus', 32, 8\]"):
        Config.from_json(tmp_path / "config.json")


def test_the_preset_makes_room_for_levels_and_tasks() -> None:
    from c2f_ops.training import make_config

    assert make_config("birds", {"tasks": (("species", 64),)}).measured_sides == (64,)
    assert make_config("birds", {"levels": ("species",), "resolutions": (64,)}).sides == (64,)
    assert make_config("birds", {"tasks": (("species", 64),), "resolutions": (24, 48, 128)}).measured_sides == (
        128, 64, 48, 24,
    )  # fmt: skip


def trainer_of(config: Config) -> Trainer:
    torch.manual_seed(config.seed)
    data = load_split(config, "train")
    return Trainer(
        build_model(config, data.hierarchy), config, data.stacked(), data.labels, data.hierarchy, Accelerator(cpu=True)
    )


def test_steps_follow_the_tasks(tiny, monkeypatch) -> None:
    from c2f_ops.training import loop

    sides, batches = [], []
    inner = loop.to_input
    monkeypatch.setattr(loop, "to_input", lambda x, side, *rest: (sides.append(side), inner(x, side, *rest))[1])
    trainer = trainer_of(tiny({"epochs": [0.5]}, tasks=SIDES_ALONE, resolutions=(), flip=False, padding=0))
    monkeypatch.setattr(loop, "augment", lambda x, *_, **__: (batches.append(x), x)[1])
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.run()
    assert sides == [32, 16, 8] * 2 and trainer.position.step == 6
    assert not torch.equal(batches[0], batches[1]) and not torch.equal(batches[1], batches[2])
    after = trainer.model.state_dict()
    for key in before:
        if key.startswith(("heads.0", "heads.1")):
            assert (
                torch.equal(before[key], after[key]) and not dict(trainer.model.named_parameters())[key].requires_grad
            )
    assert not torch.equal(before["heads.2.weight"], after["heads.2.weight"])
    means = after["statistics.mean"]
    assert (means != before["statistics.mean"]).any(1).all() and not torch.equal(means[0], means[2]), "a set per side"


def test_hierarchy_alone_sees_the_batches_of_the_levels(tiny, monkeypatch) -> None:
    """The control differs from MLPH in the sides only."""
    from c2f_ops.training import loop

    seen = []
    inner = loop.augment
    monkeypatch.setattr(loop, "augment", lambda *args, **more: (seen.append(inner(*args, **more)), seen[-1])[1])
    for changes in ({}, {"tasks": HIERARCHY_ALONE}):
        trainer_of(tiny({"epochs": [0.5]}, **changes)).run()
    assert len(seen) == 12
    assert all(torch.equal(a, b) for a, b in zip(seen[:6], seen[6:], strict=True))


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({"levels": ("species",), "resolutions": (32,)}, ("species",)),
        ({"levels": ("species", "family"), "resolutions": (8, 32)}, ("family", "species")),
        ({"tasks": SIDES_ALONE, "resolutions": ()}, LEVELS),
        ({"tasks": (("family", 16),), "resolutions": ()}, LEVELS),
    ],
)
@pytest.mark.parametrize("mode", ["alternating", "joint"])
def test_runs_from_start_to_figures(tiny, tmp_path, mode, changes, levels) -> None:
    config = tiny({"epochs": [0.5]}, train_images=80, held_out=0.5, mode=mode, **changes)
    metrics = train(config, tmp_path / "run")
    assert tuple(metrics["resolutions"]) == levels
    trained = {level for level, _ in metrics["tasks"]}
    for side, row in metrics["accuracy"].items():
        assert {level for level, value in row.items() if value is not None} == trained
        assert int(side) in config.sides
    assert set(metrics["own_resolution"]) == trained == set(metrics["best_held_out"]["held_out"])
    for name in ("curves.png", "contact_sheet.png"):
        assert (tmp_path / "run" / name).stat().st_size > 10_000
    model, _, tree = load_run(tmp_path / "run", "cpu")
    assert tree.levels == levels and model.num_classes == tree.sizes
    from c2f_ops.training.predict import predict_paths

    (answer,), _ = predict_paths(model, [tmp_path / "run" / "curves.png"], tree, config)
    assert set(answer["levels"]) == trained


def test_options_of_the_command_line(monkeypatch, tmp_path) -> None:
    pytest.importorskip("typer")
    from c2f_ops import cli, training

    seen: list[Config] = []
    monkeypatch.setattr(training, "train", lambda config, *_, **__: seen.append(config))

    def call(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["c2f", "train", "mlph", "--out", str(tmp_path / "run"), *options])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert call("--tasks", "species@128, family@24", "--resolutions", "128,48,24", "--consistency", "0.5") == 0
    assert seen[0].tasks == (("species", 128), ("family", 24)) and seen[0].consistency == 0.5
    assert seen[0].resolutions == (24, 48, 128)
    assert call("--levels", "species,family", "--resolutions", "64,32") == 0
    assert (seen[1].levels, seen[1].resolutions) == (("species", "family"), (32, 64))
    assert call("--recipe", "hbp", "--stage1", "head_only", "--batch-size", "96,16") == 0
    head, full = seen[2].stages
    assert (head.trained, head.milestones[0], full.milestones[0]) == ("classifiers", 10_000, 50_000)
    for bad in (("--tasks", "species"), ("--tasks", "species@x"), ("--stage1", "head_only")):
        assert call(*bad) == 2
    assert len(seen) == 3


def test_table_of_untrained_heads(tiny, tmp_path) -> None:
    from io import StringIO

    from rich.console import Console

    from c2f_ops.training import evaluate
    from c2f_ops.training.report import format_table

    config, tree = tiny(tasks=(("genus", 16),)), birds_hierarchy()
    data = load_dataset("birds", split="test", n=20, size=32)
    metrics = evaluate(build_model(config, tree), data.stacked(), data.labels, tree, config)
    assert metrics["accuracy"]["16"]["species"] is metrics["mapped_accuracy"]["16"]["species"] is None
    assert metrics["accuracy"]["16"]["family"] is None and 0 <= metrics["mapped_accuracy"]["16"]["family"] <= 1
    assert metrics["hierarchical"]["16"]["accuracy"]["family"] == metrics["mapped_accuracy"]["16"]["family"]
    console = Console(file=StringIO(), width=120)
    console.print(format_table(metrics, "title"))
    said = console.file.getvalue()
    assert "from the genus head" in said and [line.count("-  ") for line in said.splitlines() if "species" in line]


def test_answers_of_some_heads() -> None:
    tree = birds_hierarchy()
    logits = tuple(torch.randn(9, n) for n in tree.sizes)
    family, genus, species = (values.argmax(1) for values in logits)
    assert torch.equal(answers(logits, tree, (0, 1, 2)), torch.stack([family, genus, species], 1))
    assert torch.equal(answers(logits, tree, (2,)), tree.ancestors[species])
    nobody = torch.full((9,), -1)
    assert torch.equal(answers(logits, tree, (1,)), torch.stack([tree.parents[1][genus], genus, nobody], 1))
    assert torch.equal(answers(logits, tree, (0,)), torch.stack([family, nobody, nobody], 1))
    assert torch.equal(answers(logits, tree, (0, 2)), torch.stack([family, tree.parents[2][species], species], 1))


def test_selected_levels() -> None:
    tree = birds_hierarchy()
    assert tree.select(("species", "family", "genus")) == (tree, (0, 1, 2))
    part, columns = tree.select(("species", "family"))
    assert columns == (0, 2) and part.levels == ("family", "species") and part.meta == tree.meta
    assert torch.equal(part.ancestors, tree.ancestors[:, [0, 2]])
    assert part == Hierarchy(part.levels, part.names, [None, tree.ancestors[:, 0]]), "the hash of an equal tree"
    assert tree.select(["genus"])[0].names == (tree.names[1],)
    labels = tree.validate_labels([[0, -1, -1], [int(tree.ancestors[5, 0]), -1, 5]])
    assert torch.equal(part.validate_labels(labels[:, list(columns)]), labels[:, list(columns)])
    for bad in ((), "species", ("species", "species"), ("order",)):
        with pytest.raises(ValueError, match="levels must be distinct ones of family, genus, species, got"):
            tree.select(bad)

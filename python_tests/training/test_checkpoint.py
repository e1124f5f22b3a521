"""Checkpoints and resuming: intact, bound to their hierarchy, bit-exact."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from c2f_ops._files import signed
from c2f_ops.data.birds import birds_hierarchy
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.models import MLPH
from c2f_ops.training import Interrupted, load_run, make_config, run, train
from c2f_ops.training.checkpoint import find_checkpoint, load_model, load_optimizer, save_checkpoint
from c2f_ops.training.export import export_run


def digest(folder) -> str:
    """Hash of the tensors of a run's newest model, by name and bytes."""
    model, _, _ = load_run(folder, "cpu")
    sums = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        sums.update(key.encode() + value.contiguous().numpy().tobytes())
    return sums.hexdigest()


@pytest.fixture
def quick(monkeypatch):
    """Leave out evaluation and figures, which have their own tests."""
    monkeypatch.setattr(run, "finish", lambda *_: {})


@pytest.mark.parametrize("mode", ["alternating", "joint"])
def test_stopping_anywhere_and_resuming_changes_nothing(tiny, tmp_path, monkeypatch, quick, mode, stop_after) -> None:
    config = tiny(mode=mode, held_out=0.25)
    train(config, tmp_path / "whole")
    whole = digest(tmp_path / "whole")
    for steps in (1, 3, 5) if mode == "alternating" else (4,):
        folder = tmp_path / f"stopped{steps}"
        with monkeypatch.context() as patch:
            stop_after(patch, run, steps)
            with pytest.raises(Interrupted):
                train(config, folder)
        assert digest(folder) != whole
        train(config, folder, resume=True)
        assert digest(folder) == whole
        ours, theirs = ((tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", folder.name))
        assert [json.loads(line)["step"] for line in ours] == [json.loads(line)["step"] for line in theirs]


def test_two_stages_resume_in_either(tiny, tmp_path, monkeypatch, quick, stop_after) -> None:
    config = tiny({"epochs": [0.5, 0.5]}, recipe="hbp")
    train(config, tmp_path / "whole")
    head, full = config.stages
    assert (head.trained, full.trained) == ("head", "all")
    for steps in (4, 6, 8):  # in the first stage of six steps, at its end, in the second
        folder = tmp_path / f"stopped{steps}"
        with monkeypatch.context() as patch:
            stop_after(patch, run, steps)
            with pytest.raises(Interrupted):
                train(config, folder)
        train(config, folder, resume=True)
        assert digest(folder) == digest(tmp_path / "whole")


def test_resume_falls_back_on_the_checkpoint_before(tiny, tmp_path, monkeypatch, quick) -> None:
    config = tiny(checkpoint_minutes=1e-9)  # after every step
    train(config, tmp_path / "a")
    kept = sorted((tmp_path / "a" / "checkpoints").iterdir())
    assert len(kept) == 2
    whole = digest(tmp_path / "a")
    (kept[1] / "model.safetensors").write_bytes(b"cut off by a full disk")
    with pytest.warns(UserWarning, match=r"is damaged: model.safetensors is not as .*; the one before it is taken"):
        train(config, tmp_path / "a", resume=True)
    assert digest(tmp_path / "a") == whole


def test_resume_starts_anew_without_a_checkpoint(tiny, tmp_path, quick) -> None:
    config = tiny({"epochs": [0.25]})
    train(config, tmp_path / "a")
    whole = digest(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    train(config, tmp_path / "a", resume=True)
    assert digest(tmp_path / "a") == whole


def test_threads_are_given_back(tiny, tmp_path, quick) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(tiny({"epochs": [0.25]}, threads=1), tmp_path / "a")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_is_not_overwritten(tiny, tmp_path, quick) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="folder must be new, or be resumed"):
        train(tiny(), tmp_path)


def test_a_new_checkpoint_is_whole_before_the_old_one_goes(tmp_path, monkeypatch) -> None:
    tree, model = birds_hierarchy(), torch.nn.Linear(2, 2)
    save_checkpoint(tmp_path, 1, model, None, {"position": 1}, tree.sha256)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("c2f_ops._files.os.replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, model, None, {"position": 2}, tree.sha256)
    folder, state = find_checkpoint(tmp_path, tree)
    assert folder.name == "step-00000001" and state["position"] == 1


def test_another_hierarchy_is_refused(tmp_path) -> None:
    tree, model = birds_hierarchy(), torch.nn.Linear(2, 2)
    other = Hierarchy(("a",), (("x", "y"),), (None,))
    folder = save_checkpoint(tmp_path, 1, model, None, {}, tree.sha256)
    for load in (lambda: find_checkpoint(tmp_path, other), lambda: load_model(folder, model, other)):
        with pytest.raises(ValueError, match=f"hierarchy must be the one of .* got {other.sha256[:12]}"):
            load()
    load_model(folder, model, tree)


def test_another_model_is_refused(tmp_path) -> None:
    tree = birds_hierarchy()
    folder = save_checkpoint(tmp_path, 1, torch.nn.Linear(2, 2), None, {}, tree.sha256)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"model.safetensors must be a safetensors file, got"):
        load_model(folder, torch.nn.Linear(2, 2), tree)
    folder = save_checkpoint(tmp_path, 1, torch.nn.Linear(2, 2), None, {}, tree.sha256)
    with pytest.raises(ValueError, match="another tensor bias"):
        load_model(folder, torch.nn.Linear(2, 2, bias=False), tree)
    with pytest.raises(ValueError, match="another tensor weight"):
        load_model(folder, torch.nn.Linear(3, 2), tree)


def test_momentum_is_kept_by_name(tmp_path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    folder = save_checkpoint(tmp_path, 1, model, optimizer, {}, "x")
    fresh = torch.optim.SGD(list(model.parameters())[::-1], lr=0.1, momentum=0.9)
    load_optimizer(folder, model, fresh)
    for parameter in model[0].parameters():
        assert torch.equal(fresh.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])
    assert model[1].weight not in fresh.state
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def rewrite(change):
    """Make a harm to state.json that keeps its hash right."""

    def harm(folder) -> None:
        state = json.loads((folder / "state.json").read_text())
        del state["sha256"]
        (folder / "state.json").write_text(json.dumps(signed(change(state))))

    return harm


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: (f / "state.json").unlink(), "state.json is missing"),
        (lambda f: (f / "state.json").write_bytes(b""), r"state.json is no JSON \(Expecting value"),
        (lambda f: (f / "state.json").write_bytes(b"\xff\xfe{"), r"state.json is no JSON \("),
        (lambda f: (f / "state.json").write_text("[" * 100_000), r"state.json is no JSON \("),
        (lambda f: (f / "state.json").write_text("[]"), "state.json holds a list in place of values by name"),
        (lambda f: (f / "state.json").write_text("null"), "state.json holds a NoneType"),
        (lambda f: (f / "state.json").write_text("{}"), "state.json has no sha256"),
        (lambda f: (f / "state.json").write_text('{"files": [], "sha256": 3}'), "state.json is not as it was written"),
        (rewrite(lambda s: {**s, "files": []}), r"state.json must list model.safetensors .* got \[\]"),
        (rewrite(lambda s: {**s, "files": {}}), r"state.json must list model.safetensors .* got {}"),
        (rewrite(lambda s: {**s, "files": {**s["files"], "../x": ""}}), "state.json must list"),
        (rewrite(lambda s: {**s, "files": {"model.safetensors": 1}}), "model.safetensors is not as it was written"),
        (rewrite(lambda s: {**s, "step": 1}), "state.json is that of step 1"),
        (rewrite(lambda s: {**s, "step": "2"}), "state.json is that of step '2'"),
        (rewrite(lambda s: {**s, "hierarchy": 0}), "state.json must name a hierarchy, got 0"),
        (lambda f: (f / "state.json").write_text('{"a": ' + "[" * 900 + "]" * 900 + "}"), "state.json "),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "optimizer.safetensors").write_bytes(b""), "optimizer.safetensors is not as it was written"),
        (lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()), "cannot be read"),
        (
            lambda f: shutil.copy(f.parent / "step-00000001" / "model.safetensors", f),
            "model.safetensors is not as it was written",
        ),
        (
            lambda f: (shutil.rmtree(f), shutil.copytree(f.parent / "step-00000001", f)),
            "state.json is that of step 1",
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_in_one_line(tmp_path, harm, reason) -> None:
    tree, model = birds_hierarchy(), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in (1, 2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        newest = save_checkpoint(tmp_path, step, model, optimizer, {"position": step}, tree.sha256)
    harm(newest)
    with pytest.warns(
        UserWarning, match=f"step-00000002 is damaged: .*{reason}.*; the one before it is taken$"
    ) as seen:
        folder, state = find_checkpoint(tmp_path, tree)
    assert len(seen) == 1 and "\n" not in str(seen[0].message)
    assert folder.name == "step-00000001" and state["position"] == 1
    (folder / "model.safetensors").unlink()
    with pytest.warns(UserWarning) as seen, pytest.raises(FileNotFoundError, match="must hold an intact checkpoint"):
        find_checkpoint(tmp_path, tree)
    assert [str(warning.message).rpartition("; ")[2] for warning in seen] == [
        "the one before it is taken",
        "there is none before it",
    ]


def test_saving_again_and_after_damage_keeps_the_one_before(tmp_path) -> None:
    tree, model = birds_hierarchy(), torch.nn.Linear(2, 2)

    def names() -> list[str]:
        return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())

    for step in (1, 2, 5):
        save_checkpoint(tmp_path, step, model, None, {}, tree.sha256)
    assert names() == ["step-00000002", "step-00000005"]
    (tmp_path / "checkpoints" / "step-00000005" / "state.json").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        assert find_checkpoint(tmp_path, tree)[1]["step"] == 2
    save_checkpoint(tmp_path, 3, model, None, {}, tree.sha256)  # on from 2: what is left of 5 must not push it out
    assert names() == ["step-00000002", "step-00000003"]
    save_checkpoint(tmp_path, 3, model, None, {"again": True}, tree.sha256)
    assert names() == ["step-00000002", "step-00000003"]
    assert find_checkpoint(tmp_path, tree)[1]["again"]


def test_a_checkpoint_that_stepped_aside_counts(tmp_path, monkeypatch) -> None:
    tree, model = birds_hierarchy(), torch.nn.Linear(2, 2)
    save_checkpoint(tmp_path, 7, model, None, {"first": True}, tree.sha256)
    rename = os.replace

    def power_cut(source, target) -> None:
        if str(source).endswith("partial"):
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("c2f_ops._files.os.replace", power_cut)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 7, model, None, {"first": False}, tree.sha256)
    assert find_checkpoint(tmp_path, tree)[1]["first"]
    save_checkpoint(tmp_path, 7, model, None, {"first": False}, tree.sha256)
    assert not find_checkpoint(tmp_path, tree)[1]["first"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000007"]


def test_the_config_of_another_run_is_refused(tiny, tmp_path, quick) -> None:
    train(tiny({"epochs": [0.25]}), tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    tiny({"epochs": [0.25]}, seed=1).to_json(path)
    for load in (lambda: load_run(tmp_path / "a", "cpu"), lambda: train(tiny(), tmp_path / "a", resume=True)):
        with pytest.raises(ValueError, match=r"config.json must be the config that step-\d+ was trained with"):
            load()
    path.write_text(json.dumps({**content, "checkpoint_minutes": 5.0}))  # edited on purpose, without its hash
    before = path.read_text()
    train(tiny(), tmp_path / "a", resume=True)
    assert path.read_text() == before


@pytest.mark.parametrize("name", ["config.json", "hierarchy.json", "log.jsonl", "metrics.json"])
def test_files_of_a_run_are_replaced_at_once(tmp_path, monkeypatch, name) -> None:
    from c2f_ops.training.folder import write_metrics
    from c2f_ops.training.logs import RunLog

    def write(number: int) -> None:
        tree = Hierarchy(("a",), (("x", f"y{number}"),), (None,))
        {
            "config.json": lambda: make_config("birds", {"seed": number}, {}).to_json(tmp_path / name),
            "hierarchy.json": lambda: tree.to_json(tmp_path / name),
            "log.jsonl": lambda: RunLog(tmp_path, number).close(),
            "metrics.json": lambda: write_metrics(tmp_path, {"number": number}),
        }[name]()

    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n{"cut o')
    write(2)
    before = (tmp_path / name).read_bytes()

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("c2f_ops._files.os.replace", power_cut)
        with pytest.raises(KeyboardInterrupt):
            write(1)
    assert (tmp_path / name).read_bytes() == before
    write(1)
    assert (tmp_path / name).read_bytes() != before
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_weights(tiny, tmp_path, quick) -> None:
    from safetensors.torch import save_file

    config = tiny({"epochs": [0.25]})
    hierarchy = birds_hierarchy()
    body = run.build_model(config, hierarchy).backbone.body
    save_file(body.state_dict(), tmp_path / "start.safetensors")
    config = replace(config, weights=str(tmp_path / "start.safetensors"))
    train(config, tmp_path / "a")
    whole = digest(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    train(config, tmp_path / "a", resume=True)
    assert digest(tmp_path / "a") == whole


def test_a_run_becomes_a_pretrained_folder(tiny, tmp_path, quick) -> None:
    train(tiny({"epochs": [0.25]}), tmp_path / "a")
    (tmp_path / "a" / "calibration.json").write_text('{"temperatures": [2.0]}')
    export_run(tmp_path / "a", tmp_path / "b")
    model, (trained, _, hierarchy) = MLPH.from_pretrained(tmp_path / "b"), load_run(tmp_path / "a", "cpu")
    assert model.hierarchy == hierarchy and model.calibration == {"temperatures": [2.0]}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in trained.state_dict().items())
    (tmp_path / "a" / "calibration.json").write_text("{")
    with pytest.raises(ValueError, match=r"^export: .*calibration.json is no JSON"):
        export_run(tmp_path / "a", tmp_path / "b")


def test_metrics_that_are_damaged_are_written_anew(tmp_path) -> None:
    from c2f_ops.training.folder import write_metrics

    write_metrics(tmp_path, {"a": 1})
    assert write_metrics(tmp_path, {"b": 2}) == {"a": 1, "b": 2}
    (tmp_path / "metrics.json").write_text('{"a": ')
    with pytest.warns(UserWarning, match=r"metrics.json is no JSON .*; it is written anew"):
        assert write_metrics(tmp_path, {"b": 2}) == {"b": 2}
    (tmp_path / "metrics.json").write_text("[]")
    assert write_metrics(tmp_path, {"b": 2}) == {"b": 2}

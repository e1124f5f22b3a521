"""Checkpoints and resuming: intact, bound to their hierarchy, bit-exact."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

from c2f_ops.data.birds import birds_hierarchy
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.training import Interrupted, load_run, run, train
from c2f_ops.training.checkpoint import find_checkpoint, load_model, load_optimizer, save_checkpoint


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

    monkeypatch.setattr("c2f_ops.training.checkpoint.os.replace", power_cut)
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

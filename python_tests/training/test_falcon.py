"""FALCON end to end: the loop and its degenerate cases, resume, processes, the run folder and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import c2f_ops
from c2f_ops import cli
from c2f_ops.models import Falcon, FalconConfig
from c2f_ops.models.falcon_init import sharpness_of
from c2f_ops.training import Interrupted
from c2f_ops.training.falcon import FalconRun, FalconTrainer, Hooks, Learner, Start, make_run, picture, train_falcon
from c2f_ops.training.falcon import run as run_module
from c2f_ops.training.falcon.data import CoarseImages, Truth
from c2f_ops.training.falcon.evaluate import compare
from c2f_ops.training.falcon.loop import _share
from c2f_ops.training.falcon.start import label_groups

pytest.importorskip("sklearn")

SIDE, FINE = 8, 6
SWITCHES = {"mstep_init": "random", "mstep_every": 2, "neighbours_retrieved": 4, "neighbours_per_step": 2}
TINY = {
    "train_images": 48, "test_images": 24, "image_size": 16, "backbone_options": {"widths": [4, 8], "blocks": [1, 1]},
    "start": "none", "epochs": 3, "batch_size": 16, "device": "cpu", "threads": 1, "mstep_every": 2,
}  # fmt: skip


def data(count: int = 40, coarse: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, coarse, (count, 1), generator=generator)


def trainer(images, y, num_coarse=(3,), near=None, epochs=2, batch=16, **switches) -> FalconTrainer:
    torch.manual_seed(0)
    student = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, FINE))
    falcon = Falcon(student, FINE, num_coarse, FalconConfig(**{**SWITCHES, **switches}))
    run = FalconRun(image_size=SIDE, epochs=epochs, batch_size=batch, lr=0.1, device="cpu", falcon=falcon.config)
    if near is None:
        near = c2f_ops.neighbours.group_knn(images.flatten(1).float(), label_groups(y), 4).indices
    return FalconTrainer(Learner(falcon, len(images)), run, images, y, near, Accelerator(cpu=True))


class Record:
    """A log in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict]] = []

    def write(self, kind: str, step: int, values: dict) -> None:
        self.rows.append((kind, step, values))

    def of(self, kind: str) -> list[dict]:
        return [values for k, _, values in self.rows if k == kind]


def weights_of(learner: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in learner.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(), b[k].nan_to_num()) for k in a)


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_it_logs_terms_clusters_and_relations() -> None:
    log, it = Record(), trainer(*data())
    it.train(Hooks(log=log))  # type: ignore[arg-type]
    assert it.position.step == 4 and it.position.finished
    assert len(log.of("clusters")) == 2 and all(1 <= r["used"] <= FINE for r in log.of("clusters"))
    assert set(log.of("train")[0]["terms"]) == {"coarse", "nn", "conf", "reg"}
    solved = log.of("relations")
    assert len(solved) == 3 and solved[-1]["last"], "after steps 2 and 4, and after a pass over all images"
    assert all({"moved", "gap", "balance_forced", "milliseconds", "lambda_m"} <= set(r) for r in solved)


def _coarse_class_missing() -> dict:
    images, y = data()
    y[y == 2] = 1
    return {"images": images, "y": y}


def _few_neighbours() -> dict:
    images, y = data()
    y[:] = 0
    y[0], y[1:3] = 1, 2
    return {"images": images, "y": y}


def _unlabelled() -> dict:
    images, y = data()
    y[::2] = -1
    return {"images": images, "y": y}


CASES = {
    "one coarse class": lambda: {"images": data()[0], "y": data(coarse=1)[1], "num_coarse": (1,)},
    "class absent": _coarse_class_missing,
    "fewer than k + 1 samples": _few_neighbours,
    "fewer images than a batch": lambda: {"images": data(7)[0], "y": data(7)[1]},
    "constant images": lambda: {"images": torch.full((40, 3, SIDE, SIDE), 9, dtype=torch.uint8), "y": data()[1]},
    "half without a label": _unlabelled,
    "no label at all": lambda: {"images": data()[0], "y": torch.full((40, 1), -1)},
    "no neighbours": lambda: {"images": data()[0], "y": data()[1], "neighbours_per_step": 0},
    "bank": lambda: {"images": data()[0], "y": data()[1], "neighbour_mode": "bank"},
}


@pytest.mark.parametrize("case", CASES)
def test_degenerate_cases_train_to_finite_weights(case) -> None:
    it = trainer(**CASES[case]())
    it.train()
    assert all(
        value.isfinite().all()
        for key, value in it.learner.state_dict().items()
        if not any(word in key for word in ("prices", "sizes"))
    )
    assert sorted(it.falcon.relations.unique().tolist()) == list(range(it.falcon.num_coarse[0]))


def test_two_taxonomies_train_and_keep_every_class() -> None:
    images, y = data()
    y = torch.cat([y, torch.randint(0, 2, (len(y), 1))], 1)
    y[::2, 0], y[1::2, 1] = -1, -1
    it = trainer(images, y, num_coarse=(3, 2))
    it.train()
    assert [row.unique().numel() for row in it.falcon.relations] == [3, 2]
    near = it.neighbours[0]
    assert ((y[near[near >= 0].long()] >= 0) == (y[0] >= 0)).all(), "neighbours come from the same data set"


def test_a_fine_class_that_is_never_predicted_stays_where_it_was() -> None:
    it = trainer(*data(), mstep_every=1)
    for network in (it.falcon.student, it.falcon.teacher):
        with torch.no_grad():
            network[2].bias[5] = -1e4
    parent = int(it.falcon.relations[0, 5])
    it.train()
    assert it.falcon.relations.isfinite().all() and (it.falcon.relations[0] == parent).any()
    assert it.falcon.student[2].bias.isfinite().all()


def test_nothing_depends_on_the_number_of_draws_before() -> None:
    first, second = trainer(*data()), trainer(*data())
    first.train()
    torch.rand(1000)
    second.train()
    assert equal(weights_of(first.learner), weights_of(second.learner))


def test_each_neighbour_is_transformed_once_and_by_a_view_of_its_own(monkeypatch) -> None:
    from c2f_ops.training.falcon import loop

    seen: list[tuple[str, int]] = []
    inner = loop.make_view

    def spy(images, run, stream, step, **options):
        seen.append((stream, len(images)))
        return inner(images, run, stream, step, **options)

    monkeypatch.setattr(loop, "make_view", spy)
    it = trainer(*data(), epochs=1)
    it.train()
    assert seen[:3] == [("student", 16), ("teacher", 16), ("neighbours", 32)]


def test_the_bank_is_renewed_each_epoch_and_fed_to_the_loss(monkeypatch) -> None:
    it = trainer(*data(), neighbour_mode="bank", epochs=2)
    banks = []
    inner = it.falcon.loss

    def spy(z, s, t, y, *rest, nbr_mask, idx):
        banks.append(t.clone())
        assert nbr_mask is None and idx.shape == (16, 2)
        return inner(z, s, t, y, *rest, nbr_mask=nbr_mask, idx=idx)

    monkeypatch.setattr(it.falcon, "loss", spy)
    it.train()
    assert torch.equal(banks[0], banks[1]) and not torch.equal(banks[1], banks[2])


def test_rates_restart_and_milestones() -> None:
    it = trainer(*data(), epochs=4)  # two steps each
    it.settings = it.settings.changed({"schedule": "cosine", "restart_epochs": 2.0, "min_lr": 0.01})
    assert it.rate(0) == pytest.approx(0.1) and it.rate(4) == pytest.approx(0.1)
    assert 0.01 < it.rate(3) < it.rate(2) < it.rate(1)
    it.settings = it.settings.changed({"schedule": "step", "milestones": [1, 3], "gamma": 0.5})
    assert [round(it.rate(s), 4) for s in range(8)] == [0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025]


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    it = trainer(*data())
    with torch.no_grad():
        it.falcon.student[2].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loss must be finite"):
        it.train()


def test_sharpness_reaches_the_confidence() -> None:
    x, centres = torch.randn(500, 4), torch.randn(FINE, 4)
    parents, y = torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(500) % 2
    scale = sharpness_of(*(part.numpy() for part in (x, y, centres, parents)), 0.7)
    scores = (-scale * torch.cdist(x, centres).square() / 2).masked_fill(parents[None] != y[:, None], -torch.inf)
    assert float(scores.softmax(1).amax(1).mean()) == pytest.approx(0.7, abs=1e-3)


# ---- processes -------------------------------------------------------------------------------------------------------

WORKER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_falcon import data, trainer, weights_of
import torch.distributed as dist
found = {}
for mode in ("forward", "bank"):
    images, y = data(41)
    y[3] = -1
    it = trainer(images, y, epochs=3, batch=15, neighbour_mode=mode, reg_ema=0.9 if mode == "bank" else 0.0)
    it.train()
    it.gather_counts()
    found[mode] = weights_of(it.learner), it.accelerator.num_processes
if it.accelerator.is_main_process:
    torch.save(found, sys.argv[2])
it.accelerator.wait_for_everyone()
if dist.is_initialized():
    dist.destroy_process_group()
"""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(c2f_ops.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_two_processes_equal_one(tmp_path) -> None:
    script, here = tmp_path / "worker.py", str(Path(__file__).parent)
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command = [*launch, "--rdzv-endpoint", "localhost:0", str(script), here, str(tmp_path / "two.pt")]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for mode, (two, processes) in torch.load(tmp_path / "two.pt").items():
        images, y = data(41)
        y[3] = -1
        it = trainer(images, y, epochs=3, batch=15, neighbour_mode=mode, reg_ema=0.9 if mode == "bank" else 0.0)
        it.train()
        one = weights_of(it.learner)
        assert processes == 2
        assert torch.equal(one["falcon.criterion.relations"], two["falcon.criterion.relations"])
        for key, value in one.items():
            torch.testing.assert_close(
                two[key], value, rtol=1e-4, atol=1e-6, equal_nan=True, msg=lambda m, k=key: k + m
            )


def test_shares_cover_a_batch() -> None:
    for processes in (1, 2, 3, 7):
        rows = [i for p in range(processes) for i in range(15)[_share(15, p, processes)]]
        assert rows == list(range(15))


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Leave out evaluation and figures, which have their own tests."""
    monkeypatch.setattr(run_module, "finish", lambda *_: {})


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


@pytest.mark.parametrize("mode", ["forward", "bank"])
def test_stopping_anywhere_and_resuming_changes_nothing(mode, tmp_path, monkeypatch, quick, stop_after) -> None:
    options = {"reg_ema": 0.9, "label_smoothing_coarse": 0.1} if mode == "bank" else {}
    settings = make_run("birds", changes={**TINY, "neighbour_mode": mode, **options})
    train_falcon(settings, tmp_path / "whole")
    whole = final_state(tmp_path / "whole")
    for steps in (2, 4, 9):  # inside the window of the relations, inside an epoch, before the last solve
        folder = tmp_path / f"stopped{steps}"
        with monkeypatch.context() as patch:
            stop_after(patch, run_module, steps)
            with pytest.raises(Interrupted):
                train_falcon(settings, folder)
        assert not equal(final_state(folder), whole)
        train_falcon(settings, folder, resume=True)
        assert equal(final_state(folder), whole)
    ours, theirs = (
        [(r["kind"], r["step"]) for r in map(json.loads, (tmp_path / f / "log.jsonl").read_text().splitlines())]
        for f in ("whole", "stopped4")
    )
    assert [r for r in ours if r[0] != "train"] == [r for r in theirs if r[0] != "train"]


def test_killed_runs_resume_to_the_same_weights(tmp_path, quick) -> None:
    settings = make_run("birds", changes={**TINY, "epochs": 8, "checkpoint_minutes": 1e-9})
    train_falcon(settings, tmp_path / "whole")
    folder = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from c2f_ops.training.falcon import *\n"
        f"settings = FalconRun.from_json({str(tmp_path / 'whole' / 'config.json')!r})\n"
        "folder = Path(sys.argv[1]); train_falcon(settings, folder, resume=(folder / 'config.json').exists())"
    )
    for wanted in (2, 9):  # checkpoints follow each other at every step: the kill falls into any part of one
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], env=environment(), cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < give_up:
            if list((folder / "checkpoints").glob(f"step-*{wanted}")):
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    train_falcon(settings, folder, resume=True)
    assert equal(final_state(folder), final_state(tmp_path / "whole"))


def test_fine_labels_play_no_part_in_training(tmp_path, monkeypatch, quick) -> None:
    settings = make_run("birds", changes=TINY)
    train_falcon(settings, tmp_path / "true")
    inner = run_module.truth_part

    def shuffled(*arguments):
        truth = inner(*arguments)
        return truth._replace(fine=truth.fine[torch.randperm(len(truth.fine))], relations=truth.relations.flip(1))

    monkeypatch.setattr(run_module, "truth_part", shuffled)
    train_falcon(settings, tmp_path / "shuffled")
    assert equal(final_state(tmp_path / "true"), final_state(tmp_path / "shuffled"))


def test_other_data_are_refused_on_resume(tmp_path, quick) -> None:
    train_falcon(make_run("birds", changes=TINY), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "data_seed": 5, "sha256": None}))
    with pytest.raises(ValueError, match="data must be those that"):
        train_falcon(FalconRun(), tmp_path, resume=True)


@pytest.mark.parametrize("start", ["coarse", "selfsup"])
def test_starts_move_the_backbone(start) -> None:
    from c2f_ops.training.falcon import build_falcon, learn_start

    settings = make_run("birds", changes={**TINY, "start": start, "start_epochs": 1.0, "start_batch_size": 20})
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    falcon = build_falcon(settings, FINE, (3,))
    before = weights_of(falcon.student)
    heads = learn_start(falcon.student, images, data()[1], settings)
    after = weights_of(falcon.student)
    assert not torch.equal(before["backbone.conv1.weight"], after["backbone.conv1.weight"])
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert [head.out_features for head in heads] == ([3] if start == "coarse" else [])


def test_rivals_by_hand() -> None:
    relations = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])  # classes 2 and 3 share both
    fine = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    truth = Truth(fine, relations, tuple("abcd"))
    test = CoarseImages(torch.zeros(7, 3, 2, 2, dtype=torch.uint8), relations[:, fine].t(), (("A", "B"), ("x", "y")))
    start = Start(torch.empty(7, 0), torch.zeros(7, dtype=torch.int64), relations, relations[:, fine].t())
    rivals = compare(start, test, truth)
    assert rivals["heads"]["accuracy"] == pytest.approx(6 / 7), "right about both taxonomies, 3 of 4 classes apart"
    assert rivals["heads"]["n_pred"] == 3 and rivals["kmeans"]["accuracy"] == pytest.approx(3 / 7)
    assert rivals["largest"] == pytest.approx(5 / 7), "b and c of A and B; of x and y it would be a and c, 4"
    none = compare(start._replace(clusters=fine[:0], coarse=test.y[:0]), test, None)
    assert none == {"kmeans": None, "heads": None, "largest": None}


@pytest.mark.parametrize(
    ("relations", "expected"),
    [([[0, 0, 1, 1], [0, 1, 0, 1]], "grid"), ([[0, 0, 1, 1], [0, 0, 1, 0]], "grid"), ([[0, 0, 0, 1]] * 2, "rows"),
     ([[0, 0, 1, 1]], "rows")],
)  # fmt: skip
def test_the_picture_is_a_grid_where_there_is_room(relations, expected, tmp_path, monkeypatch) -> None:
    drawn = []
    for name in ("grid", "rows"):
        inner = getattr(picture, f"_draw_{name}")
        monkeypatch.setattr(picture, f"_draw_{name}", lambda c, n=name, f=inner: (drawn.append(n), f(c)))
    relations, fine = torch.tensor(relations), torch.arange(8) % 4
    images = torch.full((8, 3, 4, 4), 99, dtype=torch.uint8)
    test = CoarseImages(images, relations[:, fine].t(), (("A", "B"), ("x", "y"))[: len(relations)])
    truth, logits = Truth(fine, relations, tuple("abcd")), torch.eye(4)[fine]
    picture.plot_classes(tmp_path / "p.png", test, images, logits, relations, truth, {"matching": (0, 1, -1, 3)})
    assert drawn == [expected] and (tmp_path / "p.png").stat().st_size > 0


# ---- settings and command --------------------------------------------------------------------------------------------


def test_settings_reach_the_run_and_its_switches(tmp_path) -> None:
    run = FalconRun().changed({"epochs": 4, "temperature": 0.8, "falcon": {"lambdas": [1, 2, 3]}})
    assert (run.epochs, run.falcon.temperature, run.falcon.lambdas) == (4, 0.8, (1.0, 2.0, 3.0))
    with pytest.raises(TypeError, match="falcon: temperature must be float, got 'hot'"):
        run.changed({"temperature": "hot"})
    with pytest.raises(ValueError, match="field of the run or a switch of FALCON, got nonsense"):
        run.changed({"nonsense": 1})
    with pytest.raises(ValueError, match="pseudo_label must be one of"):
        run.changed({"pseudo_label": "hard"})
    with pytest.raises(ValueError, match="cross_dataset_neighbours must be 'within' in a run"):
        run.changed({"cross_dataset_neighbours": "meet"})
    run.to_json(tmp_path / "config.json")
    assert FalconRun.from_json(tmp_path / "config.json") == run


def test_presets_reach_the_run() -> None:
    assert make_run("cifar100", "paper").falcon == FalconConfig.paper()
    assert make_run("cifar100", "reference").falcon == FalconConfig.reference()
    assert make_run("cifar100", "paper").milestones == (60.0, 80.0)
    assert make_run("tieredimagenet").falcon.lambdas == (0.5, 0.5, 5.0)
    assert make_run("entity13", changes={"epochs": 3}).epochs == 3


def test_command(monkeypatch, capsys, tmp_path) -> None:
    pytest.importorskip("typer")
    run = tmp_path / "run"
    options = ["--train-images", "48", "--test-images", "40", "--image-size", "16", "--epochs", "2"]
    options += ["--set", "start_epochs=1"]
    options += ["--set", 'backbone_options={"widths": [4, 8], "blocks": [1, 1]}', "--set", "mstep_every=2"]
    options += ["--batch-size", "16", "--device", "cpu", "--threads", "1"]

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["c2f", "train", "falcon", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert call(*options, "--out", run) == 0
    said = capsys.readouterr().out
    words = ("birds-two-keys, 40 test images", "protocol heldout", "k-means", "classifiers", "largest", "used clusters")
    for word in (*words, "relation accuracy"):
        assert word in said
    for name in ("config.json", "metrics.json", "relations.csv", "curves.png", "classes.png", "log.jsonl"):
        assert (run / name).stat().st_size > 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["falcon"]["protocol"] == "heldout" and metrics["fine_labels_in_training"] is False
    assert metrics["num_coarse"] == [6, 5] and metrics["heads"]["accuracy"] > 0 and metrics["largest"] > 0
    assert len((run / "relations.csv").read_text().splitlines()) == 16
    assert call("--resume", run) == 0, "a finished run is evaluated again"
    assert json.loads((run / "metrics.json").read_text())["falcon"] == metrics["falcon"]
    capsys.readouterr()
    assert call("--data", "birds", "--coarse-level", "species", "--out", tmp_path / "b") == 2
    assert "coarse_levels must be above fine_level genus" in capsys.readouterr().err

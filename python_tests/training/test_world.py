"""Gradients do not depend on the number of processes. Run by torchrun, this file is the job of each process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import c2f_ops
from c2f_ops.training import Config, Hooks, Trainer
from c2f_ops.training.machine import cpu_threads, make_accelerator
from c2f_ops.training.run import build_model, load_split

CALM = {"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}
CASES: dict[str, dict[str, Any]] = {
    "alternating": {},
    "joint": {"mode": "joint", "level_weights": (0.5, 1.0, 2.0)},
    "consistent": {"consistency": 0.5, "mode": "joint"},
    "sides": {"tasks": (("species", 32), ("species", 16)), "resolutions": (), "accumulate": 2},
}


def gradients(config: Config, *, double: bool) -> dict[str, torch.Tensor]:
    """Gradient of every parameter in each step of the first cycle; every fifth image lacks its fine labels."""
    accelerator = make_accelerator("cpu", "fp32", find_unused=config.has_idle_heads)
    torch.manual_seed(0)
    data = load_split(config, "train")
    data.labels[::5, 1:] = -1
    data.labels[1:4] = -1
    model = build_model(config, data.hierarchy)
    if double:
        model.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
    trainer = Trainer(model, config, data.stacked(), data.labels, data.hierarchy, accelerator)
    names = {parameter: name for name, parameter in model.named_parameters()}
    seen: dict[str, torch.Tensor] = {}

    def note() -> bool:
        step = trainer.position.step
        seen.update({f"{step}/{name}": p.grad.clone().contiguous() for p, name in names.items() if p.grad is not None})
        return False

    trainer.run(Hooks(should_stop=note))
    accelerator.wait_for_everyone()
    return seen


def job(folder: Path, world: int, rank: int) -> None:
    """Save what `gradients` finds in every case, as process ``rank`` of ``world``."""
    for file in sorted(folder.glob("*.json")):
        for double in (False, True):
            config = Config.from_json(file)
            if not double:  # rounding must not add up over steps: the weights stay where they are
                config = replace(config, stages=tuple(replace(stage, lr=1e-12) for stage in config.stages))
            found = gradients(config, double=double)
            save_file(found, folder / f"{file.stem}-{double}-{world}-{rank}.safetensors")


def launch(folder: Path, processes: int) -> str:
    """Run this file in so many processes over gloo; return what they wrote to stderr."""
    path = os.pathsep.join([str(Path(c2f_ops.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__,
         str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny) -> Path:
    """Gradients of all cases for 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("world")
    for name, changes in CASES.items():
        stage = {"batch_size": [20], "epochs": [0.5], "batch_norm": ["frozen"], "warmup": [0], "lr": [0.05]}
        changes = dict(changes)
        stage["accumulate"] = [changes.pop("accumulate", 1)]
        tiny(stage, backbone_options=CALM, **changes).to_json(folder / f"{name}.json")
    with cpu_threads(1):
        job(folder, 1, 0)
    (folder / "said.txt").write_text(launch(folder, 2) + launch(folder, 4))
    return folder


def loaded(folder: Path, case: str, double: bool, world: int, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{case}-{double}-{world}-{rank}.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest relative distance of two gradients of one step, all parameters taken together."""
    assert a.keys() == b.keys()
    worst = 0.0
    for step in {name.split("/")[0] for name in a}:
        names = [name for name in a if name.startswith(f"{step}/")]
        x, y = (torch.cat([side[name].double().flatten() for name in names]) for side in (a, b))
        worst = max(worst, float((x - y).norm() / x.norm()))
    return worst


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(folder, case, world) -> None:
    assert distance(loaded(folder, case, True, 1), loaded(folder, case, True, world)) < 1e-12
    assert distance(loaded(folder, case, False, 1), loaded(folder, case, False, world)) < 1e-5  # rounding alone


def test_idle_heads_have_no_gradient_in_any_process(folder) -> None:
    for world, rank in ((1, 0), (2, 1), (4, 3)):
        for case, heads in (("alternating", [{2}, {1}, {0}]), ("consistent", [{0, 1, 2}]), ("sides", [{2}, {2}])):
            found = loaded(folder, case, True, world, rank)
            for step, expected in enumerate(heads, start=1):
                assert {k for k in range(3) if f"{step}/heads.{k}.weight" in found} == expected


def test_processes_agree(folder) -> None:
    for case in CASES:
        first, last = (loaded(folder, case, False, 4, rank) for rank in (0, 3))
        assert first.keys() == last.keys() and all(torch.equal(first[name], last[name]) for name in first)


def test_no_process_searches_for_unused_parameters_in_vain(folder) -> None:
    assert "find_unused_parameters" not in (folder / "said.txt").read_text()


def test_a_batch_must_be_dealt_out_evenly(tiny) -> None:
    config = tiny({"batch_size": [9]})
    data = load_split(config, "train")
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    trainer = Trainer(
        build_model(config, data.hierarchy), config, data.stacked(), data.labels, data.hierarchy, accelerator
    )
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 processes, got 9 with 40 images"):
        trainer._sampler(config.stages[0], trainer.turns[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    job(Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))

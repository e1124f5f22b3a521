"""FALCON's teacher to the bit, the switches of prediction and start, and processes that disagree."""

from __future__ import annotations

import datetime
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn

from c2f_ops.models import Falcon, FalconConfig, ema_update
from c2f_ops.models.ema import make_teacher
from c2f_ops.relations import balance_threshold

FINE, COARSE, WIDTH = 6, 3, 4


def make(student: nn.Module | None = None, **switches) -> Falcon:
    config = FalconConfig(**{"mstep_init": "random", **switches})
    return Falcon(student or nn.Linear(WIDTH, FINE), FINE, COARSE, config)


def test_foreach_update_is_the_loop_to_the_bit() -> None:
    student = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3).double(), nn.Linear(3, 2).half())
    teacher = make_teacher(student)
    for p in student.parameters():
        nn.init.normal_(p)
    expected = {name: p.clone() for name, p in teacher.named_parameters()}
    for decay in (0.0, 0.1, 0.9, 0.99, 1.0):
        for name, p in student.named_parameters():
            expected[name].lerp_(p.detach(), 1 - decay)
        ema_update(teacher, student, decay)
        assert all(torch.equal(p, expected[name]) for name, p in teacher.named_parameters())


def test_no_gradient_reaches_the_teacher() -> None:
    falcon = make()
    x, y = torch.randn(8, WIDTH, requires_grad=True), torch.arange(8) % COARSE
    s = falcon.teacher_logits(x)
    assert not s.requires_grad
    z = falcon.student(x)
    loss, _ = falcon.loss(z, falcon.teacher(x), falcon.teacher(x)[:, None], y, 1, 10)  # with a graph, by mistake
    loss.backward()
    expected = torch.autograd.grad(falcon.loss(falcon.student(x), s, s[:, None], y, 1, 10)[0], x)[0]
    assert torch.equal(x.grad, expected) and all(p.grad is None for p in falcon.teacher.parameters())


def test_predict_with() -> None:
    x = torch.randn(5, WIDTH)
    for who in ("student", "teacher"):
        falcon = make(predict_with=who).eval()
        nn.init.normal_(falcon.student.weight)
        assert torch.equal(falcon(x), getattr(falcon, who)(x))
        assert not torch.equal(falcon.student(x), falcon.teacher(x))


def test_weight_of_balance() -> None:
    """At equal masses 1 / K_F the threshold is K_C / (2 K_F): half of it by default, twice with ``balanced``."""
    threshold = balance_threshold(np.full((100, 20), 1 / 2000))
    assert FalconConfig().balance(100, 20, 1, 10) == pytest.approx(0.5 * threshold)
    assert FalconConfig(balanced=True).balance(100, 20, 1, 10) == pytest.approx(2 * threshold)
    assert FalconConfig.paper().mstep_init == "random" and FalconConfig.reference().mstep_init == "reference"


@pytest.mark.parametrize(("prior", "sizes"), [("equal", [2, 2, 2]), ("proportional", [4, 1, 1])])
def test_group_prior(prior: str, sizes: list[int]) -> None:
    """Predictions that say nothing: sizes are those that the balance term pulls to."""
    falcon = make(group_prior=prior, lambda_m=100.0)
    y = torch.tensor([0] * 40 + [1] * 10 + [2] * 10)
    falcon.count(torch.zeros(60, FINE), y)
    assert falcon.solve(1, 10)[0].n.tolist() == sizes


def test_first_relations_of_the_reference_code_are_not_balanced() -> None:
    """Its costs have K_F times the mass, so that the same weight of balance is K_F times weaker."""
    sizes = {}
    for init in ("random", "reference"):
        config = FalconConfig(mstep_init=init, lambda_m=0.1)
        parents = [Falcon(nn.Linear(2, 100), 100, 20, config, seed=seed).relations[0] for seed in range(3)]
        sizes[init] = [int(g.bincount(minlength=20).max() - g.bincount(minlength=20).min()) for g in parents]
    assert max(sizes["random"]) <= 1 and min(sizes["reference"]) > 1, sizes


def test_inference_does_not_depend_on_relations_or_counts() -> None:
    falcon, x = make().eval(), torch.randn(9, WIDTH)
    before = falcon(x)
    falcon.set_relations([2, 2, 1, 1, 0, 0])
    falcon.count(torch.randn(9, FINE), torch.arange(9) % COARSE)
    falcon.solve(1, 10)
    assert torch.equal(falcon(x), before)


def _worker(rank: int, folder: str) -> None:
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    falcon = make()
    falcon.set_relations([0, 0, 1, 1, 2, 2])
    falcon.solve(1, 10)  # nothing counted: every class stays where it is, in both processes
    falcon.set_relations([0, 0, 1, 1, 2, 2] if rank else [2, 2, 1, 1, 0, 0])
    try:
        falcon.solve(1, 10)
    except RuntimeError as error:
        assert "processes came to different relations" in str(error)
        dist.destroy_process_group()
        sys.exit(7)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo")
def test_processes_with_other_relations_stop(tmp_path) -> None:
    workers = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [7, 7]


if __name__ == "__main__":
    _worker(int(sys.argv[1]), sys.argv[2])

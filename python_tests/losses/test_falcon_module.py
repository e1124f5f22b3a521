"""`FalconLoss`: its relations, and that loss and gradients do not depend on the number of processes."""

from __future__ import annotations

import datetime
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import nn

from c2f_ops import falcon_loss
from c2f_ops.losses import FalconLoss
from c2f_ops.testing import relative_error

FINE, WIDTH, BATCH, NEIGHBOURS = 30, 8, 24, 3
# Where the batch is cut; the first shards have no neighbour or no label at all (see `_batch`).
CUTS = {1: [], 2: [5], 4: [2, 5, 16]}


def test_starts_spread_evenly_and_takes_new_relations():
    module = FalconLoss(10, [3, 5])
    assert module.relations.dtype == torch.int32
    assert module.relations[0].bincount().tolist() == [4, 3, 3] and module.relations[1].bincount().tolist() == [2] * 5
    g = torch.stack([torch.arange(10) % 3, torch.arange(10) % 5])
    module.set_relations(g.tolist())
    assert torch.equal(module.relations, g.int()) and "relations" in module.state_dict()
    single = FalconLoss(10, 3)
    single.set_relations((torch.arange(10) % 3).numpy())
    assert single.relations.shape == (1, 10) and "num_fine=10" in repr(single)


BAD = {
    "shape": ([0, 1, 2], r"g must have shape \[1, 6\], got \[3\]"),
    "rows": ([[0, 1, 2, 0, 1, 2]] * 2, r"g must have shape \[1, 6\], got \[2, 6\]"),
    "too large": ([0, 1, 2, 3, 0, 1], r"g\[0\] must hold classes 0 to 2, got 0 to 3"),
    "negative": ([0, 1, 2, -1, 0, 1], r"g\[0\] must hold classes 0 to 2, got -1 to 2"),
    "empty": ([0, 0, 2, 2, 0, 0], r"g\[0\] must give each coarse class a fine class, got none for \[1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_relations_are_named_and_not_taken(name):
    module = FalconLoss(6, 3)
    before = module.relations.clone()
    g, message = BAD[name]
    with pytest.raises(ValueError, match="^FalconLoss: " + message):
        module.set_relations(g)
    assert torch.equal(module.relations, before)


@pytest.mark.parametrize("sizes", [(2, 3), (5, []), (5, [2, 0]), (3, [2, 4])])
def test_bad_sizes_are_named(sizes):
    with pytest.raises(ValueError, match=r"^FalconLoss: num_fine must be at least num_coarse"):
        FalconLoss(*sizes)


def test_forward_is_the_function():
    module = FalconLoss(FINE, 4, lambdas=(1.0, 0.3, 0.7), temperature=0.5, backend="reference")
    z, s, t = torch.randn(5, FINE), torch.randn(5, FINE), torch.randn(5, 2, FINE)
    y, mask = torch.randint(4, (5,)), torch.rand(5, 2) < 0.5
    loss, terms = module(z, s, t, y, tau=0.2, nbr_mask=mask)
    options = {"lambdas": (1.0, 0.3, 0.7), "T": 0.5, "tau": 0.2, "nbr_mask": mask, "backend": "reference"}
    expected = falcon_loss(z, s, t, y, module.relations, return_terms=True, **options)
    assert torch.equal(loss, expected[0]) and torch.equal(terms, expected[1]) and terms.shape == (4,)


def _batch(dtype):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype) * 2  # noqa: E731
    data = SimpleNamespace(x=draw(BATCH, WIDTH), s=draw(BATCH, FINE), t=draw(BATCH, NEIGHBOURS, FINE))
    data.y = torch.randint(4, (BATCH,), generator=generator)
    data.mask = torch.rand(BATCH, NEIGHBOURS, generator=generator) < 0.7
    data.mask[:5] = False
    data.y[:2], data.y[20] = -1, -1
    return data


def _model(dtype):
    torch.manual_seed(1)
    return nn.Linear(WIDTH, FINE).to(dtype)


def _step(model, part, dtype):
    """Loss, terms and gradients of the rows ``part`` of the batch."""
    data, module = _batch(dtype), FalconLoss(FINE, 4)
    rows = slice(*part)
    loss, terms = module(model(data.x[rows]), data.s[rows], data.t[rows], data.y[rows], nbr_mask=data.mask[rows])
    loss.backward()
    return [loss.detach(), terms, *(p.grad for p in model.parameters())]


def _worker(rank, world, folder):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=limit)
    part = [0, *CUTS[world], BATCH][rank : rank + 2]
    for dtype in (torch.float32, torch.float64):
        model = nn.parallel.DistributedDataParallel(_model(dtype))
        loss, terms, *grads = _step(model, part, dtype)
        for mean in (loss, terms):  # as DDP does with gradients
            dist.all_reduce(mean)
            mean /= world
        torch.save([loss, terms, *grads], f"{folder}/{dtype}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.parametrize("world", CUTS)
def test_independent_of_the_number_of_processes(world, tmp_path):
    # Processes of their own from this file: what pytest imports has no name that a spawned process could import.
    command = [sys.executable, __file__]
    workers = [subprocess.Popen([*command, str(rank), str(world), str(tmp_path)]) for rank in range(world)]
    assert [worker.wait(timeout=300) for worker in workers] == [0] * world
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        expected = _step(_model(dtype), (0, BATCH), dtype)
        for rank in range(world):
            actual = torch.load(f"{tmp_path}/{dtype}-{rank}.pt")
            assert all(relative_error(a, e) <= bound for a, e in zip(actual, expected, strict=True)), (dtype, rank)


if __name__ == "__main__":
    _worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

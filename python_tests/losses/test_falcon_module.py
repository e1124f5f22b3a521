"""`FalconLoss`: its relations, and that loss and gradients do not depend on the number of processes."""

from __future__ import annotations

import datetime
import itertools
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

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


# ---- label smoothing -------------------------------------------------------------------------------------------------


def _naive_smoothed(z, y, g, counts, eps):
    """The definition in float64, one sample at a time: labels under several data sets share a group and the spread."""
    z, total = z.double(), 0.0
    for row, labels in zip(z, y.tolist(), strict=True):
        p, known = row.softmax(0), [d for d, label in enumerate(labels) if label >= 0]
        if not known:
            continue
        inside = torch.stack([g[d] == labels[d] for d in known]).all(0)
        spread = [-p[g[d] == j].sum().log() / counts[d] for d in known for j in range(counts[d])]
        total = total - (1 - eps) * p[inside].sum().log() + eps * sum(spread) / len(known)
    return total / int((y >= 0).any(1).sum())


def _taxonomies():
    generator = torch.Generator().manual_seed(4)
    g = torch.stack([torch.arange(FINE) % 3, torch.arange(FINE) // 6]).int()
    z = 3 * torch.randn(7, FINE, generator=generator, dtype=torch.float64)
    y = torch.tensor([[0, -1], [-1, 4], [2, 1], [-1, -1], [1, 0], [2, -1], [-1, 3]])
    return z, y, g


def test_smoothing_is_the_naive_form_and_its_gradient():
    z, y, g = _taxonomies()
    module = FalconLoss(FINE, (3, 5), lambdas=(0.7, 0.0, 0.0), coarse_smoothing=0.2)
    module.set_relations(g)
    z.requires_grad_()
    loss, terms = module(z, z.detach(), None, y)
    expected = _naive_smoothed(z, y, g, (3, 5), 0.2)
    torch.testing.assert_close(loss, 0.7 * expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms[0], expected.detach(), rtol=1e-12, atol=0)
    for ours, naive in zip(torch.autograd.grad(loss, z), torch.autograd.grad(0.7 * expected, z), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradcheck(lambda z: module(z, z.detach(), None, y)[0], z)


def test_smoothing_of_labels_with_the_data_set_of_each_sample():
    z, _, g = _taxonomies()
    module = FalconLoss(FINE, (3, 5), coarse_smoothing=0.3)
    module.set_relations(g)
    y, d = torch.tensor([0, 4, 2, -1, 1, 2, 3]), torch.tensor([0, 1, 0, 0, 1, 1, 1])
    columns = torch.where(d[:, None] == torch.arange(2), y[:, None], -1)
    assert torch.equal(module(z, z, None, y, d)[0], module(z, z, None, columns)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_smoothing_at_extreme_logits(dtype):
    module = FalconLoss(6, 3, lambdas=(1.0, 0.0, 0.0), coarse_smoothing=0.5)
    z = torch.zeros(2, 6, dtype=dtype)
    z[0, 0], z[1, 5] = 1e4, -1e4
    z.requires_grad_()
    loss, _ = module(z, z.detach(), None, torch.tensor([1, 2]))
    loss.backward()
    # Row 0: coarse classes cost 0, c, c with c = 1e4 less log 2 for two fine ones; row 1: log 5/2, log 5/2, log 5.
    c = float(z.detach()[0, 0]) - math.log(2)
    first, second = 0.5 * c + c / 3, 0.5 * math.log(5) + math.log(5) / 2 - math.log(2) / 3
    assert float(loss.detach()) == pytest.approx((first + second) / 2, rel=1e-6)
    assert z.grad.isfinite().all() and float(z.grad.abs().max()) > 0.1


def test_smoothing_makes_nothing_of_batch_by_fine_by_coarse():
    rows, fine, coarse = 64, 2000, 500
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.untyped_storage().nbytes() for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    z = torch.randn(rows, fine, requires_grad=True)
    module = FalconLoss(fine, coarse, coarse_smoothing=0.1, backend="reference")
    with Sizes():
        module._spread(z, torch.zeros(rows, 1, dtype=torch.int64), None).backward()
    assert max(sizes) <= 4 * rows * (fine + coarse)


@pytest.mark.parametrize("name", ["coarse_smoothing", "reg_ema"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_bad_shares_are_named(name, value):
    with pytest.raises(ValueError, match=rf"^FalconLoss: {name} must be in \[0, 1\), got"):
        FalconLoss(6, 3, **{name: value})


# ---- running mean ----------------------------------------------------------------------------------------------------


def test_reg_is_taken_at_the_running_mean():
    module = FalconLoss(FINE, 4, lambdas=(0.0, 0.0, 3.0), reg_ema=0.75)
    assert "running_p" in module.state_dict() and "running_p" not in FalconLoss(FINE, 4).state_dict()
    generator, held = torch.Generator().manual_seed(0), torch.zeros(FINE, dtype=torch.float64)
    y = torch.zeros(6, dtype=torch.int64)
    for _ in range(4):
        z = 2 * torch.randn(6, FINE, generator=generator, dtype=torch.float64)
        z.requires_grad_()
        loss, terms = module(z, z.detach(), None, y)
        p = z.detach().softmax(1)
        held = 0.75 * held + 0.25 * p.mean(0)
        run = held / held.sum()
        reg = math.log(FINE) + (run * run.log()).sum()
        torch.testing.assert_close(loss.detach(), 3 * reg)
        torch.testing.assert_close(terms[3], reg)
        slope = run.log()
        expected = 3 / 6 * p * (slope - (p * slope).sum(1, keepdim=True))
        torch.testing.assert_close(*torch.autograd.grad(loss, z), expected)
    torch.testing.assert_close(module.running_p, held)
    module.eval()(z, z.detach(), None, y)
    torch.testing.assert_close(module.running_p, held, msg="it moves in train mode alone")


def test_the_first_batch_is_its_own_mean():
    z, y = torch.randn(5, FINE), torch.zeros(5, dtype=torch.int64)
    plain, running = FalconLoss(FINE, 4)(z, z, None, y), FalconLoss(FINE, 4, reg_ema=0.9)(z, z, None, y)
    torch.testing.assert_close(running, plain)


def test_the_running_mean_of_small_batches_gives_the_gradient_of_a_large_one():
    """Batches of 8 for 30 classes: the log of a batch's mean is far from that of the mean."""
    torch.manual_seed(0)
    x, model = torch.randn(4096, WIDTH), nn.Linear(WIDTH, FINE)
    with torch.no_grad():
        model.weight.mul_(8)

    def gradients(batch, ema):
        module, found = FalconLoss(FINE, 1, lambdas=(0.0, 0.0, 1.0), reg_ema=ema), []
        for part in x.split(batch):
            z = model(part)
            loss, _ = module(z, z.detach(), None, torch.zeros(len(z), dtype=torch.int64))
            found.append(torch.autograd.grad(loss, model.weight)[0])
        return torch.stack(found[len(found) // 4 :]) if len(found) > 1 else found[0]

    exact, plain, running = gradients(4096, 0.0), gradients(8, 0.0), gradients(8, 0.95)
    bias = [float((part.mean(0) - exact).norm() / exact.norm()) for part in (plain, running)]
    error = [float((part - exact).square().sum((1, 2)).mean().sqrt() / exact.norm()) for part in (plain, running)]
    assert bias[1] < 0.3 * bias[0] and error[1] < 0.7 * error[0], (bias, error)


# ---- processes -------------------------------------------------------------------------------------------------------

SETTINGS = {"plain": {}, "options": {"coarse_smoothing": 0.2, "reg_ema": 0.9}}


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


def _step(model, part, dtype, settings):
    """Loss, terms, gradients and running mean of the rows ``part`` of the batch, at the second step."""
    data, module = _batch(dtype), FalconLoss(FINE, 4, **SETTINGS[settings])
    rows = slice(*part)
    for factor in (0.5, 1.0):
        model.zero_grad()
        z = model(factor * data.x[rows])
        loss, terms = module(z, data.s[rows], data.t[rows], data.y[rows], nbr_mask=data.mask[rows])
        loss.backward()
    held = [module.running_p] if module.reg_ema else []
    return [loss.detach(), terms, *(p.grad for p in model.parameters()), *held]


def _worker(rank, world, folder):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=limit)
    part = [0, *CUTS[world], BATCH][rank : rank + 2]
    for dtype, settings in itertools.product((torch.float32, torch.float64), SETTINGS):
        model = nn.parallel.DistributedDataParallel(_model(dtype))
        loss, terms, *others = _step(model, part, dtype, settings)
        for mean in (loss, terms):  # as DDP does with gradients
            dist.all_reduce(mean)
            mean /= world
        torch.save([loss, terms, *others], f"{folder}/{dtype}-{settings}-{rank}.pt")
    del model  # before its process group
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.parametrize("world", CUTS)
def test_independent_of_the_number_of_processes(world, tmp_path):
    # Processes of their own from this file: what pytest imports has no name that a spawned process could import.
    command = [sys.executable, __file__]
    workers = [subprocess.Popen([*command, str(rank), str(world), str(tmp_path)]) for rank in range(world)]
    assert [worker.wait(timeout=300) for worker in workers] == [0] * world
    for (dtype, bound), settings in itertools.product(((torch.float32, 1e-6), (torch.float64, 1e-12)), SETTINGS):
        expected = _step(_model(dtype), (0, BATCH), dtype, settings)
        for rank in range(world):
            actual = torch.load(f"{tmp_path}/{dtype}-{settings}-{rank}.pt")
            assert all(relative_error(a, e) <= bound for a, e in zip(actual, expected, strict=True)), (dtype, rank)
            if settings == "options":
                first = torch.load(f"{tmp_path}/{dtype}-{settings}-0.pt")
                assert torch.equal(actual[-1], first[-1]), "processes hold the same running mean"


if __name__ == "__main__":
    _worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

"""`ClassAttentiveLoss`: its settings, miners, views, queue; loss and gradients do not depend on the processes."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest
import torch
from torch import distributed as dist
from torch import nn

from c2f_ops import class_attentive_loss
from c2f_ops.losses import ClassAttentiveLoss
from c2f_ops.nn import ClassAttention
from c2f_ops.testing import relative_error

CLASSES, WIDTH, BATCH, FEATURES = 5, 8, 30, 6
CUTS = {1: [], 2: [11], 4: [0, 3, 20]}  # uneven shards, with 4 processes one of them empty


def _batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(BATCH) % CLASSES
    y[[2, 9]] = -1
    return torch.randn(BATCH, FEATURES, generator=generator).to(dtype), y


@pytest.mark.parametrize("attention", ["table", "embedding", "identity"])
@pytest.mark.parametrize("mode", ["supcon", "pairwise"])
def test_forward_is_the_function(mode, attention):
    z, y = torch.randn(BATCH, WIDTH), _batch()[1]
    module = ClassAttentiveLoss(CLASSES, WIDTH, mode=mode, attention=attention, temperature=0.3, margin=0.1)
    options = {"mode": mode, "temperature": 0.3, "margin": 0.1}
    assert torch.equal(module(z, y), class_attentive_loss(z, y, module.attention(), **options))
    assert bool(list(module.parameters())) == (attention != "identity") and f"mode={mode!r}" in repr(module)


def test_paper_mode_warns_and_is_unbounded():
    with pytest.warns(UserWarning, match="no negatives"):
        module = ClassAttentiveLoss(CLASSES, WIDTH, mode="paper")
    assert module.attention.bound == "none" and (module.attention() - 1).abs().max() < 0.1
    z, y = torch.ones(BATCH, WIDTH), _batch()[1]
    assert module(z, y).abs() < 1e-6


def test_the_attention_of_a_model_is_shared():
    attention = ClassAttention(CLASSES, WIDTH)
    assert ClassAttentiveLoss(CLASSES, WIDTH, attention=attention).attention is attention
    with pytest.raises(ValueError, match="attention must be for 4 classes of width 8, got 5 of width 8"):
        ClassAttentiveLoss(4, WIDTH, attention=attention)


def test_views_of_a_sample_are_positives():
    y = torch.arange(6)
    module, views = ClassAttentiveLoss(6, WIDTH), torch.randn(6, 2, WIDTH)
    assert module(views[:, 0], y) == 0  # every class once
    both = module(torch.cat([views[:, 0], views[:, 1]]), y.repeat(2))
    assert module(views, y).item() == pytest.approx(both.item(), rel=1e-5) and both > 0


def _all_pairs(y, keys):
    same = y[:, None] == keys
    if keys is y:
        same = same & ~torch.eye(len(y), dtype=torch.bool)
    differs = y[:, None] != keys
    return (*same.nonzero(as_tuple=True), *differs.nonzero(as_tuple=True))


@pytest.mark.parametrize("mode", ["supcon", "pairwise"])
@pytest.mark.parametrize("reference", [False, True])
def test_all_pairs_from_a_miner_are_no_miner(mode, reference):
    module = ClassAttentiveLoss(CLASSES, WIDTH, mode=mode, margin=0.1)
    z, y = torch.randn(BATCH, WIDTH), torch.arange(BATCH) % CLASSES
    ref = (torch.randn(17, WIDTH), torch.arange(17) % CLASSES) if reference else (None, None)
    pairs = _all_pairs(y, ref[1] if reference else y)
    assert module(z, y, pairs, *ref).item() == pytest.approx(module(z, y, None, *ref).item(), rel=1e-5)
    assert module(z, y, None, z, y).item() == module(z, y).item()  # the batch as its own reference


def test_triplets_and_pairs():
    module = ClassAttentiveLoss(3, WIDTH, temperature=0.5)
    z, y = torch.randn(6, WIDTH, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
    a, p, n = torch.tensor([0, 0, 3]), torch.tensor([1, 1, 2]), torch.tensor([2, 5, 0])
    w = module.attention()
    cos = lambda i, j: torch.cosine_similarity(z[i] * w[y[i]], z[j] * w[y[i]], dim=0) / 0.5  # noqa: E731
    first = torch.stack([cos(0, 1), cos(0, 2), cos(0, 5)]).logsumexp(0) - cos(0, 1)
    second = torch.stack([cos(3, 2), cos(3, 0)]).logsumexp(0) - cos(3, 2)
    expected = (first + second) / 2
    assert module(z, y, (a, p, n)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert module(z, y, (a, p, a, n)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.autograd.grad(module(z, y, (a, p, n)), z)[0].isfinite().all()
    nothing = torch.zeros(0, dtype=torch.int64)
    assert module(z, y, (nothing, nothing, a, n)) == 0
    with pytest.raises(ValueError, match=r"indices_tuple must have 3 tensors .* got 2"):
        module(z, y, (a, p))


def test_queue_keeps_the_last_keys():
    module = ClassAttentiveLoss(CLASSES, WIDTH, queue_size=10)
    alone = ClassAttentiveLoss(CLASSES, WIDTH, attention=module.attention)
    batches = [torch.randn(7, WIDTH) for _ in range(3)]
    y = torch.arange(7) % CLASSES
    assert module(batches[0], y).item() == pytest.approx(alone(batches[0], y).item(), rel=1e-6)
    module(batches[1], y)
    kept, labels = torch.cat(batches[:2])[-10:], torch.cat([y, y])[-10:]
    expected = class_attentive_loss(batches[2], y, module.attention(), queue=kept, queue_labels=labels)
    module.eval()
    assert module(batches[2], y).item() == pytest.approx(expected.item(), rel=1e-6)
    assert module(batches[2], y).item() == pytest.approx(expected.item(), rel=1e-6)  # eval does not enqueue
    assert "queue" in module.state_dict()


@pytest.mark.parametrize("bound", ["sigmoid", "softmax", "softplus"])
@pytest.mark.parametrize("kind", ["table", "embedding"])
def test_weights_stay_within_their_bounds(kind, bound):
    attention = ClassAttention(4, 16, kind=kind, bound=bound, w_min=0.1, w_max=3.0)
    near = attention.weights()
    assert (near.max() / near.min()).item() < 1.5  # nearly the plain contrastive loss at the start
    with torch.no_grad():
        for p in attention.parameters():
            p.mul_(1e4)
    w = attention()
    high = 16 if bound == "softmax" else 3.0
    assert w.shape == (4, 16) and w.min() >= 0.1 - 1e-6 and w.max() <= high + 1e-5 and w.requires_grad


def test_concentrated_attention_is_penalised():
    attention = ClassAttention(2, 16, bound="none")
    assert attention.concentration() == 0
    with torch.no_grad():
        attention.logits.copy_(torch.eye(2, 16) + 1e-6)
    assert attention.concentration().item() == pytest.approx(1.386, abs=1e-2)  # log 4
    module = ClassAttentiveLoss(2, 16, attention=attention, concentration_weight=2.0)
    plain = ClassAttentiveLoss(2, 16, attention=attention)
    z, y = torch.randn(6, 16), torch.tensor([0, 0, 0, 1, 1, 1])
    assert (module(z, y) - plain(z, y)).item() == pytest.approx(2 * attention.concentration().item(), rel=1e-4)


def test_parents_share_strength():
    attention = ClassAttention(4, 8, kind="embedding", parents=[0, 0, 1, 1])
    (loss,) = torch.autograd.grad(attention()[0].square().sum(), (attention.coarse.weight,))
    assert loss[0].abs().sum() > 0 and loss[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "free"}, "kind must be one of"),
        ({"bound": "relu"}, "bound must be one of"),
        ({"w_min": 0.0}, "w_min must be greater than 0"),
        ({"w_min": 2.0}, "w_min must be greater than 0 and below w_max"),
        ({"parents": [0, 0, 1]}, "parents must be 3 coarse classes, with kind='embedding'"),
    ],
)
def test_bad_attention_is_named(options, message):
    with pytest.raises(ValueError, match="^ClassAttention: " + message):
        ClassAttention(3, 8, **options)


def _model(dtype):
    torch.manual_seed(1)
    return nn.ModuleDict(
        {"encoder": nn.Linear(FEATURES, WIDTH), "loss": ClassAttentiveLoss(CLASSES, WIDTH)}
    ).to(dtype)  # fmt: skip


class _Step(nn.Module):
    def __init__(self, parts, mode):
        super().__init__()
        self.parts = parts
        parts["loss"].mode = mode

    def forward(self, x, y):
        return self.parts["loss"](self.parts["encoder"](x), y)


def _gradients(model, part, dtype):
    x, y = _batch(dtype)
    loss = model(x[slice(*part)], y[slice(*part)])
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


def _worker(rank, world, folder):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=limit)
    part = [0, *CUTS[world], BATCH][rank : rank + 2]
    for dtype in (torch.float32, torch.float64):
        for mode in ("supcon", "pairwise"):
            model = nn.parallel.DistributedDataParallel(_Step(_model(dtype), mode), broadcast_buffers=False)
            loss, *grads = _gradients(model, part, dtype)
            dist.all_reduce(loss)  # averaged, as DDP does with gradients
            torch.save([loss / world, *grads], f"{folder}/{dtype}-{mode}-{rank}.pt")
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
    for dtype, bound in ((torch.float32, 2e-6), (torch.float64, 1e-12)):
        for mode in ("supcon", "pairwise"):
            expected = _gradients(_Step(_model(dtype), mode), (0, BATCH), dtype)
            for rank in range(world):
                actual = torch.load(f"{tmp_path}/{dtype}-{mode}-{rank}.pt")
                assert all(relative_error(a, e) <= bound for a, e in zip(actual, expected, strict=True)), (dtype, mode)


if __name__ == "__main__":
    _worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

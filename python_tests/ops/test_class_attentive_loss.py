"""`class_attentive_loss` on every backend: against the form with all pairs and features, facts, options, memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import c2f_ops
from c2f_ops import class_attentive_loss
from c2f_ops.testing import assert_as_accurate, relative_error

OP = "class_attentive_supcon"  # for the fixture `backend`
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODES = ("supcon", "pairwise", "paper")


def make(batch, width, classes, *, dtype=torch.float32, device="cpu", size=1.0, seed=0):
    """z and w, leaves, and y."""
    generator = torch.Generator().manual_seed(seed)
    z = (torch.randn(batch, width, generator=generator) * size).to(device, dtype).requires_grad_()
    w = (torch.rand(classes, width, generator=generator) + 0.05).to(device).requires_grad_()
    y = torch.randperm(batch, generator=generator) % classes
    return z, y.to(device), w


def double(z, y, w):
    """The same values in float64 on the CPU, z and w again leaves."""
    z, w = (x.detach().cpu().double().requires_grad_() for x in (z, w))
    return z, y.cpu(), w


def similarities(z, y, w, keys=None):
    """Cosines as defined, with a tensor of pairs and features; in z's type but for norms."""
    w = w[y].to(z.dtype)
    mine, theirs = z * w, (z if keys is None else keys) * w[:, None]  # [A, d], [A, N, d]
    return F.cosine_similarity(mine[:, None], theirs, dim=2, eps=1e-12)


def naive(z, y, w, *, mode="supcon", temperature=0.1, margin=0.5, negative_weight=1.0):
    """The losses as one writes them with masks, in float32 or wider."""
    z = z.float() if z.dtype != torch.float64 else z
    sim, other = similarities(z, y, w), ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    same = (y[:, None] == y) & other
    if mode == "supcon":
        s = sim / temperature
        value = s.masked_fill(~other, -math.inf).logsumexp(1) - (s * same).sum(1) / same.sum(1).clamp(min=1)
        return value[same.any(1)].mean()
    positive = ((1 - sim) * same).sum() / same.sum().clamp(min=1)
    if mode == "paper":
        return positive
    differs = y[:, None] != y
    return positive + negative_weight * ((sim - margin).clamp(min=0) * differs).sum() / differs.sum().clamp(min=1)


def gemm(z, y, w, **options):
    """The same through matrix products of z's type: what a user of eager torch writes."""
    sim = ((z * w[y].square()) @ z.T) / (z * w[y]).norm(dim=1, keepdim=True) / (z.square() @ w.square().T).sqrt().T[y]
    temperature, same = options.get("temperature", 0.1), (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)
    s = (sim.float() / temperature).masked_fill(torch.eye(len(y), dtype=torch.bool), -math.inf)
    return (s.logsumexp(1) - s.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1))[same.any(1)].mean()


def with_gradients(run, z, y, w, **options):
    loss = run(z, y, w, **options)
    leaves = [x for x in (z, w) if x is not None]
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def check(z, y, w, backend, **options):
    actual = with_gradients(class_attentive_loss, z, y, w, backend=backend, **options)
    expected = with_gradients(naive, *double(z, y, w), **options)
    peer = with_gradients(naive, z, y, w, **options)
    # What attracts and what repels, each up to 1 / temperature, in float32 both
    largest = 1 / options.get("temperature", 0.1) if options.get("mode", "supcon") == "supcon" else 1.0
    for what, a, e, p in zip(("loss", "d_z", "d_w"), actual, expected, peer, strict=True):
        assert a.isfinite().all(), what
        assert_as_accurate(a, e, p, what=what, parts=largest if what == "loss" else 0.0)
    assert actual[0].dtype == torch.float32 and actual[1].dtype == z.dtype and actual[2].dtype == w.dtype


SHAPES = [(2, 7, 1), (3, 2, 2), (37, 11, 5), (37, 64, 18), (257, 64, 3), (130, 128, 60), (70, 1025, 4)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "width", "classes"), SHAPES)
def test_as_accurate_as_eager(backend, device, batch, width, classes, mode, poisoned_empty):
    check(*make(batch, width, classes, device=device), backend, mode=mode)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("batch", "width", "classes"), SHAPES)
def test_sixteen_bits(backend, device, dtype, batch, width, classes, poisoned_empty):
    z, y, w = make(batch, width, classes, dtype=DTYPES[dtype], device=device)
    loss, d_z, d_w = with_gradients(class_attentive_loss, z, y, w, backend=backend)
    exact = with_gradients(naive, *double(z, y, w))
    bound = 4 * torch.finfo(DTYPES[dtype]).eps
    for what, a, e in zip(("loss", "d_z", "d_w"), (loss, d_z, d_w), exact, strict=True):
        assert relative_error(a, e) <= bound * (1 if e.norm() > 1e-3 else 10), what


def test_width_of_one(backend, device):
    """Similarities are signs; nothing to learn."""
    z, y, w = make(40, 1, 3, device=device)
    loss, d_z, d_w = with_gradients(class_attentive_loss, z, y, w, backend=backend)
    assert relative_error(loss, naive(*double(z, y, w))) < 1e-5 and d_z.abs().max() < 1e-4 and d_w.abs().max() < 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_gradient_in_float64(mode):
    z, y, w = double(*make(9, 4, 3))
    y[4] = -1
    run = lambda z, w: class_attentive_loss(z, y, w, mode=mode, margin=-0.1, unlabelled_as_keys=True)  # noqa: E731
    assert torch.autograd.gradcheck(run, (z, w))
    assert torch.autograd.gradcheck(lambda z: class_attentive_loss(z, y, mode=mode), (z,))


@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_blocks_of_the_reference(monkeypatch, block):
    monkeypatch.setattr("c2f_ops.reference.class_attentive_supcon._BLOCK", block)
    tensors = double(*make(37, 11, 5))
    pairs = zip(with_gradients(class_attentive_loss, *tensors), with_gradients(naive, *tensors), strict=True)
    assert all(relative_error(a, b) < 1e-12 for a, b in pairs)


def test_without_weights_it_is_supcon(backend, device):
    z, y, _ = make(60, 16, 6, device=device)
    u = F.normalize(z.double(), dim=1)
    s = (u @ u.T / 0.1).fill_diagonal_(-math.inf)
    log_p = s.log_softmax(1).masked_fill(y[:, None] != y, 0).fill_diagonal_(0)
    expected = -(log_p.sum(1) / ((y[:, None] == y).sum(1) - 1)).mean()
    assert class_attentive_loss(z, y, backend=backend).item() == pytest.approx(expected.item(), rel=1e-6)
    equal = class_attentive_loss(z, y, torch.full((6, 16), 0.7, device=device), backend=backend)
    assert equal.item() == pytest.approx(expected.item(), rel=1e-6)


def test_constant_embeddings_do_not_see_the_weights(backend, device):
    """Own weights on each side would let the label through; the anchor's on both do not: log of the number of keys."""
    _, y, w = make(50, 12, 5, device=device)
    z = torch.full((50, 12), 0.3, device=device, requires_grad=True)
    loss, d_z, d_w = with_gradients(class_attentive_loss, z, y, w, backend=backend)
    assert loss.item() == pytest.approx(math.log(49), rel=1e-6)
    assert d_z.abs().max() < 1e-5 and d_w.abs().max() < 1e-5


def test_constant_embeddings_are_the_minimum_of_the_printed_loss(backend, device):
    _, y, w = make(50, 12, 5, device=device)
    z = torch.full((50, 12), 0.3, device=device, requires_grad=True)
    loss, d_z, _ = with_gradients(class_attentive_loss, z, y, w, mode="paper", backend=backend)
    assert abs(loss.item()) < 1e-6 and d_z.abs().max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_scale_does_not_count(backend, device, mode):
    z, y, w = make(40, 8, 4, device=device)
    scaled = -w * torch.tensor([[1e-2], [5.0], [1.0], [20.0]], device=device)
    plain = class_attentive_loss(z, y, w, mode=mode, backend=backend)
    for other in (
        class_attentive_loss(z * 3e3, y, w, mode=mode, backend=backend),
        class_attentive_loss(z, y, scaled, mode=mode, backend=backend),
        class_attentive_loss(z.flip(0), y.flip(0), w, mode=mode, backend=backend),
        class_attentive_loss(z, 3 - y, w.flip(0), mode=mode, backend=backend),
    ):  # fmt: skip
        assert other.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("size", [1e-4, 1e4])
@pytest.mark.parametrize("mode", MODES)
def test_any_size_of_embeddings(backend, device, mode, size):
    check(*make(33, 20, 4, device=device, size=size), backend, mode=mode)


@pytest.mark.parametrize("temperature", [0.005, 0.05, 5.0])
def test_any_temperature(backend, device, temperature):
    check(*make(70, 20, 4, device=device), backend, temperature=temperature)


def test_opposite_keys_at_a_low_temperature(backend, device):
    """All similarities -1: exp(-1 / T) underflows, its logarithm does not."""
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], device=device, requires_grad=True)
    y, keys = torch.tensor([0, 0], device=device), torch.tensor([[-1.0, 0.0], [-1.0, 0.0]], device=device)
    labels = torch.tensor([0, 1], device=device)
    loss = class_attentive_loss(z[:1], y[:1], keys=keys, key_labels=labels, temperature=0.004, backend=backend)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)


def test_anchors_without_positive_are_keys_only(backend, device):
    z, y, w = make(30, 8, 4, device=device)
    y[7] = 3
    y[(y == 3) & (torch.arange(30, device=device) != 7)] = 0
    loss, d_z, d_w = with_gradients(class_attentive_loss, z, y, w, backend=backend)
    exact = with_gradients(naive, *double(z, y, w))
    assert relative_error(loss, exact[0]) < 1e-6 and relative_error(d_z, exact[1]) < 1e-5
    assert (d_w[3] == 0).all() and d_z[7].abs().sum() > 0  # its own weights have no part, the key has


@pytest.mark.parametrize("mode", MODES)
def test_nothing_to_do(backend, device, mode):
    z, _, w = make(5, 8, 6, device=device)
    for n, y in ((5, torch.arange(5)), (5, torch.full((5,), -1)), (1, torch.zeros(1)), (0, torch.zeros(0))):
        part, labels = z[:n], y.long().to(device)
        loss, d_z, d_w = with_gradients(
            class_attentive_loss, part, labels, w, mode=mode, negative_weight=0.0, backend=backend
        )
        assert loss.item() == 0 and (d_z == 0).all() and (d_w == 0).all() and d_z.shape == (n, 8)


def test_one_class_and_zero_vectors(backend, device):
    z, y, w = make(20, 8, 1, device=device)
    check(z, y, w, backend)
    with torch.no_grad():
        z[3] = 0
    loss, d_z, d_w = with_gradients(class_attentive_loss, z, y, w, backend=backend)
    tensors = double(z, y, w)
    exact = with_gradients(lambda *a: class_attentive_loss(*a, eps=1e-6), *tensors)
    assert loss.isfinite() and d_z.isfinite().all()
    for a, e in zip((loss, d_z, d_w), exact, strict=True):
        assert relative_error(a, e) < 1e-5
    sim = similarities(tensors[0], y.cpu(), tensors[2]).detach()
    assert (sim[3] == 0).all()


def test_unlabelled_samples(backend, device):
    z, y, w = make(30, 8, 4, device=device)
    y[::5] = -1
    kept = y >= 0
    alone = class_attentive_loss(z[kept], y[kept], w, backend=backend)
    assert class_attentive_loss(z, y, w, backend=backend).item() == pytest.approx(alone.item(), rel=1e-6)
    exact, labels, weights = double(z, y, w)
    sim = similarities(exact, labels.clamp(min=0), weights) / 0.1
    sim.fill_diagonal_(-math.inf)
    same = (labels[:, None] == labels) & ~torch.eye(30, dtype=torch.bool)
    value = sim.logsumexp(1) - sim.masked_fill(~same, 0).sum(1) / same.sum(1)
    among = class_attentive_loss(z, y, w, unlabelled_as_keys=True, backend=backend)
    assert among.item() == pytest.approx(value[labels >= 0].mean().item(), rel=1e-6)


def test_keys_of_their_own(backend, device):
    z, y, w = make(20, 8, 4, device=device)
    keys, labels, _ = make(33, 8, 4, device=device, seed=1)
    loss = class_attentive_loss(z, y, w, keys=keys, key_labels=labels, backend=backend)
    grads = torch.autograd.grad(loss, (z, keys, w))
    exact, others = double(z, y, w), double(keys, labels, w)
    sim = similarities(exact[0], exact[1], exact[2], others[0]) / 0.1
    same = exact[1][:, None] == others[1]
    expected = (sim.logsumexp(1) - (sim * same).sum(1) / same.sum(1)).mean()
    assert relative_error(loss, expected) < 1e-6
    for a, e in zip(grads, torch.autograd.grad(expected, (exact[0], others[0], exact[2])), strict=True):
        assert relative_error(a, e) < 1e-5
    # A queue besides the batch: own pairs left out, places of -2 empty.
    queued = class_attentive_loss(z, y, w, queue=keys, queue_labels=labels, backend=backend)
    everything = torch.cat([exact[0], others[0]]), torch.cat([exact[1], others[1]])
    sim = similarities(exact[0], exact[1], exact[2], everything[0]) / 0.1
    itself = torch.arange(20)[:, None] == torch.arange(53)
    same = (exact[1][:, None] == everything[1]) & ~itself
    value = sim.masked_fill(itself, -math.inf).logsumexp(1) - sim.masked_fill(~same, 0).sum(1) / same.sum(1)
    assert relative_error(queued, value.mean()) < 1e-6
    empty = torch.full_like(labels, -2)
    nothing = class_attentive_loss(z, y, w, queue=keys, queue_labels=empty, unlabelled_as_keys=True, backend=backend)
    assert nothing.item() == pytest.approx(class_attentive_loss(z, y, w, backend=backend).item(), rel=1e-6)


LEVELS = [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0), (0.2, 0.3)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", LEVELS)
def test_levels(backend, device, mode, weights):
    z, fine, w = make(60, 8, 12, device=device)
    y = torch.stack([fine // 4, fine], 1)
    hard = 3.0
    options = {"mode": mode, "level_weights": weights, "hard_coarse_weight": hard, "margin": 0.1}
    loss, d_z, d_w = with_gradients(class_attentive_loss, z, y, w, backend=backend, **options)
    exact, labels, table = double(z, y, w)
    sim, other = similarities(exact, labels[:, 1], table), ~torch.eye(60, dtype=torch.bool)
    agree = (labels[:, None, 0] == labels[None, :, 0]).long() + (labels[:, None, 1] == labels[None, :, 1])
    positive = torch.tensor([0.0, *weights], dtype=torch.float64)[agree] * other
    against = torch.where(positive > 0, 1.0 if mode == "supcon" else 0.0, torch.where(agree > 0, hard, 1.0)) * other
    if mode == "supcon":
        value = (sim / 0.1 + against.log()).logsumexp(1) - (positive * sim).sum(1) / positive.sum(1).clamp(
            min=1e-9
        ) / 0.1
        expected = value[positive.sum(1) > 0].mean()
    else:
        expected = (positive * (1 - sim)).sum() / positive.sum()
        if mode == "pairwise":
            expected = expected + (against * (sim - 0.1).clamp(min=0)).sum() / against.sum()
    for a, e in zip((loss, d_z, d_w), (expected, *torch.autograd.grad(expected, (exact, table))), strict=True):
        assert relative_error(a, e) < 1e-5


def test_unknown_levels(backend, device):
    """Where the fine label of a key is unknown it still agrees on the coarse one."""
    z, fine, w = make(40, 8, 8, device=device)
    y = torch.stack([fine // 2, fine], 1)
    y[::3, 1] = -1
    y[0] = -1
    loss = class_attentive_loss(z, y, w, level_weights=(0.5, 1.0), unlabelled_as_keys=True, backend=backend)
    exact, labels, table = double(z, y, w)
    sim = similarities(exact, labels[:, 1].clamp(min=0), table)
    known = (labels[:, None] == labels[None]) & (labels >= 0)[None]
    agree = known[..., 0].long() + (known[..., 0] & known[..., 1])
    other = ~torch.eye(40, dtype=torch.bool)
    positive = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[agree] * other
    value = (sim / 0.1).masked_fill(~other, -math.inf).logsumexp(1) - (positive * sim).sum(1) / positive.sum(1) / 0.1
    assert relative_error(loss, value[(labels[:, 1] >= 0) & (positive.sum(1) > 0)].mean()) < 1e-6


def test_nan_is_seen(backend, device):
    z, y, w = make(20, 8, 3, device=device)
    with torch.no_grad():
        z[4, 2] = math.nan
    assert class_attentive_loss(z, y, w, backend=backend).isnan()
    keys, labels, _ = make(20, 8, 3, device=device, seed=1)
    op = torch.ops.c2f_ops.class_attentive_supcon
    args = (keys, y[:, None], labels[:, None], y, y.argsort(stable=True), w.square().detach())
    attract, repel = op(z.detach(), *args, [0.0, 1.0], [1.0, 1.0], False, 0.1, 1e-6, -1, backend)
    assert attract.isnan().nonzero().flatten().tolist() == [4] == repel.isnan().nonzero().flatten().tolist()


def _layouts(x):
    padded = torch.zeros(len(x), x.shape[1] + 7, dtype=x.dtype, device=x.device)
    padded[:, 3:-4] = x
    return {
        "sliced": padded[:, 3:-4],
        "transposed": x.T.contiguous().T,
        "every other": x.repeat_interleave(2, 1)[:, ::2],
    }


@pytest.mark.parametrize("layout", ["sliced", "transposed", "every other"])
def test_layouts(backend, device, layout):
    z, y, w = make(45, 19, 4, device=device)
    plain = with_gradients(class_attentive_loss, z, y, w, backend=backend)
    leaf = _layouts(z.detach())[layout].requires_grad_()
    assert all(
        torch.equal(a, b)
        for a, b in zip(with_gradients(class_attentive_loss, leaf, y, w, backend=backend), plain, strict=True)
    )


def _operands(device, dtype=torch.float32):
    z, y, w = make(21, 9, 4, device=device, dtype=dtype)
    y[3] = -1
    rest = (y[:, None], y[:, None], y, y.argsort(stable=True), w.detach().square().requires_grad_())
    return z, z.detach().clone().requires_grad_(), *rest, [0.0, 1.0], [1.0, 1.0], False, 0.1, 1e-6, 0


def test_opcheck(backend, device):
    op, backward = torch.ops.c2f_ops.class_attentive_supcon, torch.ops.c2f_ops.class_attentive_supcon_bwd
    torch.library.opcheck(op, (*_operands(device), backend))
    for needs in ([True, True, True], [False, True, False]):
        operands = [x.detach() if isinstance(x, torch.Tensor) else x for x in _operands(device, torch.bfloat16)]
        _, repel = op(*operands, backend)
        d = torch.randn(2, 21, device=device)
        torch.library.opcheck(backward, (d[0].contiguous(), d[1].contiguous(), repel, *operands, needs, backend))


def test_each_gradient_alone(backend, device):
    everything = with_gradients(class_attentive_loss, *make(30, 8, 4, device=device), backend=backend)
    z, y, w = make(30, 8, 4, device=device)
    (d_z,) = torch.autograd.grad(class_attentive_loss(z, y, w.detach(), backend=backend), (z,))
    (d_w,) = torch.autograd.grad(class_attentive_loss(z.detach(), y, w, backend=backend), (w,))
    assert torch.equal(d_z, everything[1]) and torch.equal(d_w, everything[2])
    with torch.no_grad():
        assert not class_attentive_loss(z, y, w, backend=backend).requires_grad


def test_compile_fullgraph(backend, device):
    tensors = make(30, 8, 4, device=device)
    for options in ({}, {"mode": "pairwise"}):
        run = lambda *t: class_attentive_loss(*t, backend=backend, **options)  # noqa: E731, B023
        plain = with_gradients(run, *tensors)
        compiled = with_gradients(torch.compile(run, fullgraph=True), *tensors)
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(compiled, plain, strict=True))


def test_autocast_changes_nothing(backend, device):
    tensors = make(30, 8, 4, device=device)
    plain = with_gradients(class_attentive_loss, *tensors, backend=backend)
    with torch.autocast(device, torch.bfloat16):
        under = with_gradients(class_attentive_loss, *tensors, backend=backend)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, under, strict=True))


def test_bit_equal_from_run_to_run(backend, device):
    tensors = make(150, 40, 9, device=device)
    once = with_gradients(class_attentive_loss, *tensors, backend=backend)
    for _ in range(20):
        again = with_gradients(class_attentive_loss, *tensors, backend=backend)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_bit_equal_for_any_number_of_threads(mode):
    if (state := c2f_ops.backends()[OP]["cpu"]) != "ok":
        pytest.skip(f"cpu: {state}")
    tensors, before, results = make(777, 40, 30), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            results.append(with_gradients(class_attentive_loss, *tensors, mode=mode, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_no_second_derivative(backend, device):
    z, y, w = make(12, 8, 3, device=device)
    with pytest.raises(RuntimeError, match="class_attentive_loss: second derivatives are not implemented"):
        torch.autograd.grad(class_attentive_loss(z, y, w, backend=backend), z, create_graph=True)


def _status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@pytest.mark.parametrize("room", ["reference", "cpu"])
def test_memory_is_linear_in_the_batch(room, monkeypatch):
    """8,192 embeddings: a matrix of pairs would be 256 MiB."""
    monkeypatch.setattr("c2f_ops.reference.class_attentive_supcon._BLOCK", 2**19)
    if (state := c2f_ops.backends()[OP][room]) != "ok":
        pytest.skip(f"{room}: {state}")
    batch, width = 8192, 16
    tensors = make(batch, width, 100)
    with_gradients(class_attentive_loss, *make(300, width, 10), backend=room)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the resident size
    except OSError:
        pytest.skip("the system does not tell the high-water mark")
    before = _status("VmRSS:")
    with_gradients(class_attentive_loss, *tensors, backend=room)
    linear = 30 * batch * width * 4 + (1 << 24)
    assert _status("VmHWM:") - before < linear + (30 * 4 * 2**19 if room == "reference" else 0)


ERRORS = [
    ({"z": torch.zeros(3)}, ValueError, r"z must have 2 dimensions"),
    ({"y": torch.zeros(4)}, TypeError, r"y must be an int64 or int32 tensor, got torch.float32"),
    ({"y": torch.zeros(3, dtype=torch.int64)}, ValueError, r"y must have shape \[4\] or \[4, K\]"),
    ({"y": torch.zeros(4, 5, dtype=torch.int64)}, ValueError, r"K from 1 to 4, got \[4, 5\]"),
    ({"y": torch.full((4,), 9)}, ValueError, r"w must have a row for each class in y, got 3 for class 9"),
    ({"w": torch.zeros(3, 7)}, ValueError, r"w must have shape \[C, d\] = \[C, 6\], got \[3, 7\]"),
    ({"mode": "triplet"}, ValueError, r"mode must be one of"),
    ({"temperature": 0.0}, ValueError, r"temperature must be greater than 0"),
    ({"margin": 2.0}, ValueError, r"margin must be a cosine"),
    ({"level_weights": (1.0, 2.0)}, ValueError, r"level_weights must be 1 finite numbers"),
    ({"level_weights": (0.0,)}, ValueError, r"not all 0"),
    ({"hard_coarse_weight": -1.0}, ValueError, r"hard_coarse_weight must be finite and not negative"),
    ({"eps": 0.0}, ValueError, r"eps must be None or greater than 0"),
    ({"keys": torch.zeros(5, 6)}, ValueError, r"key_labels must be given where keys is"),
    ({"key_labels": torch.zeros(5).long()}, ValueError, r"keys must be given where key_labels is"),
    ({"queue_labels": torch.zeros(5).long()}, ValueError, r"queue must be given where queue_labels is"),
    ({"queue": torch.zeros(5, 7), "queue_labels": torch.arange(5)}, ValueError, r"queue must have shape \[N, d\]"),
    ({"backend": "gpu"}, ValueError, r"backend must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), ERRORS)
def test_errors(change, error, message):
    arguments = {"z": torch.randn(4, 6), "y": torch.tensor([0, 1, 1, 2]), "w": torch.ones(3, 6), **change}
    with pytest.raises(error, match="class_attentive_loss: .*" + message):
        class_attentive_loss(**arguments)

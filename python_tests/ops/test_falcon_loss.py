"""`falcon_loss` on every backend: against float64, the facts of its definition, options, errors, memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import c2f_ops
from c2f_ops import falcon_loss
from c2f_ops.testing import assert_as_accurate, relative_error

OP = "falcon_loss"  # for the fixture `backend`
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COARSE, NN, CONF, REG = range(4)


def make(batch, fine, coarse, neighbours, *, dtype=torch.float32, device="cpu", size=3.0, seed=0):
    """z (a leaf), s, t, y, g with every coarse class present in g."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(*shape, generator=generator) * size).to(device, dtype)

    g = (torch.randperm(fine, generator=generator) % coarse).int().to(device)
    y = torch.randint(coarse, (batch,), generator=generator).to(device)
    z = draw(batch, fine).requires_grad_()
    return z, draw(batch, fine), draw(batch, neighbours, fine), y, g


def double(tensors):
    """The same values in float64 on the CPU, z again a leaf."""
    z, *rest = (x.detach().cpu() for x in tensors)
    return z.double().requires_grad_(), *(x.double() if x.is_floating_point() else x for x in rest)


def eager(z, s, t, y, g, *, lambdas=(0.5, 0.5, 2.0), T=0.9, tau=1.0):
    """The definition as one writes it with log_softmax and logsumexp; every sample has its label and neighbours."""
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    z, s, t = (x.to(wide) for x in (z, s, t))
    outside = g[None] != y[:, None]
    log_p = z.log_softmax(1)
    coarse = -log_p.masked_fill(outside, -math.inf).logsumexp(1)
    nn = -(log_p[:, None] + t.log_softmax(2)).logsumexp(2)
    soft = (s / T).masked_fill(outside, -math.inf).softmax(1)
    q = tau * soft + (1 - tau) * torch.nn.functional.one_hot(soft.argmax(1), z.shape[1])
    mean_p = log_p.exp().mean(0)
    reg = math.log(z.shape[1]) + (mean_p * mean_p.clamp(min=torch.finfo(wide).tiny).log()).sum()
    terms = [coarse.mean(), nn.mean() if nn.numel() else reg * 0, -(q * log_p).sum(1).mean(), reg]
    weights = (lambdas[0], lambdas[1], lambdas[1], lambdas[2])
    return sum(w * x for w, x in zip(weights, terms, strict=True)), torch.stack(terms).detach()


def with_gradient(run, z, *rest, **options):
    loss, terms = run(z, *rest, **options)
    return loss.detach(), terms, torch.autograd.grad(loss, z)[0]


def check(tensors, backend, **options):
    actual = with_gradient(falcon_loss, *tensors, backend=backend, return_terms=True, **options)
    expected = with_gradient(eager, *double(tensors), **options)
    peer = with_gradient(eager, *tensors, **options)
    for what, a, e, p in zip(("loss", "terms", "gradient"), actual, expected, peer, strict=True):
        assert a.isfinite().all(), what
        assert_as_accurate(a, e, p, what=what)
    assert actual[2].dtype == tensors[0].dtype and actual[0].dtype == torch.float32


@pytest.mark.parametrize("neighbours", [0, 1, 5, 20])
@pytest.mark.parametrize("fine", [1, 2, 31, 32, 33, 608, 4097, 10_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_accurate_as_eager(backend, device, dtype, fine, neighbours, poisoned_empty):
    batch = 2 if fine > 1000 else 17
    tensors = make(batch, fine, max(1, fine // 18), neighbours, dtype=DTYPES[dtype], device=device)
    check(tensors, backend, tau=0.7)


@pytest.mark.parametrize("size", [0.01, 30.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_size_of_logits(backend, device, dtype, size):
    tensors = make(64, 100, 20, 4, dtype=DTYPES[dtype], device=device, size=size)
    check(tuple(x.clamp(-1e4, 1e4).detach().requires_grad_(x.requires_grad) if x.is_floating_point() else x
                for x in tensors), backend)  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2, 63, 64, 65, 2100])
def test_batches_that_do_not_fill_blocks(backend, device, batch):
    check(make(batch, 40, 7, 2, device=device), backend)


def terms_of(backend, z, s, t, y, g, *more, **options):
    return falcon_loss(z, s, t, y, g, *more, backend=backend, return_terms=True, **options)[1].tolist()


def test_confident_predictions_that_disagree(backend, device):
    z = torch.tensor([[200.0, 0.0, 0.0]], device=device, requires_grad=True)
    t = torch.tensor([[[0.0, 200.0, 0.0]]], device=device)
    y, g = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(3, dtype=torch.int32, device=device)
    loss, terms = falcon_loss(z, z, t, y, g, lambdas=(0, 1, 0), backend=backend, return_terms=True)
    assert terms[NN].item() == pytest.approx(200 - math.log(2), rel=1e-6)
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_coarse_loss_alone_cannot_split_a_group(backend, device):
    z, s, _, y, g = make(8, 30, 4, 0, device=device)
    loss = falcon_loss(z, s, None, y, g, lambdas=(1, 0, 0), backend=backend)
    per_p = torch.autograd.grad(loss, z)[0] / z.softmax(1) * 8  # 1 - 1 / p_c within the group, 1 outside
    p_c = (z.softmax(1) * (g[None] == y[:, None])).sum(1, keepdim=True)
    assert torch.allclose(per_p, torch.where(g[None] == y[:, None], 1 - 1 / p_c, 1.0), rtol=1e-4, atol=1e-4)


def test_one_coarse_class(backend, device):
    z, s, t, y, g = make(5, 30, 1, 3, device=device)
    loss, terms = falcon_loss(z, s, t, y, g, lambdas=(1, 0, 0), backend=backend, return_terms=True)
    assert terms[COARSE].abs() < 1e-6 and torch.autograd.grad(loss, z)[0].abs().max() < 1e-7


def test_group_of_one_is_cross_entropy(backend, device):
    z, s, _, y, _ = make(9, 12, 12, 0, device=device)
    g = torch.arange(12, device=device, dtype=torch.int32)
    expected = torch.nn.functional.cross_entropy(z, y)
    terms = terms_of(backend, z, s, None, y, g)
    assert terms[COARSE] == pytest.approx(expected.item(), rel=1e-6) and terms[CONF] == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_uniform_one_hot_and_collapsed(backend, device):
    fine = 24
    _, s, _, y, g = make(fine, fine, 4, 1, device=device)
    flat = torch.zeros(fine, fine, device=device)
    sharp = torch.eye(fine, device=device) * 1e3
    same = sharp[:1].expand(fine, -1)
    uniform = terms_of(backend, flat, s, flat[:, None], y, g)
    assert uniform[NN] == pytest.approx(math.log(fine), rel=1e-6) and uniform[REG] == pytest.approx(0, abs=1e-6)
    agreeing = terms_of(backend, sharp, s, sharp[:, None], y, g)
    assert agreeing[NN] == pytest.approx(0, abs=1e-6) and agreeing[REG] == pytest.approx(0, abs=1e-6)
    assert terms_of(backend, same, s, None, y, g)[REG] == pytest.approx(math.log(fine), rel=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_target(backend, device, tau):
    z, s, _, y, g = make(16, 40, 5, 0, device=device)
    check((z, s, s.new_zeros(16, 0, 40), y, g), backend, tau=tau, lambdas=(0.0, 1.0, 0.0))
    # q, read off the gradient p - q, has its mass inside the group.
    loss = falcon_loss(z, s, None, y, g, lambdas=(0, 1, 0), tau=tau, backend=backend, reduction="none").sum()
    q = z.softmax(1) - torch.autograd.grad(loss, z)[0]
    assert q.sum(1).sub(1).abs().max() < 1e-5 and q[g[None] != y[:, None]].abs().max() < 1e-6 and q.min() > -1e-6


def test_ties_go_to_the_lowest_class(backend, device):
    z, s, _, _, _ = make(1, 50, 1, 0, device=device)
    g = (torch.arange(50, device=device) % 2).int()
    s = torch.zeros_like(s)
    s[0, [20, 33, 35, 49]] = 2.0  # 20 is outside
    y = torch.ones(1, dtype=torch.int64, device=device)
    hard = terms_of(backend, z, s, None, y, g, tau=0.0)[CONF]
    assert hard == pytest.approx(-z.log_softmax(1)[0, 33].item(), rel=1e-5)
    s[0, 35] = 3.0
    cold = terms_of(backend, z, s, None, y, g, T=1e-4)[CONF]
    assert cold == pytest.approx(-z.log_softmax(1)[0, 35].item(), rel=1e-5)


def _layouts(x):
    padded = torch.zeros(*x.shape[:-1], x.shape[-1] + 7, dtype=x.dtype, device=x.device)
    padded[..., 3:-4] = x
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype, device=x.device)
    wide[..., ::2] = x
    return {"sliced": padded[..., 3:-4], "every other": wide[..., ::2], "transposed": x.mT.contiguous().mT}


@pytest.mark.parametrize("layout", ["sliced", "every other", "transposed"])
def test_layouts_are_bit_equal_to_the_contiguous_run(backend, device, layout):
    z, s, t, y, g = (x.detach() for x in make(6, 45, 7, 3, device=device))
    results = []
    for tensors in ((z, s, t), [_layouts(x)[layout] for x in (z, s, t)]):
        leaf = tensors[0].requires_grad_()
        results.append(with_gradient(falcon_loss, leaf, *tensors[1:], y, g, backend=backend, return_terms=True))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    row = z[:1].expand(6, -1)
    assert torch.equal(
        falcon_loss(row, s, t, y, g, backend=backend), falcon_loss(row.clone(), s, t, y, g, backend=backend)
    )


def test_bank_equals_gathered_neighbours(backend, device):
    z, s, _, y, g = make(20, 50, 6, 0, device=device)
    bank = torch.randn(31, 50, device=device)
    idx = torch.randint(31, (20, 4), device=device)
    mask = torch.rand(20, 4, device=device) < 0.6
    mask[3] = False
    run = lambda t, **more: with_gradient(falcon_loss, z, s, t, y, g, backend=backend, return_terms=True, **more)  # noqa: E731
    for other in (
        run(bank[idx], nbr_mask=mask),
        run(bank, idx=idx, nbr_mask=mask),
        run(bank.T.contiguous().T, idx=torch.where(mask, idx, -1).int()),
    ):
        assert all(torch.equal(a, b) for a, b in zip(run(bank, idx=torch.where(mask, idx, -1)), other, strict=True))
    # The mean over neighbours is over those present, and a sample without one has no part in the mean over samples.
    log_p, log_r = z.double().log_softmax(1), bank.double().log_softmax(1)[idx]
    nn = -(log_p[:, None] + log_r).logsumexp(2)
    expected = torch.stack([row[here].mean() for row, here in zip(nn, mask, strict=True) if here.any()]).mean()
    terms = terms_of(backend, z, s, bank, y, g, idx=idx, nbr_mask=mask)
    assert terms[NN] == pytest.approx(expected.item(), rel=1e-5)
    exact = double((z, s, bank, y, g))
    loss = falcon_loss(*exact, idx=idx.cpu(), nbr_mask=mask.cpu(), backend="reference")
    assert relative_error(run(bank, idx=idx, nbr_mask=mask)[2], torch.autograd.grad(loss, exact[0])[0]) < 1e-6


def test_nobody_has_a_neighbour(backend, device):
    z, s, t, y, g = make(4, 20, 3, 2, device=device)
    without = with_gradient(falcon_loss, z, s, None, y, g, backend=backend, return_terms=True)
    masked = with_gradient(
        falcon_loss, z, s, t, y, g, nbr_mask=torch.zeros(4, 2, dtype=torch.bool, device=device), backend=backend,
        return_terms=True,
    )  # fmt: skip
    assert without[1][NN] == 0 and all(torch.equal(a, b) for a, b in zip(without, masked, strict=True))


def test_samples_without_label(backend, device):
    z, s, t, y, g = make(10, 30, 4, 3, device=device)
    y[[1, 4]] = -1
    kept = y >= 0
    terms = terms_of(backend, z, s, t, y, g)
    labelled = terms_of(backend, z[kept], s[kept], t[kept], y[kept], g)
    everyone = terms_of(backend, z, s, t, y.clamp(min=0), g)
    assert terms[COARSE] == pytest.approx(labelled[COARSE], rel=1e-5)
    assert terms[CONF] == pytest.approx(labelled[CONF], rel=1e-5)
    assert terms[NN] == everyone[NN] and terms[REG] == everyone[REG]
    loss, _, grad = with_gradient(falcon_loss, z, s, t, y, g, lambdas=(1, 0, 0), backend=backend, return_terms=True)
    assert loss.isfinite() and (grad[~kept] == 0).all() and (grad[kept] != 0).any()
    nobody = terms_of(backend, z, s, None, torch.full_like(y, -1), g)
    assert nobody[:3] == [0.0, 0.0, 0.0]


def test_data_sets_of_samples(backend, device):
    z, s, t, y, g = make(12, 36, 4, 2, device=device)
    other = (torch.randperm(36, device=device) % 3).int()
    d = torch.arange(12, device=device) % 2
    y = torch.where(d == 1, y % 3, y)
    both = falcon_loss(z, s, t, y, torch.stack([g, other]), d, lambdas=(0.5, 0.5, 0), reduction="none", backend=backend)
    for k, relations in enumerate((g, other)):
        here = d == k
        alone = falcon_loss(
            z[here], s[here], t[here], y[here], relations, lambdas=(0.5, 0.5, 0), reduction="none", backend=backend
        )
        assert torch.equal(both[here], alone)


def test_labels_of_several_data_sets_meet(backend, device):
    fine, batch = 70, 40
    g = torch.stack([torch.arange(fine) % 7, torch.arange(fine) // 10, (torch.arange(fine) + 1) % 5]).int().to(device)
    z, s, _, _, _ = make(batch, fine, 1, 0, device=device)
    y = torch.randint(5, (batch, 3), device=device)
    y[torch.rand(batch, 3, device=device) < 0.3] = -1
    y[0] = torch.tensor([0, 0, 0])  # fine class 0 has (0, 0, 1), 7 has (0, 0, 3): nothing in common
    y[1], y[2] = -1, torch.tensor([-1, 3, -1])
    coarse, groups = [], []
    for labels in y.tolist():
        known = [k for k in range(3) if labels[k] >= 0]
        sets = [{i for i in range(fine) if g[k, i] == labels[k]} for k in known]
        group = sorted(set.intersection(*sets) or sets[0]) if sets else []
        groups.append(group)
        coarse.append(-z.double().log_softmax(1)[len(groups) - 1, group].logsumexp(0) if group else torch.tensor(0.0))
    assert len(groups[0]) == 10 and any(0 < len(x) < 3 for x in groups)
    loss = falcon_loss(z, s, None, y, g, lambdas=(1, 0, 0), reduction="none", backend=backend)
    assert relative_error(loss, torch.stack([x.double().cpu() for x in coarse])) < 1e-6
    hard = falcon_loss(z, s, None, y, g, lambdas=(0, 1, 0), tau=0.0, reduction="none", backend=backend)
    best = [group[int(s[i, group].argmax())] if group else None for i, group in enumerate(groups)]
    expected = [0.0 if k is None else -z.double().log_softmax(1)[i, k].item() for i, k in enumerate(best)]
    assert relative_error(hard, torch.tensor(expected)) < 1e-6


def test_no_reduction(backend, device):
    z, s, t, y, g = make(11, 30, 4, 3, device=device)
    rows = falcon_loss(z, s, t, y, g, reduction="none", backend=backend)
    mean = falcon_loss(z, s, t, y, g, backend=backend)
    assert rows.shape == (11,) and rows.mean().item() == pytest.approx(mean.item(), rel=1e-6)
    upstream = torch.randn(11, device=device)
    tensors = double((z, s, t, y, g))
    exact = falcon_loss(*tensors, reduction="none", backend="reference")
    (expected,) = torch.autograd.grad(exact, tensors[0], upstream.double().cpu())
    assert relative_error(torch.autograd.grad(rows, z, upstream)[0], expected) < 1e-6


def test_four_weights(backend, device):
    tensors = make(11, 30, 4, 3, device=device)
    loss, terms = falcon_loss(*tensors, lambdas=(0.1, 0.2, 0.3, 0.4), backend=backend, return_terms=True)
    assert loss.item() == pytest.approx((terms.cpu() @ torch.tensor([0.1, 0.2, 0.3, 0.4])).item(), rel=1e-6)


@pytest.mark.parametrize("neighbours", [0, 2])
def test_no_samples(backend, device, neighbours):
    z, s, t, y, g = make(0, 20, 3, neighbours, device=device)
    loss, terms, grad = with_gradient(falcon_loss, z, s, t, y, g, backend=backend, return_terms=True)
    assert loss.isfinite() and terms[:3].tolist() == [0.0, 0.0, 0.0] and grad.shape == (0, 20)


def test_gradient_in_float64():
    z, s, t, y, g = make(5, 9, 3, 3, dtype=torch.float64, size=1.0)
    y[2] = -1
    mask = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
    for lambdas in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 2)):
        for reduction in ("mean", "none"):
            run = lambda z: falcon_loss(z, s, t, y, g, lambdas=lambdas, tau=0.4, nbr_mask=mask, reduction=reduction)  # noqa: E731, B023
            assert torch.autograd.gradcheck(run, (z,))


def _operands(device, dtype=torch.float32):
    z, s, t, y, g = make(7, 33, 4, 3, device=device, dtype=dtype)
    idx = torch.arange(21, device=device).view(7, 3)
    scale = torch.tensor([0.3, 0.2, 0.5], device=device)
    return z, s, t.reshape(21, 33), idx, y[:, None].contiguous(), g[None], scale, 0.9, 0.5


def test_opcheck(backend, device):
    op, backward = torch.ops.c2f_ops.falcon_loss, torch.ops.c2f_ops.falcon_loss_bwd
    for save in (True, False):
        tensors = _operands(device)
        z = tensors[0] if save else tensors[0].detach()
        torch.library.opcheck(op, (z, *tensors[1:], backend, save))
    z, *rest = _operands(device, torch.bfloat16)
    value, _, mass, lse, grad = (x.detach() for x in op(z, *rest, backend, True))
    torch.library.opcheck(backward, (torch.randn_like(value), torch.randn_like(mass), z.detach(), lse, grad, backend))


def test_compile_fullgraph(backend, device):
    z, s, t, y, g = make(6, 33, 4, 3, device=device)
    run = lambda *tensors: falcon_loss(*tensors, backend=backend, return_terms=True)  # noqa: E731
    plain = with_gradient(run, z, s, t, y, g)
    compiled = with_gradient(torch.compile(run, fullgraph=True), z, s, t, y, g)
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(compiled, plain, strict=True))


def test_autocast_changes_nothing(backend, device):
    tensors = make(6, 33, 4, 3, device=device)
    plain = with_gradient(falcon_loss, *tensors, backend=backend, return_terms=True)
    with torch.autocast(device, torch.bfloat16):
        under = with_gradient(falcon_loss, *tensors, backend=backend, return_terms=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, under, strict=True))
    with torch.autocast(device, torch.bfloat16):
        logits = torch.randn(6, 8, device=device) @ torch.randn(8, 33, device=device)
        assert logits.dtype == torch.bfloat16
        assert falcon_loss(logits, *tensors[1:], backend=backend).dtype == torch.float32


def test_bit_equal_from_run_to_run(backend, device):
    tensors = make(200, 75, 9, 4, device=device)
    first = with_gradient(falcon_loss, *tensors, backend=backend, return_terms=True)
    for _ in range(100):
        again = with_gradient(falcon_loss, *tensors, backend=backend, return_terms=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_bit_equal_for_any_number_of_threads():
    if (state := c2f_ops.backends()[OP]["cpu"]) != "ok":
        pytest.skip(f"cpu: {state}")
    tensors, before, results = make(333, 1500, 40, 3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            results.append(with_gradient(falcon_loss, *tensors, backend="cpu", return_terms=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_only_z_has_a_gradient(backend, device):
    z, s, t, y, g = make(6, 20, 3, 2, device=device)
    s.requires_grad_(), t.requires_grad_()
    falcon_loss(z, s, t, y, g, backend=backend).backward()
    assert z.grad is not None and s.grad is None and t.grad is None
    with torch.no_grad():
        assert not falcon_loss(z, s, t, y, g, backend=backend).requires_grad
    assert not falcon_loss(z.detach(), s, t, y, g, backend=backend).requires_grad


def test_no_second_derivative(backend, device):
    z, s, t, y, g = make(6, 20, 3, 2, device=device)
    with pytest.raises(RuntimeError, match="falcon_loss: second derivatives are not implemented"):
        torch.autograd.grad(falcon_loss(z, s, t, y, g, backend=backend), z, create_graph=True)


@pytest.mark.parametrize("where", ["z", "s", "t"])
def test_nan_stays_in_its_sample(backend, device, where):
    z, s, t, idx, y, g, scale, T, tau = _operands(device)
    op = torch.ops.c2f_ops.falcon_loss
    clean = op(z, s, t, idx, y, g, scale, T, tau, backend, True)
    with torch.no_grad():
        member = int((g[0] == y[2, 0]).nonzero()[-1])
        {"z": z, "s": s, "t": t}[where][2 if where != "t" else int(idx[2, 1]), member] = math.nan
    value, terms, mass, lse, grad = op(z, s, t, idx, y, g, scale, T, tau, backend, True)
    others = [0, 1, 3, 4, 5, 6]
    for actual, before in ((value, clean[0]), (terms, clean[1]), (lse, clean[3]), (grad, clean[4])):
        assert torch.equal(actual[others], before[others])
    assert value[2].isnan() and grad[2].isnan().any()
    assert terms[2].isnan().tolist() == {"z": [True] * 3, "s": [False, False, True], "t": [False, True, False]}[where]
    assert mass.isnan().all() if where == "z" else torch.equal(mass, clean[2])


def test_faults_on_a_gpu_are_nan(backend, device):
    if device == "cpu":
        pytest.skip("on the CPU they are errors")
    z, s, t, y, g = make(4, 9, 3, 2, device=device)
    y[1] = 7
    rows = falcon_loss(z, s, t, y, g, lambdas=(1, 1, 0), reduction="none", backend=backend)
    assert rows.isnan().tolist() == [False, True, False, False]


def _status(key):
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(key)
    )


@pytest.mark.parametrize("room", ["reference", "cpu"])
def test_memory_is_linear_in_the_fine_classes(room):
    if (state := c2f_ops.backends()[OP][room]) != "ok":
        pytest.skip(f"{room}: {state}")
    tensors = make(64, 4000, 1000, 20)
    run = lambda: with_gradient(falcon_loss, *tensors, backend=room, return_terms=True)  # noqa: E731
    run()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the resident size
    except OSError:
        pytest.skip("the system does not tell the high-water mark")
    before = _status("VmRSS:")
    run()
    matrix = 64 * 4000 * 4  # with coarse classes 1000 of them, with neighbours 20
    assert _status("VmHWM:") - before < (16 if room == "reference" else 5) * matrix

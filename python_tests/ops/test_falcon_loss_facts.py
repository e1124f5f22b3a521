"""`falcon_loss`: its terms as functions of p and M, a thousand equal runs, the memory of a large problem."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from c2f_ops import falcon_loss

OP = "falcon_loss"  # for the fixture `backend`
COARSE, NN, CONF, REG = range(4)


def case(batch=24, fine=40, coarse=6, neighbours=3, dtype=torch.float32, device="cpu", size=2.0):
    generator = torch.Generator().manual_seed(1)
    z, s = (size * torch.randn(batch, fine, generator=generator, dtype=torch.float64) for _ in range(2))
    t = size * torch.randn(batch, neighbours, fine, generator=generator, dtype=torch.float64)
    g = torch.randperm(fine, generator=generator) % coarse
    y = torch.randint(coarse, (batch,), generator=generator)
    return *(x.to(device, dtype) for x in (z, s, t)), y.to(device), g.to(device)


def test_terms_are_those_of_probabilities_and_the_relation_matrix(backend, device):
    """The dense definition: p M, <p, r>, a masked softmax, the entropy of the mean."""
    z, s, t, y, g = case(device=device)
    terms = falcon_loss(z, s, t, y, g, T=0.7, backend=backend, return_terms=True)[1].cpu().double()
    z, s, t, y, g = (x.cpu().double() if x.is_floating_point() else x.cpu() for x in (z, s, t, y, g))
    p, M = z.softmax(1), torch.nn.functional.one_hot(g).double()
    inside = M[:, y].T  # [B, K_F]
    q = (s / 0.7).softmax(1) * inside
    q /= q.sum(1, keepdim=True)
    mean = p.mean(0)
    expected = [
        -(p @ M)[torch.arange(len(y)), y].log().mean(),
        -(p[:, None] * t.softmax(2)).sum(2).log().mean(),
        -(q * p.log()).sum(1).mean(),
        math.log(len(g)) + (mean * mean.log()).sum(),
    ]
    torch.testing.assert_close(terms, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_where_the_dot_product_of_float32_is_lost(backend, device):
    z = torch.tensor([[200.0, 0.0, 0.0]], device=device)
    t = z.flip(1)
    assert (z.softmax(1) * t.softmax(1)).sum().log() == -math.inf
    y, g = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    terms = falcon_loss(z, z, t[None], y, g, backend=backend, return_terms=True)[1]
    assert terms[NN].item() == pytest.approx(199.307, abs=1e-3)


def test_gradient_is_the_formula(backend, device):
    """(1 / B) (l1 (p - p_y) + l2 (p - mean w) + l2 (p - q) + l3 p (log m - <p, log m>)), m the mean of p."""
    z, s, t, y, g = case(device=device)
    l1, l2, l3 = 0.3, 0.8, 1.7
    leaf = z.clone().requires_grad_()
    loss = falcon_loss(leaf, s, t, y, g, lambdas=(l1, l2, l3), tau=0.6, backend=backend)
    actual = torch.autograd.grad(loss, leaf)[0].cpu().double()
    z, s, t, y, g = (x.cpu().double() if x.is_floating_point() else x.cpu() for x in (z, s, t, y, g))
    outside = g[None] != y[:, None]
    p, p_y = z.softmax(1), z.masked_fill(outside, -math.inf).softmax(1)
    soft = (s / 0.9).masked_fill(outside, -math.inf).softmax(1)
    q = 0.6 * soft + 0.4 * torch.nn.functional.one_hot(soft.argmax(1), len(g))
    w = (z[:, None] + t).softmax(2).mean(1)
    log_m = p.mean(0).log()
    expected = l1 * (p - p_y) + l2 * (p - w) + l2 * (p - q) + l3 * p * (log_m - (p @ log_m)[:, None])
    torch.testing.assert_close(actual, expected / len(y), rtol=1e-4, atol=1e-8)


def test_permuted_classes_and_samples(backend, device):
    z, s, t, y, g = case(device=device)
    classes, rows = torch.randperm(z.shape[1], device=device), torch.randperm(len(z), device=device)
    a = falcon_loss(z, s, t, y, g, tau=0.5, backend=backend, return_terms=True)[1]
    pick = lambda x: x[rows][..., classes]  # noqa: E731
    b = falcon_loss(pick(z), pick(s), pick(t), y[rows], g[classes], tau=0.5, backend=backend, return_terms=True)[1]
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_thousand_runs_are_bit_equal(backend, device):
    z, s, t, y, g = case(64, 97, 9, 4, device=device)
    z.requires_grad_()

    def run():
        loss, terms = falcon_loss(z, s, t, y, g, tau=0.3, backend=backend, return_terms=True)
        return loss.detach(), terms, torch.autograd.grad(loss, z)[0]

    first = run()
    for _ in range(1000):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


LARGE = """
import torch
from pathlib import Path
from c2f_ops import falcon_loss
torch.set_num_threads(1)
def key(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
B, K, J, L = 512, 10_000, 1_000, 5
g, y = torch.arange(K) % J, torch.randint(J, (B,))
before = key("VmRSS")
z, s, bank = torch.randn(B, K, requires_grad=True), torch.randn(B, K), torch.randn(B * L, K)
falcon_loss(z, s, bank, y, g, idx=torch.arange(B * L).view(B, L)).backward()
assert z.grad.isfinite().all()
print((key("VmHWM") - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_fine_classes_under_a_thousand_need_less_than_a_gigabyte():
    """Operands, loss and gradient; the masked dense form has one tensor of 20 GB."""
    run = subprocess.run([sys.executable, "-c", LARGE], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 1000

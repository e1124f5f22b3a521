"""The reference against a naive einsum in float64, its derivatives, and the invariants of the operator."""

from __future__ import annotations

import itertools

import pytest
import torch

import c2f_ops
from c2f_ops.reference import multilinear_pool as ref
from c2f_ops.reference import signed_sqrt_normalize as norm
from c2f_ops.testing import make_pool_inputs, relative_error, value_and_grads

SETS = {
    "mlp": (3, c2f_ops.MLP),
    "hbp": (3, c2f_ops.HBP),
    "fbp": (2, c2f_ops.FBP),
    "trilinear": (3, c2f_ops.TRILINEAR),
    "single": (1, ((0,),)),
    "square": (1, ((0, 0),)),
    "mixed": (4, ((3, 0, 0, 2), (1,), (2, 2), (1, 3, 0), (3, 3, 3))),
}
MODES = ("shifted", "caffe", "plus_eps", "smooth", "none")
EPS = {"shifted": 0.03, "caffe": 0.03, "plus_eps": 1e-5, "smooth": 0.1, "none": 0.0}


def naive(inputs, interactions, sqrt_mode, eps, scope, l2_mode, l2_eps, pooling, mask):
    """The definition, written index by index with einsum and Python loops."""
    us = []
    for m, (x, w) in enumerate(zip(inputs.features, inputs.weights, strict=True)):
        u = torch.einsum("bchw,cd->bhwd", x, w).flatten(1, 2)
        us.append(u + inputs.biases[m] if inputs.biases else u)
    batch, length, _ = us[0].shape
    weights = us[0].new_ones(batch, length) if mask is None else mask.to(us[0].dtype)
    blocks = []
    for t in interactions:
        blocks.append(torch.einsum(",".join(["bij"] * len(t) + ["bi"]) + "->bj", *(us[m] for m in t), weights))
    p = torch.stack(blocks, 1)
    s = torch.zeros_like(p)
    for b, q, j in itertools.product(*(range(n) for n in p.shape)):
        v = p[b, q, j]
        a, sign = v.abs(), torch.sign(v)
        s[b, q, j] = {
            "shifted": sign * ((a + eps * eps) ** 0.5 - eps),
            "caffe": sign * a**0.5,
            "plus_eps": sign * (a + eps) ** 0.5,
            "smooth": v * (v * v + eps * eps) ** -0.25,
            "none": v,
        }[sqrt_mode]
    if scope == "none":
        n = torch.ones(batch, 1, 1, dtype=p.dtype)
    else:
        total = (s * s).sum(2, keepdim=True) if scope == "interaction" else (s * s).sum((1, 2), keepdim=True)
        n = (total + l2_eps).sqrt() if l2_mode == "add" else total.sqrt().clamp_min(l2_eps)
    out = (s / n).flatten(1)
    if pooling == "mean" and scope == "none":
        count = weights.sum(1, keepdim=True)
        out = out / count if sqrt_mode == "none" else out / count.sqrt()
    return out


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("scope", ["interaction", "joint", "none"])
@pytest.mark.parametrize("sqrt_mode", MODES)
@pytest.mark.parametrize("name", SETS)
def test_equals_naive_einsum(name, sqrt_mode, scope, mask):
    count, interactions = SETS[name]
    for l2_mode, pooling, bias in (("add", "sum", True), ("clamp", "mean", False)):
        inputs = make_pool_inputs(
            2, 2, 3, range(3, 3 + count), 5, dtype=torch.float64, mask=mask, bias=bias, interactions=interactions
        )
        l2_eps = 1e-7 if l2_mode == "add" else 1e-12
        eps = EPS[sqrt_mode]
        out = inputs.run(
            backend="reference",
            sqrt_mode=sqrt_mode,
            sqrt_eps=eps,
            norm_scope=scope,
            l2_mode=l2_mode,
            l2_eps=l2_eps,
            pooling=pooling,
        )
        expected = naive(inputs, interactions, sqrt_mode, eps, scope, l2_mode, l2_eps, pooling, inputs.mask)
        assert relative_error(out, expected) < 1e-12


@pytest.mark.parametrize("scope", ["interaction", "joint", "none"])
@pytest.mark.parametrize("sqrt_mode", ["shifted", "smooth", "none"])
@pytest.mark.parametrize("name", ["mlp", "square", "mixed"])
def test_first_and_second_derivatives(name, sqrt_mode, scope):
    count, interactions = SETS[name]
    inputs = make_pool_inputs(
        2, 1, 3, range(2, 2 + count), 3, dtype=torch.float64, mask="float", interactions=interactions
    )
    with torch.no_grad():  # away from p = 0 and from the kink of ReLU-ed features at 0
        for x in inputs.features:
            x.add_(0.1)
    leaves = inputs.leaves()

    def run(*tensors):
        del tensors  # gradcheck perturbs the leaves in place
        return inputs.run(
            backend="reference",
            sqrt_mode=sqrt_mode,
            sqrt_eps=EPS[sqrt_mode],
            norm_scope=scope,
            pooling="mean",
            activation="tanh",
        )

    assert torch.autograd.gradcheck(run, leaves, atol=1e-6)
    assert torch.autograd.gradgradcheck(run, leaves, atol=1e-5)


@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
@pytest.mark.parametrize("sqrt_mode", ["shifted", "smooth"])
def test_gradient_at_zero(sqrt_mode, l2_mode):
    p = torch.randn(2, 3, 4, dtype=torch.float64)
    p[0, 1, 2] = p[1, 0, 0] = 0
    p.requires_grad_()
    run = lambda t: c2f_ops.signed_sqrt_normalize(t, sqrt_mode=sqrt_mode, l2_mode=l2_mode, sqrt_eps=0.03)  # noqa: E731
    assert torch.autograd.gradcheck(run, (p,), atol=1e-4, eps=1e-8)


def test_zero_row_has_the_exact_finite_gradient():
    p = torch.zeros(1, 2, 5, dtype=torch.float64, requires_grad=True)
    z = c2f_ops.signed_sqrt_normalize(p)
    (grad,) = torch.autograd.grad(z.sum(), p)
    assert (z == 0).all()
    assert torch.allclose(grad, torch.full_like(grad, 1 / (2 * 0.03 * 1e-7**0.5)))


def test_caffe_backward_is_its_formula_and_has_no_second_derivative():
    p = torch.randn(2, 3, 7, dtype=torch.float64)
    p[0, 0, 0] = 0
    p.requires_grad_()
    g = torch.randn(2, 3, 7, dtype=torch.float64)
    z = c2f_ops.signed_sqrt_normalize(p, sqrt_mode="caffe")
    (grad,) = torch.autograd.grad(z, p, g, create_graph=False)
    s = p.detach().sign() * p.detach().abs().sqrt()
    n = ((s * s).sum(2, keepdim=True) + 1e-7).sqrt()
    h = (g - s / n * (s / n * g).sum(2, keepdim=True)) / n
    assert torch.allclose(grad, h / (2 * (s.abs() + 0.03)), rtol=1e-12)
    z = c2f_ops.signed_sqrt_normalize(p, sqrt_mode="caffe")
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        torch.autograd.grad(z, p, g, create_graph=True)
    inputs = make_pool_inputs(2, 2, 2, (3, 3, 3), 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        torch.autograd.grad(
            inputs.run(backend="reference", sqrt_mode="caffe").sum(), inputs.leaves(), create_graph=True
        )


def test_plus_eps_gradient_equals_autograd_of_the_same_form():
    p = torch.randn(2, 2, 6, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 2, 6, dtype=torch.float64)
    (ours,) = torch.autograd.grad(c2f_ops.signed_sqrt_normalize(p, sqrt_mode="plus_eps", sqrt_eps=1e-5), p, g)
    s = p.sign() * (p.abs() + 1e-5).sqrt()
    (theirs,) = torch.autograd.grad(s / ((s * s).sum(2, keepdim=True) + 1e-7).sqrt(), p, g)
    assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("sqrt_mode", MODES)
def test_infinite_and_zero_entries(sqrt_mode):
    p = torch.tensor([[[torch.inf, 2.0, 0.0, -3.0]], [[1.0, 0.0, -1.0, 4.0]]])
    z = c2f_ops.signed_sqrt_normalize(
        p, sqrt_mode=sqrt_mode, sqrt_eps=0.0 if sqrt_mode in ("shifted", "caffe") else 0.03, backend="reference"
    )
    assert z[0, 0, 0].isnan() and (z[0, 0, 1:] == 0).all()
    assert z[1].isfinite().all() and z[1, 0, 1] == 0


def test_scale_invariance_makes_the_gradient_orthogonal_to_p():
    p = torch.randn(3, 2, 9, dtype=torch.float64)
    g = torch.randn(3, 2, 9, dtype=torch.float64)
    a = norm.signed_sqrt_normalize_bwd(g, p, "shifted", 0.0, "interaction", "add", 0.0)
    assert (p * a).sum(2).abs().max() < 1e-12


def test_blocks_of_samples_do_not_change_the_result(monkeypatch):
    inputs = make_pool_inputs(5, 2, 3, (3, 4, 5), 6, dtype=torch.float64, mask="float")
    whole, grads = value_and_grads(inputs, backend="reference", recompute=True)
    monkeypatch.setattr(ref, "_BLOCK_ELEMENTS", 2 * 6 * 6)
    assert len(ref._blocks(torch.empty(5, 6, 3), torch.empty(3, 6))) == 3
    blocked, blocked_grads = value_and_grads(inputs, backend="reference", recompute=True)
    assert relative_error(blocked, whole) < 1e-14
    assert all(relative_error(a, b) < 1e-13 for a, b in zip(blocked_grads, grads, strict=True))


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("interactions", [c2f_ops.HBP, c2f_ops.FBP, ((0, 0), (1, 0)), ((1, 1), (0, 0))], ids=str)
def test_gram_equals_direct(interactions, mask):
    channels = range(3, 4 + max(max(t) for t in interactions))
    for dtype, bias in ((torch.float64, True), (torch.float32, False), (torch.bfloat16, True)):
        inputs = make_pool_inputs(3, 2, 4, channels, 6, dtype=dtype, mask=mask, bias=bias, interactions=interactions)
        if mask == "float":
            inputs.mask.requires_grad_(False)
        truth, truth_grads = value_and_grads(inputs.to(dtype=torch.float64), backend="reference", algo="chunked")
        gram, grads = value_and_grads(inputs, backend="auto", algo="gram")
        bound = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
        assert relative_error(gram, truth) < bound
        assert all(relative_error(a, b) < bound for a, b in zip(grads, truth_grads, strict=True))

"""The ops inside torch: opcheck, compile, export, ONNX, autocast, training parity."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._dynamo.testing

import c2f_ops
from c2f_ops import functional
from c2f_ops._ops.multilinear_pool import encode
from c2f_ops.nn import MultiLinearPool
from c2f_ops.testing import make_pool_inputs, relative_error

NORM = ("shifted", 0.03, "interaction", "add", 1e-7)


def _op_args(device, backend, *, layout="NCHW", bias=True, mask="none", save=True, dtype=torch.float32):
    inputs = make_pool_inputs(2, 3, 4, (5, 6, 7), 9, layout=layout, bias=bias, mask=mask, device=device, dtype=dtype)
    features = [x.detach().flatten(2).transpose(1, 2).requires_grad_() for x in inputs.features]
    biases = [b.detach().float().requires_grad_() for b in inputs.biases] if bias else []
    options = (encode(c2f_ops.MLP), "relu", *NORM, "direct", backend)
    return features, inputs.weights, biases, inputs.mask, options, save


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(backend, device, bias, mask, save):
    features, weights, biases, position_mask, options, save = _op_args(device, backend, bias=bias, mask=mask, save=save)
    if mask == "float":
        position_mask.requires_grad_(backend == "reference")
    args = (features, weights, biases, position_mask, *options, save, torch.float32)
    torch.library.opcheck(torch.ops.c2f_ops.multilinear_pool.default, args)
    _, p, projections = torch.ops.c2f_ops.multilinear_pool(*args)
    d_out = torch.randn(2, 36, device=device)
    plain = [[t.detach() for t in group] for group in (projections, features, weights, biases)]
    flags = [True, False, True, False, True, True, *([True, True, False] if bias else [False] * 3), False]
    kept = None if position_mask is None else position_mask.detach()
    torch.library.opcheck(
        torch.ops.c2f_ops.multilinear_pool_bwd.default, (d_out, p.detach(), *plain, kept, *options, flags)
    )


def test_opcheck_of_the_epilogue(backend, device):
    p = torch.randn(2, 3, 7, device=device, requires_grad=True)
    torch.library.opcheck(torch.ops.c2f_ops.signed_sqrt_normalize.default, (p, *NORM, backend))
    d_out = torch.randn(2, 3, 7, device=device)
    torch.library.opcheck(torch.ops.c2f_ops.signed_sqrt_normalize_bwd.default, (d_out, p.detach(), *NORM, backend))


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
def test_compile_recompiles_at_most_once_over_batch_sizes(backend, device, layout):
    torch._dynamo.reset()
    pool = MultiLinearPool((5, 6, 7), 8, backend=backend).to(device)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend=counter)
    for batch in range(2, 12):
        inputs = make_pool_inputs(batch, 3, 4, (5, 6, 7), 8, layout=layout, device=device)
        out = compiled(inputs.features)
        expected = pool(inputs.features)
        assert relative_error(out, expected) < 1e-6
        grads = torch.autograd.grad(out.sum(), inputs.features)
        peers = torch.autograd.grad(expected.sum(), inputs.features)
        assert all(relative_error(a, b) < 1e-5 and a.stride() == b.stride() for a, b in zip(grads, peers, strict=True))
    assert counter.frame_count <= 2


def test_compile_with_inductor(backend, device):
    torch._dynamo.reset()
    pool = MultiLinearPool((5, 6, 7), 8, backend=backend).to(device)
    inputs = make_pool_inputs(3, 3, 4, (5, 6, 7), 8, device=device)

    def run(*maps):
        return pool([m * 2 for m in maps]).relu()

    out = torch.compile(run, fullgraph=True)(*inputs.features)
    assert relative_error(out, run(*inputs.features)) < 1e-6
    out.sum().backward()
    assert all(p.grad is not None for p in pool.parameters())


def test_compile_in_bfloat16(backend, device):
    """One graph also where saving depends on what the processor multiplies with."""
    torch._dynamo.reset()
    pool = MultiLinearPool((5, 6, 7), 8, backend=backend).to(device, torch.bfloat16)
    features = [x.detach().bfloat16() for x in make_pool_inputs(3, 3, 4, (5, 6, 7), 8, device=device).features]
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    out, expected = compiled(features), pool(features)
    assert torch.equal(out, expected)
    parameters = list(pool.parameters())
    grads, peers = (torch.autograd.grad(z.float().sum(), parameters) for z in (out, expected))
    assert all(map(torch.equal, grads, peers))


class _Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = MultiLinearPool((5, 6, 7), 8, layout="NLC", num_prefix_tokens=1)

    def forward(self, a, b, c):
        return self.pool([a, b, c])


def test_export_and_reload(tmp_path):
    tokens = tuple(torch.randn(2, 10, c) for c in (5, 6, 7))
    module = _Tokens().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, tokens, dynamic_shapes=[{0: batch}] * 3)
    assert any("c2f_ops.multilinear_pool" in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, tmp_path / "pool.pt2")
    more = tuple(torch.randn(5, 10, c) for c in (5, 6, 7))
    assert relative_error(torch.export.load(tmp_path / "pool.pt2").module()(*more), module(*more)) < 1e-6


def test_decomposed_export_holds_plain_operations_only():
    tokens = tuple(torch.randn(2, 10, c) for c in (5, 6, 7))
    module = _Tokens().eval()
    with c2f_ops.decomposed():
        program = torch.export.export(module, tokens)
    assert not any("c2f_ops" in str(node.target) for node in program.graph.nodes)
    assert relative_error(program.module()(*tokens), module(*tokens)) < 1e-5


def test_onnx_agrees_with_the_op(tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    tokens = tuple(torch.randn(2, 10, c) for c in (5, 6, 7))
    module = _Tokens().eval()
    with c2f_ops.decomposed():
        torch.onnx.export(module, tokens, tmp_path / "pool.onnx", dynamo=True, verbose=False)
    model = onnx.load(tmp_path / "pool.onnx")
    names = [entry.name for entry in model.graph.input]
    (out,) = ReferenceEvaluator(model).run(None, {n: t.numpy() for n, t in zip(names, tokens, strict=True)})
    assert relative_error(torch.from_numpy(out), module(*tokens)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32_and_gradients_of_the_original_types(backend, device, dtype):
    inputs = make_pool_inputs(2, 3, 4, (5, 6, 7), 9, device=device)
    inputs.weights[1] = inputs.weights[1].detach().double().requires_grad_()
    with torch.no_grad():
        exact = inputs.to(dtype=torch.float64, device="cpu").run(backend="reference")
    with torch.autocast(device, dtype=dtype):
        mixed = inputs.run(backend="auto")
    assert mixed.dtype == torch.float64  # float64 is left alone, and wins the promotion
    inputs.weights[1] = inputs.weights[1].detach().float().requires_grad_()
    with torch.autocast(device, dtype=dtype):
        out = inputs.run(backend=backend)
        assert out.dtype == torch.float32
        assert inputs.run(backend=backend, out_dtype=dtype).dtype == dtype
    grads = torch.autograd.grad(out.sum(), inputs.leaves())
    assert all(g.dtype == t.dtype for g, t in zip(grads, inputs.leaves(), strict=True))
    assert relative_error(out, exact) < 2e-2


def test_grad_scaler_sees_an_injected_infinity(backend, device):
    pool = MultiLinearPool((5, 6, 7), 9, backend=backend).to(device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    optimizer = torch.optim.SGD(pool.parameters(), lr=0.1)
    before = copy.deepcopy(pool.state_dict())
    features = [torch.randn(2, c, 3, 4, device=device) for c in (5, 6, 7)]
    features[0][0, 0, 0, 0] = float("inf")
    with torch.autocast(device, dtype=torch.float16):
        loss = pool(features).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(v, before[k]) for k, v in pool.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_parity(backend, device, dtype):
    # Plain SGD at a small rate: at 0.2, or with momentum, float32 and float64 references part by 1e-3 themselves.
    torch.manual_seed(0)
    data = [torch.relu(torch.randn(16, c, 5, 5)).to(device) for c in (8, 12, 10)]
    labels = torch.randint(0, 4, (16,)).to(device)

    def losses(name):
        torch.manual_seed(1)
        pool, head = MultiLinearPool((8, 12, 10), 32, backend=name).to(device), torch.nn.Linear(128, 4).to(device)
        optimizer = torch.optim.SGD([*pool.parameters(), *head.parameters()], lr=0.05)
        history = []
        for _ in range(32):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(head(pool(data)).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return torch.tensor(history)

    ours, reference = losses(backend), losses("reference")
    assert reference[-1] < 0.9 * reference[0]
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    assert ((ours - reference).abs() / reference[0]).max() < bound


def test_transforms_of_torch_func(backend, device):
    """Reverse and forward mode, and maps over a batch, by plain torch operations; float64, so that all agree."""
    inputs = make_pool_inputs(2, 3, 4, (5, 6, 7), 8, device=device, dtype=torch.float64)
    x, *others = (f.detach() for f in inputs.features)
    weights, tangent = [w.detach() for w in inputs.weights], torch.randn_like(x)

    def pool(x):
        return c2f_ops.multilinear_pool([x, *others], weights, backend=backend)

    factor = torch.randn_like(pool(x))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((pool(leaf) * factor).sum(), leaf)
    assert relative_error(torch.func.grad(lambda x: (pool(x) * factor).sum())(x), expected) < 1e-12
    _, slope = torch.func.jvp(pool, (x,), (tangent,))
    assert relative_error((slope * factor).sum(), (tangent * expected).sum()) < 1e-10
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(pool(dual)).tangent, slope)
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            torch.ops.c2f_ops.signed_sqrt_normalize(dual.flatten(2), *NORM, "auto")
    assert relative_error(torch.func.vmap(pool)(torch.stack([x, 2 * x]))[1], pool(2 * x)) < 1e-12


def labels(n, x):
    return torch.arange(n, device=x.device) % 2


DIFFERENTIABLE = {
    "multilinear_pool": lambda x, backend: c2f_ops.multilinear_pool(
        [x.view(2, 12, 4)] * 2, [x.view(4, 24)] * 2, layout="NLC", interactions=((0, 1),), backend=backend
    ),
    "signed_sqrt_normalize": lambda x, backend: functional.signed_sqrt_normalize(x.view(2, 4, 12), backend=backend),
    "falcon_loss": lambda x, backend: functional.falcon_loss(
        x, x.detach().flip(0), None, labels(8, x), labels(12, x), backend=backend
    ),
    "class_attentive_loss": lambda x, backend: functional.class_attentive_loss(x, labels(8, x), x[:2], backend=backend),
}


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_saved_tensors_in_another_memory_format(backend, device, op):
    """Hooks on what autograd saves keep values, sizes and types, not strides."""

    def strided(x):
        return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() else x

    x = torch.randn(8, 12, device=device, requires_grad=True)
    gradient = torch.autograd.grad(DIFFERENTIABLE[op](x, backend).square().sum(), x)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, strided):
        assert relative_error(torch.autograd.grad(DIFFERENTIABLE[op](x, backend).square().sum(), x)[0], gradient) < 1e-5

"""What every pooling layer keeps: one protocol, any layout, masks, precision, compilation, gradients, state."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing

from c2f_ops import nn

C, H, W = 6, 3, 4
POOLS = {
    "average": lambda **k: nn.AveragePool(C, **k),
    "max": lambda **k: nn.MaxPool(C, **k),
    "gem": lambda **k: nn.GeMPool(C, **k),
    "mlp": lambda **k: nn.MultiLinearPool(C, 5, **k),
    "hbp": lambda **k: nn.HierarchicalBilinearPool(C, 5, **k),
    "fbp": lambda **k: nn.FactorizedBilinearPool(C, 5, **k),
    "trilinear": lambda **k: nn.TrilinearPool(C, 5, **k),
    "maclaurin": lambda **k: nn.RandomMaclaurinPool(C, 5, **k),
    "bilinear": lambda **k: nn.BilinearPool(C, **k),
    "triangle": lambda **k: nn.BilinearPool(C, triangle=True, **k),
    "compact": lambda **k: nn.CompactBilinearPool(C, 8, **k),
    "kernel": lambda **k: nn.KernelPool(C, (8, 7), **k),
    "covariance": lambda **k: nn.CovariancePool(C, 4, **k),
}
SEEDED = {"maclaurin", "compact", "kernel"}
every = pytest.mark.parametrize("name", POOLS)


def features(batch=2, dtype=torch.float32):
    """Positive, so that the generalised mean has its gradient everywhere."""
    return (torch.rand(batch, C, H, W) + 0.1).to(dtype)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


@every
def test_output_has_out_features_and_no_layout_matters(name):
    pool, x = POOLS[name](), features()
    out = pool(x)
    assert out.shape == (2, pool.out_features) and out.is_contiguous() and out.isfinite().all()
    assert torch.equal(pool([x]), out)
    others = {
        "NCHW": x.contiguous(memory_format=torch.channels_last),
        "NHWC": x.permute(0, 2, 3, 1).contiguous(),
        "NLC": torch.cat([torch.full((2, 2, C), torch.nan), tokens(x)], 1),
    }
    for layout, same in others.items():
        twin = POOLS[name](layout=layout, num_prefix_tokens=2 * (layout == "NLC"))
        twin.load_state_dict(pool.state_dict())
        torch.testing.assert_close(twin(same), out, rtol=1e-5, atol=1e-6)
        assert layout == "NCHW" or repr(layout) in repr(twin)


@every
def test_gradients(name):
    torch.manual_seed(1)
    pool, x = POOLS[name]().double(), features(dtype=torch.float64).requires_grad_()
    weights = torch.rand(2, H * W, dtype=torch.float64) + 0.5
    names, parameters = zip(*pool.named_parameters(), strict=True) if list(pool.parameters()) else ((), ())

    def run(x, mask, *values):
        return torch.func.functional_call(pool, dict(zip(names, values, strict=True)), (x, mask))

    assert torch.autograd.gradcheck(run, (x, None, *parameters), atol=1e-6)
    weights.requires_grad_(name not in {"max", "maclaurin"})  # a mask of the maximum only selects
    if name not in {"mlp", "hbp", "fbp", "trilinear", "maclaurin", "max"}:
        assert torch.autograd.gradcheck(run, (x, weights, *parameters), atol=1e-6)


@every
def test_masks(name):
    pool, x = POOLS[name](layout="NLC"), tokens(features(3))
    mask = torch.zeros(3, H * W, dtype=torch.bool)
    mask[0, :5] = True
    mask[1] = True
    hurt = torch.where(mask.unsqueeze(2), x, torch.nan).requires_grad_()
    out = pool(hurt, mask)
    torch.testing.assert_close(out[:1], pool(x[:1, :5]))
    torch.testing.assert_close(out[1:2], pool(x[1:2]))
    bias = any(key.startswith("biases") for key in pool.state_dict())
    assert bias or not out[2].any()
    (out * torch.randn_like(out)).sum().backward()
    assert hurt.grad.isfinite().all() and hurt.grad[0, :5].any() and not hurt.grad[~mask].any()
    assert all(p.grad.isfinite().all() for p in pool.parameters())
    torch.testing.assert_close(pool(x, mask.float())[:2], out[:2].detach())


@every
def test_autocast_gives_float32_and_gradients_of_the_original_types(name):
    pool, x = POOLS[name](), features().requires_grad_()
    exact = pool(x).detach()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            out = pool(x.to(dtype))
        assert out.dtype == torch.float32 and (out - exact).norm() < 2e-2 * exact.norm()
        out.sum().backward()
        assert x.grad.dtype == torch.float32 and all(p.grad.dtype == torch.float32 for p in pool.parameters())


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_of_another_type(name, dtype):
    pool, x = POOLS[name](), features()
    exact = pool(x)
    out = pool.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert (out - exact).norm() < (1e-5 if dtype == torch.float64 else 3e-2) * exact.norm()


@every
def test_large_features_do_not_overflow_sixteen_bits(name):
    x = 200 * features(dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):
        assert POOLS[name]()(x).isfinite().all()


@every
def test_compiles_in_one_graph_for_all_batch_sizes(name):
    torch._dynamo.reset()
    pool = POOLS[name]()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend=counter)
    for batch in (2, 5):
        x = features(batch).requires_grad_()
        mask = torch.rand(batch, H * W) < 0.7
        torch.testing.assert_close(compiled(x, mask), pool(x, mask))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(x, mask).square().sum(), x),
            torch.autograd.grad(pool(x, mask).square().sum(), x),
            rtol=1e-4,
            atol=1e-6,
        )
    assert counter.frame_count <= 2


@every
def test_state_carries_what_was_drawn(name):
    x = features()
    torch.manual_seed(1)
    first = POOLS[name](**({"seed": 1} if name in SEEDED else {}))
    torch.manual_seed(2)
    second = POOLS[name](**({"seed": 2} if name in SEEDED else {}))
    drawn = name in SEEDED or any(parameter.ndim > 0 for parameter in first.parameters())
    assert torch.equal(first(x), second(x)) != drawn
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    if name in SEEDED:
        assert torch.equal(first(x), POOLS[name](seed=1)(x)) and not list(first.parameters())


@every
def test_empty_batch_and_single_position(name):
    pool = POOLS[name]()
    assert pool(features(0)).shape == (0, pool.out_features)
    x = features()[:, :, :1, :1].clone().requires_grad_()
    pool(x).sum().backward()
    assert x.grad.isfinite().all()


def test_plain_pools():
    x = torch.randn(2, C, H, W)
    torch.testing.assert_close(nn.AveragePool(C)(x), x.mean((2, 3)))
    assert torch.equal(nn.MaxPool(C)(x), x.amax((2, 3)))


def test_generalised_mean():
    x = features(dtype=torch.float64)
    torch.testing.assert_close(nn.GeMPool(C, p=1).double()(x), x.mean((2, 3)))
    torch.testing.assert_close(nn.GeMPool(C, p=2.5).double()(x), x.pow(2.5).mean((2, 3)).pow(1 / 2.5))
    torch.testing.assert_close(nn.GeMPool(C, p=500)(x.float()), x.amax((2, 3)).float(), rtol=0.01, atol=0)
    pool = nn.GeMPool(C)
    pool(torch.zeros(1, C, H, W)).sum().backward()  # 0^p at p = 3
    assert pool.p.grad.isfinite()
    assert set(pool.state_dict()) == {"p"} == set(nn.GeMPool(C, learn=False).state_dict())
    assert not list(nn.GeMPool(C, learn=False).parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.AveragePool(0), "AveragePool: in_channels must be a positive number, got 0"),
        (lambda: nn.BilinearPool((3, 4, 5)), "BilinearPool: in_channels must be a positive number or 2 of them, got"),
        (lambda: nn.BilinearPool((3, 4), triangle=True), "in_channels must be one number with triangle=True, got"),
        (lambda: nn.MaxPool(4, layout="NCL"), r"MaxPool: layout must be one of \('NCHW', 'NHWC', 'NLC'\), got 'NCL'"),
        (lambda: nn.GeMPool(4, p=0.0), "GeMPool: p must be finite and greater than 0, got 0.0"),
        (lambda: nn.CompactBilinearPool(4, 0), "CompactBilinearPool: dim must be positive, got 0"),
        (lambda: nn.KernelPool(4, ()), r"KernelPool: dims must be positive numbers, .*, got \(\)"),
        (lambda: nn.CovariancePool(4, iterations=0), "CovariancePool: iterations must be at least 1, got 0"),
        (lambda: nn.BilinearPool(4, sqrt_mode="root"), "BilinearPool: sqrt_mode must be one of"),
        (
            lambda: nn.MaxPool(4)(torch.rand(2, 3, 5, 5)),
            r"MaxPool: features\[0\] must have 4 channels in layout 'NCHW'",
        ),
        (lambda: nn.MaxPool(4)(torch.rand(2, 4, 5)), r"MaxPool: features\[0\] must have 4 dimensions for layout"),
        (lambda: nn.MaxPool(4)([torch.rand(2, 4, 5, 5)] * 2), "features must be 1 map.s., got 2"),
        (lambda: nn.MaxPool(4)(torch.rand(2, 4, 0, 5)), r"features\[0\] must have a position after 0 prefix tokens"),
        (
            lambda: nn.BilinearPool((4, 3))([torch.rand(2, 4, 5, 5), torch.rand(2, 3, 6, 6)]),
            r"features\[1\] must have B, L = \[2, 25\] like features\[0\], got \[2, 36\]",
        ),
        (
            lambda: nn.MaxPool(4)(torch.rand(2, 4, 5, 5), torch.ones(2, 5)),
            r"mask must have shape \[2, 25\], got \[2, 5\]",
        ),
        (lambda: nn.MaxPool(4, num_prefix_tokens=1)(torch.rand(2, 4, 5, 5)), "num_prefix_tokens must be 0 for layout"),
    ],
)
def test_errors_name_the_argument(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_types_are_checked():
    with pytest.raises(TypeError, match="MaxPool: mask must be a bool or floating-point tensor"):
        nn.MaxPool(4)(torch.rand(2, 4, 5, 5), torch.ones(2, 25, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"MaxPool: features\[0\] must be one of .*, got torch.int64"):
        nn.MaxPool(4)(torch.ones(2, 4, 5, 5, dtype=torch.int64))

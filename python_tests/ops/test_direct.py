"""The short way of repeated calls on the CPU: the same bits, and only where nothing could want to see the call."""

from __future__ import annotations

import contextlib
import functools
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from c2f_ops import _native, functional
from c2f_ops._ops import direct
from c2f_ops.cpu import multilinear_pool as cpu

pytestmark = pytest.mark.skipif(_native.unavailable() is not None, reason=str(_native.unavailable()))

pooling = functional.pooling
SHAPES = {"NCHW": (2, 6, 3, 4), "NHWC": (2, 3, 4, 6), "NLC": (2, 12, 6)}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(direct, "_known", {})


@pytest.fixture
def long_way(monkeypatch):
    """How often a call was checked from the start."""
    calls = []
    prepare = pooling._prepare
    monkeypatch.setattr(pooling, "_prepare", lambda *args: calls.append(1) or prepare(*args))
    return calls


@pytest.fixture
def long_backward(monkeypatch):
    """How often a backward went through the dispatcher."""
    calls = []
    run = cpu.multilinear_pool_bwd
    monkeypatch.setattr(cpu, "multilinear_pool_bwd", lambda *args: calls.append(1) or run(*args))
    return calls


def operands(layout="NLC", dtype=torch.float32, shape=None):
    shape = shape or SHAPES[layout]
    features = [torch.randn(shape).to(dtype) for _ in range(3)]
    return features, [torch.randn(6, 10).to(dtype) for _ in features]


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interactions": functional.HBP, "algo": "fused", "norm_scope": "joint", "l2_mode": "clamp", "l2_eps": 1e-3},
        {"activation": "relu", "sqrt_mode": "smooth", "sqrt_eps": 0.5, "out_dtype": torch.float16},
        {"pooling": "mean", "norm_scope": "interaction", "sqrt_mode": "none"},
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_same_bits(long_way, layout, dtype, options, biased):
    features, weights = operands(layout, dtype)
    biases = [torch.randn(10) for _ in features] if biased else None
    first = functional.multilinear_pool(features, weights, biases, layout=layout, **options)
    assert torch.equal(functional.multilinear_pool(features, weights, biases, layout=layout, **options), first)
    assert len(long_way) == 1
    others, _ = operands(layout, dtype)  # the same kind: what is kept must not hold on to operands
    short = functional.multilinear_pool(others, weights, biases, layout=layout, **options)
    assert len(long_way) == 1
    direct._known.clear()
    assert torch.equal(short, functional.multilinear_pool(others, weights, biases, layout=layout, **options))
    assert not torch.equal(short, first)


@pytest.mark.parametrize("shape", [(0, 12, 6), (2, 0, 6)])
def test_no_samples_or_positions(long_way, shape):
    features, weights = operands(shape=shape)
    first = functional.multilinear_pool(features, weights, layout="NLC")
    assert torch.equal(functional.multilinear_pool(features, weights, layout="NLC"), first)
    assert len(long_way) == 1 and first.shape == (shape[0], 40) and not first.any()


def test_views_with_an_offset(long_way):
    features, weights = operands(shape=(2, 15, 6))
    options = {"layout": "NLC", "num_prefix_tokens": 3}
    first = functional.multilinear_pool(features, weights, **options)
    assert torch.equal(functional.multilinear_pool(features, weights, **options), first)
    assert len(long_way) == 1
    assert torch.equal(first, functional.multilinear_pool([x[:, 3:] for x in features], weights, layout="NLC"))
    channels_last = [x.to(memory_format=torch.channels_last) for x in operands("NCHW")[0]]
    first = functional.multilinear_pool(channels_last, weights)
    assert torch.equal(functional.multilinear_pool(channels_last, weights), first)
    assert len(long_way) == 3


def test_modules_without_gradient(long_way):
    pool = functional.multilinear_pool
    features, weights = operands()
    parameters = [nn.Parameter(w) for w in weights]
    expected = pool(features, weights, layout="NLC")
    for context in (torch.no_grad, torch.inference_mode, torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(pool(features, parameters, layout="NLC"), expected)
    with torch.inference_mode():
        assert torch.equal(pool([x.clone() for x in features], parameters, layout="NLC"), expected)
    assert len(long_way) == 1


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("which", ["all", "features", "one weight"])
def test_same_gradients(long_way, long_backward, layout, dtype, recompute, which):
    features, weights = operands(layout, dtype)
    biases = [torch.randn(10) for _ in features]
    wanted = {"all": [*features, *weights, *biases], "features": features, "one weight": weights[1:2]}[which]
    for t in wanted:
        t.requires_grad_()
    factor = torch.randn(features[0].shape[0], 40)

    def gradients():
        options = {"layout": layout, "activation": "tanh", "recompute": recompute}
        out = functional.multilinear_pool(features, weights, biases, **options)
        return out, *torch.autograd.grad((out * factor).sum(), wanted)

    first, second = gradients(), gradients()
    assert len(long_way) == len(long_backward) == 1
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("options", [{"out_dtype": torch.bfloat16}, {"norm_scope": "joint"}, {"pooling": "mean"}])
def test_gradients_of_strided_results(long_backward, options):
    features, weights = operands("NCHW")
    wanted = [t.requires_grad_() for t in (*features, *weights)]
    first, second, sliced = (
        torch.autograd.grad(functional.multilinear_pool(features, weights, **options)[:, :7].sum(), wanted)
        for _ in range(3)
    )
    out = functional.multilinear_pool(features, weights, **options)
    strided = torch.zeros_like(out)[:1].expand_as(out).t().contiguous().t()
    strided[:, :7] = 1
    short = torch.autograd.grad(out, wanted, strided)
    assert len(long_backward) == 1
    for gradient in (second, sliced, short):
        assert all(map(torch.equal, gradient, first))


def leaves():
    """A graph of a repeated call in memory, and its leaves."""
    features, weights = operands("NCHW")
    wanted = [t.requires_grad_() for t in (*features, *weights)]
    for _ in range(2):
        out = functional.multilinear_pool(features, weights, recompute=False)
        gradient = torch.autograd.grad(out.square().sum(), wanted, retain_graph=True)
    return out.square().sum(), wanted, gradient


@pytest.mark.parametrize("name", ["a dispatch mode", "autocast", "the profiler"])
def test_who_watches_sees_the_backward(long_backward, name):
    loss, wanted, expected = leaves()
    assert len(long_backward) == 1
    with OBSERVERS[name]() as observer:
        gradient = torch.autograd.grad(loss, wanted)
    assert len(long_backward) == 2 and all(map(torch.equal, gradient, expected))
    if name == "a dispatch mode":
        assert "c2f_ops.multilinear_pool_bwd.default" in observer.seen


def test_settings_are_followed_by_the_backward(long_backward):
    loss, wanted, expected = leaves()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        gradient = torch.autograd.grad(loss, wanted)
    finally:
        torch.set_num_threads(threads)
    assert len(long_backward) == 2 and all(map(torch.equal, gradient, expected))


def test_saved_tensors_that_come_back_in_another_way(long_backward):
    def strided(x):
        return x.transpose(0, -1).contiguous().transpose(0, -1)

    features, weights = operands("NLC")
    wanted = [t.requires_grad_() for t in (*features, *weights)]

    def gradients():
        return torch.autograd.grad(functional.multilinear_pool(features, weights, layout="NLC").sum(), wanted)

    expected, _ = gradients(), gradients()
    assert len(long_backward) == 1
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, strided):
        changed = gradients()
    assert len(long_backward) == 2
    for a, b in zip(changed, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda x: x):
        assert all(map(torch.equal, gradients(), expected))
    assert len(long_backward) == 2


def test_gradients_and_their_absence_are_kinds_of_their_own(long_way):
    features, weights = operands(shape=(2, 12, 6))
    parameters = [nn.Parameter(w) for w in weights]
    for _ in range(3):
        assert functional.multilinear_pool(features, parameters, layout="NLC").requires_grad
        assert not functional.multilinear_pool(features, weights, layout="NLC").requires_grad
        with torch.no_grad():
            assert not functional.multilinear_pool(features, parameters, layout="NLC").requires_grad
    assert len(long_way) == 2


def test_second_derivatives_and_checkpoints_of_repeated_calls(long_way):
    features, weights = operands("NCHW")
    features = [x.requires_grad_() for x in features]
    x = features[0]

    def penalty(pool):
        (slope,) = torch.autograd.grad(pool(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    def pool(x):
        return functional.multilinear_pool([x, *features[1:]], weights, norm_scope="none")

    first = penalty(pool)
    assert torch.equal(penalty(pool), first)
    checkpointed = functools.partial(torch.utils.checkpoint.checkpoint, pool, use_reentrant=False)
    kept, rebuilt = (torch.autograd.grad(f(x).sum(), x)[0] for f in (pool, checkpointed))
    assert torch.equal(kept, rebuilt)
    assert len(long_way) == 1


class Logged(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


@contextlib.contextmanager
def dual_level():
    with torch.autograd.forward_ad.dual_level():
        yield


OBSERVERS = {
    "a dispatch mode": Logged,
    "autocast": lambda: torch.autocast("cpu"),
    "a default device": lambda: torch.device("cpu"),
    "forward-mode gradients": dual_level,
    "the profiler": torch.autograd.profiler.profile,
}


@pytest.mark.parametrize("name", OBSERVERS)
def test_who_watches_sees_the_call(long_way, name):
    features, weights = operands()
    for _ in range(2):
        functional.multilinear_pool(features, weights, layout="NLC")
    with OBSERVERS[name]() as observer:
        functional.multilinear_pool(features, weights, layout="NLC")
    assert len(long_way) == 2
    if name == "a dispatch mode":
        assert "c2f_ops.multilinear_pool.default" in observer.seen
    if name == "the profiler":
        assert any(event.name == "c2f_ops::multilinear_pool" for event in observer.function_events)


def test_transforms_and_tracers_see_the_call(long_way):
    features, weights = operands()
    pool = lambda *x: functional.multilinear_pool(list(x), weights, layout="NLC")  # noqa: E731
    expected = pool(*features)
    assert torch.equal(torch.compile(pool, fullgraph=True, backend="eager")(*features), expected)
    many = torch.func.vmap(pool)(*(torch.stack([x, x]) for x in features))
    assert torch.allclose(many, torch.stack([expected, expected]), atol=1e-6)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = [mode.from_tensor(x) for x in features]
        out = functional.multilinear_pool(fake, [mode.from_tensor(w) for w in weights], layout="NLC")
        assert isinstance(out, torch._subclasses.FakeTensor)
    graph = torch.fx.experimental.proxy_tensor.make_fx(pool)(*features)
    assert "c2f_ops.multilinear_pool" in graph.code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of shapes that become constants
        traced = torch.jit.trace(pool, tuple(features), check_trace=False)
    assert "c2f_ops::multilinear_pool" in str(traced.graph)


@pytest.mark.parametrize("odd", ["subclass", "negated view", "lists", "converted", "float64"])
def test_odd_operands_go_the_long_way(long_way, odd):
    features, weights = operands()
    interactions = functional.MLP
    if odd == "subclass":
        features = [x.as_subclass(Subclass) for x in features]
    elif odd == "negated view":
        features = [torch.complex(x, x).conj().imag for x in features]
    elif odd == "lists":
        interactions = [list(t) for t in functional.MLP]
    elif odd == "converted":
        weights = [w.double() for w in weights]
    else:
        features, weights = ([t.double() for t in group] for group in (features, weights))
    for _ in range(2):
        functional.multilinear_pool(features, weights, layout="NLC", interactions=interactions)
    assert len(long_way) == 2


def test_arguments_are_checked_after_a_call_that_was_right():
    features, weights = operands()
    functional.multilinear_pool(features, weights, layout="NLC")
    with pytest.raises(TypeError, match="features must be a sequence"):
        functional.multilinear_pool(torch.stack(features), weights, layout="NLC")
    with pytest.raises(ValueError, match=r"weights\[2\] must have shape"):
        functional.multilinear_pool(features, [*weights[:2], weights[2][1:]], layout="NLC")
    with pytest.raises(ValueError, match="layout"):
        functional.multilinear_pool(features, weights)
    with pytest.raises(ValueError, match="sqrt_eps"):
        functional.multilinear_pool(features, weights, layout="NLC", sqrt_eps=-1.0)
    # as many operands of the same shapes, distributed in another way
    square = [torch.randn(10, 10) for _ in range(3)]
    with pytest.raises(ValueError, match="weights must hold one tensor for each"):
        functional.multilinear_pool(features, [*weights, *square], layout="NLC")


def test_settings_are_followed(long_way, monkeypatch):
    features, weights = operands()

    def call():
        functional.multilinear_pool(features, weights, layout="NLC")
        return len(long_way)

    assert call() == call() == 1
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(threads + 1)
        assert call() == call() == 2
        torch.set_float32_matmul_precision("medium" if precision != "medium" else "high")
        assert call() == call() == 3
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    assert call() == 3
    monkeypatch.setenv("C2F_BACKEND", "reference")
    assert call() == 4
    assert call() == 5  # the reference is not taken this way


def test_few_kinds_are_kept(monkeypatch):
    monkeypatch.setattr(direct, "_KINDS", 4)
    for batch in range(1, 10):
        functional.multilinear_pool(*operands(shape=(batch, 12, 6)), layout="NLC")
        assert 1 <= len(direct._known) <= 4


def test_another_torch_goes_the_long_way(long_way, monkeypatch):
    monkeypatch.delattr(torch._C, "_dispatch_keys")
    direct._ordinary.cache_clear()
    try:
        features, weights = operands()
        for _ in range(2):
            functional.multilinear_pool(features, weights, layout="NLC")
        assert len(long_way) == 2
    finally:
        monkeypatch.undo()
        direct._ordinary.cache_clear()

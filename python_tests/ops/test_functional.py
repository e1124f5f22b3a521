"""Arguments: what is refused, with which words; what is chosen, and why."""

from __future__ import annotations

import pytest
import torch

import c2f_ops
from c2f_ops._ops import choice
from c2f_ops._ops.problem import Problem


def _call(**changes):
    features = [torch.randn(2, c, 3, 4) for c in (5, 6, 7)]
    weights = [torch.randn(c, 8) for c in (5, 6, 7)]
    arguments = {"features": features, "weights": weights, "biases": None, **changes}
    return c2f_ops.multilinear_pool(
        arguments.pop("features"), arguments.pop("weights"), arguments.pop("biases"), **arguments
    )


def _maps(*shapes, **kwargs):
    return [torch.randn(*s, **kwargs) for s in shapes]


BAD = {
    "one tensor for features": (dict(features=torch.randn(3, 2, 5, 3)), TypeError, "features must be a sequence of tensors, got Tensor"),
    "no features": (dict(features=[], weights=[]), ValueError, "features must hold 1 to 4 tensors, got 0"),
    "five features": (dict(features=_maps(*[(2, 5, 3, 4)] * 5)), ValueError, "features must hold 1 to 4 tensors, got 5"),
    "too few weights": (dict(weights=_maps((5, 8))), ValueError, "weights must hold one tensor for each of the 3 features, got 1"),
    "not a tensor": (dict(features=[1, 2, 3]), TypeError, r"features\[0\] must be a tensor, got int"),
    "integer": (dict(features=[torch.ones(2, 5, 3, 4, dtype=torch.long)] * 3), TypeError, r"features\[0\] must be one of float64, .*got torch.int64"),
    "complex": (dict(weights=_maps((5, 8), (6, 8), (7, 8), dtype=torch.complex64)), TypeError, r"weights\[0\] must be one of .*complex64"),
    "three dimensions": (dict(features=_maps((2, 5, 3)) * 3), ValueError, r"features\[0\] must have 4 dimensions for layout 'NCHW', got shape \[2, 5, 3\]"),
    "channels": (dict(weights=_maps((5, 8), (9, 8), (7, 8))), ValueError, r"weights\[1\] must have shape \[C_m, D\] = \[6, 8\], got \[9, 8\]"),
    "width": (dict(weights=_maps((5, 8), (6, 9), (7, 8))), ValueError, r"weights\[1\] must have shape \[C_m, D\] = \[6, 8\], got \[6, 9\]"),
    "batch": (dict(features=_maps((2, 5, 3, 4), (3, 6, 3, 4), (2, 7, 3, 4))), ValueError, r"features\[1\] must have B=2 samples of L=12 positions like features\[0\], got B=3, L=12"),
    "positions": (dict(features=_maps((2, 5, 3, 4), (2, 6, 3, 4), (2, 7, 3, 5))), ValueError, r"features\[2\] must have B=2 samples of L=12 .* got B=2, L=15"),
    "device": (dict(weights=[torch.randn(5, 8), torch.randn(6, 8, device="meta"), torch.randn(7, 8)]), ValueError, r"weights\[1\] must be on cpu like features\[0\], got meta"),
    "bias count": (dict(biases=_maps((8,))), ValueError, "biases must hold one entry for each of the 3 features, got 1"),
    "bias shape": (dict(biases=[None, torch.randn(9), None]), ValueError, r"biases\[1\] must have shape \[D\] = \[8\], got \[9\]"),
    "bias tensor": (dict(biases=torch.randn(3, 8)), TypeError, "biases must be None or a sequence"),
    "no interactions": (dict(interactions=()), ValueError, "interactions must hold at least one tuple, got none"),
    "flat interactions": (dict(interactions=(0, 1)), TypeError, "interactions must be a sequence of tuples"),
    "long interaction": (dict(interactions=((0, 1, 2, 0, 1),)), ValueError, r"interactions\[0\] must have 1 to 4 indices"),
    "index": (dict(interactions=((0, 1), (1, 3))), ValueError, r"interactions\[1\] must index the 3 features \(0 to 2\), got \(1, 3\)"),
    "negative index": (dict(interactions=((0, -1),)), ValueError, r"interactions\[0\] must index"),
    "unused": (dict(interactions=((0, 1),)), ValueError, r"interactions must use every feature, got none that uses features\[2\]"),
    "layout": (dict(layout="NHCW"), ValueError, "layout must be one of .*got 'NHCW'"),
    "prefix": (dict(num_prefix_tokens=1), ValueError, "num_prefix_tokens must be 0 for layout 'NCHW', got 1"),
    "mask shape": (dict(mask=torch.ones(2, 11)), ValueError, r"mask must have shape \[B, L\] = \[2, 12\], got \[2, 11\]"),
    "mask dtype": (dict(mask=torch.ones(2, 12, dtype=torch.int)), TypeError, "mask must be a bool or floating-point tensor, got torch.int32"),
    "activation": (dict(activation="gelu"), ValueError, "activation must be one of .*got 'gelu'"),
    "pooling": (dict(pooling="max"), ValueError, "pooling must be one of"),
    "sqrt_mode": (dict(sqrt_mode="signed"), ValueError, "sqrt_mode must be one of"),
    "sqrt_eps": (dict(sqrt_eps=-1.0), ValueError, "sqrt_eps must be finite and not negative, got -1.0"),
    "l2_eps": (dict(l2_eps=float("nan")), ValueError, "l2_eps must be finite"),
    "norm_scope": (dict(norm_scope="channel"), ValueError, "norm_scope must be one of"),
    "l2_mode": (dict(l2_mode="max"), ValueError, "l2_mode must be one of"),
    "algo": (dict(algo="fast"), ValueError, "algo must be one of"),
    "gram with a triple": (dict(algo="gram"), ValueError, "algo='gram' cannot run here: it computes interactions of length two only"),
    "backend": (dict(backend="gpu"), ValueError, "backend must be one of"),
    "recompute": (dict(recompute="yes"), ValueError, "recompute must be True, False or 'auto', got 'yes'"),
    "out_dtype": (dict(out_dtype=torch.int8), TypeError, "out_dtype must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    changes, error, message = BAD[name]
    with pytest.raises(error, match="^multilinear_pool: .*" + message.lstrip("^")):
        _call(**changes)


def test_bad_epilogue_arguments_are_named():
    with pytest.raises(ValueError, match="signed_sqrt_normalize: p must have 3 dimensions, got shape"):
        c2f_ops.signed_sqrt_normalize(torch.randn(2, 3))
    with pytest.raises(TypeError, match="signed_sqrt_normalize: p must be one of"):
        c2f_ops.signed_sqrt_normalize(torch.ones(2, 3, 4, dtype=torch.int))
    with pytest.raises(ValueError, match="signed_sqrt_normalize: l2_mode must be one of"):
        c2f_ops.signed_sqrt_normalize(torch.randn(2, 3, 4), l2_mode="max")


def test_output_type_follows_promotion():
    features = [torch.randn(2, 5, 3, 4, dtype=t) for t in (torch.bfloat16, torch.float32)]
    weights = [torch.randn(5, 8, dtype=torch.bfloat16) for _ in range(2)]
    assert c2f_ops.multilinear_pool(features, weights, interactions=c2f_ops.FBP).dtype == torch.float32
    halves = [x.to(torch.bfloat16) for x in features]
    assert c2f_ops.multilinear_pool(halves, weights, interactions=c2f_ops.FBP).dtype == torch.bfloat16


def _problem(**changes):
    facts = dict(
        device=torch.device("cpu"),
        dtype=torch.float32,
        batch=8,
        positions=784,
        width=8192,
        channels=(512,) * 3,
        interactions=c2f_ops.HBP,
    )
    return Problem(**{**facts, **changes})


@pytest.fixture
def planes(monkeypatch):
    """Set how the CPU kernels are taken to multiply: in planes of bfloat16, one or two, or not (0); on AMX or not."""
    return lambda count, amx=True: monkeypatch.setattr(choice, "_cpu_planes", lambda dtype: (count, amx))


def test_gram_is_taken_by_its_inequality(planes):
    planes(0)
    cuda = dict(device=torch.device("cuda"))
    ratio = choice.gram_cost_ratio
    assert ratio(_problem(**cuda)) == pytest.approx(0.72, abs=0.01)
    assert ratio(_problem(**cuda, channels=(2048,) * 3, positions=196)) == pytest.approx(10.7, abs=0.05)
    assert ratio(_problem(**cuda, channels=(768,) * 3, positions=1024)) == pytest.approx(0.84, abs=0.01)
    small = dict(batch=2, positions=36, width=1024, interactions=((0, 1),), channels=(16, 256))
    assert ratio(_problem(**cuda, **small)) == pytest.approx(0.43, abs=0.01)
    more = 30 * 272 * 1024 + 2e6
    assert ratio(_problem(**small)) == pytest.approx(0.43 + more / (36 * 1024 * 272), abs=0.01)
    assert ratio(_problem(batch=0)) == ratio(_problem(batch=8)) > ratio(_problem(**cuda))
    assert choice.choose_algo(_problem(channels=(256,) * 3), "auto")[0] == "gram"
    assert choice.choose_algo(_problem(channels=(512,) * 3), "auto")[0] == "direct"
    assert choice.choose_algo(_problem(**cuda), "auto")[0] == "gram"
    assert choice.choose_algo(_problem(**cuda, channels=(1024,) * 3), "auto")[0] == "direct"
    for change in (
        dict(interactions=c2f_ops.MLP),
        dict(activation="relu"),
        dict(mask="float", mask_grad=True),
        dict(dtype=torch.float16),
        dict(dtype=torch.float64),
    ):
        assert choice.choose_algo(_problem(**{"channels": (64,) * 3, **change}), "auto")[0] == "direct"
    for count, amx, channels in ((1, True, 64), (1, False, 64), (2, True, 200)):
        planes(count, amx)
        assert choice.choose_algo(_problem(channels=(channels,) * 3), "auto")[0] == "gram"
        assert choice.choose_algo(_problem(channels=(256,) * 3), "auto")[0] == "direct"


def test_saving_follows_cost_and_budget(planes):
    planes(0)
    half = dict(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert not choice.choose_recompute(_problem(**half), "auto")  # c = 512 > 367
    assert choice.choose_recompute(_problem(**half, channels=(256,) * 3), "auto")
    assert choice.choose_recompute(_problem(batch=64), "auto")  # over the budget
    assert choice.choose_recompute(_problem(channels=(384,) * 3), "auto")
    assert not choice.choose_recompute(_problem(channels=(385,) * 3), "auto")
    few = dict(batch=1, positions=49, width=1024)
    assert choice.choose_recompute(_problem(**few, channels=(64,) * 3), "auto")
    assert not choice.choose_recompute(_problem(**few, channels=(65,) * 3), "auto")
    assert choice.choose_recompute(_problem(), True) and not choice.choose_recompute(_problem(batch=64), False)


@pytest.mark.parametrize(
    "count, amx, most", [(0, False, 192), (1, False, 192), (0, True, 192), (1, True, 1600), (2, True, 400)]
)
def test_amx_rebuilds_more_channels(count, amx, most, planes):
    planes(count, amx)
    for channels, rebuild in ((most, True), (most + 1, False)):
        problem = _problem(dtype=torch.bfloat16, channels=(channels,) * 3)
        assert choice.choose_recompute(problem, "auto") == rebuild


def test_explain_says_what_runs_and_why():
    features, weights = [torch.randn(2, c, 3, 4) for c in (5, 6, 7)], [torch.randn(c, 8) for c in (5, 6, 7)]
    here = c2f_ops.explain(features, weights)
    assert here.backend in ("cpu", "reference") and str(here).startswith("multilinear_pool: backend ")
    if here.backend == "reference":
        assert here.skipped[0][0] == "cpu" and here.skipped[0][1]
    named = c2f_ops.explain(features, weights, interactions=c2f_ops.HBP, algo="gram")
    assert (named.backend, named.algo, named.recompute) == ("reference", "gram", True)
    doubles = c2f_ops.explain([x.double() for x in features], [w.double() for w in weights])
    assert doubles.backend == "reference"


def test_absent_backend_is_an_error_with_its_reason(monkeypatch):
    state = c2f_ops.backends()["multilinear_pool"]
    if state["cuda"] == "ok":
        pytest.skip("every backend is present")
    with pytest.raises(RuntimeError, match=r"multilinear_pool: backend='cuda' is not available: ."):
        _call(backend="cuda")
    monkeypatch.setenv("C2F_BACKEND", "cuda")
    with pytest.raises(RuntimeError, match="backend='cuda' is not available"):
        _call()
    monkeypatch.setenv("C2F_BACKEND", "gpu")
    with pytest.raises(ValueError, match="C2F_BACKEND: must be one of"):
        _call()
    monkeypatch.setenv("C2F_BACKEND", "reference")
    features, weights = [torch.randn(2, c, 3, 4) for c in (5, 6, 7)], [torch.randn(c, 8) for c in (5, 6, 7)]
    assert c2f_ops.explain(features, weights).backend == "reference"

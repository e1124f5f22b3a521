"""The Triton kernels against the float64 reference, in Triton's interpreter: no GPU, no compiler.

The interpreter must be chosen before Triton is imported, so the first test runs this file again in its own process;
there the tests marked ``inside`` run. Its tl.dot does not know bfloat16, hence float16 for the fused kernel.
"""

import functools
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton", minversion="3.5")

pytestmark = pytest.mark.usefixtures("poisoned_empty")

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INSIDE, reason="runs in the interpreter's own process, see test_in_the_interpreter")

MLP, HBP, FBP, TRILINEAR = ((0, 1), (0, 2), (1, 2), (0, 1, 2)), ((0, 1), (0, 2), (1, 2)), ((0, 1),), ((0, 1, 2),)
FOUR = ((0, 1, 2, 3), (3,), (2, 2), (0, 0, 1, 3))
P_TOLERANCE = {torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 2e-3}  # relative L2 error against float64
# a saved projection is rounded twice in the chunked path, after the GEMM and after the bias
U_TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
GRAD_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.mark.skipif(INSIDE, reason="already inside")
def test_in_the_interpreter(run_in_triton_interpreter):
    """Run this file with TRITON_INTERPRET=1."""
    run_in_triton_interpreter(__file__)


if INSIDE:
    from c2f_ops.reference import multilinear_pool as reference
    from c2f_ops.reference import signed_sqrt_normalize as reference_epilogue
    from c2f_ops.triton import multilinear_pool as pool
    from c2f_ops.triton import signed_sqrt_normalize as epilogue
    from c2f_ops.triton.plan import FUSED_CANDIDATES, FusedPlan

    SEQUENTIAL = FusedPlan(block_d=32, block_l=32, block_c=16, joint=False, warps=4, stages=2)
    JOINT = FusedPlan(block_d=32, block_l=32, block_c=16, joint=True, warps=4, stages=2)


def error(result, expected):
    """Relative L2 error, 0 / 0 = 0."""
    assert result.shape == expected.shape
    difference = (result.double() - expected).norm()
    return 0.0 if difference == 0 else (difference / expected.norm()).item()


def view(x, layout):
    """``x [B, L, C]`` with the same values in another memory layout."""
    if layout == "NCHW":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "NLC":
        return x.contiguous()
    B, L, C = x.shape
    if layout == "sliced":  # prefix tokens and trailing channels cut off
        buffer = x.new_full((B, L + 1, C + 3), torch.nan)
        buffer[:, 1:, 1 : C + 1] = x
        return buffer[:, 1:, 1 : C + 1]
    buffer = x.new_full((2 * C, B, 3 * L), torch.nan)  # "strided": no stride is 1
    buffer[::2, :, ::3] = x.permute(2, 0, 1)
    return buffer[::2, :, ::3].permute(1, 2, 0)


def problem(B=2, L=37, C=(20, 20, 20), D=40, dtype=torch.float32, layout="NCHW", bias=True, mask=None, seed=0):
    """Features, weights, biases, mask with values rounded to ``dtype``."""
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.randn, generator=generator)
    features = [view(rand(B, L, c).relu().to(dtype), layout) for c in C]
    weights = [(rand(c, D) * (3 / max(c, 1)) ** 0.5).to(dtype) for c in C]
    biases = [rand(D) if bias and m != 1 else None for m in range(len(C))]
    if mask == "bool":
        mask = torch.rand(B, L, generator=generator) < 0.6
    elif mask == "float":
        mask = torch.rand(B, L, generator=generator)
    return features, weights, biases, mask


def double(tensors):
    return [None if t is None else t.double() for t in tensors]


def expected_fwd(features, weights, biases, mask, interactions, activation):
    wide = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    return reference.multilinear_pool_fwd(
        double(features), double(weights), double(biases), wide, interactions, activation, True, "chunked"
    )


def check_fwd(operands, interactions=MLP, activation="none", plans=None):
    """Fused with both loop orders, and chunked, with and without saving, against float64."""
    dtype = operands[0][0].dtype
    p_expected, u_expected = expected_fwd(*operands, interactions, activation)
    paths = [functools.partial(pool.multilinear_pool_fwd, algo="chunked")]
    if dtype != torch.bfloat16:
        paths += [functools.partial(pool.fused_fwd, plan=plan) for plan in plans or (SEQUENTIAL, JOINT)]
    for path in paths:
        p, none = path(*operands, interactions, activation, False)
        assert p.dtype == torch.float32 and p.is_contiguous() and none == []
        assert error(p, p_expected) <= P_TOLERANCE[dtype]
        p_saving, projections = path(*operands, interactions, activation, True)
        assert error(p_saving, p_expected) <= P_TOLERANCE[dtype]
        if "plan" in path.keywords:
            assert torch.equal(p, p_saving)
        for u, expected in zip(projections, u_expected, strict=True):
            assert u.dtype == dtype and u.is_contiguous()
            keep = operands[3] if operands[3] is not None and operands[3].dtype == torch.bool else ...
            assert error(u[keep], expected[keep]) <= U_TOLERANCE[dtype]


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["NCHW", "NLC", "sliced", "strided"])
def test_forward_layouts(dtype, layout):
    check_fwd(problem(dtype=dtype, layout=layout))


@inside
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 1, "L": 1, "C": (1, 1, 1), "D": 1},
        {"B": 3, "L": 2, "C": (3, 3, 3), "D": 7},
        {"L": 32, "C": (16, 16, 16), "D": 32},
        {"B": 1, "L": 64, "C": (48, 48, 48), "D": 64},
        {"B": 1, "L": 49, "C": (5, 17, 33), "D": 33},
        {"B": 1, "L": 36, "C": (16, 32, 12), "D": 34, "layout": "NLC"},
        {"L": 9, "C": (0, 4, 4), "D": 5},
        {"L": 9, "C": (0, 0, 0), "D": 5},
        {"B": 0},
        {"L": 0},
        {"D": 0},
    ],
    ids=str,
)
def test_forward_sizes(sizes):
    operands = problem(**sizes)
    check_fwd(operands)


@inside
def test_forward_with_offsets_beyond_32_bits():
    """A tile that spans 2**31 elements of memory that is never touched, but for three positions and channels."""
    features, weights, biases, mask = problem(B=1, L=3, C=(3,) * 3, dtype=torch.float16)
    memory = torch.from_numpy(np.zeros(2**31 + 64, np.float16))  # not torch.zeros, which touches its pages
    spread = [memory.as_strided((1, 3, 3), (1, 1, 2**30), 16 * m).copy_(x) for m, x in enumerate(features)]
    for plan in (SEQUENTIAL, JOINT):
        expected, _ = pool.fused_fwd(features, weights, biases, mask, MLP, "none", False, plan)
        p, _ = pool.fused_fwd(spread, weights, biases, mask, MLP, "none", False, plan)
        assert torch.equal(p, expected)


@inside
def test_forward_real_tiles():
    """The tiles that run on a GPU, at a size with whole blocks and tails."""
    operands = problem(B=2, L=196, C=(64, 64, 64), D=136, dtype=torch.float16)
    check_fwd(operands, plans=(FUSED_CANDIDATES[0], FUSED_CANDIDATES[6]))


@inside
@pytest.mark.parametrize(
    "interactions", [HBP, FBP, TRILINEAR, ((0, 0),), ((0,),), ((1, 0), (0, 0), (1,)), FOUR], ids=str
)
def test_forward_interactions(interactions):
    factors = 1 + max(max(t) for t in interactions)
    check_fwd(problem(C=(12,) * factors), interactions)


@inside
@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_forward_activations_and_masks(activation, mask):
    check_fwd(problem(mask=mask), activation=activation)


@inside
def test_tanh_is_accurate_everywhere():
    """One channel, one position: p is tanh of the input."""
    x = torch.cat([torch.logspace(-30, 1.5, 500), torch.tensor([0.0, 0.25, torch.inf])])
    x = torch.cat([x, -x]).view(1, 1, -1)
    p, _ = pool.fused_fwd([x.new_ones(1, 1, 1)], [x[0]], [None], None, ((0,),), "tanh", False, SEQUENTIAL)
    torch.testing.assert_close(p, x.double().tanh().float(), rtol=4e-7, atol=0)


@inside
@pytest.mark.parametrize("algo", ["fused", "chunked"])
def test_nan_stays_in_its_sample(algo):
    features, weights, biases, mask = problem(B=3, L=37, mask="bool")
    path = functools.partial(pool.fused_fwd, plan=JOINT)
    if algo == "chunked":
        path = functools.partial(pool.multilinear_pool_fwd, algo="chunked")
    mask[0, 5], mask[1, 5] = True, False
    clean, _ = path(features, weights, biases, mask, MLP, "none", False)
    features[0][0, 5, 2] = torch.nan  # selected: the sample is NaN in the interactions of factor 0
    features[0][1, 5, 2] = torch.nan  # excluded: no effect
    p, _ = path(features, weights, biases, mask, MLP, "none", False)
    assert p[0, [0, 1, 3]].isnan().all()
    assert torch.equal(p[0, 2], clean[0, 2])
    assert torch.equal(p[1:], clean[1:])

    needs = [True] * 6 + [False] * 4
    d_p = torch.ones_like(p)
    d_features, _, _, _ = pool.multilinear_pool_bwd(d_p, features, weights, biases, mask, [], MLP, "none", needs)
    assert all(d[1:].isfinite().all() for d in d_features)
    assert all((d[1, 5] == 0).all() for d in d_features)


def check_bwd(operands, interactions=MLP, activation="none", needs=None, saved=False, scale=1.0):
    features, weights, biases, mask = operands
    dtype, M = features[0].dtype, len(features)
    needs = needs or [*[True] * 2 * M, *[b is not None for b in biases], False]
    p, u_expected = expected_fwd(*operands, interactions, activation)
    d_p = scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    wide = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    projections = [u.to(dtype) for u in u_expected] if saved else []
    expected = reference.multilinear_pool_bwd(
        d_p.double(),
        double(features),
        double(weights),
        double(biases),
        wide,
        double(projections),
        interactions,
        activation,
        needs,
    )
    grads, again = (
        pool.multilinear_pool_bwd(d_p, features, weights, biases, mask, projections, interactions, activation, needs)
        for _ in range(2)
    )
    flat, flat_expected, flat_again = ([d for group in g[:3] for d in group] for g in (grads, expected, again))
    for i, (d, want, repeat) in enumerate(zip(flat, flat_expected, flat_again, strict=True)):
        assert (d is not None) == needs[i]
        if d is not None:
            assert d.dtype == (torch.float32 if i >= 2 * M else dtype)
            assert error(d, want) <= GRAD_TOLERANCE[dtype], f"gradient {i}"
            assert torch.equal(d, repeat)
    for d, x in zip(grads[0], features, strict=True):
        if d is not None:
            assert d.stride() == torch.empty_like(x).stride()


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("saved", [False, True])
def test_backward(dtype, layout, saved):
    check_bwd(problem(dtype=dtype, layout=layout, L=70), saved=saved)


@inside
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("saved", [False, True])
def test_backward_activations_and_masks(activation, mask, saved):
    check_bwd(problem(mask=mask), activation=activation, saved=saved)


@inside
@pytest.mark.parametrize(
    "interactions", [HBP, FBP, TRILINEAR, ((0, 0),), ((0,),), ((1, 0), (0, 0), (1,)), FOUR], ids=str
)
def test_backward_interactions(interactions):
    factors = 1 + max(max(t) for t in interactions)
    check_bwd(problem(C=(12,) * factors), interactions)


@inside
def test_backward_needs():
    operands = problem(C=(6, 8), D=9, L=5)
    for needs in itertools.product([False, True], repeat=5):
        check_bwd(operands, FBP, needs=[*needs, False, False])


@inside
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 1, "L": 1, "C": (1,) * 3, "D": 1},
        {"C": (5, 17, 33), "D": 33},
        {"C": (0, 4, 4)},
        {"B": 0},
        {"L": 0},
        {"D": 0},
    ],
    ids=str,
)
def test_backward_sizes(sizes):
    check_bwd(problem(**sizes))


@inside
def test_backward_float16_with_small_gradients():
    """G below the range of float16: gradients in float16 while they have digits themselves, float32 biases beyond."""
    operands = problem(dtype=torch.float16, L=70)
    check_bwd(operands, scale=1e-4)
    check_bwd(operands, scale=1e-8, needs=[*[False] * 6, True, False, True, False])


MODES = {"shifted": 0.03, "caffe": 0.03, "plus_eps": 1e-5, "smooth": 0.03, "none": 0.0}


@inside
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", ["interaction", "joint", "none"])
@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
def test_epilogue(mode, scope, l2_mode):
    generator = torch.Generator().manual_seed(0)
    options = mode, MODES[mode], scope, l2_mode, 1e-7 if l2_mode == "add" else 1e-12
    for shape in ((2, 3, 5000), (3, 1, 1), (2, 2, 129), (0, 3, 8), (2, 0, 8), (2, 3, 0)):
        p = torch.randn(shape, generator=generator) * 10
        p[..., ::7] = 0
        d_out = torch.randn(shape, generator=generator)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            z = epilogue.signed_sqrt_normalize_fwd(p, *options, dtype)
            expected = reference_epilogue.signed_sqrt_normalize_fwd(p.double(), *options, torch.float64)
            assert z.dtype == dtype and (z[p == 0] == 0).all()
            assert error(z, expected) <= {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
            g = d_out.to(dtype)
            d_p = epilogue.signed_sqrt_normalize_bwd(g, p, *options)
            expected = reference_epilogue.signed_sqrt_normalize_bwd(g.double(), p.double(), *options)
            assert d_p.dtype == torch.float32
            assert error(d_p, expected) <= 2e-6


@inside
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
def test_epilogue_zero_row_and_infinity(mode, l2_mode):
    options = mode, MODES[mode], "interaction", l2_mode, 1e-7
    p, g = torch.zeros(1, 1, 8), torch.ones(1, 1, 8)
    assert (epilogue.signed_sqrt_normalize_fwd(p, *options, torch.float32) == 0).all()
    d_p = epilogue.signed_sqrt_normalize_bwd(g, p, *options)
    expected = reference_epilogue.signed_sqrt_normalize_bwd(g.double(), p.double(), *options)
    torch.testing.assert_close(d_p.double(), expected, rtol=1e-5, atol=0)
    p = torch.tensor([[[1.0, -torch.inf, -2.0], [1.0, 2.0, 3.0], [torch.nan, 1.0, 2.0]]])
    z = epilogue.signed_sqrt_normalize_fwd(p, *options, torch.float32)
    assert (z[0, 0, [0, 2]] == 0).all() and z[0, 0, 1].isnan()
    assert z[0, 1].isfinite().all() and z[0, 2].isnan().all()


def test_unsupported_is_one_line():
    from c2f_ops._ops.problem import Problem
    from c2f_ops.triton import multilinear_pool as room

    base = {
        "batch": 2,
        "positions": 4,
        "width": 8,
        "channels": (3, 3),
        "interactions": FBP,
        "device": torch.device("cpu"),
    }
    assert "float64" in room.unsupported(Problem(dtype=torch.float64, **base), "direct")
    assert "16 interactions" in room.unsupported(
        Problem(dtype=torch.float32, **{**base, "interactions": FBP * 17}), "direct"
    )
    assert "4 factors" in room.unsupported(Problem(dtype=torch.float32, **{**base, "channels": (3,) * 5}), "direct")
    assert ("CUDA" in (room.unsupported(Problem(dtype=torch.float32, **base), "direct") or "")) != INSIDE
    assert room.unvalidated(Problem(dtype=torch.float32, **base))


def test_algorithm_is_a_function_of_the_problem():
    from c2f_ops._ops.problem import Problem
    from c2f_ops.triton import multilinear_pool as room

    half = Problem(torch.device("cpu"), torch.bfloat16, 8, 784, 8192, (512,) * 3, MLP)
    assert room.algorithm(half, "direct") == "fused" and "FusedPlan" in room.describe(half, "direct")
    assert room.algorithm(half, "chunked") == "chunked" and "chunk_d=1024" in room.describe(half, "chunked")
    strict = Problem(torch.device("cpu"), torch.float32, 8, 784, 8192, (512,) * 3, MLP)
    assert room.algorithm(strict, "direct") == "chunked"


def test_room_imports_without_triton():
    """The package and this room's launchers import where Triton cannot be."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import c2f_ops.triton.multilinear_pool as a, c2f_ops.triton.signed_sqrt_normalize as b\n"
        "assert a.unavailable() and b.unavailable()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

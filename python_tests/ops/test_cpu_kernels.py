"""multilinear_pool of csrc/cpu against the float64 reference, with every instruction set of this machine."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from c2f_ops._ops.problem import Problem
from c2f_ops.cpu import multilinear_pool as kernel

from .cpu_cases import DTYPES, MLP, SHAPES, backward, check, forward, in_child, make_case, needs_native, plan_of

pytestmark = needs_native


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accuracy(shape, dtype, layout):
    check(make_case(shape, dtype, layout), dtype)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_of_options(dtype, save, activation, mask):
    for layout, shape in itertools.product(("NCHW", "NLC"), SHAPES[2:5]):
        check(make_case(shape, dtype, layout, mask), dtype, activation, save)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layouts(dtype):
    """Unaligned, sliced, gapped and expanded features, transposed and sliced weights: bits of the contiguous run."""
    features, weights, biases, mask, interactions = make_case((3, 20, (18, 18, 18), 40, MLP), dtype, "NLC")
    p, _ = forward((features, weights, biases, mask, interactions))
    (want, want_w, _, _), _, _ = backward((features, weights, biases, mask, interactions))

    def offset(x):
        flat = torch.empty(x.numel() + 1, dtype=x.dtype)
        flat[1:] = x.flatten()
        return flat[1:].view(x.shape)

    def gaps(x):
        wide = torch.full((x.shape[0] * 2, x.shape[1] + 3, x.shape[2] + 5), float("nan"), dtype=x.dtype)
        wide[::2, 1:-2, 2:-3] = x
        return wide[::2, 1:-2, 2:-3]

    def every_second_channel(x):
        wide = torch.full((*x.shape[:2], x.shape[2] * 2), float("nan"), dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]

    for change in (offset, gaps, every_second_channel, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)):
        case = [change(x) for x in features], weights, biases, mask, interactions
        assert torch.equal(forward(case)[0], p)
        (d_features, d_weights, _, _), _, _ = backward(case)
        assert all(torch.equal(got, w) for got, w in zip((*d_features, *d_weights), (*want, *want_w), strict=True))
    for change in (offset, lambda w: w.t().contiguous().t(), lambda w: torch.stack((w, w), -1)[..., 1]):
        case = features, [change(w) for w in weights], biases, mask, interactions
        assert torch.equal(forward(case)[0], p)
        (d_features, d_weights, _, _), _, _ = backward(case)
        assert all(torch.equal(got, w) for got, w in zip((*d_features, *d_weights), (*want, *want_w), strict=True))
        assert all(d.is_contiguous() for d in d_weights)
    expanded = [x[:1].expand(3, -1, -1) for x in features]
    copied = [x.contiguous() for x in expanded]
    assert torch.equal(forward((expanded, *case[1:]))[0], forward((copied, *case[1:]))[0])


@pytest.mark.parametrize("needed", [0, 4, 8, None])
def test_only_what_is_needed(needed):
    case = make_case(SHAPES[1])
    needs = [i == needed for i in range(9)]
    everything, _, _ = backward(case)
    some, _, _ = backward(case, needs=[*needs, False])
    for got, full, need in zip(itertools.chain(*some[:3]), itertools.chain(*everything[:3]), needs, strict=True):
        assert torch.equal(got, full) if need else got is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_in_several_passes(dtype):
    """Samples too long for one pass: weight gradients are carried from pass to pass in float32."""
    case = make_case((3, 20000, (8, 9), 520, ((0, 1), (0,))), dtype, "NLC")
    plan = kernel.describe(Problem.of(*case[:2], case[3], case[4], "none"), "direct")
    assert "chunk_b=3," not in plan
    check(case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_chunks(dtype):
    """More channels than L2 holds, and more weights than are packed at a time."""
    shape = (26, 17, (5300, 9), 1600, ((0, 1), (0,)))
    plan = plan_of(*shape[:4], dtype, interactions=shape[4])
    assert plan["fwd_chunk_d"] < 1600 and plan["chunk_d"] < 1600 and not plan["staged"] and not plan["packs_units"]
    for layout in ("NCHW", "NLC"):
        check(make_case(shape, dtype, layout), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_of_a_single_block(dtype):
    """Few rows: tasks pack the weights of their units, several blocks of k and units, in any strides."""
    shape = (1, 17, (1300, 9), 1600, ((0, 1), (0,)))
    plan = plan_of(*shape[:4], dtype, interactions=shape[4])
    assert plan["packs_units"] and plan["unit_d"] < 1600 <= plan["fwd_chunk_d"]
    for layout in ("NCHW", "NLC"):
        case = make_case(shape, dtype, layout)
        check(case, dtype)
        features, weights, *rest = case
        check((features, [w.t().contiguous().t() for w in weights], *rest), dtype)


PRINT_ISA = """
import torch
from c2f_ops._encoding import encode
from c2f_ops._native import module
from c2f_ops._ops.problem import Problem
operands = [torch.empty(1, 1, 1, dtype=torch.bfloat16)], [torch.empty(1, 1, dtype=torch.bfloat16)]
print(module().multilinear_pool_cpu_plan(encode(Problem.of(*operands, None, ((0,),), "none")), False, 1)["isa"])
"""


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512_bf16", "amx"])
@pytest.mark.parametrize(
    "names", [("kernels", "edges"), pytest.param(("precision", "threads"), marks=pytest.mark.slow)]
)
def test_instruction_sets(isa, names):
    """Accuracy, edges, precisions and threads, again with every instruction set of this machine."""
    probe = in_child("-c", PRINT_ISA, C2F_CPU_ISA=isa)
    if probe.returncode:
        assert "C2F_CPU_ISA" in probe.stderr, probe.stderr
        pytest.skip(probe.stderr.strip().splitlines()[-1])
    assert probe.stdout.strip() == isa
    files = [Path(__file__).with_name(f"test_cpu_{name}.py") for name in names]
    options = ("-q", "-x", "-p", "no:cacheprovider", "-k", "not instruction_sets and not ctrl_c")
    tests = in_child("-m", "pytest", *options, *files, C2F_CPU_ISA=isa, OMP_NUM_THREADS="1")
    assert tests.returncode == 0, tests.stdout[-2000:] + tests.stderr[-2000:]

"""Float32 products in bfloat16 as `torch.set_float32_matmul_precision` allows, and the instructions for them."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
import torch

from c2f_ops import _native
from c2f_ops.cpu import multilinear_pool as kernel

from .cpu_cases import EDGES, PRECISIONS, SHAPES, check, equal, forward, make_case, needs_native, run_both

pytestmark = needs_native


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_of_float32_products(precision, layout, set_precision):
    for shape, save in itertools.product((*SHAPES, *EDGES), (False, True)):
        case = make_case(shape, torch.float32, layout, mask="bool" if save else None)
        set_precision("highest")
        exact = run_both(case)
        set_precision(precision)
        check(case, torch.float32, "tanh" if save else "none", save, precision)
        assert kernel.bfloat16_planes(torch.float32)[0] or equal(run_both(case), exact)
        set_precision("highest")
        assert equal(run_both(case), exact)


def test_bfloat16_is_what_runs(set_precision):
    """Float32 rounded to bfloat16 gives other bits, and the module has the instruction."""
    case = make_case(SHAPES[-1])
    exact = run_both(case)
    set_precision("medium")
    assert equal(run_both(case), exact) == (kernel.bfloat16_planes(torch.float32)[0] == 0)
    if not kernel.bfloat16_planes(torch.float32)[0]:
        pytest.skip("no products of bfloat16 here")
    if shutil.which("objdump") is None:
        pytest.skip("no objdump here")
    instruction = {"amx": "tdpbf16ps", "avx512_bf16": "vdpbf16ps"}[_native.module().cpu_isa()]
    find = f"objdump -d --no-show-raw-insn {_native.module().__file__} | grep -c {instruction}"
    assert int(subprocess.run(find, shell=True, capture_output=True, text=True).stdout) >= 24


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_bfloat16_cannot_hold(precision, set_precision):
    """Values beyond its range reach their own sample alone; where it is not rounded, 3.4e38 remains what it is."""
    set_precision(precision)
    case = make_case((3, 20, (40, 33), 50, ((0,), (0, 1))))
    want, _ = forward(case)
    for value in (float("inf"), float("nan"), 3.4e38):
        features = [x.clone() for x in case[0]]
        features[0][1, 3, 5] = value
        p, _ = forward((features, *case[1:]))
        assert torch.equal(p[0], want[0]) and torch.equal(p[2], want[2])
        assert p[1].isfinite().all() == (value == 3.4e38 and not kernel.bfloat16_planes(torch.float32)[0])

"""signed_sqrt_normalize of csrc/cpu against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from c2f_ops.cpu import signed_sqrt_normalize as kernel
from c2f_ops.reference import signed_sqrt_normalize as reference

from .cpu_cases import DTYPES, error, needs_native

pytestmark = needs_native

MODES = ("none", "shifted", "caffe", "plus_eps", "smooth")
EPS = {"none": 0.0, "shifted": 0.03, "caffe": 0.03, "plus_eps": 1e-5, "smooth": 1e-2}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", ["none", "interaction", "joint"])
@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_signed_sqrt_normalize(mode, scope, l2_mode, dtype):
    tolerance = {torch.float32: 5e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}[dtype]
    g = torch.Generator().manual_seed(0)
    for shape in ((1, 1, 1), (2, 3, 1000), (3, 4, 33), (1, 2, 3000)):
        p = torch.randn(shape, generator=g) * 10 ** torch.linspace(-6, 3, shape[2])
        p[..., ::7] = 0
        d_out = torch.randn(shape, generator=g).to(dtype)
        options = mode, EPS[mode], scope, l2_mode, 1e-7
        z = kernel.signed_sqrt_normalize_fwd(p, *options, dtype)
        d_p = kernel.signed_sqrt_normalize_bwd(d_out, p, *options)
        want = reference.signed_sqrt_normalize_fwd(p.double(), *options, torch.float64)
        want_d = reference.signed_sqrt_normalize_bwd(d_out.double(), p.double(), *options)
        assert z.dtype == dtype and d_p.dtype == torch.float32
        assert error(z, want) <= tolerance and error(d_p, want_d) <= 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_signed_sqrt_of_special_values(mode):
    """Zero, infinity, NaN, subnormal and huge values, with and without eps, as the reference in float32."""
    values = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 3e38, -3e38, 1.0, -1e-12]
    p = torch.tensor(values).view(1, 1, -1)
    for eps in (EPS[mode], 0.0):
        z = kernel.signed_sqrt_normalize_fwd(p, mode, eps, "none", "add", 1e-7, torch.float32)
        want = reference.signed_sqrt_normalize_fwd(p, mode, eps, "none", "add", 1e-7, torch.float32)
        torch.testing.assert_close(z, want, rtol=1e-5, atol=1e-38, equal_nan=True)
        for scope in ("interaction", "joint"):
            part = p[..., [0, 2, 9]]
            z = kernel.signed_sqrt_normalize_fwd(part, mode, eps, scope, "add", 1e-7, torch.float32)
            assert torch.isnan(z[0, 0, 1]) and z[0, 0, 0] == 0 and z[0, 0, 2] == 0


@pytest.mark.parametrize("l2_mode", ["add", "clamp"])
def test_signed_sqrt_of_zero_rows(l2_mode):
    p, d_out = torch.zeros(2, 3, 40), torch.randn(2, 3, 40)
    options = "shifted", 0.03, "interaction", l2_mode, 1e-7
    assert (kernel.signed_sqrt_normalize_fwd(p, *options, torch.float32) == 0).all()
    want = reference.signed_sqrt_normalize_bwd(d_out, p, *options)
    torch.testing.assert_close(kernel.signed_sqrt_normalize_bwd(d_out, p, *options), want)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_signed_sqrt_of_empty(shape):
    p = torch.empty(shape)
    options = "shifted", 0.03, "joint", "add", 1e-7
    assert kernel.signed_sqrt_normalize_fwd(p, *options, torch.float32).shape == shape
    assert kernel.signed_sqrt_normalize_bwd(p, p, *options).shape == shape

"""Counts of predictions under coarse labels: against a loop, in pieces, wrong arguments."""

from __future__ import annotations

import pytest
import torch

from c2f_ops.relations import group_cost


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("from_logits", [False, True])
def test_group_cost_against_a_loop(dtype, from_logits):
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(300, 17, generator=generator, dtype=torch.float64)).to(dtype)
    y = torch.randint(-1, 9, (300,), generator=generator)
    y[y == 4] = 5  # a label that does not occur
    p = z if not from_logits else (z.double() if dtype == torch.float64 else z.float()).softmax(1)
    expected = torch.ones(17, 9, dtype=torch.float64)
    for row, label in zip(p, y.tolist(), strict=True):
        if label >= 0:
            expected[:, label] += row.double()
    for out in (torch.ones(17, 9, dtype=torch.float64), torch.ones(9, 17, dtype=torch.float64).T, None):
        result = group_cost(z, y, 9, out=out, from_logits=from_logits)
        assert out is None or result is out
        torch.testing.assert_close(result + (out is None), expected, rtol=1e-12, atol=1e-12)


def test_group_cost_in_pieces_and_from_run_to_run(monkeypatch):
    z, y = torch.randn(1000, 12), torch.randint(0, 5, (1000,))
    whole = group_cost(z, y, 5, from_logits=True)
    assert torch.equal(whole, group_cost(z, y, 5, from_logits=True))
    total = None
    for rows in torch.arange(1000).split(77):
        total = group_cost(z[rows], y[rows], 5, out=total, from_logits=True)
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("c2f_ops.relations._cooccurrence._CHUNK", 100)
    torch.testing.assert_close(group_cost(z, y, 5, from_logits=True), whole, rtol=1e-12, atol=1e-12)
    empty = group_cost(z[:0], y[:0], 5)
    assert empty.shape == (12, 5) and not empty.any()
    assert not group_cost(z, torch.full((1000,), -1), 5).any()


@pytest.mark.parametrize(
    ("p", "y", "num_coarse", "out", "error", "message"),
    [
        (torch.ones(3, 4).long(), torch.zeros(3).long(), 2, None, TypeError, "p must be a floating-point tensor"),
        (torch.ones(3, 4), torch.zeros(3), 2, None, TypeError, "y must be an integer tensor, got torch.float32"),
        (torch.ones(3), torch.zeros(3).long(), 2, None, ValueError, r"p must have shape \[N, K_F\], got \[3\]"),
        (torch.ones(3, 4), torch.zeros(2).long(), 2, None, ValueError, r"y must have shape \[N\] = \[3\], got \[2\]"),
        (torch.ones(3, 4), torch.tensor([0, 2, -1]), 2, None, ValueError, r"below num_coarse=2, got -1\.\.2"),
        (torch.ones(3, 4), torch.tensor([0, 0, -2]), 2, None, ValueError, r"y must be -1 or below .* got -2\.\.0"),
        (torch.ones(3, 4), torch.zeros(3).long(), 0, None, ValueError, "num_coarse must be at least 1, got 0"),
        (torch.ones(3, 4), torch.zeros(3).long(), 2, torch.ones(4, 2), ValueError, r"out must be float64 \[4, 2\]"),
    ],
)
def test_group_cost_errors(p, y, num_coarse, out, error, message):
    with pytest.raises(error, match=message):
        group_cost(p, y, num_coarse, out=out)

"""Paired tests: McNemar against the binomial distribution, bootstrap against its normal limit, Holm by hand."""

from __future__ import annotations

import math

import pytest
import torch

from c2f_ops.metrics import holm, mcnemar, paired_bootstrap


def of_counts(both, only_a, only_b, neither):
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (7, 7), (2, 9), (9, 2), (0, 12), (40, 60)])
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    scipy = pytest.importorskip("scipy.stats")
    found = mcnemar(*of_counts(30, only_a, only_b, 11))
    n = only_a + only_b
    expected = scipy.binomtest(only_a, n, 0.5).pvalue if n else 1.0
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_images():
    assert mcnemar(*of_counts(0, 50_000, 50_700, 0)).p == pytest.approx(0.0275, abs=5e-4)  # z = 700 / sqrt(100,700)


def test_bootstrap_finds_the_difference_and_its_error():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 4000, generator=generator) < rate for rate in (0.7, 0.68))
    found = paired_bootstrap(a, b, rounds=2000)
    d = a.double() - b.double()
    error = float(d.std()) / math.sqrt(d.numel())
    assert found.difference == pytest.approx(float(d.mean()))
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.2 * error)
    z = abs(found.difference) / error
    assert found.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_bootstrap_counts_the_spread_of_seeds():
    """Two of four seeds win all images, two lose them: the mean is 0 and nothing is sure."""
    a = torch.tensor([[True] * 50, [True] * 50, [False] * 50, [False] * 50])
    found = paired_bootstrap(a, ~a, rounds=500)
    assert found.difference == 0
    assert found.low <= -0.5
    assert found.high >= 0.5
    assert found.p > 0.5


def test_bootstrap_of_equal_classifiers_and_of_a_certain_gain():
    a = torch.tensor([[True, False, True]])
    assert paired_bootstrap(a, a, rounds=100).p == 1
    sure = paired_bootstrap(torch.ones(2, 30, dtype=torch.bool), torch.zeros(2, 30, dtype=torch.bool), rounds=99)
    assert (sure.difference, sure.low, sure.high, sure.p) == (1, 1, 1, 0.02)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    for wrong in (math.nan, 1.5, -0.1):
        with pytest.raises(ValueError, match=f"holm: p must be between 0 and 1, got values {wrong}"):
            holm([0.5, wrong])


@pytest.mark.parametrize("test", [lambda a, b: mcnemar(a[0], b[0]), paired_bootstrap])
def test_bad_input(test):
    a = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="b must have the shape of a"):
        test(a, a[:, :2])
    with pytest.raises(ValueError, match="a must be bool"):
        test(a.float(), a)


def test_bootstrap_needs_a_round():
    a = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="paired_bootstrap: rounds must be at least 1, got 0"):
        paired_bootstrap(a, a, rounds=0)

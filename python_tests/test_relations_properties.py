"""What the optimum of the relation problem must satisfy: vector bounds, assignments, long warm chains, certificates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from c2f_ops import _native
from c2f_ops.relations import balance_threshold, solve_relations
from c2f_ops.relations._solve import _gap

BACKENDS = [
    pytest.param("cpu", marks=pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "built")),
    "reference",
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds_of_each_class_with_a_prior_against_brute_force(backend):
    rng = np.random.default_rng(0)
    binding = 0
    for trial in range(150):
        coarse, fine = int(rng.integers(2, 4)), 6
        C, lam = rng.random((fine, coarse)), float(rng.choice([0.0, 0.05, 0.3, 2.0]))
        nu = rng.dirichlet(np.ones(coarse)) * fine
        low = rng.integers(0, fine // coarse + 1, coarse)
        high = np.minimum(low + rng.integers(0, 4, coarse), fine)
        if high.sum() < fine:
            with pytest.raises(ValueError, match="upper must sum to at least K_F=6"):
                solve_relations(C, lam, lower=low, upper=high, prior=nu, backend=backend)
            continue
        maps = np.array(list(itertools.product(range(coarse), repeat=fine)))
        n = (maps[:, :, None] == np.arange(coarse)).sum(1)
        values = -C[np.arange(fine), maps].sum(1) + lam / coarse * ((n - nu) ** 2).sum(1)
        kept = ((n >= low) & (n <= high)).all(1)
        result = solve_relations(C, lam, lower=low, upper=high, prior=nu, backend=backend)
        assert result.objective == pytest.approx(values[kept].min(), abs=1e-9), trial
        assert (result.n >= low).all() and (result.n <= high).all() and 0 <= result.gap <= 1e-9
        binding += values[kept].min() > values.min() + 1e-6
    assert binding > 30, "the bounds must decide in many of the problems"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 2, 7, 33, 80])
def test_as_many_fine_as_coarse_classes_is_the_assignment(backend, size):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(size)
    for lam in (0.0, 0.3, 1e6):
        C = rng.random((size, size)) ** 3
        result = solve_relations(C, lam, backend=backend)
        rows, columns = optimize.linear_sum_assignment(C, maximize=True)
        np.testing.assert_array_equal(result.g, columns)
        assert result.objective == pytest.approx(-C[rows, columns].sum(), abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_chain_of_warm_starts_stays_optimal(backend):
    """Forty solves of a drifting matrix, each from the one before, against solves from nothing."""
    rng = np.random.default_rng(1)
    C = rng.dirichlet(np.full(9, 0.4), 70) / 70
    lam, g, prices = 0.4 * balance_threshold(C), None, None
    methods = set()
    for step in range(40):
        if step % 4:  # at times the matrix stays
            C = C * rng.uniform(0.7, 1.3, C.shape) if step % 3 else rng.permutation(C)
            C = C / C.sum()
        warm = solve_relations(C, lam, prev=g, prices=prices, backend=backend)
        cold = solve_relations(C, lam, backend=backend)
        assert warm.objective == pytest.approx(cold.objective, abs=1e-9), step
        assert warm.gap <= 1e-9
        methods.add(warm.method)
        g, prices = warm.g, warm.prices
    assert methods >= {"kept", "warm"}


def test_permuted_rows_and_columns_permute_prices_and_keep_the_gap():
    rng = np.random.default_rng(2)
    for lam_scale in (0.0, 0.1, 3.0):
        C = rng.random((40, 8))
        lam, nu = balance_threshold(C) * lam_scale, rng.dirichlet(np.ones(8)) * 40
        rows, columns = rng.permutation(40), rng.permutation(8)
        a = solve_relations(C, lam, prior=nu, lower=2, upper=12)
        b = solve_relations(C[rows][:, columns], lam, prior=nu[columns], lower=2, upper=12)
        assert a.objective == pytest.approx(b.objective, abs=1e-12)
        np.testing.assert_array_equal(a.n[columns], b.n)
        np.testing.assert_array_equal(columns[b.g], a.g[rows])


def test_no_exchange_improves_the_optimum():
    """At a size that no other solver of the tests reaches: no move of one row and no swap of two is better."""
    rng = np.random.default_rng(3)
    C = rng.dirichlet(np.full(34, 0.3), 608) / 608
    for scale in (0.02, 0.5, 2.0):
        lam = scale * balance_threshold(C)
        result = solve_relations(C, lam)
        g, n = result.g, result.n
        slot = lam / 34 * (2 * np.arange(610)[None] - 1 - 2 * 608 / 34)  # cost of the r-th row of a column
        leave, enter = slot[0, n], slot[0, n + 1]
        own = C[np.arange(608), g]
        gain = (C - own[:, None]) - (enter[None] - leave[g][:, None])
        gain[np.arange(608), g] = 0
        assert gain[n[g] > 1].max() <= 1e-9
        swap = C[:, g] - own[:, None]  # row i in the class of row k
        assert (swap + swap.T).max() <= 1e-9
        assert 0 <= result.gap <= result.quantization_error


@pytest.mark.parametrize("lam", [0.0, 0.7, 1e3])
def test_the_gap_of_any_relation_at_any_prices_is_primal_less_dual(lam):
    """Also far from the optimum, where it is not 0; the dual value term by term."""
    rng = np.random.default_rng(4)
    for _ in range(30):
        C, nu, g = rng.random((12, 3)), rng.dirichlet(np.ones(3)) * 12, rng.integers(0, 3, 12)
        n = np.bincount(g, minlength=3)
        low, high = np.minimum(n, rng.integers(0, 4, 3)), np.maximum(n, rng.integers(5, 10, 3))
        v = rng.normal(size=3) * (1 + lam)
        primal = -C[np.arange(12), g].sum() + lam / 3 * ((n - nu) ** 2).sum()
        dual = sum(min(v[k] - C[i, k] for k in range(3)) for i in range(12))
        dual -= sum(max(v[j] * r - lam / 3 * (r - nu[j]) ** 2 for r in range(low[j], high[j] + 1)) for j in range(3))
        assert primal - dual > 1e-3
        assert _gap(C, lam, low, high, nu, g, n, v) == pytest.approx(primal - dual, rel=1e-9)

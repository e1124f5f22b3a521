"""Fine-to-coarse relations: optimal against brute force, linear programs, assignments; ties, starts, bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from c2f_ops import _native
from c2f_ops.relations import balance_threshold, group_cost, solve_relations
from c2f_ops.relations._fixed_point import FixedPoint, water_level

BACKENDS = [
    pytest.param("cpu", marks=pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "built")),
    "reference",
]
LAMBDAS = (0.0, 0.05, 0.3, 1.0, 100.0, 1e6)


def value(C, lam, g, nu=None):
    """The objective, written down once more."""
    coarse = C.shape[1]
    n = np.bincount(g, minlength=coarse)
    nu = len(C) / coarse if nu is None else nu
    return -C[np.arange(len(C)), g].sum() + lam / coarse * ((n - nu) ** 2).sum()


def brute_force(C, lam, nu=None, lower=1, upper=None, prev=None):
    """The least objective, and of all relations that reach it the one of fewest moves and lowest classes."""
    fine, coarse = C.shape
    maps = np.array(list(itertools.product(range(coarse), repeat=fine)))
    n = (maps[:, :, None] == np.arange(coarse)).sum(1)
    kept = (n >= lower).all(1) & (n <= (fine if upper is None else upper)).all(1)
    maps, n = maps[kept], n[kept]
    nu = fine / coarse if nu is None else nu
    values = -C[np.arange(fine), maps].sum(1) + lam / coarse * ((n - nu) ** 2).sum(1)
    best = values.min()
    ties = maps[values <= best + 1e-9 * max(1.0, abs(best))]
    moves = (ties != prev).sum(1) if prev is not None else np.zeros(len(ties))
    return best, ties[moves == moves.min()][0]


def tiny(rng, trial):
    """K_F <= 6 and all the options; every second matrix has few values, which often tie with the cost of a slot."""
    coarse = int(rng.integers(1, 5))
    fine = int(rng.integers(coarse, 7))
    C = rng.integers(0, 4, (fine, coarse)) / 8 if trial % 2 else rng.random((fine, coarse))
    if trial % 5 == 0:
        C[rng.integers(fine)] = 0
    options = {"lower": int(trial % 7 != 0)}
    if trial % 3 == 0:
        options["prior"] = rng.dirichlet(np.ones(coarse)) * fine
    if trial % 11 == 0:
        options["upper"] = -(-fine // coarse)
    lam = rng.integers(1, 4) * coarse / 16 if trial % 4 == 1 else float(rng.choice(LAMBDAS))
    return C, lam, options, rng.integers(0, coarse, fine) if trial % 2 else None


def planted(fine, coarse, noise, rng, sizes=None):
    """C of planted parents, ``noise`` of the mass spread at random."""
    g = np.repeat(np.arange(coarse), fine // coarse if sizes is None else sizes)
    C = noise * rng.dirichlet(np.ones(coarse), fine)
    C[np.arange(fine), g] += 1 - noise
    return C / fine, g


@pytest.mark.parametrize(("backend", "count"), [(BACKENDS[0].values[0], 1000), ("reference", 250)])
def test_tiny_problems_against_brute_force(backend, count):
    if backend == "cpu" and _native.unavailable():
        pytest.skip(_native.unavailable())
    rng = np.random.default_rng(0)
    for trial in range(count):
        C, lam, options, prev = tiny(rng, trial)
        best, g = brute_force(
            C, lam, options.get("prior"), options["lower"], options.get("upper"), prev
        )  # fmt: skip
        result = solve_relations(C, lam, prev=prev, backend=backend, **options)
        scale = max(1.0, abs(best))
        assert result.objective == pytest.approx(best, abs=1e-9 * scale), (trial, result)
        assert 0 <= result.gap <= 1e-9 * scale
        np.testing.assert_array_equal(result.g, g, err_msg=str((trial, C, lam, options, prev)))
        np.testing.assert_array_equal(result.n, np.bincount(g, minlength=C.shape[1]))
        assert result.moved == (0 if prev is None else (g != prev).sum())


def test_medium_problems_against_a_linear_program():
    """The unary-expanded network as a linear program: its optimum is that of the integral problem."""
    optimize = pytest.importorskip("scipy.optimize")
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(1)
    for trial in range(50):
        coarse = int(rng.integers(2, 7))
        fine = int(rng.integers(3 * coarse, 31))
        C = rng.random((fine, coarse)) * (rng.random((fine, coarse)) < 0.7)
        lam, nu = float(rng.choice(LAMBDAS[:5])), rng.dirichlet(np.ones(coarse)) * fine
        result = solve_relations(C, lam, prior=nu)
        # Variables: row i in column j, then slot r of column j; the first slot must be taken.
        slots = lam / coarse * (2 * np.arange(1, fine + 1) - 1 - 2 * nu[:, None])
        one_parent = sparse.kron(sparse.eye(fine), np.ones((1, coarse)))
        counts = sparse.kron(np.ones((1, fine)), sparse.eye(coarse))
        filled = -sparse.kron(sparse.eye(coarse), np.ones((1, fine)))
        A = sparse.bmat([[one_parent, None], [counts, filled]])
        b = np.r_[np.ones(fine), np.zeros(coarse)]
        bounds = [(0, 1)] * (fine * coarse) + [(int(r == 0), 1) for _ in range(coarse) for r in range(fine)]
        program = optimize.linprog(np.r_[-C.ravel(), slots.ravel()], A_eq=A, b_eq=b, bounds=bounds, method="highs")
        assert program.status == 0
        best = program.fun + lam / coarse * (nu**2).sum()
        assert result.objective == pytest.approx(best, abs=1e-7 * max(1.0, abs(best))), trial
        assert result.objective == pytest.approx(value(C, lam, result.g, nu), abs=1e-9 * max(1.0, abs(best)))


def test_medium_problems_against_an_assignment_to_slots():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(2)
    for fine, coarse in [(60, 7), (100, 20), (150, 12), (128, 40), (200, 5)]:
        for kind in range(4):
            C = rng.random((fine, coarse))
            C /= np.arange(1, coarse + 1) if kind % 2 else 1
            lam = balance_threshold(C) * (0.002, 0.02, 0.3, 2.0)[kind]
            slots = lam / coarse * (2 * np.arange(1, fine + 1) - 1 - 2 * fine / coarse) - 1e3 * (np.arange(fine) == 0)
            _, columns = optimize.linear_sum_assignment((slots - C[:, :, None]).reshape(fine, -1))
            result = solve_relations(C, lam)
            assert result.objective == pytest.approx(value(C, lam, columns // fine), rel=1e-9)
            assert result.gap <= 1e-9 * abs(result.objective)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gap_is_the_dual_value_in_float64(backend):
    rng = np.random.default_rng(3)
    for trial in range(20):
        fine, coarse = 30, 5
        C, lam, nu = rng.random((fine, coarse)), float(LAMBDAS[trial % 5]), rng.dirichlet(np.ones(coarse)) * fine
        prev = rng.integers(0, coarse, fine) if trial % 2 else None
        result = solve_relations(C, lam, prior=nu, prev=prev, lower=2, upper=11, backend=backend)
        sizes = np.arange(2, 12)
        phi = lam / coarse * (sizes - nu[:, None]) ** 2
        dual = (result.prices - C).min(1).sum() - (result.prices[:, None] * sizes - phi).max(1).sum()
        assert result.objective - dual == pytest.approx(result.gap, abs=1e-9 * max(1.0, abs(dual)))
        assert result.gap <= result.quantization_error


@pytest.mark.skipif(bool(_native.unavailable()), reason="compares the native code")
def test_numpy_and_native_agree_to_the_bit():
    rng = np.random.default_rng(4)
    matrices = [
        rng.random((200, 20)),
        rng.random((200, 20)) / np.arange(1, 21),  # far from balanced: starts from half problems
        rng.integers(0, 3, (150, 12)) / 4,
        np.zeros((40, 6)),
        rng.random((60, 60)),
        planted(90, 9, 0.99, rng)[0],
    ]
    for C in matrices:
        prev = rng.integers(0, C.shape[1], len(C))
        for lam in (0.0, 0.1 * balance_threshold(C) / len(C), 3.0 * balance_threshold(C) + 0.1):
            for options in ({}, {"prev": prev}, {"prev": prev, "prices": rng.random(C.shape[1])}):
                a = solve_relations(C, lam, backend="cpu", **options)
                b = solve_relations(C, lam, backend="reference", **options)
                np.testing.assert_array_equal(a.g, b.g)
                np.testing.assert_array_equal(a.n, b.n)
                assert (a.objective, a.moved, a.method) == (b.objective, b.moved, b.method)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_warm_start_changes_nothing_but_the_time(backend):
    rng = np.random.default_rng(5)
    for fine, coarse in [(120, 10), (90, 30), (60, 60)]:
        for lam_scale in (0.01, 0.2, 3.0):
            C = rng.dirichlet(np.full(coarse, 0.5), fine)
            lam = balance_threshold(C) * lam_scale
            first = solve_relations(C, lam, backend=backend)
            assert first.method == "cold"
            kept = solve_relations(C, lam, prev=first.g, prices=first.prices, backend=backend)
            assert (kept.method, kept.moved) == ("kept", 0)
            nearby = C * rng.uniform(0.8, 1.2, C.shape)
            warm = solve_relations(nearby, lam, prev=first.g, prices=first.prices, backend=backend)
            cold = solve_relations(nearby, lam, prev=first.g, backend=backend)
            free = solve_relations(nearby, lam, backend=backend)
            np.testing.assert_array_equal(warm.g, cold.g)
            assert warm.objective == cold.objective == pytest.approx(free.objective, abs=1e-9)
            again = solve_relations(nearby, lam, prev=warm.g, prices=warm.prices, backend=backend)
            assert (again.method, again.moved) == ("kept", 0)
            lost = solve_relations(nearby, lam, prev=first.g, prices=rng.normal(size=coarse) * 1e300, backend=backend)
            np.testing.assert_array_equal(lost.g, cold.g)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_stay_where_they_were_then_take_the_lowest_class(backend):
    zeros = np.zeros((9, 3))
    assert solve_relations(zeros, 1.0, backend=backend).g.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert solve_relations(zeros, 0.0, backend=backend).g.tolist() == [0] * 7 + [1, 2]
    prev = [2, 0, 1, 1, 0, 2, 2, 1, 0]
    assert solve_relations(zeros, 1.0, prev=prev, backend=backend).g.tolist() == prev
    # Two must leave class 2, and one each goes to 0 and 1: rows 0 and 1, of which row 0 takes the lower class.
    prev = [2, 2, 2, 2, 2, 0, 0, 1, 1]
    result = solve_relations(zeros, 1.0, prev=prev, backend=backend)
    assert (result.g.tolist(), result.moved) == ([0, 1, 2, 2, 2, 0, 0, 1, 1], 2)
    # Sizes (2, 2) and (1, 3) are as good: the lower relation opens a slot in class 0 and closes one in class 1.
    C = np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 1.0], [0.0, 1.0]])
    assert solve_relations(C, 1.0, backend=backend).g.tolist() == [0, 0, 1, 1]
    # Dead fine classes stay, whatever the others do.
    rng = np.random.default_rng(6)
    C = rng.random((12, 3))
    C[[1, 4, 8]] = 0
    prev = solve_relations(C, 0.02, backend=backend).g
    prev[[1, 4, 8]] = [2, 0, 1]
    result = solve_relations(C, 0.0, prev=prev, backend=backend)
    assert result.g[[1, 4, 8]].tolist() == [2, 0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits_of_lambda_and_sizes(backend):
    rng = np.random.default_rng(7)
    C = rng.random((35, 6))
    free = solve_relations(C, 0.0, backend=backend)
    np.testing.assert_array_equal(free.g, C.argmax(1))
    # The balance term may be as heavy as it likes: the balanced optimum keeps every digit of C.
    balanced = solve_relations(C, 2 * balance_threshold(C), backend=backend)
    assert sorted(balanced.n) == [5, 6, 6, 6, 6, 6]
    for lam in (1e6, 1e100, 1e305):
        np.testing.assert_array_equal(solve_relations(C, lam, backend=backend).g, balanced.g)
    for scale in (1e-290, 1e-5, 1e12, 1e300):
        scaled = solve_relations(C * scale, 2 * balance_threshold(C) * scale, backend=backend)
        np.testing.assert_array_equal(scaled.g, balanced.g)
    # Coverage against the grain: all rows prefer class 0.
    C[:, 0] += 2
    for lower in (0, 1, 3):
        assert solve_relations(C, 0.0, lower=lower, backend=backend).n.tolist() == [35 - 5 * lower, *[lower] * 5]
    lower, upper = [0, 1, 2, 3, 4, 5], [4, 10, 10, 9, 9, 9]
    result = solve_relations(C, 0.0, lower=lower, upper=upper, backend=backend)
    assert (result.n >= lower).all() and (result.n <= upper).all() and result.n[0] == 4
    assert solve_relations(C, 1e9, prior=[10, 9, 8, 5, 2, 1], backend=backend).n.tolist() == [10, 9, 8, 5, 2, 1]
    assert solve_relations(C, 0.0, lower=0, upper=[0, 35, 0, 0, 0, 0], backend=backend).n.tolist() == [
        0,
        35,
        0,
        0,
        0,
        0,
    ]
    assert solve_relations(C[:, :1], 1.0, backend=backend).n.tolist() == [35]
    permutation = solve_relations(rng.random((6, 6)), 0.3, backend=backend)
    assert sorted(permutation.g) == list(range(6))


def test_half_problems_are_a_start_like_any_other():
    """Popularity of 1 / j and a strong balance: level prices leave nearly all rows in the wrong column."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(8)
    C = rng.random((400, 40)) / np.arange(1, 41)
    result = solve_relations(C, 2 * balance_threshold(C))
    rows, slots = optimize.linear_sum_assignment(-np.repeat(C, 10, 1))
    assert result.objective == pytest.approx(-C[rows, slots // 10].sum(), rel=1e-12)


def test_the_order_of_classes_does_not_matter():
    rng = np.random.default_rng(9)
    for _ in range(30):
        C = rng.random((25, 5))
        lam = balance_threshold(C) * rng.uniform(0, 0.3)
        rows, columns = rng.permutation(25), rng.permutation(5)
        a, b = solve_relations(C, lam), solve_relations(C[rows][:, columns], lam)
        assert a.objective == pytest.approx(b.objective, abs=1e-12)
        np.testing.assert_array_equal(columns[b.g], a.g[rows])


def test_balance_lemma():
    rng = np.random.default_rng(10)
    for trial in range(200):
        coarse = int(rng.integers(2, 8))
        fine = int(rng.integers(coarse, 40))
        C = rng.dirichlet(np.full(coarse, 0.2), fine) * rng.random((fine, 1))
        forced = solve_relations(C, balance_threshold(C) * 1.001)
        assert forced.balance_forced and np.ptp(forced.n) <= 1, trial
        assert not solve_relations(C, balance_threshold(C) * 0.999).balance_forced
        assert not solve_relations(C, balance_threshold(C) * 2, prior=forced.n).balance_forced
        if fine % coarse:
            tight = [fine // coarse, *[fine] * (coarse - 1)]
            assert not solve_relations(C, balance_threshold(C) * 2, upper=tight).balance_forced
    assert balance_threshold(np.full((100, 20), 1 / 2000)) == pytest.approx(20 / 200)


def test_strides_types_and_tensors():
    rng = np.random.default_rng(11)
    C = rng.random((40, 8))
    g = solve_relations(C, 0.1).g
    wide = np.zeros((80, 24))
    wide[::2, ::-3] = C
    for same in (np.asfortranarray(C), wide[::2, ::-3], torch.from_numpy(C), torch.from_numpy(C.T.copy()).T):
        np.testing.assert_array_equal(solve_relations(same, 0.1).g, g)
    single = C.astype(np.float32)
    a, b = solve_relations(single, 0.1), solve_relations(single.astype(np.float64), 0.1)
    np.testing.assert_array_equal(a.g, b.g)
    assert a.objective == b.objective
    counts = rng.integers(0, 50, (40, 8))
    assert solve_relations(counts, 3).objective == value(counts.astype(float), 3, solve_relations(counts, 3).g)
    result = solve_relations(torch.from_numpy(C).requires_grad_(), 0.1, prev=torch.from_numpy(g), prices=torch.zeros(8))
    types = (result.g.dtype, result.n.dtype, result.prices.dtype)
    assert types == (np.int32, np.int64, np.float64) and result.moved == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_wide_problems_stay_in_range(backend):
    """Very many fine classes leave fewer bits to a cost; nothing overflows."""
    rng = np.random.default_rng(14)
    fine = 1 << 18
    C = rng.random((fine, 2))
    low, high, nu = np.ones(2, np.int64), np.full(2, fine - 1), np.full(2, fine / 2)
    fixed = FixedPoint.of(C, 0.0, low, high, nu, C.argmax(1))
    assert fixed.unit > fine and 16 * fixed.window * fixed.unit <= 2**62
    assert (fixed.cost.max(1) - fixed.cost.min(1)).max() < fixed.window * fixed.unit
    result = solve_relations(C, 0.0, prev=C.argmin(1), backend=backend)
    assert (result.g == C.argmax(1)).all() and result.moved == fine


def test_water_level_against_sorting():
    rng = np.random.default_rng(15)
    for _ in range(300):
        coarse = int(rng.integers(1, 6))
        lower = rng.integers(0, 4, coarse)
        upper = lower + rng.integers(0, 7, coarse)
        nu = rng.integers(0, 20, coarse) / 4
        levels = sorted(
            2 * r - 1 - 2 * nu[j] for j in range(coarse) for r in range(int(lower[j]) + 1, int(upper[j]) + 1)
        )
        if levels:
            units = int(rng.integers(0, len(levels) + 1))
            assert water_level(nu, lower, upper, units) == levels[max(units, 1) - 1]


@pytest.mark.parametrize(("noise", "least"), [(0.0, 1.0), (0.3, 1.0), (0.6, 1.0), (0.9, 0.9), (0.97, 0.3)])
@pytest.mark.parametrize("sizes", [None, [2, 5, 4, 2, 2, 3, 3, 4, 3, 5, 4, 3, 5, 3, 3, 3, 4, 4, 4, 2]])
def test_planted_relations_come_back(noise, least, sizes):
    """Dirichlet predictions around planted parents, counted sample by sample."""
    rng = np.random.default_rng(16)
    coarse = 20
    fine = 100 if sizes is None else sum(sizes)
    g = planted(fine, coarse, 0.0, rng, sizes)[1]
    samples = 60 * fine
    label = rng.integers(0, fine, samples)
    p = noise * rng.dirichlet(np.full(fine, 0.2), samples)
    p[np.arange(samples), label] += 1 - noise
    C = group_cost(torch.from_numpy(p), torch.from_numpy(g[label]), coarse) / samples
    lam = 0.25 * coarse / (2 * fine) * (1 - noise)
    result = solve_relations(C, lam, prior=sizes)
    accuracy = (result.g == g).mean()
    print(f"noise {noise}, {'balanced' if sizes is None else 'unbalanced'}: relation accuracy {accuracy:.3f}")
    assert accuracy >= least and result.gap < 1e-12

"""Calls of the relation solver: repeated, in threads, of several data sets, interrupted, without native code, wrong."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

from c2f_ops import _native
from c2f_ops.relations import balance_threshold, solve_relations


def test_repeated_and_threaded_solves_are_equal():
    rng = np.random.default_rng(12)
    C = rng.random((120, 12)) / np.arange(1, 13)
    prev = rng.integers(0, 12, 120)
    first = solve_relations(C, 0.5, prev=prev)
    runs = [solve_relations(C, 0.5, prev=prev) for _ in range(10)]
    for count in (1, 4, 16):
        runs += solve_relations([C] * count, 0.5, prev=[prev] * count)
    for run in runs:
        np.testing.assert_array_equal(run.g, first.g)
        np.testing.assert_array_equal(run.prices, first.prices)


def test_several_data_sets_at_once():
    rng = np.random.default_rng(13)
    matrices = [rng.random((30, k)) for k in (3, 5, 30)]
    together = solve_relations(matrices, [0.0, 0.2, 0.5], prev=[None, np.zeros(30, int), None])
    for result, C, lam, prev in zip(together, matrices, (0.0, 0.2, 0.5), (None, np.zeros(30, int), None), strict=True):
        np.testing.assert_array_equal(result.g, solve_relations(C, lam, prev=prev).g)
    again = solve_relations(matrices, 0.2, prices=[r.prices for r in together])
    assert [len(r.n) for r in again] == [3, 5, 30]
    assert solve_relations([], 0.2) == []


@pytest.mark.skipif(bool(_native.unavailable()), reason="interrupts the native code")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_ends_a_long_solve(count):
    assert threading.current_thread() is threading.main_thread()
    # Products of two ramps are slow to assign: this takes seconds.
    C = np.outer(np.arange(1.0, 2001.0), np.arange(1.0, 1001.0))

    def handler(*_):
        raise TimeoutError("the alarm")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    begin = time.process_time()
    try:
        with pytest.raises(TimeoutError, match="the alarm"):
            solve_relations(C if count == 1 else [C] * count, 0.01 * balance_threshold(C))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - begin < count


BAD_CALLS = [
    (dict(C=[np.ones((3, 2))] * 3, lam=[0.1]), ValueError, "lam must have one entry for each of 3 matrices, got 1"),
    (dict(C=[1.0, 2.0]), ValueError, r"C\[0\] must have shape \[K_F, K_C\], got \[\]"),
    (dict(C=np.ones(3)), ValueError, r"C must have shape \[K_F, K_C\], got \[3\]"),
    (dict(C=np.ones((2, 0))), ValueError, r"C must have shape \[K_F, K_C\], got \[2, 0\]"),
    (dict(C=np.ones((2, 3))), ValueError, "C must have K_F >= K_C, got K_F=2, K_C=3"),
    (dict(C=np.array([[1.0, np.nan], [0, 1]])), ValueError, r"C must be finite and not negative, got nan at \[0, 1\]"),
    (dict(C=np.array([[1.0, 1], [np.inf, 1]])), ValueError, r"C must be finite .* got inf at \[1, 0\] \(1 such"),
    (dict(C=np.array([[1.0, 1], [0, -0.5]])), ValueError, r"C must be .* not negative, got -0.5 at \[1, 1\]"),
    (dict(C=np.array([["a"]])), TypeError, "C must hold real numbers, got <U1"),
    (dict(C=[np.ones((3, 2)), -np.ones((3, 2))], lam=0.1), ValueError, r"C\[1\] must be finite and not negative"),
    (dict(lam=-1.0), ValueError, "lam must be finite and not negative, got -1.0"),
    (dict(lam=np.nan), ValueError, "lam must be finite and not negative, got nan"),
    (dict(lam="1"), TypeError, "lam must be a number, got str"),
    (dict(lower=-1), ValueError, "lower must not be negative, got -1"),
    (dict(lower=3), ValueError, "lower must sum to at most K_F=4, got 6"),
    (dict(lower=[1, 1, 1]), ValueError, r"lower must have shape \[2\], got \[3\]"),
    (dict(lower=1.5), TypeError, "lower must be integer, got float64"),
    (dict(upper=1), ValueError, "upper must sum to at least K_F=4, got 2"),
    (dict(upper=[0, 4]), ValueError, "upper must be at least lower, got 0 < 1 at 0"),
    (dict(prior=[1.0, 1.0]), ValueError, "prior must not be negative and sum to K_F=4, got least 1.0, sum 2.0"),
    (dict(prior=[5.0, -1.0]), ValueError, "prior must not be negative and sum to K_F=4, got least -1.0"),
    (dict(prior=[4.0]), ValueError, r"prior must have shape \[2\], got \[1\]"),
    (dict(prev=[0, 1]), ValueError, r"prev must have shape \[4\], got \[2\]"),
    (dict(prev=[0, 1, 2, 0]), ValueError, r"prev must be in 0\.\.1, got 0\.\.2"),
    (dict(prev=[0.0, 1, 0, 1]), TypeError, "prev must be integer, got float64"),
    (dict(prices=[0.0]), ValueError, r"prices must have shape \[2\], got \[1\]"),
    (dict(prices=[0.0, np.nan]), ValueError, "prices must be finite, got nan"),
    (dict(backend="gpu"), ValueError, "backend must be auto, cpu or reference, got 'gpu'"),
    (dict(C=[np.ones((3, 2))], prev=np.zeros(3, int)), TypeError, "prev must be a list or a number for a list of C"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_errors_name_argument_expectation_and_value(call, error, message):
    with pytest.raises(error, match=message):
        solve_relations(**{"C": np.ones((4, 2)), "lam": 0.1, **call})


def test_cpu_backend_without_native_code(monkeypatch):
    monkeypatch.setattr(_native, "_load", lambda: (None, "not built here"))
    with pytest.raises(RuntimeError, match="not built here"):
        solve_relations(np.ones((4, 2)), 0.1, backend="cpu")
    assert solve_relations(np.ones((4, 2)), 0.1).n.tolist() == [2, 2]

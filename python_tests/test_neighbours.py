"""Group neighbours against brute force in float64 numpy; draws against their law."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import c2f_ops.neighbours as neighbours_module
from c2f_ops import _knn
from c2f_ops._splitmix import splitmix64_of
from c2f_ops.neighbours import group_knn, sample_neighbours

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def place(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return request.param


def pair_distances(x, metric):
    """All distances in float64, rounded to float32."""
    x = x.astype(np.float64)
    if metric == "l2":
        return np.stack([((row - x) ** 2).sum(1) for row in x]).astype(np.float32)
    dot = np.stack([(row * x).sum(1) for row in x])
    if metric == "ip":
        return (-dot).astype(np.float32)
    square = (x * x).sum(1)
    norms = np.sqrt(square[:, None] * square[None])
    cos = np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)
    return np.maximum(1 - cos, 0).astype(np.float32)


def brute_force(x, groups, k, metric):
    distance = pair_distances(x, metric)
    ids, far = np.full((len(x), k), -1), np.full((len(x), k), np.inf, np.float32)
    for i in range(len(x)):
        others = np.arange(len(x)) if groups[i] == -1 else np.flatnonzero(groups == groups[i])
        others = others[others != i]
        others = others[np.lexsort((others, distance[i, others]))][:k]
        ids[i, : len(others)], far[i, : len(others)] = others, distance[i, others]
    return ids, far


def assert_exact(x, groups, k, metric, place="cpu", **options):
    found = group_knn(torch.from_numpy(x).to(place), torch.from_numpy(groups), k, metric, **options)
    ids, far = brute_force(x, groups, k, metric)
    # numpy adds in another order: up to d roundings of float64, which near 0 leave absolute errors
    np.testing.assert_allclose(found.distances.cpu().numpy(), far, rtol=2e-7, atol=1e-13)
    np.testing.assert_array_equal(found.indices.cpu().numpy(), ids)
    assert found.indices.dtype == torch.int32 and found.distances.dtype == torch.float32
    return found


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_brute_force(rng, metric, dtype, place):
    x = (rng.standard_normal((400, 24)) + 1).astype(dtype)
    assert_exact(x, rng.choice([-1, 0, 3, 7], 400, p=[0.1, 0.5, 0.35, 0.05]), 9, metric, place)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_many_tiles(rng, metric, monkeypatch):
    monkeypatch.setitem(_knn._TILE, "cpu", 900)
    monkeypatch.setitem(_knn._REFINED, "cpu", 500)
    monkeypatch.setattr(neighbours_module, "tile", lambda device, columns: (7, min(columns, 30)))
    assert_exact(rng.standard_normal((300, 12)).astype(np.float32), rng.integers(-1, 3, 300), 6, metric)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_ties_go_to_the_lower_index(rng, metric, monkeypatch, place):
    """Small integers: distances are exact, and most rows have more ties at the border than candidates."""
    x = rng.integers(0, 2, (500, 6)).astype(np.float32)  # 64 distinct rows, the zero row among them
    doubtful = []
    real = _knn._search_all
    monkeypatch.setattr(_knn, "_search_all", lambda s, q, *rest: (doubtful.append(len(q)), real(s, q, *rest))[1])
    found = assert_exact(x, rng.integers(0, 3, 500), 5, metric, place)
    assert sum(doubtful) > 100, "the data must make the first search fail"
    if metric != "ip":
        assert (found.distances[:, 0] == 0).float().mean() > 0.9, "a duplicate is at 0 exactly"


def test_a_sample_is_left_out_by_index_not_by_rank(place):
    found = group_knn(torch.ones(40, 8, device=place), torch.zeros(40, dtype=torch.long), 3, "l2")
    assert found.indices[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert not found.distances.any()


def test_small_groups_are_padded_and_unlabelled_samples_search_everywhere():
    x = torch.tensor([[0.0], [1.0], [2.5], [9.0], [2.0]])
    found = group_knn(x, torch.tensor([4, 4, 9, -1, 4]), 3, "l2")
    assert found.indices.tolist() == [[1, 4, -1], [0, 4, -1], [-1, -1, -1], [2, 4, 1], [1, 0, -1]]
    assert found.distances[2].tolist() == [torch.inf] * 3
    assert group_knn(x, None, 1, "l2").indices.tolist() == [[1], [0], [4], [2], [2]]
    assert group_knn(x[:0], None, 2).indices.shape == (0, 2)


def test_copies_without_end_take_linear_time(rng):
    """10,000 rows, two distinct: searched pair by pair this would be 1e8 distances."""
    x = torch.ones(10_000, 16)
    x[::2] = 0
    found = group_knn(x, None, 4, "l2")
    assert found.indices[1].tolist() == [3, 5, 7, 9] and found.indices[9_998].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_hostile_scales(rng, metric):
    """Large offsets and a huge outlier: where the expanded square has no correct digit, the order still is exact."""
    x = (1000 + rng.standard_normal((250, 8)) * 0.01).astype(np.float32)
    x[17] *= 1e6
    assert_exact(x, np.zeros(250, dtype=np.int64), 7, metric)


def test_reduced_matmul_precision_and_autocast_change_nothing(rng):
    x, groups = torch.from_numpy(rng.standard_normal((600, 64)).astype(np.float32)), torch.zeros(600, dtype=torch.long)
    before, expected = torch.get_float32_matmul_precision(), group_knn(x, groups, 8)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = group_knn(x, groups, 8)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bit_equal_from_run_to_run_and_for_any_number_of_threads(rng):
    x = torch.from_numpy(rng.standard_normal((1500, 40)).astype(np.float32))
    x[700:1400] = x[:700]
    groups, threads = torch.from_numpy(rng.integers(0, 2, 1500)), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(group_knn(x, groups, 12))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_arrays_memory_maps_and_strides(rng, tmp_path):
    x = rng.standard_normal((120, 10)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    groups = rng.integers(0, 2, 120)
    expected = group_knn(x, groups, 4).indices
    assert torch.equal(group_knn(np.load(tmp_path / "x.npy", mmap_mode="r"), groups, 4).indices, expected)
    assert torch.equal(group_knn(torch.from_numpy(x.T.copy()).T, groups, 4).indices, expected)
    assert torch.equal(group_knn(torch.from_numpy(x).requires_grad_(), groups, 4).indices, expected)


def test_faiss_gives_the_same(rng):
    pytest.importorskip("faiss")
    for metric in ("cosine", "l2", "ip"):
        x = rng.standard_normal((500, 16)).astype(np.float32)
        x[100:160] = x[40]
        assert_exact(x, rng.integers(-1, 3, 500), 7, metric, backend="faiss")


def test_without_faiss_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=re.escape('pip install "c2f_ops[faiss]"')):
        group_knn(torch.randn(4, 2), None, 1, backend="faiss")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_far_below_the_square_of_a_group():
    """One group of 25,000: its square in float32 would be 2.5 GB; blocks, tiles and result fit in 300 MB."""
    code = """
import torch
from pathlib import Path
from c2f_ops.neighbours import group_knn
torch.set_num_threads(1)
def key(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
x = torch.randn(25_000, 16)
group_knn(x[:3000], None, 10)
before = key("VmRSS")
group_knn(x, None, 10)
print((key("VmHWM") - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 300


BAD = [
    (dict(X=[[1.0]]), TypeError, "X must be a dense tensor or an array, got list"),
    (dict(X=torch.zeros(4, 2, dtype=torch.long)), TypeError, "X must be [N, d] in"),
    (dict(X=torch.zeros(4)), TypeError, "X must be [N, d]"),
    (dict(X=torch.full((4, 2), torch.nan)), ValueError, "X must be finite"),
    (dict(X=torch.full((4, 2), 1e20)), ValueError, "rows of norm below 9e18"),
    (dict(groups=torch.zeros(3, dtype=torch.long)), ValueError, "groups must be integers [N] with N=4, got [3]"),
    (dict(groups=torch.zeros(4)), ValueError, "groups must be integers [N] with N=4"),
    (dict(groups=torch.tensor([0, -2, 0, 0])), ValueError, "groups must be at least -1, got -2"),
    (dict(k=0), ValueError, "k must be an integer of at least 1, got 0"),
    (dict(k=2.0), ValueError, "k must be an integer of at least 1, got 2.0"),
    (dict(metric="dot"), ValueError, "metric must be one of"),
    (dict(backend="cuda"), ValueError, "backend must be one of"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD)
def test_errors_name_the_argument(change, kind, message):
    arguments = dict(X=torch.zeros(4, 2), groups=torch.zeros(4, dtype=torch.long), k=1)
    with pytest.raises(kind, match=re.escape(message)):
        group_knn(**{**arguments, **change})


# ---- sample_neighbours -----------------------------------------------------------------------------------------------


def draw(idx, m, samples=None, seed=1, step=2):
    samples = torch.arange(len(idx)) if samples is None else samples
    return sample_neighbours(idx, m, seed=seed, step=step, samples=samples)


def test_known_hash():
    """First output of SplitMix64 from seed 0 and from 1234567, as published with its reference code."""
    assert splitmix64_of(0) % 2**64 == 0xE220A8397B1DCDAF
    assert splitmix64_of(1234567) % 2**64 == 6457827717110365317


def test_draws_are_distinct_valid_and_padded(place):
    idx = torch.tensor([[5, 6, 7, -1], [-1, 8, -1, 9], [-1, -1, -1, -1]], device=place)
    drawn = draw(idx, 3).cpu()
    assert drawn.dtype == torch.int64 and drawn.shape == (3, 3)
    assert sorted(drawn[0].tolist()) == [5, 6, 7]
    assert sorted(drawn[1].tolist()) == [-1, 8, 9] and drawn[1, 2] == -1
    assert drawn[2].tolist() == [-1, -1, -1]
    assert draw(idx, 6)[:, 4:].eq(-1).all()
    assert draw(idx[:, :0], 2).tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("vary", ["samples", "step", "seed"])
def test_every_subset_is_equally_likely(vary):
    """Chi-squared over the 60 ordered draws of 3 of 5, along each key: 59 degrees, 1e-4 quantile 105.3."""
    count = 6000
    row = torch.arange(5)[None]
    if vary == "samples":
        drawn = draw(row.expand(count, -1), 3, samples=torch.arange(count) * 7 - 500)
    else:
        drawn = torch.cat([draw(row, 3, **{vary: i}) for i in range(count)])
    _, seen = torch.unique(drawn @ torch.tensor([25, 5, 1]), return_counts=True)
    assert len(seen) == 60
    expected = count / 60
    assert ((seen - expected).double() ** 2 / expected).sum() < 105.3


def test_keys_do_not_move_together():
    """Draws of one step are independent of those of the next, of another seed, and of sample + 1."""
    idx, count = torch.arange(4).expand(4000, -1), 4000
    base = draw(idx, 1)[:, 0]
    for other in (draw(idx, 1, step=3), draw(idx, 1, seed=2), draw(idx, 1, samples=torch.arange(count) + 1)):
        table = torch.bincount(base * 4 + other[:, 0], minlength=16).double()
        assert ((table - count / 16) ** 2 / (count / 16)).sum() < 44.3  # 15 degrees, 1e-4 quantile


def test_a_draw_depends_on_the_sample_not_on_its_batch():
    idx = torch.arange(8)[None] + 100 * torch.arange(50)[:, None]
    whole = draw(idx, 4)
    order = torch.randperm(50)
    assert torch.equal(draw(idx[order], 4, samples=order), whole[order])
    assert torch.equal(torch.cat([draw(idx[:13], 4), draw(idx[13:], 4, samples=torch.arange(13, 50))]), whole)
    assert torch.equal(draw(idx.int(), 4, samples=torch.arange(50).int()), whole)
    assert not torch.equal(draw(idx, 4, step=3), whole)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (dict(idx=torch.zeros(2, 3)), TypeError, "idx must be an int32 or int64 tensor, got torch.float32"),
        (dict(idx=torch.zeros(2, dtype=torch.long)), ValueError, "idx must have shape [B, k], got [2]"),
        (dict(samples=torch.zeros(3, dtype=torch.long)), ValueError, "samples must have shape [B] with B=2, got [3]"),
        (dict(m=0), ValueError, "m must be an integer of at least 1, got 0"),
        (dict(seed=0.5), TypeError, "seed must be an integer, got float"),
    ],
)
def test_errors_of_draws(change, kind, message):
    arguments = dict(idx=torch.zeros(2, 3, dtype=torch.long), m=1, seed=0, step=0, samples=torch.arange(2))
    with pytest.raises(kind, match=re.escape(message)):
        sample_neighbours(**{**arguments, **change})


def test_examples():
    result = doctest.testmod(neighbours_module)
    assert result.attempted == 1 and result.failed == 0

"""The fused sm_90a forward against the float64 reference: on a Hopper GPU, and emulated on the CPU."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest
import torch
from c2f_ops.bench import gpu_multilinear_pool
from c2f_ops.bench.cases import Case
from c2f_ops.bench.gpu_multilinear_pool import CLUSTERS, TILES
from c2f_ops.bench.limits import Limits

from c2f_ops import FBP, HBP, MLP, TRILINEAR, _native
from c2f_ops._encoding import encode
from c2f_ops._ops.problem import Problem
from c2f_ops.cuda import built_for, unavailable
from c2f_ops.cuda import multilinear_pool as room
from c2f_ops.reference import multilinear_pool as reference
from c2f_ops.testing import TOLERANCES, relative_error

H200 = (9, 0, 132, 227 << 10, 60 << 20)
SETS = [MLP, HBP, FBP, TRILINEAR, ((2, 1), (2, 1, 0), (0, 2))]


def emulate(module, patch) -> None:
    """Put the emulation in the place of the native module and of a Hopper GPU."""
    module.run_descending(False)
    module.sabotage("")
    patch.setattr(_native, "module", lambda: module)
    patch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    patch.setattr(room, "current_stream", lambda _: 0)
    patch.setattr(room, "device_facts", lambda _: H200)
    patch.setattr(room, "built_for", lambda _: True)


@pytest.fixture
def hopper(emulation, monkeypatch):
    """The emulation, alone."""
    emulate(emulation, monkeypatch)
    yield emulation
    emulation.sabotage("")


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.cuda)])
def device(request, monkeypatch) -> str:
    """Where tensors live."""
    if request.param == "emulated":
        emulate(request.getfixturevalue("emulation"), monkeypatch)
        return "cpu"
    if why := unavailable():
        pytest.skip(why)
    if torch.cuda.get_device_capability() != (9, 0) or not built_for("90a"):
        pytest.skip("needs a GPU of compute capability 9.0 and a build for sm_90a")
    return "cuda"


def operands(device, dtype, *, B, L, C, D, layout="positions", mask="none", seed=0):
    """Every dimension that can have NaN beside it has."""
    generator = torch.Generator().manual_seed(seed)
    features, weights, biases = [], [], []
    for c in C:
        buffer = torch.full((B + 1, c + 1, L + 8) if layout == "positions" else (B + 1, L + 1, c + 8), torch.nan)
        x = buffer[:B, :c, :L].transpose(1, 2) if layout == "positions" else buffer[:B, :L, :c]
        x.copy_(torch.rand(B, L, c, generator=generator))
        view = buffer.to(device, dtype)
        features.append(view[:B, :c, :L].transpose(1, 2) if layout == "positions" else view[:B, :L, :c])
        w = torch.full((c + 1, D + 8), torch.nan)
        w[:c, :D] = (torch.rand(c, D, generator=generator) * 2 - 1) * (3 / c) ** 0.5
        weights.append(w.to(device, dtype)[:c, :D])
        biases.append(torch.randn(D, generator=generator).mul_(0.1).to(device))
    biases[1] = None
    masks = {"bool": torch.rand(B, L, generator=generator) < 0.6, "float": torch.rand(B, L, generator=generator)}
    return features, weights, biases, None if mask == "none" else masks[mask].to(device)


def pool(tensors, interactions, activation="none", wish=(0, 0, 1, 1)):
    features, weights, biases, mask = tensors
    problem = Problem.of(features, weights, mask, interactions, activation)
    return room.fused_fwd(problem, features, weights, biases, mask, "fused_sm90", wish)


def error(p, tensors, interactions, activation="none"):
    """The largest error of an interaction."""
    double = [[None if t is None else t.double().cpu() for t in group] for group in tensors[:3]]
    mask = tensors[3]
    mask = None if mask is None else mask.cpu() if mask.dtype == torch.bool else mask.double().cpu()
    truth, _ = reference.multilinear_pool_fwd(*double, mask, interactions, activation, False)
    return max(relative_error(p[:, q], truth[:, q]) for q in range(len(interactions)))


# Each tile with each cluster and layout; the other properties take turns. Channels that end inside a block of 64 and
# are odd where that is possible, positions that end inside a tile or fill it, columns and samples that do not fill the
# clusters.
EVERY = [
    (tile, cluster, layout, n)
    for n, (tile, cluster, layout) in enumerate(itertools.product(TILES, CLUSTERS, ("positions", "channels")))
]


@pytest.mark.parametrize(("tile", "cluster", "layout", "n"), EVERY)
def test_every_tile_and_cluster(device, request, tile, cluster, layout, n):
    if device == "cpu":
        request.getfixturevalue("emulation").run_descending(n % 4 > 1)
    interactions, activation = SETS[n % 5], ("none", "relu")[n % 3 == 0]
    mask, dtype = ("none", "bool", "float")[n % 3], (torch.bfloat16, torch.float16)[n // 2 % 2]
    L = (56, tile[0], tile[0] + 8, 2 * tile[0] - 8)[n // 3 % 4] + (n % 5 if layout == "channels" else 0)
    C = (72, 33, 130) if layout == "positions" else (72, 64, 136)
    count = 1 + max(itertools.chain(*interactions))
    tensors = operands(device, dtype, B=1 + n % 3, L=L, C=C[:count], D=(136, 8, 264)[n % 3], layout=layout, mask=mask)
    p = pool(tensors, interactions, activation, (*tile, *cluster))
    assert error(p, tensors, interactions, activation) <= TOLERANCES[dtype]["p"]


@pytest.mark.slow
def test_tiles_are_those_of_the_kernel(hopper):
    assert hopper.sm90_tiles() == list(TILES)


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("layout", ["positions", "channels"])
def test_nan_stays_in_its_sample_and_out_of_masked_positions(device, cluster, layout):
    features, weights, biases, mask = operands(
        device, torch.bfloat16, B=4, L=72, C=(8, 64, 16), D=16, mask="bool", layout=layout
    )
    mask[1, 5], mask[:, 6] = True, False
    wish = (64, 3, *cluster)
    clean = pool((features, weights, biases, mask), MLP, wish=wish)
    for x in features:
        x[:, 6] = torch.nan
    excluded = pool((features, weights, biases, mask), MLP, wish=wish)
    assert torch.equal(clean, excluded)
    features[0][1, 5, 2] = torch.nan
    dirty = pool((features, weights, biases, mask), MLP, wish=wish)
    assert torch.equal(clean[[0, 2, 3]], dirty[[0, 2, 3]]) and torch.equal(clean[1, 2], dirty[1, 2])
    assert dirty[1, [0, 1, 3]].isnan().all()


def test_clusters_and_repeats_are_bit_equal(device):
    tensors = operands(device, torch.bfloat16, B=3, L=208, C=(72, 40, 64), D=264)
    first = pool(tensors, MLP, wish=(200, 1, 1, 1))
    for cluster in CLUSTERS:
        for _ in range(100 if device == "cuda" else 1):
            assert torch.equal(first, pool(tensors, MLP, wish=(200, 1, *cluster)))


def test_operands_that_the_copy_engine_cannot_read(device, monkeypatch):
    """Rows that are not multiples of 16 bytes: an error where sm_90a is asked for, else another kernel takes them."""
    features, weights, biases, mask = operands(device, torch.bfloat16, B=2, L=64, C=(16, 16, 16), D=16)
    shifted = [torch.cat([w[:, :1], w], 1)[:, 1:] for w in weights]
    tensors = features, shifted, biases, mask
    with pytest.raises(RuntimeError, match="multiples of 16 bytes"):
        pool(tensors, MLP)
    ran = []
    launch = room.fused_fwd
    monkeypatch.setattr(room, "fused_fwd", lambda *args: ran.append(args[5]) or launch(*args))
    for recorded, kernels in (
        ((), ["fused_sm80"]),
        (("fused_sm90",), []),
        (("fused_sm80", "fused_sm90"), ["fused_sm80"]),
    ):
        monkeypatch.setattr(room, "validated", lambda op, kernel, capability, recorded=recorded: kernel in recorded)
        ran.clear()
        p, _ = room.multilinear_pool_fwd(*tensors, MLP, "none", False, "fused")
        assert ran == kernels and error(p, tensors, MLP) <= TOLERANCES[torch.bfloat16]["p"]
    room.multilinear_pool_fwd(
        features, [w.t().contiguous().t() for w in weights], biases, mask, MLP, "none", False, "fused"
    )
    assert ran.pop() == "fused_sm90"


@pytest.mark.slow
def test_benchmark_of_tiles(hopper, monkeypatch):
    for name, value in (("TILES", TILES[::5]), ("CLUSTERS", CLUSTERS[::3])):
        monkeypatch.setattr(gpu_multilinear_pool, name, value)
    case = Case("small", "", 2, 4, 16, 64)
    row = gpu_multilinear_pool.measure_tiles(case, Limits(1e15, 4e12), seconds=0.0, device="cpu")
    assert row["failed"] == {} and len(row["timings"]) == 2 + 2 * 2
    assert all(e < 5 * TOLERANCES[torch.bfloat16]["p"] for e in row["errors"].values())
    assert "fastest of 6 fused kernels" in gpu_multilinear_pool.best_tile(row)


@pytest.mark.slow
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("wish", [(200, 1, 1, 1), (112, 3, 2, 2)])
@pytest.mark.parametrize(
    ("step", "symptom"),
    [
        ("", None),
        ("full wait", "being read|has not filled"),
        ("empty wait", "more arrivals"),
        ("wgmma wait", "being read"),
        ("wgmma fence", "not fenced"),
        ("init fence", "not fenced"),
        ("release", "never come"),
        ("expect", "has not filled"),
        ("meeting", "before it was initialised"),
    ],
)
def test_emulation_sees_what_is_left_out(hopper, step, symptom, wish, descending):
    """More stages than the ring has, so that each is used again."""
    if step == "meeting" and not descending:
        pytest.skip("in this order the barriers are initialised in time anyway")
    tensors = operands("cpu", torch.bfloat16, B=2, L=400, C=(128, 64, 200), D=256)
    hopper.run_descending(descending)
    hopper.sabotage(step)
    if symptom is None:
        assert error(pool(tensors, MLP, wish=wish), tensors, MLP) <= TOLERANCES[torch.bfloat16]["p"]
    else:
        with pytest.raises(RuntimeError, match=symptom):
            pool(tensors, MLP, wish=wish)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize(("L", "tile"), [(400, (200, 1)), (304, (112, 3)), (48, (64, 3))])
def test_fetches_what_the_model_counts(hopper, cluster, L, tile):
    """Per cluster and tile of positions: weights once for its samples, features once for its columns, no padding."""
    B, D, C = 4, 512, (72, 64)
    tensors = operands("cpu", torch.bfloat16, B=B, L=L, C=C, D=D)
    before = hopper.fetched_bytes()
    pool(tensors, FBP, wish=(*tile, *cluster))
    weights = 2 * sum(C) * D * (B // cluster[0]) * math.ceil(L / tile[0])
    features = 2 * sum(C) * L * B * (D // 128 // cluster[1])
    assert hopper.fetched_bytes() - before == weights + features


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("B", [1, 2, 7, 8, 9, 33])
@pytest.mark.parametrize("D", [8, 128, 136, 1000, 2048])
def test_every_sample_and_column_has_one_block(hopper, B, D, cluster):
    problem = Problem(torch.device("cpu"), torch.bfloat16, B, 784, D, (512, 64, 97), MLP)
    blocks = hopper.sm90_schedule(encode(problem), 200, *cluster)
    assert len(blocks) % math.prod(cluster) == 0
    owned = [(b, d) for b, d, _ in blocks if b < B and d < D]
    assert sorted(owned) == list(itertools.product(range(B), range(0, D, 128)))
    for first in range(0, len(blocks), math.prod(cluster)):  # a cluster is a rectangle of samples by columns
        members = [block[:2] for block in blocks[first : first + math.prod(cluster)]]
        b, d = members[0]
        expected = itertools.product(range(cluster[1]), range(cluster[0]))
        assert members == [(b + db, d + 128 * dd) for dd, db in expected]


@pytest.mark.slow
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("L", [1, 49, 112, 196, 784, 785, 1024])
@pytest.mark.parametrize("C", [(64, 64, 64), (1, 97, 2048), (512, 512)])
def test_every_position_factor_and_channel_comes_once(hopper, tile, L, C):
    problem = Problem(torch.device("cpu"), torch.bfloat16, 1, L, 8, C, MLP if len(C) == 3 else FBP)
    [(_, _, steps)] = hopper.sm90_schedule(encode(problem), tile[0], 1, 1)
    expected = itertools.product(range(0, L, tile[0]), range(len(C)))
    assert steps == [(i, m, c) for i, m in expected for c in range(0, C[m], 64)]

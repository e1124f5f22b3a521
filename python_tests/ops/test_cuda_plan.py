"""The CUDA plan and what decides whether `auto` takes CUDA kernels: pure functions, for GPUs that are not here."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from c2f_ops import MLP, _native, _validated
from c2f_ops._ops.problem import Problem
from c2f_ops.cuda import multilinear_pool as room
from c2f_ops.cuda import runs_on

pytestmark = pytest.mark.skipif(_native.unavailable() is not None, reason=str(_native.unavailable()))

MIB = 2**20
FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
POSITIONS, CHANNELS, STRIDED = 0, 1, 2
# (major, minor, multiprocessors, bytes of shared memory a block can have, bytes of L2)
GPUS = {
    "laptop": (7, 5, 14, 48 << 10, 1 * MIB),
    "T4": (7, 5, 40, 64 << 10, 4 * MIB),
    "A10": (8, 6, 72, 99 << 10, 6 * MIB),
    "A100": (8, 0, 108, 163 << 10, 40 * MIB),
    "L4": (8, 9, 58, 99 << 10, 48 * MIB),
    "H200": (9, 0, 132, 227 << 10, 60 * MIB),
    "B200": (10, 0, 148, 227 << 10, 126 * MIB),
    "RTX 5090": (12, 0, 170, 99 << 10, 96 * MIB),
}
SHAPES = {  # B, L, C, D, layout
    "vgg": (8, 784, 512, 8192, POSITIONS),
    "r50-layer4": (8, 196, 2048, 8192, POSITIONS),
    "r50-layer3": (8, 784, 1024, 8192, POSITIONS),
    "vit-b14": (8, 1024, 768, 8192, CHANNELS),
    "large batch": (256, 784, 512, 8192, POSITIONS),
    "many positions": (4, 50_000, 64, 1024, CHANNELS),
    "one position": (4096, 1, 512, 1000, POSITIONS),
    "odd": (3, 49, 97, 131, POSITIONS),
    "tiny": (1, 1, 1, 1, POSITIONS),
}


def plan(gpu, shape, *, dtype=BFLOAT16, interactions=MLP, factors=3, activation=0, sm90a=False, wish=(0, 0, 1, 1)):
    B, L, C, D, layout = shape
    problem = (B, L, D, (C,) * factors, dtype, 0, activation, 0, interactions)
    return _native.module().multilinear_pool_cuda_plan(problem, layout, (*gpu, sm90a), wish)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_chunks_fit_in_cache(gpu, name, dtype):
    B, L, _, D, _ = SHAPES[name]
    got = plan(GPUS[gpu], SHAPES[name], dtype=dtype)
    chunk_b, chunk_d = got["chunk_b"], got["chunk_d"]
    assert 1 <= chunk_b <= B and 1 <= chunk_d <= D
    assert chunk_d == D or chunk_d % 64 == 0
    size = 3 * chunk_b * L * chunk_d * (4 if dtype == FLOAT32 else 2)
    assert size <= GPUS[gpu][4] * 2 / 3 or (chunk_b == 1 and chunk_d == min(D, 64))


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", SHAPES)
def test_chunks_are_not_needlessly_small(gpu, name):
    """Twice the samples, or 64 columns more in every chunk, would not fit, or would not save a chunk."""
    B, L, _, D, _ = SHAPES[name]
    got = plan(GPUS[gpu], SHAPES[name])
    chunk_b, chunk_d, budget = got["chunk_b"], got["chunk_d"], GPUS[gpu][4] * 2 / 3
    if chunk_b < B:
        assert 3 * 2 * chunk_b * L * min(D, 512) * 2 > budget
    if chunk_d < D:
        fewer = math.ceil(D / chunk_d) - 1
        wider = math.ceil(D / fewer / 64) * 64
        assert 3 * chunk_b * L * wider * 2 > budget


def test_reference_case_keeps_whole_batches():
    got = plan(GPUS["H200"], SHAPES["vgg"])
    assert (got["chunk_b"], got["chunk_d"]) == (8, 1024)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", SHAPES)
def test_fused_only_where_it_can_run(gpu, name):
    (major, _, sms, shared, _), (B, _, _, D, layout) = GPUS[gpu], SHAPES[name]
    got = plan(GPUS[gpu], SHAPES[name])
    assert got["kernel"] == ("fused_sm80" if got["grid"] >= sms else "chunked")
    assert got["fused"] == ("fused_sm80" if got["block_l"] else "chunked")
    assert got["kernel"] == "fused_sm80" or got["reason"].startswith("the fused kernel")
    if got["block_l"] == 0:
        assert got["grid"] == 0 and (major < 8 or shared < 80 << 10)
        return
    assert major >= 8 and got["grid"] == B * math.ceil(D / got["block_d"])
    stage = got["block_c"] * (got["block_d"] + 8)
    stage += got["block_c"] * (got["block_l"] + 8) if layout == POSITIONS else got["block_l"] * (got["block_c"] + 8)
    assert got["shared_bytes"] == 2 * got["stages"] * stage + 2 * 4 * got["block_d"] * 4 <= shared


@pytest.mark.parametrize(
    ("L", "block_l"), [(1, 64), (49, 64), (64, 64), (100, 112), (128, 128), (196, 112), (784, 112), (1024, 128)]
)
def test_block_l_follows_positions(L, block_l):
    assert plan(GPUS["H200"], (64, L, 64, 8192, POSITIONS))["block_l"] == block_l


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": FLOAT32}, "16-bit"),
        ({"interactions": ((0,),), "factors": 1}, "two or three factors"),
        ({"interactions": ((0, 1), (2, 3)), "factors": 4}, "two or three factors"),
        ({"interactions": ((0, 1), (2,))}, "at least two factors"),
        ({"interactions": ((0, 1), (2, 2))}, "distinct factors"),
        ({"shape": (8, 784, 512, 8192, STRIDED)}, "contiguous"),
        ({"shape": (8, 784, 0, 8192, POSITIONS)}, "a size is 0"),
        ({"shape": (8, 0, 512, 8192, POSITIONS)}, "a size is 0"),
        ({"shape": (1, 784, 512, 8192, POSITIONS)}, "idle"),
        ({"shape": (8, 784, 2**31, 8192, POSITIONS)}, "32 bits"),
    ],
)
def test_reasons_against_fused(change, reason):
    shape = change.pop("shape", SHAPES["vgg"])
    got = plan(GPUS["H200"], shape, **change)
    assert got["kernel"] == "chunked" and reason in got["reason"]
    assert (got["block_l"] > 0) == (reason == "idle")
    assert got["chunk_b"] >= 1 and got["chunk_d"] >= 1


def test_fused_takes_any_order_of_distinct_factors():
    for interactions in (((1, 0),), ((2, 1, 0), (1, 2)), ((0, 1), (0, 1))):
        factors = 1 + max(itertools.chain(*interactions))
        assert plan(GPUS["H200"], SHAPES["vgg"], interactions=interactions, factors=factors)["kernel"] == "fused_sm80"


def test_bad_device_facts_are_an_error():
    with pytest.raises(RuntimeError, match="device facts"):
        plan((9, 0, 0, 0, 0), SHAPES["vgg"])


H200 = GPUS["H200"]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", SHAPES)
def test_sm90_on_hopper_alone_and_only_where_it_is_built(gpu, name):
    B, L, C, D, layout = SHAPES[name]
    assert plan(GPUS[gpu], SHAPES[name])["fused"] != "fused_sm90"
    got = plan(GPUS[gpu], SHAPES[name], sm90a=True)
    mapped = D % 8 == 0 and (L if layout == POSITIONS else C) % 8 == 0
    assert (got["fused"] == "fused_sm90") == (gpu == "H200" and mapped)
    if got["fused"] != "fused_sm90":
        assert gpu != "H200" or got["kernel"] == "chunked" or got["reason"].startswith("sm_80 kernel: that of sm_90a")
        return
    assert got["kernel"] == ("fused_sm90" if got["grid"] >= H200[2] else "chunked")
    clusters = math.ceil(B / got["cluster_b"]) * math.ceil(D / 128 / got["cluster_d"])
    assert got["grid"] == clusters * got["cluster_b"] * got["cluster_d"]
    assert got["stages"] >= 3 and got["shared_bytes"] <= H200[3] and got["threads"] == 384
    assert 0 < got["modelled_limit"] <= 1 and got["bound"]


@pytest.mark.parametrize(
    ("L", "block_l"), [(8, 64), (56, 64), (128, 128), (196, 200), (384, 192), (784, 200), (1024, 208)]
)
def test_sm90_tile_follows_positions(L, block_l):
    assert plan(H200, (64, L, 512, 8192, CHANNELS), sm90a=True)["block_l"] == block_l


def test_sm90_takes_the_least_modelled_time():
    """The model by hand for the reference case: 4 tiles of 200, clusters of four, what the tensor cores wait for."""
    got = plan(H200, SHAPES["vgg"], sm90a=True)
    assert (got["block_l"], got["live"], got["cluster_b"], got["cluster_d"]) == (200, 1, 2, 2)
    stage = max(2 * 64 * 200 * 64 / 2048, (2 * 2 * 128 * 64 + 3 * 2 * 200 * 64) / 128)  # clocks; L2: 8192 + 12800 at 32
    waves = math.ceil(8 * 64 / 128)
    useful = 8 * 784 * 8192 * 3 * 512 / (2048 * 132)
    assert got["modelled_limit"] == pytest.approx(useful / (stage * waves * 4 * 3 * 8))
    assert got["bound"] == "shared memory"
    single = plan(H200, SHAPES["vgg"], sm90a=True, wish=(200, 1, 1, 1))
    assert single["bound"] == "L2" and single["modelled_limit"] < got["modelled_limit"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": (8, 783, 512, 8192, POSITIONS)}, "multiple of 8 positions"),
        ({"shape": (8, 784, 510, 8192, CHANNELS)}, "multiples of 8 channels"),
        ({"shape": (8, 784, 512, 8188, POSITIONS)}, "width that is a multiple of 8"),
        ({"activation": 2}, "no tanh"),
    ],
)
def test_sm90_hands_over_to_sm80(change, reason):
    shape = change.pop("shape", SHAPES["vgg"])
    got = plan(H200, shape, sm90a=True, **change)
    assert got["kernel"] == "fused_sm80" and reason in got["reason"]
    with pytest.raises(RuntimeError, match=reason):
        plan(H200, shape, sm90a=True, wish=(200, 1, 1, 1), **change)


def test_sm90_wishes():
    for wish in ((112, 3, 1, 2), (64, 3, 2, 1), (208, 1, 2, 2)):
        got = plan(H200, SHAPES["vgg"], sm90a=True, wish=wish)
        assert tuple(got[name] for name in ("block_l", "live", "cluster_b", "cluster_d")) == wish
    for wish in ((112, 1, 1, 1), (100, 3, 1, 1), (200, 1, 4, 1)):
        with pytest.raises(RuntimeError, match="no tile that fits"):
            plan(H200, SHAPES["vgg"], sm90a=True, wish=wish)


@pytest.mark.parametrize(
    ("recorded", "fused", "algorithm"),
    [
        ((), "fused_sm90", "chunked"),
        (("chunked",), "fused_sm90", "chunked"),
        (("fused_sm80",), "fused_sm80", "fused"),
        (("fused_sm90",), "fused_sm90", "fused"),
        (("fused_sm80", "fused_sm90"), "fused_sm90", "fused"),
    ],
)
def test_a_record_of_one_fused_kernel_does_not_validate_the_other(monkeypatch, recorded, fused, algorithm):
    entry = {"arch": "9.0", "op": "multilinear_pool", "record": "bench/results/x.json"}
    monkeypatch.setattr(_validated, "records", lambda: tuple({**entry, "kernel": kernel} for kernel in recorded))
    monkeypatch.setattr(room, "device_facts", lambda _: H200)
    monkeypatch.setattr(room, "built_for", lambda _: True)
    problem = Problem(torch.device("cuda"), torch.bfloat16, 8, 784, 8192, (512,) * 3, MLP)
    assert room.plan_of(problem)["fused"] == fused
    assert room.algorithm(problem, "direct") == algorithm and room.algorithm(problem, "fused") == "fused"


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        (["80"], (8, 0), True),
        (["80", "90a"], (8, 6), True),
        (["90a"], (9, 0), True),
        (["90a"], (10, 0), False),  # machine code for exactly sm_90a, no PTX
        (["80", "90a"], (7, 5), False),
        (["80"], (9, 0), True),  # by the PTX of sm_80
        (["80", "90a", "100"], (10, 3), True),
        (["80", "90a", "100"], (12, 0), True),  # by the PTX of sm_100
        (["100"], (9, 0), False),
    ],
)
def test_runs_on(archs, capability, expected):
    assert runs_on(archs, capability) is expected


def test_auto_takes_only_what_a_record_validates(monkeypatch):
    entry = {"arch": "9.0", "op": "multilinear_pool", "kernel": "chunked", "record": "bench/results/x.json"}
    monkeypatch.setattr(_validated, "records", lambda: (entry,))
    assert _validated.validated("multilinear_pool", "chunked", (9, 0))
    assert not _validated.validated("multilinear_pool", "fused_sm80", (9, 0))
    assert not _validated.validated("multilinear_pool", "chunked", (8, 0))
    assert _validated.unvalidated("multilinear_pool", "chunked", (9, 0)) is None
    assert "sm_80" in _validated.unvalidated("multilinear_pool", "chunked", (8, 0))


def test_every_entry_names_its_record():
    for entry in _validated.records():
        assert set(entry) == {"arch", "op", "kernel", "record"}
        assert entry["record"].startswith("bench/results/")

"""Exact nearest neighbours inside groups, and draws from them that depend on nothing but seed, step and sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._checks import DTYPES, check_choice, names_of
from ._knn import Space, faiss_proposer, propose_by_tiles, search, tile
from ._splitmix import splitmix64, splitmix64_of

METRICS = ("cosine", "l2", "ip")
BACKENDS = ("auto", "torch", "faiss")


class Neighbours(NamedTuple):
    """Result of :func:`group_knn`.

    Attributes:
        indices: int32 ``[N, k]`` (int64 from 2^31 samples), nearest first, -1 where there is none.
        distances: float32 ``[N, k]``, ascending, inf where there is none.
    """

    indices: Tensor
    distances: Tensor


def group_knn(
    X: Tensor | np.ndarray,
    groups: Tensor | np.ndarray | None,
    k: int,
    metric: str = "cosine",
    *,
    backend: str = "auto",
) -> Neighbours:
    """Find the k nearest samples of the same group for each sample, exactly.

    Distances are summed in float64 and rounded to float32; neighbours ascend by the rounded distance, equal ones by
    index, and a sample is never its own neighbour (its duplicates are). A float32 matrix product only proposes
    candidates: a bound on its rounding error proves that no other sample belongs among the k, and the few rows without
    proof are searched again. So the result is the same for any tile, thread count and matmul precision setting.

    Beside X and the result it holds one block of at most 4096 x 8192 bounds, the two tiles of rows that make it, and a
    few numbers per sample: never the square of a group. Work: ``2 d sum_j n_j^2`` flops.

    Args:
        X: ``[N, d]`` floating point, tensor (any device) or array (memory-mapped too); 16-bit types are computed in
            float32, float64 in float64. Finite, rows of Euclidean norm below 9e18.
        groups: integers ``[N]``; -1 = no group: the neighbours of that sample come from all samples. None: one group.
        k: neighbours per sample, at least 1. Samples of groups with fewer than k + 1 members are padded.
        metric: "cosine": 1 - cos (1 to or from a zero row); "l2": squared Euclidean; "ip": negative inner product.
        backend: "torch"; "faiss" (extra ``faiss``; CPU; copies each group in float32) proposes candidates by faiss and
            gives the same result; "auto" is "torch".

    Returns:
        :class:`Neighbours` on the device of X.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> group_knn(np.array([[0.0], [1.0], [3.0], [1.1]]), np.array([0, 0, 0, 1]), 2, "l2").indices.tolist()
        [[1, 2], [0, 2], [1, 0], [-1, -1]]
    """
    check_choice("group_knn", "metric", metric, METRICS)
    check_choice("group_knn", "backend", backend, BACKENDS)
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"group_knn: k must be an integer of at least 1, got {k!r}")
    k, x = int(k), _as_tensor("X", X)
    if x.ndim != 2 or x.dtype not in DTYPES:
        raise TypeError(f"group_knn: X must be [N, d] in {names_of(DTYPES)}, got {list(x.shape)} in {x.dtype}")
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(f"group_knn: X must be on a CPU or a CUDA device, got {x.device}")
    group = torch.zeros(len(x), dtype=torch.long) if groups is None else _as_tensor("groups", groups)
    if group.is_floating_point() or group.dtype == torch.bool or group.shape != x.shape[:1]:
        raise ValueError(
            f"group_knn: groups must be integers [N] with N={len(x)}, got {list(group.shape)} in {group.dtype}"
        )
    group = group.to(x.device, torch.long)
    if len(group) and int(group.min()) < -1:
        raise ValueError(f"group_knn: groups must be at least -1, got {int(group.min())}")

    index_type = torch.int32 if len(x) < 2**31 else torch.long
    indices = torch.full((len(x), k), -1, dtype=index_type, device=x.device)
    distances = torch.full((len(x), k), torch.inf, device=x.device)
    with _full_precision(x.device.type):
        space = Space(x, metric)
        propose = faiss_proposer(space) if backend == "faiss" else propose_by_tiles
        order = group.argsort(stable=True)  # members of a group in ascending order
        values, counts = group[order].unique_consecutive(return_counts=True)
        members = order.split(counts.tolist())
        for value, queries in zip(values.tolist(), members, strict=True):
            columns = queries if value >= 0 else torch.arange(len(x), device=x.device)
            height, width = tile(x.device.type, len(columns))
            for part in queries.split(height):
                found = search(space, propose, part, columns, k, width)
                indices[part], distances[part] = found[0].to(index_type), found[1]
    return Neighbours(indices, distances)


def sample_neighbours(idx: Tensor, m: int, *, seed: int, step: int, samples: Tensor) -> Tensor:
    """Draw m of the neighbours of each sample, without replacement and uniformly.

    Each slot gets 64 bits hashed (SplitMix64) from (seed, step, sample, slot); the m valid slots with the lowest are
    drawn, in that order. So a draw depends on neither the order of a batch nor on who makes it.

    Args:
        idx: integers ``[B, k]``, rows of :func:`group_knn`; -1 is never drawn.
        m: draws per sample, at least 1; a row with fewer neighbours is padded with -1.
        seed: seed of the run.
        step: number of the draw, the optimiser step.
        samples: integers ``[B]``, ids of the samples whose neighbours ``idx`` holds.

    Returns:
        int64 ``[B, m]`` on the device of ``idx``.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    for name, value, ndim in (("idx", idx, 2), ("samples", samples, 1)):
        if not isinstance(value, Tensor) or value.dtype not in (torch.int32, torch.int64):
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"sample_neighbours: {name} must be an int32 or int64 tensor, got {got}")
        if value.ndim != ndim or len(value) != len(idx):
            shape = "[B, k]" if ndim == 2 else f"[B] with B={len(idx)}"
            raise ValueError(f"sample_neighbours: {name} must have shape {shape}, got {list(value.shape)}")
    if not isinstance(m, (int, np.integer)) or m < 1:
        raise ValueError(f"sample_neighbours: m must be an integer of at least 1, got {m!r}")
    for name, number in (("seed", seed), ("step", step)):
        if not isinstance(number, (int, np.integer)):
            raise TypeError(f"sample_neighbours: {name} must be an integer, got {type(number).__name__}")
    m, seed, step = int(m), int(seed), int(step)
    idx = idx.long()
    base = torch.tensor(splitmix64_of(splitmix64_of(seed) ^ step), device=idx.device)
    of_sample = splitmix64(samples.to(idx.device, torch.long) ^ base)[:, None]
    slots = torch.arange(idx.shape[1], device=idx.device)
    keys = (splitmix64(of_sample ^ slots) & (2**62 - 1)).masked_fill(idx < 0, 2**62)
    drawn = idx.gather(1, keys.argsort(dim=1, stable=True)[:, :m])
    return torch.nn.functional.pad(drawn, (0, m - drawn.shape[1]), value=-1)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Keep float32 products in float32: the bounds rely on it."""
    switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
            raise TypeError(f"group_knn: {name} must hold numbers of at most 64 bits, got {value.dtype}")
        if not value.dtype.isnative or any(stride < 0 for stride in value.strides):  # torch has neither
            value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
        with warnings.catch_warnings():  # a memory map is read-only, and only read here
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return torch.from_numpy(value)
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        got = value.layout if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"group_knn: {name} must be a dense tensor or an array, got {got}")
    return value.detach()

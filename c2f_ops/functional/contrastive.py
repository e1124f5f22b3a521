"""The class-attentive contrastive loss: samples of a class draw together under the weights of that class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check_choice, check_tensor
from .._ops import class_attentive_supcon as _op  # noqa: F401  (registers the op)
from .._ops.choice import BACKENDS
from ._world import World

_NAME = "class_attentive_loss"
_MODES = ("supcon", "pairwise", "paper")
_MAX_LEVELS = 4
_ABSENT = -2  # label of a key that is left out


def class_attentive_loss(
    z: Tensor,
    y: Tensor,
    w: Tensor | None = None,
    *,
    mode: str = "supcon",
    temperature: float = 0.1,
    margin: float = 0.5,
    negative_weight: float = 1.0,
    level_weights: Sequence[float] | None = None,
    hard_coarse_weight: float = 1.0,
    unlabelled_as_keys: bool = False,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    queue: Tensor | None = None,
    queue_labels: Tensor | None = None,
    eps: float | None = None,
    group: Any = "auto",
    backend: str = "auto",
) -> Tensor:
    """Contrastive loss of a batch whose similarities are cosines under the weights of the anchor's class.

        sim_ij = <z_i o w_c, z_j o w_c> / (|z_i o w_c| |z_j o w_c|)         c = y_i: the anchor's weights on both sides

        supcon    mean_i  log sum_{j != i} exp(sim_ij / temperature) - mean_{j in P_i} sim_ij / temperature
        pairwise  mean over positive pairs of 1 - sim + negative_weight mean over negative pairs of max(0, sim - margin)
        paper     mean over positive pairs of 1 - sim: as printed, without negatives; any constant z is its minimum

    P_i are the other samples of i's class. The mean of "supcon" is over the samples that have one; the others are keys
    only. Without any positive pair the loss is 0, with a gradient of 0. Memory is linear in the batch: no tensor of
    pairs exists. With weights all equal, "supcon" is the supervised contrastive loss.

    With `torch.distributed` initialised, the keys are the samples of all processes, and losses and gradients are such
    that their averages over processes, as `DistributedDataParallel` takes them, are those of one process with the whole
    batch. Batches may differ in size.

    Args:
        z: ``[B, d]`` embeddings: float64, float32, bfloat16 or float16; computed in float32 (float64).
        y: ``[B]`` class of each sample, int64, -1 for unknown; or ``[B, K]`` with K <= 4 levels, coarse to fine, the
            last of which chooses the weights.
        w: ``[C, d]`` weights of each class; None: all 1, the plain contrastive loss. Only ratios and magnitudes count.
        mode: "supcon", "pairwise" or "paper".
        temperature: Of "supcon", greater than 0.
        margin: Of "pairwise": the similarity from which a negative pair costs.
        negative_weight: Of "pairwise".
        level_weights: K numbers: what a pair counts as positive that agrees on 1, 2, ... K levels. Default: 0 but for
            1 at the last, so that positives share the finest class.
        hard_coarse_weight: What a negative counts that shares a coarser class with the anchor (K > 1).
        unlabelled_as_keys: Samples of unknown class are negatives for all others; else they are left out.
        keys: ``[N, d]`` embeddings that the samples are compared with, in place of the batch itself.
        key_labels: Their classes, like y.
        queue: ``[M, d]`` embeddings that the samples are compared with besides the batch, for instance those of earlier
            batches.
        queue_labels: Their classes, like y; -2 where there is nothing.
        eps: Smallest norm; default 1e-6 (1e-12 in float64).
        group: Process group whose samples are keys; "auto": the default one where `torch.distributed` is initialised;
            None: this process alone.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        The loss, a float32 (float64) scalar.

    Raises:
        ValueError: an argument has a wrong shape, device or value. A class without a row of w is such an error on the
            CPU; on a GPU the loss is NaN.
        TypeError: an argument has a wrong type.
        RuntimeError: the backend asked for is not available; a second derivative was asked for.

    Source: Fine-Grained Classification via Class-Attentive Contrastive Representation Learning; Supervised Contrastive
    Learning (NeurIPS 2020), eq. (2). docs/ops/class_attentive_loss.md says what differs and why.
    """
    y = _labels("y", y, z)
    _check_options(mode, temperature, margin, negative_weight, hard_coarse_weight, eps, backend)
    levels = y.shape[1]
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    listed, order = y[:, -1].sort(stable=True)
    v = _squared_weights(w, listed, z, wide)
    classes = y[:, -1].clamp(max=0) if w is None else y[:, -1].contiguous()
    positive, repelling = _tables(mode, levels, level_weights, hard_coarse_weight)

    world = World(group)
    own = keys is None and queue is None and queue_labels is None and world.size == 1  # the keys are the batch alone
    if keys is None and key_labels is None:
        keys, key_labels, first = _batch_keys(z, y, world)
    else:
        first = -1
        keys, key_labels = _check_keys("keys", keys, "key_labels", key_labels, z, levels)
    if queue is not None or queue_labels is not None:
        queue, queue_labels = _check_keys("queue", queue, "queue_labels", queue_labels, z, levels)
        keys, key_labels = torch.cat([keys, queue.to(keys.dtype)]), torch.cat([key_labels, queue_labels])
    if not unlabelled_as_keys:
        key_labels = torch.where(key_labels[:, -1:] < 0, _ABSENT, key_labels)

    z, keys = (_row_contiguous(t.to(torch.promote_types(z.dtype, keys.dtype))) for t in (z, keys))
    attract, repel = torch.ops.c2f_ops.class_attentive_supcon(
        z, keys, y, key_labels, classes, order, v, positive, repelling, mode != "supcon",
        float(margin if mode != "supcon" else temperature), float(eps or (1e-12 if wide == torch.float64 else 1e-6)),
        first, backend,
    )  # fmt: skip

    if own and levels == 1:
        agreeing = _same_class(y[:, 0], listed, key_labels[:, 0])
    else:
        agreeing = _agreeing(y, key_labels, first)
    of_anchor = _weighted(agreeing, positive, classes, wide)
    if mode == "supcon":
        has = of_anchor > 0
        value = torch.addcmul(repel, attract, 1 / (torch.where(has, of_anchor, 1.0) * -temperature))
        return torch.where(has, value, 0.0).sum() * (world.size / world.sum(has.sum(dtype=wide)).clamp(min=1))
    pairs = of_anchor.sum()
    loss = (pairs - attract.sum()) * world.size / _at_least_one(world.sum(pairs))
    if mode == "paper":
        return loss
    against = _weighted(agreeing, repelling, classes, wide).sum()
    return loss + negative_weight * repel.sum() * world.size / _at_least_one(world.sum(against))


def _batch_keys(z: Tensor, y: Tensor, world: World) -> tuple[Tensor, Tensor, int]:
    """The samples of all processes as keys, their labels, and which of them is the first of z."""
    if world.size == 1:
        return z, y, 0
    longest = world.longest(len(z), z)
    pad = torch.nn.functional.pad
    missing = longest - len(z)
    keys = world.gather(pad(z, (0, 0, 0, missing)))
    return keys, world.gather(pad(y, (0, 0, 0, missing), value=_ABSENT)), world.rank * longest


def _at_least_one(x: Tensor) -> Tensor:
    """x where there is something to divide by, else 1."""
    return torch.where(x > 0, x, 1.0)


def _tables(
    mode: str, levels: int, level_weights: Sequence[float] | None, hard: float
) -> tuple[list[float], list[float]]:
    """Weights of a pair that agrees on 0 to K levels, as positive and in the repelling sum."""
    weights = [0.0] * (levels - 1) + [1.0] if level_weights is None else [float(x) for x in level_weights]
    if len(weights) != levels or not all(0 <= x < math.inf for x in weights) or not any(weights):
        raise ValueError(
            f"{_NAME}: level_weights must be {levels} finite numbers, one for each level of y, none negative and not "
            f"all 0, got {level_weights!r}"
        )
    positive = [0.0, *weights]
    if mode == "supcon":
        repelling = [1.0] + [1.0 if p else hard for p in positive[1:]]
    elif mode == "pairwise":
        repelling = [1.0] + [0.0 if p else hard for p in positive[1:]]
    else:
        repelling = [0.0] * (levels + 1)
    return positive, repelling


def _weighted(agreeing: list[Tensor], weights: list[float], classes: Tensor, wide: torch.dtype) -> Tensor:
    """``[A]``: weights of the keys by the levels on which they agree, summed; 0 for an anchor of unknown class."""
    parts = [count.to(wide) * x for count, x in zip(agreeing, weights, strict=True) if x]
    total = sum(parts[1:], parts[0]) if parts else agreeing[0].new_zeros(agreeing[0].shape, dtype=wide)
    return torch.where(classes >= 0, total, 0.0)


def _same_class(y: Tensor, listed: Tensor, key_labels: Tensor) -> list[Tensor]:
    """What `_agreeing` returns where the keys are the anchors, of one level, whose sorted labels are at hand."""
    same = torch.searchsorted(listed, y, right=True) - torch.searchsorted(listed, y) - 1
    return [(key_labels > _ABSENT).sum() - 1 - same, same]


def _agreeing(y: Tensor, key_labels: Tensor, first: int) -> list[Tensor]:
    """K + 1 times ``[A]``: how many keys agree with each anchor on exactly 0, 1, ... K levels, itself left out.

    Sorted numbers of the leading labels answer: nothing of pairs, and no shape that depends on data.
    """
    known, there = torch.ones_like(y[:, 0], dtype=torch.bool), key_labels[:, 0] > _ABSENT
    itself = there[first : first + len(y)] if first >= 0 else torch.zeros_like(known)
    counts = [there.sum() - itself.to(torch.int64)]  # that agree on at least 0, 1, ... levels
    mine, theirs = torch.zeros_like(y[:, 0]), torch.zeros_like(key_labels[:, 0])
    for a, b in zip(y.T, key_labels.T, strict=True):
        known, there, itself = known & (a >= 0), there & (b >= 0), itself & (a >= 0)
        mine, theirs = _number(mine, a, theirs, b) if len(counts) > 1 else (a.contiguous(), b)
        listed = torch.where(there, theirs, -1).sort().values
        same = torch.searchsorted(listed, mine, right=True) - torch.searchsorted(listed, mine)
        counts.append(torch.where(known, same - itself.to(torch.int64), 0))
    return [*(at_least - more for at_least, more in itertools.pairwise(counts)), counts[-1]]


def _number(mine: Tensor, a: Tensor, theirs: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One number, not negative, for each pair (number so far, label); the same for anchors and keys."""
    far, labels = torch.cat([mine, theirs]), torch.cat([a, b])
    ranks = (torch.searchsorted(x.sort().values, x) for x in (far, labels))
    joint = next(ranks) * len(far) + next(ranks)
    return joint[: len(mine)], joint[len(mine) :]


def _labels(name: str, y: Tensor, z: Tensor) -> Tensor:
    """Labels ``[B, K]`` int64."""
    check_tensor(_NAME, "z", z, 2)
    _check_labels(name, y, z, len(z))
    return (y if y.ndim == 2 else y[:, None]).to(torch.int64).contiguous()


def _check_labels(name: str, y: Any, z: Tensor, count: int) -> None:
    if not isinstance(y, Tensor) or y.dtype not in (torch.int64, torch.int32):
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{_NAME}: {name} must be an int64 or int32 tensor, got {got}")
    fits = (y.ndim == 1 or (y.ndim == 2 and 1 <= y.shape[1] <= _MAX_LEVELS)) and len(y) == count
    if not fits:
        raise ValueError(
            f"{_NAME}: {name} must have shape [{count}] or [{count}, K] with K from 1 to {_MAX_LEVELS}, "
            f"got {list(y.shape)}"
        )
    if y.device != z.device:
        raise ValueError(f"{_NAME}: {name} must be on {z.device} like z, got {y.device}")


def _squared_weights(w: Tensor | None, classes: Tensor, z: Tensor, wide: torch.dtype) -> Tensor:
    """``[C, d]`` squares of the weights of the sorted classes; one row of 1 without weights."""
    if w is None:
        return z.new_ones((1, z.shape[1]), dtype=wide)
    check_tensor(_NAME, "w", w, 2)
    if w.shape[1] != z.shape[1]:
        raise ValueError(f"{_NAME}: w must have shape [C, d] = [C, {z.shape[1]}], got {list(w.shape)}")
    if w.device != z.device:
        raise ValueError(f"{_NAME}: w must be on {z.device} like z, got {w.device}")
    if w.device.type == "cpu" and not torch.compiler.is_compiling() and len(z) and int(classes[-1]) >= len(w):
        raise ValueError(f"{_NAME}: w must have a row for each class in y, got {len(w)} for class {int(classes[-1])}")
    return w.to(wide).square()


def _check_keys(name: str, keys: Any, labels_name: str, labels: Any, z: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Keys that go with z, and their labels ``[N, K]``."""
    for here, what, other in ((keys, name, labels_name), (labels, labels_name, name)):
        if here is None:
            raise ValueError(f"{_NAME}: {what} must be given where {other} is, got None")
    check_tensor(_NAME, name, keys, 2)
    if keys.shape[1] != z.shape[1]:
        raise ValueError(f"{_NAME}: {name} must have shape [N, d] = [N, {z.shape[1]}], got {list(keys.shape)}")
    if keys.device != z.device:
        raise ValueError(f"{_NAME}: {name} must be on {z.device} like z, got {keys.device}")
    _check_labels(labels_name, labels, z, len(keys))
    labels = labels if labels.ndim == 2 else labels[:, None]
    if labels.shape[1] != levels:
        raise ValueError(f"{_NAME}: {labels_name} must have the {levels} levels of y, got {labels.shape[1]}")
    return keys, labels.to(torch.int64).contiguous()


def _row_contiguous(x: Tensor) -> Tensor:
    """Rows without gaps, none shared: kernels take a row stride, and no broadcast rows."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def _check_options(
    mode: str,
    temperature: float,
    margin: float,
    negative_weight: float,
    hard_coarse_weight: float,
    eps: float | None,
    backend: str,
) -> None:
    check_choice(_NAME, "mode", mode, _MODES)
    check_choice(_NAME, "backend", backend, ("auto", *BACKENDS))
    if not 0 < temperature < math.inf:
        raise ValueError(f"{_NAME}: temperature must be greater than 0 and finite, got {temperature!r}")
    if not -1 <= margin <= 1:
        raise ValueError(f"{_NAME}: margin must be a cosine, in [-1, 1], got {margin!r}")
    for name, value in (("negative_weight", negative_weight), ("hard_coarse_weight", hard_coarse_weight)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{_NAME}: {name} must be finite and not negative, got {value!r}")
    if eps is not None and not 0 < eps < math.inf:
        raise ValueError(f"{_NAME}: eps must be None or greater than 0, got {eps!r}")

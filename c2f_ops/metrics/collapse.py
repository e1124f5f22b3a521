"""The collapse monitor: do the embeddings still differ from each other?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ._embeddings import Array, Rows, chunks, class_labels, class_rows, device_of, rows, unit

REMEDY = "use a loss with negatives (mode='supcon'), a lower learning rate, batch normalisation, or scale the inputs"


@dataclass(frozen=True)
class CollapseReport:
    """Values of :func:`collapse_report`; None where they need labels (two classes at least) or weights.

    Attributes:
        status: ``"ok"``, ``"warning"`` or ``"collapsed"``.
        reason: one line: the figure that decided, and what to do.
        trace: total variance of the directions ``v = z / |z|``: 0 when all are equal, at most 1.
        effective_rank: exp of the entropy of the eigenvalues of the covariance of z, as shares; 0 without variance.
        alignment: mean of ``|v - v'|^2`` over two samples of one class, classes of 2 or more weighted by size.
        uniformity: log of the mean of ``exp(-2 |v - v'|^2)`` over two samples: 0 when all are equal.
        between_cosine: mean of ``<v, v'>`` over samples of two classes, all pairs of classes weighted equally.
        variance_ratio: variance of v between the classes over the variance within; inf for classes without extent.
        attention_dimension: smallest over classes of ``1 / sum_k p_k^2`` with ``p = w_c^2 / |w_c|^2``: the number of
            features that class looks at.
        num_samples: N.
    """

    status: Literal["ok", "warning", "collapsed"]
    reason: str
    trace: float
    effective_rank: float
    alignment: float | None
    uniformity: float
    between_cosine: float | None
    variance_ratio: float | None
    attention_dimension: float | None
    num_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def collapse_report(
    z: Array,
    y: Array | None = None,
    w: Array | None = None,
    *,
    trace_warning: float = 1e-2,
    trace_collapsed: float = 1e-3,
    rank_collapsed: float = 1.5,
    ratio_collapsed: float = 2.0,
    attention_warning: float = 1.5,
    uniformity_samples: int = 2048,
    seed: int = 0,
) -> CollapseReport:
    """Tell whether embeddings have collapsed onto a point or a line.

    Collapsed: the trace is below ``trace_collapsed``, or the effective rank below ``rank_collapsed`` while the variance
    ratio is below ``ratio_collapsed`` (a line that does not separate the classes either). Warning: the trace is below
    ``trace_warning``, or the rank below its threshold without labels, or a class looks at fewer features than
    ``attention_warning``. Two passes over z, float64.

    Args:
        z: embeddings ``[N, d]``, N > 1; of new samples or of the training set, never of one class alone.
        y: integers ``[N]`` or None; samples with a negative label count only in what needs no labels.
        w: weights ``[C, d]`` or None.
        trace_warning: see above, as for the next four.
        trace_collapsed: threshold.
        rank_collapsed: threshold.
        ratio_collapsed: threshold.
        attention_warning: threshold.
        uniformity_samples: samples drawn for the uniformity, whose cost grows with their square.
        seed: of that draw.

    Returns:
        The report.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    Source:
        Wang and Isola, ICML 2020, for alignment and uniformity; Roy and Vetterli, EUSIPCO 2007, for the rank, here with
        eigenvalues of the covariance, which noise in many directions moves less than singular values.
    """
    name = "collapse_report"
    array = rows(name, z)
    if len(array) < 2:
        raise ValueError(f"{name}: z must hold at least 2 embeddings, got {len(array)}")
    if uniformity_samples < 2:
        raise ValueError(f"{name}: uniformity_samples must be at least 2, got {uniformity_samples}")
    labels = torch.full((len(array),), -1) if y is None else class_labels(name, y, len(array))
    sums, squares, counts, mean = _sums(name, array, labels)
    direction = sums.sum(0) / len(array)
    trace = max(0.0, float(squares.sum() / len(array) - direction.square().sum()))
    rank = _effective_rank(name, array, mean)
    alignment, cosine, ratio = _by_class(sums[:-1], squares[:-1], counts[:-1])
    attention = None
    if w is not None:
        shares = class_rows(name, "w", w, array).square()
        attention = float((1 / (shares / shares.sum(1, keepdim=True)).square().sum(1)).min())

    status: Literal["ok", "warning", "collapsed"] = "ok"
    reason = f"the directions vary (trace {trace:.2g}, effective rank {rank:.3g})"
    if trace < trace_collapsed:
        status, reason = "collapsed", f"trace {trace:.2g} < {trace_collapsed:g}, all embeddings point one way: {REMEDY}"
    elif rank < rank_collapsed and ratio is not None and ratio < ratio_collapsed:
        status = "collapsed"
        reason = f"the embeddings lie on a line (effective rank {rank:.3g}) on which classes mix: {REMEDY}"
    elif trace < trace_warning:
        status, reason = "warning", f"trace {trace:.2g} < {trace_warning:g}, the embeddings draw together: {REMEDY}"
    elif rank < rank_collapsed and ratio is None:
        status = "warning"
        reason = f"the embeddings lie on a line (effective rank {rank:.3g}): pass y to see whether it separates classes"
    elif attention is not None and attention < attention_warning <= array.shape[1]:
        status = "warning"
        reason = f"a class looks at {attention:.2g} features: raise the lower bound of the weights"
    return CollapseReport(
        status=status,
        reason=reason,
        trace=trace,
        effective_rank=rank,
        alignment=alignment,
        uniformity=_uniformity(array, uniformity_samples, seed),
        between_cosine=cosine,
        variance_ratio=ratio,
        attention_dimension=attention,
        num_samples=len(array),
    )


def _sums(name: str, array: Rows, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of v and of ``|v|^2`` and counts over each class, the unlabelled last; mean of z."""
    groups = int(labels.max()) + 2
    device = device_of(array)
    sums = torch.zeros((groups, array.shape[1]), dtype=torch.float64, device=device)
    squares, counts, total = sums.new_zeros(groups), sums.new_zeros(groups), sums.new_zeros(array.shape[1])
    for part, chunk in chunks(name, array, 2 * array.shape[1]):
        group = torch.where(labels[part] < 0, groups - 1, labels[part]).to(device)
        v = unit(chunk)
        sums.index_add_(0, group, v)
        squares.index_add_(0, group, v.square().sum(1))
        counts.index_add_(0, group, torch.ones_like(v[:, 0]))
        total += chunk.sum(0)
    return sums, squares, counts, total / len(array)


def _effective_rank(name: str, array: Rows, mean: Tensor) -> float:
    covariance = mean.new_zeros((len(mean), len(mean)))
    for _, chunk in chunks(name, array, 2 * array.shape[1]):
        centred = chunk - mean
        covariance += centred.T @ centred
    # A constant z leaves the rounding of its mean, some 1e-32 of its square.
    if float(covariance.trace()) <= 1e-28 * len(array) * float(mean.square().sum()):
        return 0.0
    shares = torch.linalg.eigvalsh(covariance / covariance.trace()).clamp_min(0)
    return math.exp(float(torch.special.entr(shares / shares.sum()).sum()))


def _by_class(sums: Tensor, squares: Tensor, counts: Tensor) -> tuple[float | None, float | None, float | None]:
    """Alignment, cosine between classes, ratio of variances; None for what the classes do not allow."""
    present = counts > 0
    sums, squares, counts = sums[present], squares[present], counts[present]
    alignment = cosine = ratio = None
    pairs = counts > 1
    if bool(pairs.any()):
        s, q, n = sums[pairs], squares[pairs], counts[pairs]
        each = 2 * (n * q - s.square().sum(1)) / (n * (n - 1))  # mean of |v - v'|^2 over ordered pairs
        alignment = max(0.0, float((n * each).sum() / n.sum()))
    if len(counts) > 1:
        means, pi = sums / counts[:, None], counts / counts.sum()
        own, classes = means.square().sum(1), len(counts)
        cosine = float((means.sum(0).square().sum() - own.sum()) / (classes * (classes - 1)))
        between = float(pi @ (means - pi @ means).square().sum(1))
        within = float((pi @ (squares / counts - own)).clamp_min(0))
        smallest = 64 * torch.finfo(torch.float64).eps
        ratio = 0.0 if between < smallest else (math.inf if within < smallest else between / within)
    return alignment, cosine, ratio


def _uniformity(array: Rows, samples: int, seed: int) -> float:
    chosen = torch.arange(len(array))
    if len(array) > samples:
        chosen = torch.randperm(len(array), generator=torch.Generator().manual_seed(seed))[:samples]
    part = array[chosen.to(array.device)] if isinstance(array, Tensor) else torch.from_numpy(array[chosen.numpy()])
    v = unit(part.double())
    return float((torch.pdist(v).square() * -2).exp().mean().log())

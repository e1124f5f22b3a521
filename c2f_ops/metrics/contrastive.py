"""The classification error of class prototypes, bounded by the contrastive loss: every constant computed from data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ._embeddings import Array, class_labels, class_rows, class_weights, rows
from .prototypes import Kind, class_means, heads_of, of_kind, own_and_wrong_squares

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BoundReport:
    """Values of :func:`error_bound`: ``true_error <= direct <= bound`` on the data given.

    Attributes:
        gamma: the radius; a sample counts as safe when its own prototype is nearer and every wrong one is not.
        delta: share of samples with a wrong prototype nearer than gamma.
        ell: the contrastive loss, ``sum_c pi_c mean over pairs of class c of (1 - <u, u'>)``, all n_c^2 ordered pairs.
        ell_unbiased: the same over the ``n_c (n_c - 1)`` pairs of two samples, which estimates the loss of the
            population without bias; nan when a class has a single sample.
        Delta: ``sum_c pi_c |mu_c - m_c|^2``, what prototypes other than the class means add; 0 for the means.
        C1, C2: ``1 / gamma^2`` and ``delta``.
        rounding: what float64 may have hidden in a squared distance, about ``1e-15 d``.
        bound: ``C1 (ell + Delta + rounding) + C2``, 1 or more where it says nothing.
        direct: share of samples with ``d_y >= gamma``, plus delta: the bound before Markov's inequality.
        true_error: share of samples with a wrong prototype at most as far as their own: every tie is an error.
        chance: ``1 - max_c pi_c``, the error of the best constant answer.
        vacuous: the bound is 1 or more.
        priors: pi.
        margin: what wrong prototypes must keep beyond gamma, see :func:`epsilon_margin`.
        weight_ratio: largest over classes of ``max |w_c| / min |w_c|``; inf where a weight is 0.
        alpha, holdout_slack: Hoeffding's ``sqrt(ln(1 / alpha) sum_c pi_c^2 / n_c / 2)``, which is
            ``sqrt(ln(1 / alpha) / 2 n)`` with the priors of the data.
        holdout: share of samples with ``d_y >= gamma`` or a wrong prototype nearer than gamma, plus holdout_slack: with
            probability ``1 - alpha`` a bound on the error of the population. It needs gamma and the prototypes (and z
            and w) from other data; None unless both were given.
        num_samples: labelled samples.
    """

    gamma: float
    delta: float
    ell: float
    ell_unbiased: float
    Delta: float
    C1: float
    C2: float
    rounding: float
    bound: float
    direct: float
    true_error: float
    chance: float
    vacuous: bool
    priors: tuple[float, ...]
    margin: float
    weight_ratio: float
    alpha: float
    holdout_slack: float
    holdout: float | None
    num_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "priors": list(self.priors)}


def error_bound(
    z: Array,
    y: Array,
    w: Array | None = None,
    *,
    prototypes: Array | None = None,
    gamma: float | None = None,
    priors: ArrayLike | Tensor | None = None,
    kind: Kind = "mean",
    margin: float = 0.0,
    alpha: float = 0.05,
) -> BoundReport:
    """Bound the error of the nearest class prototype by the contrastive loss, ``C1 (ell + Delta) + C2``.

    With ``u_c(x) = z * w_c / |z * w_c|``, ``d_c(x) = |u_c(x) - m_c|`` and ``delta = P(d_c < gamma for some c != y)``:
    ``P(argmin_c d_c != y) <= P(d_y >= gamma) + delta <= (ell + Delta) / gamma^2 + delta``, for every gamma > 0 and any
    rule for ties. On the data given this holds for certain, not with high probability. Distances are in float64 and
    enter with the error their rounding may have, so that samples closer than about 1e-6 to each other certify nothing.

    Args:
        z: embeddings ``[N, d]``, read in chunks.
        y: integers ``[N]``; samples with a negative label are left out.
        w: weights ``[C, d]`` or None for ones.
        prototypes: m, ``[C, d]``, from other data; None for those of the data given. A row of NaN is a class that the
            classifier does not know; it must not occur in y.
        gamma: a radius chosen on other data; None for the one with the smallest bound on the data given.
        priors: pi, ``[C]``, sum 1; None for the shares of the classes in y. Each class counts with its pi, not with
            its number of pairs.
        kind: prototypes of the data given, ``"mean"`` or ``"unit"``; unit ones have ``Delta <= ell``.
        margin: wrong prototypes must keep ``gamma + margin``. With ``margin=epsilon_margin(...)`` the bound holds for
            inputs moved by epsilon as well.
        alpha: risk of the statement about the population.

    Returns:
        The report.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    Source:
        Corrects Theorem 1 of "Fine-Grained Classification via Class-Attentive Contrastive Representation Learning";
        docs/models/contrastive_bound.md has the proof and the counterexample to the printed statement.

    Example:
        Two classes on two axes: the bound is the whole truth.

        >>> z = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> report = error_bound(z, np.array([0, 0, 1, 1]))
        >>> round(report.gamma, 3), round(report.bound, 3), report.true_error, report.vacuous
        (1.414, 0.0, 0.0, False)
    """
    name = "error_bound"
    array = rows(name, z)
    classes = None if prototypes is None else class_rows(name, "prototypes", prototypes, array).shape[0]
    weights = class_weights(name, w, array, classes)
    classes = classes if weights is None else len(weights)
    labels = class_labels(name, y, len(array), classes)
    means, counts = class_means(name, array, labels, weights, classes or int(labels.max()) + 1)
    m = of_kind(name, means, kind)
    if prototypes is not None:
        m = class_rows(name, "prototypes", prototypes, array)
    heads = heads_of(name, m, weights, array, len(means))
    known = heads.square.isfinite()
    if int(known.sum()) < 2:
        raise ValueError(f"{name}: {'y' if prototypes is None else 'prototypes'} must hold at least 2 classes, got 1")
    if bool((~known & (counts > 0)).any()):
        missing = int((~known & (counts > 0)).nonzero()[0])
        raise ValueError(f"{name}: prototypes must have a row for each class of y, got NaN for class {missing}")
    if gamma is not None and not 0 < gamma < math.inf:
        raise ValueError(f"{name}: gamma must be positive and finite, got {gamma!r}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"{name}: margin must be finite and at least 0, got {margin!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"{name}: alpha must lie between 0 and 1, got {alpha!r}")

    n = counts.cpu().numpy()
    pi = _priors(name, priors, n)
    ell, unbiased, far = _losses(pi, n, means.cpu().numpy(), m.cpu().numpy())
    own_square, wrong_square = own_and_wrong_squares(name, array, labels, heads)
    # Half of it covers a squared distance: sums of d products of numbers whose squares sum to 1 and |m|^2.
    rounding = 8 * (array.shape[1] + 4) * np.finfo(float).eps * max(1.0, float(heads.square[known].max()))
    own = np.sqrt(own_square + rounding / 2)
    wrong = np.sqrt((wrong_square - rounding / 2).clip(0))
    share = (pi / n.clip(1))[labels[labels >= 0].numpy()]
    numerator = ell + far + rounding
    radius = _best_gamma(wrong - margin, share, numerator) if gamma is None else float(gamma)
    outside, crowded = own >= radius, wrong - margin < radius
    delta = _fraction(share, crowded)
    bound = float(numerator / radius**2 + delta)
    slack = math.sqrt(math.log(1 / alpha) / 2 * float(share @ share))
    fresh = prototypes is not None and gamma is not None
    return BoundReport(
        gamma=radius,
        delta=delta,
        ell=ell,
        ell_unbiased=unbiased,
        Delta=far,
        C1=1 / radius**2,
        C2=delta,
        rounding=rounding,
        bound=bound,
        direct=_fraction(share, outside) + delta,
        true_error=_fraction(share, wrong <= own),
        chance=float(1 - pi.max()),
        vacuous=bound >= 1,
        priors=tuple(pi.tolist()),
        margin=float(margin),
        weight_ratio=weight_ratio(weights),
        alpha=alpha,
        holdout_slack=slack,
        holdout=_fraction(share, outside | crowded) + slack if fresh else None,
        num_samples=len(own),
    )


def epsilon_margin(epsilon: float, *, lipschitz: float, radius: float, w: ArrayLike | Tensor | None = None) -> float:
    """Return ``2 (w_max / w_min) lipschitz epsilon / radius``, the margin that inputs moved by epsilon need.

    For an embedding with that Lipschitz constant and ``|z| >= radius``, moving the input by epsilon moves each ``d_c``
    by at most half of it: own distances below gamma and wrong ones of at least gamma + margin keep their order.

    Args:
        epsilon: size of the perturbation of the input.
        lipschitz: Lipschitz constant of the embedding, in the same norm as epsilon and the Euclidean norm of z.
        radius: lower bound of ``|z|`` over the inputs in question.
        w: weights ``[C, d]`` or None for ones; ``w_max / w_min`` is taken within each class, the largest counts.
    """
    name = "epsilon_margin"
    for argument, value in (("epsilon", epsilon), ("lipschitz", lipschitz)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: {argument} must be finite and at least 0, got {value!r}")
    if not radius > 0:
        raise ValueError(f"{name}: radius must be positive, got {radius!r}")
    weights = None if w is None else torch.as_tensor(w, dtype=torch.float64)
    if weights is not None and (weights.ndim != 2 or not bool(weights.isfinite().all())):
        raise ValueError(f"{name}: w must have shape [C, d] and be finite, got {list(weights.shape)}")
    return 2 * weight_ratio(weights) * lipschitz * epsilon / radius


def weight_ratio(w: Tensor | None) -> float:
    """Largest over classes of ``max |w_c| / min |w_c|``; 1 without weights."""
    return 1.0 if w is None else float((w.abs().amax(1) / w.abs().amin(1)).max())


def _best_gamma(wrong: Floats, share: Floats, numerator: float) -> float:
    """The observed ``r(x)`` with the smallest bound.

    Delta is a step function that jumps behind the observed values and the other term decreases, so each step is lowest
    at its right end. Where no r is positive every gamma has delta = 1: take 2, no two points of a ball are farther.
    """
    order = np.argsort(wrong)
    values, below = wrong[order], np.concatenate([[0.0], np.cumsum(share[order])])
    first = np.searchsorted(values, values, side="left")  # samples strictly below each value
    positive = values > 0
    if not positive.any():
        return 2.0
    bounds = numerator / values[positive] ** 2 + below[first[positive]]
    return float(values[positive][bounds.argmin()])


def _losses(pi: Floats, n: NDArray[np.int64], means: Floats, m: Floats) -> tuple[float, float, float]:
    """Loss of all pairs, loss of pairs of two samples, what the prototypes add: ell, ell_unbiased, Delta."""
    present = n > 0
    pi, n, means, m = pi[present], n[present], means[present], m[present]
    spread = (1 - (means**2).sum(1)).clip(0)
    single = bool((n[pi > 0] == 1).any())
    unbiased = math.nan if single else float(pi @ (spread * n / (n - 1).clip(1)))
    return float(pi @ spread), unbiased, float(pi @ ((means - m) ** 2).sum(1))


def _fraction(share: Floats, chosen: NDArray[np.bool_]) -> float:
    """Sum of the shares; 1 for all of them, not what their sum rounds to."""
    return 1.0 if chosen[share > 0].all() else min(1.0, float(share @ chosen))


def _priors(name: str, priors: ArrayLike | Tensor | None, counts: NDArray[np.int64]) -> Floats:
    if priors is None:
        return counts / counts.sum()
    pi = np.asarray(priors.cpu() if isinstance(priors, Tensor) else priors, dtype=np.float64)
    if pi.shape != counts.shape:
        raise ValueError(f"{name}: priors must have shape [C] = [{len(counts)}], got {list(pi.shape)}")
    if not (pi >= 0).all() or abs(pi.sum() - 1) > 1e-6:
        raise ValueError(f"{name}: priors must be non-negative with sum 1, got sum {pi.sum()}")
    if (pi[counts == 0] > 0).any():
        absent = int(np.flatnonzero((counts == 0) & (pi > 0))[0])
        raise ValueError(f"{name}: priors must be 0 for classes that y does not have, got {pi[absent]} for {absent}")
    return pi

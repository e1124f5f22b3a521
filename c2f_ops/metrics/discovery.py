"""Metrics of class discovery: clusters against fine classes, and discovered against true fine-to-coarse relations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ._integers import MOST_CELLS, Ints, labels, relation
from .relations import compare_relations

PROTOCOLS = ("heldout", "transductive")
EXTRA = 'is not installed; pip install "c2f_ops[train]"'


@dataclass(frozen=True)
class DiscoveryMetrics:
    """Values of :func:`evaluate_discovery`; None where the relation or the coarse labels they need were not given.

    Attributes:
        accuracy: share of samples whose cluster is matched to their fine class.
        macro_accuracy: mean over the fine classes that occur of the same share within the class.
        ari, nmi: adjusted Rand index; normalised mutual information (arithmetic mean).
        within_group_accuracy: accuracy when clusters are matched inside each true coarse class anew. It looks at the
            splitting alone: a cluster that crosses coarse classes may count in each of them.
        relation_accuracy: share of the fine classes that occur whose matched cluster has the right parent. Mean over
            data sets.
        group_size_error: ``sum_j |n_j - n'_j|`` with the identity of coarse classes kept. Mean over data sets.
        ged: :func:`graph_edit_distance`. Mean over data sets. Read it next to relation_accuracy only.
        used_clusters: clusters with at least one sample.
        n_true, n_pred: fine classes and clusters: sizes of the relations, without them the labels that occur.
        num_samples: samples with a known fine class; all else is left out.
        matching: for each cluster id its fine class, -1 for none.
        protocol: "heldout": samples that the method never saw. "transductive": the samples it was fitted on, with
            their coarse labels; these figures do not compare with held-out ones.
    """

    accuracy: float
    macro_accuracy: float
    ari: float
    nmi: float
    within_group_accuracy: float | None
    relation_accuracy: float | None
    group_size_error: float | None
    ged: float | None
    used_clusters: int
    n_true: int
    n_pred: int
    num_samples: int
    matching: tuple[int, ...]
    protocol: Literal["heldout", "transductive"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "matching": list(self.matching)}


def evaluate_discovery(
    y_true: ArrayLike | Tensor,
    y_pred: ArrayLike | Tensor,
    g_true: ArrayLike | Tensor | None = None,
    g_pred: ArrayLike | Tensor | None = None,
    *,
    y_coarse: ArrayLike | Tensor | None = None,
    protocol: Literal["heldout", "transductive"] = "heldout",
) -> DiscoveryMetrics:
    """Compare discovered clusters, and their parents, with the true fine classes.

    Clusters are matched to fine classes one to one so that most samples agree (Hungarian method; their numbers may
    differ). A pair without a common sample is no match. Coarse classes keep their ids.

    Args:
        y_true: integers ``[N]``, fine classes; samples with -1 are left out.
        y_pred: integers ``[N]``, cluster ids; -1 for no answer, which counts as wrong.
        g_true: true parents, integers ``[K]`` or ``[D, K]`` for D data sets; -1 for a class with no parent there.
        g_pred: parents of the clusters, integers ``[K']`` or ``[D, K']``.
        y_coarse: integers ``[N]``, true coarse classes for within_group_accuracy; by default the first row of
            ``g_true`` at ``y_true``. Samples with -1 do not take part in that metric.
        protocol: where the samples come from; recorded, see :class:`DiscoveryMetrics`.

    Returns:
        The metrics.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        ImportError: scikit-learn or SciPy is missing.

    Example:
        Three clusters for classes 0 and 1 below coarse class 0 and class 2 below coarse class 1:

        >>> m = evaluate_discovery([0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 2, 0], [0, 0, 1], [0, 1, 0])
        >>> m.matching, round(m.accuracy, 3), m.within_group_accuracy
        ((1, 0, 2), 0.833, 0.8333333333333334)
        >>> m.ged, round(m.relation_accuracy, 3)  # the same group sizes, two of three parents wrong
        (0.0, 0.333)
    """
    name = "evaluate_discovery"
    if protocol not in PROTOCOLS:
        raise ValueError(f"{name}: protocol must be one of {PROTOCOLS}, got {protocol!r}")
    truth, pred = labels(name, "y_true", y_true), labels(name, "y_pred", y_pred, y_true=y_true)
    parents, parents_pred = relation(name, "g_true", g_true), relation(name, "g_pred", g_pred)
    if g_pred is not None and g_true is None:
        raise ValueError(f"{name}: g_true must be given with g_pred, got None")
    for argument, ids, g in (("y_true", truth, parents), ("y_pred", pred, parents_pred)):
        if g is not None and ids.max(initial=-1) >= g.shape[1]:
            raise ValueError(
                f"{name}: {argument} must be below the {g.shape[1]} classes of {argument.replace('y', 'g')}, "
                f"got {ids.max()}"
            )
    if parents is not None and parents_pred is not None and len(parents) != len(parents_pred):
        raise ValueError(f"{name}: g_pred must have the {len(parents)} data sets of g_true, got {len(parents_pred)}")
    coarse = None
    if y_coarse is not None:
        coarse = labels(name, "y_coarse", y_coarse, y_true=y_true)
    elif parents is not None:
        coarse = np.where(truth >= 0, parents[0][truth.clip(0)], -1) if parents.size else np.full_like(truth, -1)
    known = truth >= 0
    truth, pred, coarse = truth[known], pred[known], None if coarse is None else coarse[known]
    if not len(truth):
        raise ValueError(f"{name}: y_true must hold at least one sample with a known class, got none")

    table = _contingency(truth, pred, *(0 if g is None else g.shape[1] for g in (parents, parents_pred)))
    matching = _match(table)
    right = np.append(matching, -1)[pred] == truth  # pred -1 reads the appended -1
    occurs = np.bincount(truth, minlength=table.shape[1])
    share = np.bincount(truth, right, len(occurs))[occurs > 0] / occurs[occurs > 0]
    metrics = _sklearn_metrics(name)
    within, relations = None, None
    if coarse is not None and (coarse >= 0).any():
        within = _within(truth, pred, coarse)
    if parents is not None and parents_pred is not None:
        relations = compare_relations(parents, parents_pred, matching, occurs > 0)
    return DiscoveryMetrics(
        accuracy=float(right.mean()),
        macro_accuracy=float(share.mean()),
        ari=float(metrics.adjusted_rand_score(truth, pred)),
        nmi=float(metrics.normalized_mutual_info_score(truth, pred)),
        within_group_accuracy=within,
        relation_accuracy=None if relations is None else relations[0],
        group_size_error=None if relations is None else relations[1],
        ged=None if relations is None else relations[2],
        used_clusters=len(np.unique(pred[pred >= 0])),
        n_true=int((occurs > 0).sum()) if parents is None else parents.shape[1],
        n_pred=len(np.unique(pred[pred >= 0])) if parents_pred is None else parents_pred.shape[1],
        num_samples=len(truth),
        matching=tuple(matching.tolist()),
        protocol=protocol,
    )


def match_classes(y_true: ArrayLike | Tensor, y_pred: ArrayLike | Tensor) -> Ints:
    """Return for each cluster id the fine class matched to it (int64 ``[K']``, -1 for none): most samples agree.

    Args:
        y_true: integers ``[N]``, fine classes; samples with -1 are left out.
        y_pred: integers ``[N]``, cluster ids; -1 for no answer.
    """
    truth = labels("match_classes", "y_true", y_true)
    pred = labels("match_classes", "y_pred", y_pred, y_true=y_true)
    return _match(_contingency(truth[truth >= 0], pred[truth >= 0]))


def clustering_accuracy(y_true: ArrayLike | Tensor, y_pred: ArrayLike | Tensor) -> float:
    """Return the share of samples whose cluster is matched to their class, over the best one-to-one matching.

    Args:
        y_true: integers ``[N]``, classes; samples with -1 are left out.
        y_pred: integers ``[N]``, cluster ids, any number of them; -1 for no answer, which counts as wrong.
    """
    truth = labels("clustering_accuracy", "y_true", y_true)
    pred = labels("clustering_accuracy", "y_pred", y_pred, y_true=y_true)[truth >= 0]
    truth = truth[truth >= 0]
    if not len(truth):
        raise ValueError("clustering_accuracy: y_true must hold at least one sample with a known class, got none")
    return float((np.append(_match(_contingency(truth, pred)), -1)[pred] == truth).mean())


def _within(truth: Ints, pred: Ints, coarse: Ints) -> float:
    """Share of samples right when clusters are matched inside each coarse class."""
    hits = 0
    for group in np.unique(coarse[coarse >= 0]):
        inside = (coarse == group) & (pred >= 0)
        rows, columns = (np.unique(ids[inside], return_inverse=True)[1] for ids in (pred, truth))
        table = _contingency(columns, rows)
        matching = _match(table)
        hits += int(table[np.flatnonzero(matching >= 0), matching[matching >= 0]].sum())
    return hits / int((coarse >= 0).sum())


def _contingency(truth: Ints, pred: Ints, num_true: int = 0, num_pred: int = 0) -> Ints:
    """Counts ``[clusters, classes]``; samples without an answer are in none."""
    rows, columns = (max(n, int(ids.max(initial=-1)) + 1) for n, ids in ((num_pred, pred), (num_true, truth)))
    if rows * columns > MOST_CELLS:
        raise ValueError(
            f"discovery metrics: y_true and y_pred must number classes from 0 (np.unique does), got ids up to "
            f"{columns - 1} and {rows - 1}"
        )
    answered = pred >= 0
    return np.bincount(pred[answered] * columns + truth[answered], minlength=rows * columns).reshape(rows, columns)


def _match(table: Ints) -> Ints:
    """Class matched to each cluster, -1 for none or for a pair without a common sample."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError(f"discovery metrics: scipy {EXTRA}") from None
    rows, columns = linear_sum_assignment(table, maximize=True)
    matching = np.full(len(table), -1)
    matching[rows] = np.where(table[rows, columns] > 0, columns, -1)
    return matching


def _sklearn_metrics(name: str) -> Any:
    try:
        from sklearn import metrics
    except ImportError:
        raise ImportError(f"{name}: scikit-learn {EXTRA}") from None
    return metrics

"""Label-free inference with class weights: one prototype for each class, and the distances to them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._embeddings import Array, Rows, chunks, class_labels, class_rows, class_weights, device_of, rows, unit

Kind = Literal["mean", "unit"]
KINDS = ("mean", "unit")


def class_attentive_prototypes(
    z: Array, y: Array, w: Array | None = None, *, num_classes: int | None = None, kind: Kind = "mean"
) -> NDArray[np.float64] | Tensor:
    """Return the prototype of each class, ``mu_c = mean over the samples of class c of u_c(x)``.

    ``u_c(x) = z * w_c / |z * w_c|``, 0 where ``z * w_c`` is 0. One pass, float64, whatever the type of z.

    Args:
        z: embeddings ``[N, d]``.
        y: integers ``[N]``; samples with a negative label are left out.
        w: weights ``[C, d]``, a row for each class, or None for ones. The scale of a row has no influence.
        num_classes: C; by default the rows of w, without w the largest label plus one.
        kind: ``"mean"`` as above, ``"unit"`` for ``mu_c / |mu_c|`` (0 where mu_c is 0).

    Returns:
        float64 ``[C, d]``, an array for an array and a tensor for a tensor; NaN in the row of a class without samples.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    name = "class_attentive_prototypes"
    array = rows(name, z)
    weights, classes = _classes(name, w, array, num_classes)
    labels = class_labels(name, y, len(array), classes)
    means = class_means(name, array, labels, weights, classes or int(labels.max()) + 1)[0]
    return _as(z, of_kind(name, means, kind))


def class_attentive_scores(z: Array, w: Array | None, prototypes: Array) -> NDArray[np.float64] | Tensor:
    """Return the score of each class, ``-|u_c(x) - m_c|^2``; no label is needed, argmax is the prediction.

    Computed as ``2 <z, w_c * m_c> / |z * w_c| - |m_c|^2 - 1`` by two matrix products in float64; the largest
    intermediate is a chunk of ``[n, C]``.

    Args:
        z: embeddings ``[N, d]``.
        w: weights ``[C, d]`` or None for ones.
        prototypes: m, ``[C, d]``; a row of NaN is a class without samples, whose score is ``-inf``.

    Returns:
        float64 ``[N, C]``, at most 0, an array for an array and a tensor for a tensor.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    name = "class_attentive_scores"
    array = rows(name, z)
    weights, classes = _classes(name, w, array, None)
    heads = heads_of(name, prototypes, weights, array, classes)
    out = torch.empty((len(array), len(heads.square)), dtype=torch.float64, device=device_of(array))
    for part, chunk in chunks(name, array, array.shape[1] + 2 * len(heads.square)):
        out[part] = -squared_distances(chunk, heads)
    return _as(z, out)


def own_and_wrong_distances(
    z: Array, y: Array, w: Array | None, prototypes: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``d_y(x)`` and ``r(x) = min over c != y of d_c(x)``, with ``d_c(x) = |u_c(x) - m_c|``.

    The two quantities that the error bound is made of; a sample is classified correctly where ``d_y < r``.

    Args:
        z: embeddings ``[N, d]``.
        y: integers ``[N]``; samples with a negative label are left out.
        w: weights ``[C, d]`` or None for ones.
        prototypes: m, ``[C, d]``, as for :func:`class_attentive_scores`.

    Returns:
        Two arrays, float64 ``[n]`` over the n labelled samples in their order.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    name = "own_and_wrong_distances"
    array = rows(name, z)
    weights, classes = _classes(name, w, array, None)
    heads = heads_of(name, prototypes, weights, array, classes)
    labels = class_labels(name, y, len(array), len(heads.square))
    own, wrong = own_and_wrong_squares(name, array, labels, heads)
    return np.sqrt(own), np.sqrt(wrong)


class Heads(NamedTuple):
    """What the two matrix products need: ``w_c^2`` (None for ones), ``w_c * m_c``, ``|m_c|^2`` (inf: no class)."""

    weight_square: Tensor | None
    weighted: Tensor
    square: Tensor


def heads_of(name: str, prototypes: Array, weights: Tensor | None, like: Rows, classes: int | None) -> Heads:
    """Prototypes ready for :func:`squared_distances`."""
    m = class_rows(name, "prototypes", prototypes, like, classes)
    absent = m.isnan().all(1)
    if not bool((m.isfinite().all(1) | absent).all()):
        raise ValueError(f"{name}: prototypes must be finite, or NaN in a whole row for a class without samples")
    m = m.nan_to_num(nan=0.0)
    square = m.square().sum(1).masked_fill(absent, torch.inf)
    return Heads(None, m, square) if weights is None else Heads(weights.square(), weights * m, square)


def squared_distances(z: Tensor, heads: Heads) -> Tensor:
    """``|u_c(x) - m_c|^2`` ``[n, C]`` for a chunk ``[n, d]``: ``|u|^2 + |m|^2 - 2 <u, m>``, where ``|u|`` is 1 or 0."""
    z = z / z.abs().amax(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    squares = z.square()
    norm = (squares.sum(1, keepdim=True) if heads.weight_square is None else squares @ heads.weight_square.T).sqrt()
    cosine = z @ heads.weighted.T / torch.where(norm > 0, norm, 1.0)
    return ((norm > 0) + heads.square - 2 * cosine).clamp_min(0)


def own_and_wrong_squares(
    name: str, array: Rows, labels: Tensor, heads: Heads
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``d_y^2`` and ``r^2`` of the labelled samples, float64 ``[n]`` each."""
    own, wrong = [], []
    for part, chunk in chunks(name, array, array.shape[1] + 2 * len(heads.square)):
        known = labels[part] >= 0
        index = labels[part][known][:, None].to(chunk.device)
        squares = squared_distances(chunk[known.to(chunk.device)], heads)
        own.append(squares.gather(1, index)[:, 0].cpu())
        wrong.append(squares.scatter(1, index, torch.inf).amin(1).cpu())
    return torch.cat(own).numpy(), torch.cat(wrong).numpy()


def class_means(name: str, array: Rows, labels: Tensor, weights: Tensor | None, classes: int) -> tuple[Tensor, Tensor]:
    """Mean of u_c over each class, float64 ``[C, d]`` with NaN for an empty class, and the counts ``[C]``."""
    sums = torch.zeros((classes, array.shape[1]), dtype=torch.float64, device=device_of(array))
    for part, chunk in chunks(name, array, 2 * array.shape[1]):
        known = labels[part] >= 0
        index = labels[part][known].to(chunk.device)
        chunk = chunk[known.to(chunk.device)]
        sums.index_add_(0, index, unit(chunk if weights is None else unit(chunk) * weights[index]))
    counts = torch.bincount(labels[labels >= 0], minlength=classes).to(sums.device)
    return sums / counts[:, None], counts


def of_kind(name: str, means: Tensor, kind: str) -> Tensor:
    """Prototypes of a kind from the class means."""
    if kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {KINDS}, got {kind!r}")
    return means if kind == "mean" else unit(means)


def _classes(name: str, w: Array | None, array: Rows, num_classes: int | None) -> tuple[Tensor | None, int | None]:
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise ValueError(f"{name}: num_classes must be a positive int, got {num_classes!r}")
    weights = class_weights(name, w, array, num_classes)
    return weights, num_classes if weights is None else len(weights)


def _as(like: Array, values: Tensor) -> NDArray[np.float64] | Tensor:
    return values if isinstance(like, Tensor) else values.cpu().numpy()

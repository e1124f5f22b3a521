"""Evaluation: discovered classes against the true ones on images that training never saw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...metrics import evaluate_discovery
from ...models import Falcon
from .config import FalconRun
from .data import CoarseImages, Truth
from .start import Start, apply_in_eval


@torch.no_grad()
def predict_logits(falcon: Falcon, images: Tensor, run: FalconRun, *, batch: int = 256) -> Tensor:
    """Logits float32 ``[N, K_F]`` of whole images uint8 ``[N, 3, S, S]``, on the CPU. Coarse labels play no part."""
    return apply_in_eval(falcon, falcon, images, run, batch)


def evaluate_logits(logits: Tensor, relations: Tensor, data: CoarseImages, truth: Truth | None) -> dict[str, Any]:
    """Measure predictions ``[N, K_F]`` and relations ``[D, K_F]`` on held-out images.

    Returns:
        JSON data: the fields of `c2f_ops.DiscoveryMetrics` where fine classes are known; ``coarse_accuracy`` of the sum
        of probabilities under each coarse class, a number for each taxonomy; used clusters; the protocol.
    """
    predicted = logits.argmax(1)
    coarse = []
    for d, count in enumerate(data.num_coarse):
        mass = torch.zeros(len(logits), count).index_add_(1, relations[d].long(), logits.softmax(1))
        known = data.y[:, d] >= 0
        coarse.append(float((mass.argmax(1) == data.y[:, d])[known].float().mean()) if known.any() else None)
    return {**discovery(predicted, relations, data, truth), "coarse_accuracy": coarse}


def discovery(predicted: Tensor, relations: Tensor, data: CoarseImages, truth: Truth | None) -> dict[str, Any]:
    """The metrics of class discovery, held out; without fine classes the used clusters alone."""
    if truth is None:
        return {"used_clusters": len(predicted.unique()), "n_pred": relations.shape[1], "protocol": "heldout"}
    return evaluate_discovery(
        truth.fine, predicted, truth.relations, relations.long(), y_coarse=data.y[:, 0], protocol="heldout"
    ).to_dict()


def compare(start: Start, data: CoarseImages, truth: Truth | None) -> dict[str, Any]:
    """Measure what FALCON is compared with, on the test images.

    Returns:
        JSON data, each None where it cannot be had. ``kmeans``: the nearest centre. ``heads``: classifiers of a coarse
        start, one for each taxonomy; the combinations of their answers are the classes. ``largest``: the share of
        images of the largest fine class of their coarse class, which is what naming it would get right if the coarse
        class were always known; of the taxonomy where that is most.
    """
    kmeans = discovery(start.clusters, start.relations, data, truth) if len(start.clusters) else None
    heads = None
    if len(start.coarse):
        met, combined = start.coarse.unique(dim=0, return_inverse=True)
        heads = discovery(combined, met.t(), data, truth)
    return {"kmeans": kmeans, "heads": heads, "largest": None if truth is None else _largest(truth)}


def _largest(truth: Truth) -> float:
    counts = truth.fine[truth.fine >= 0].bincount(minlength=truth.relations.shape[1])
    best = 0
    for parents in truth.relations:
        known = parents >= 0
        groups = torch.zeros(int(parents.max()) + 1, dtype=torch.int64)
        best = max(best, int(groups.scatter_reduce(0, parents[known], counts[known], "amax").sum()))
    return best / int(counts.sum())

"""Features of images, and what they are worth to a nearest-neighbour vote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data import LabeledImages
from .model import SimCLR


@torch.no_grad()
def embed(model: SimCLR, images: Tensor, *, batch_size: int = 512, precision: str = "fp32") -> Tensor:
    """Images uint8 ``[N, 3, S, S]``, whole and unchanged -> features float32 ``[N, d]`` of the backbone, on the CPU."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    with torch.autocast(device.type, dtype=kind, enabled=precision in ("bf16", "fp16")):
        parts = [model.embed(part.to(device)).float().cpu() for part in images.split(batch_size)]
    model.train(training)
    return torch.cat(parts)


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, wanted: Tensor, *, k: int = 20) -> float:
    """Share of queries whose k nearest rows of the bank, by cosine, mostly have the label wanted.

    Args:
        bank: ``[N, d]``.
        labels: of the bank, ``[N]``, 0 or more.
        queries: ``[M, d]``.
        wanted: their labels, ``[M]``.
        k: neighbours; all of the bank where it has fewer. Of equal counts the lowest label wins.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).t()
    nearest = labels[similarity.topk(min(k, len(bank))).indices]
    votes = F.one_hot(nearest, int(labels.max()) + 1).sum(1)
    return float((votes.argmax(1) == wanted).float().mean())


def write_features(path: str | os.PathLike[str], features: Tensor, dataset: LabeledImages) -> None:
    """Write features and labels as an ``.npz`` without pickles, at once or not at all.

    Keys: ``X`` float32 ``[N, d]``; ``coarse``, ``fine`` int64 ``[N]``, the first and the last level, -1 unknown; ``id``
    ``[N]``; ``coarse_names``, ``fine_names``; ``fine_to_coarse`` int64 ``[K_F]``, for evaluation alone. They are those
    that `c2f_ops.data.embeddings.load_embeddings` and `c2f discover` look for.
    """
    if len(features) != len(dataset):
        raise ValueError(f"write_features: features must be {len(dataset)} rows, one per image, got {len(features)}")
    hierarchy = dataset.hierarchy
    arrays: dict[str, Any] = {
        "X": features.numpy().astype(np.float32, copy=False),
        "coarse": dataset.labels[:, 0].numpy(),
        "fine": dataset.labels[:, -1].numpy(),
        "id": _strings(dataset.ids),
        "coarse_names": _strings(hierarchy.names[0]),
        "fine_names": _strings(hierarchy.names[-1]),
        "fine_to_coarse": hierarchy.from_fine(torch.arange(hierarchy.sizes[-1]))[:, 0].numpy(),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, target)


def _strings(names: Sequence[str]) -> np.ndarray:
    return np.asarray(list(names), dtype=np.str_)

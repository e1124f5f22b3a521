"""The class-attentive contrastive loss as a module that may own the class weights and a queue of keys."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import class_attentive_loss
from ..nn import ClassAttention
from ._mined import mined_loss

_EMPTY = -2  # label of a place of the queue that holds nothing


class ClassAttentiveLoss(nn.Module):
    """`c2f_ops.class_attentive_loss` with its class weights, called as losses of pytorch-metric-learning are.

    Args:
        num_classes: C.
        dim: Width d of the embeddings.
        attention: "table", "embedding" or "identity", see `c2f_ops.nn.ClassAttention`; or such a module, for instance
            that of a `ClassAttentiveEncoder`, whose weights are then learned here and used there.
        mode, temperature, margin, negative_weight, level_weights, hard_coarse_weight, unlabelled_as_keys, group,
            backend: as for `c2f_ops.class_attentive_loss`.
        concentration_weight: Weight of the penalty on attention that concentrates on few features.
        queue_size: Embeddings of earlier batches that are kept as keys, detached.

    Attributes:
        attention: The `ClassAttention`.

    Source: Fine-Grained Classification via Class-Attentive Contrastive Representation Learning; with the negatives that
    the printed loss lacks (docs/ops/class_attentive_loss.md).
    """

    queue: Tensor
    queue_labels: Tensor
    queue_next: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        attention: str | ClassAttention = "table",
        mode: str = "supcon",
        temperature: float = 0.1,
        margin: float = 0.5,
        negative_weight: float = 1.0,
        level_weights: Sequence[float] | None = None,
        hard_coarse_weight: float = 1.0,
        unlabelled_as_keys: bool = False,
        concentration_weight: float = 0.0,
        queue_size: int = 0,
        group: Any = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if mode == "paper":
            warnings.warn(
                "ClassAttentiveLoss: mode='paper' is the loss as printed: it has no negatives, and every constant "
                "embedding minimises it; mode='supcon' is the one that works",
                stacklevel=2,
            )
        if isinstance(attention, ClassAttention):
            if (attention.num_classes, attention.dim) != (num_classes, dim):
                raise ValueError(
                    f"ClassAttentiveLoss: attention must be for {num_classes} classes of width {dim}, "
                    f"got {attention.num_classes} of width {attention.dim}"
                )
            self.attention = attention
        else:
            self.attention = ClassAttention(
                num_classes, dim, kind=attention, bound="none" if mode == "paper" else "sigmoid"
            )
        if queue_size < 0:
            raise ValueError(f"ClassAttentiveLoss: queue_size must not be negative, got {queue_size}")
        self.mode, self.temperature, self.margin, self.negative_weight = mode, temperature, margin, negative_weight
        self.level_weights, self.hard_coarse_weight = level_weights, hard_coarse_weight
        self.unlabelled_as_keys, self.concentration_weight = unlabelled_as_keys, concentration_weight
        self.group, self.backend = group, backend
        levels = 1 if level_weights is None else len(level_weights)
        self.register_buffer("queue", torch.zeros(queue_size, dim))
        self.register_buffer("queue_labels", torch.full((queue_size, levels), _EMPTY))
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            embeddings: ``[B, d]``; or ``[B, V, d]``, V views of each sample, which are positives of each other.
            labels: ``[B]`` or ``[B, K]`` int64, -1 for unknown.
            indices_tuple: Pairs that a miner chose, ``(a1, p, a2, n)``, or triplets ``(a, p, n)``: only they count.
                They take memory of batch x keys.
            ref_emb: ``[N, d]`` embeddings to compare with, in place of the batch.
            ref_labels: Their labels.
        """
        if embeddings.ndim == 3:
            labels = labels.repeat_interleave(embeddings.shape[1], 0)
            embeddings = embeddings.flatten(0, 1)
        if ref_emb is embeddings:
            ref_emb = ref_labels = None
        w = self.attention()
        if indices_tuple is not None:
            loss = mined_loss(
                embeddings, labels, w, indices_tuple, ref_emb, mode=self.mode, temperature=self.temperature,
                margin=self.margin, negative_weight=self.negative_weight,
            )  # fmt: skip
        else:
            queued = len(self.queue) > 0
            loss = class_attentive_loss(
                embeddings, labels, w, mode=self.mode, temperature=self.temperature, margin=self.margin,
                negative_weight=self.negative_weight, level_weights=self.level_weights,
                hard_coarse_weight=self.hard_coarse_weight, unlabelled_as_keys=self.unlabelled_as_keys,
                keys=ref_emb, key_labels=ref_labels, queue=self.queue if queued else None,
                queue_labels=self.queue_labels if queued else None, group=self.group, backend=self.backend,
            )  # fmt: skip
            if queued and self.training:
                self._enqueue(embeddings.detach(), labels)
        if self.concentration_weight:
            loss = loss + self.concentration_weight * self.attention.concentration().to(loss.device)
        return loss

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor, labels: Tensor) -> None:
        """Put a batch in the place of the oldest, without waiting for the device."""
        size = len(self.queue)
        embeddings, labels = embeddings[-size:], labels[-size:].reshape(len(labels[-size:]), -1)
        places = (self.queue_next + torch.arange(len(labels), device=labels.device)) % size
        self.queue[places] = embeddings.to(self.queue.dtype)
        self.queue_labels[places] = labels
        self.queue_next.copy_((self.queue_next + len(labels)) % size)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"mode={self.mode!r}, temperature={self.temperature}, margin={self.margin}, "
            f"negative_weight={self.negative_weight}, queue_size={len(self.queue)}, backend={self.backend!r}"
        )

"""Class attention: one bounded weight vector for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("table", "embedding", "identity")
BOUNDS = ("sigmoid", "softmax", "softplus", "none")


class ClassAttention(nn.Module):
    """Weights ``[C, d]`` of the classes over the features of an embedding, the module g of the paper.

    Only directions count, so what matters is the ratio of largest to smallest weight: without a lower bound a single
    feature can take it all, and every similarity is 1.

    Args:
        num_classes: C.
        dim: d.
        kind: "table", a free parameter for each weight; "embedding", an embedding of each class through a perceptron,
            so that classes share strength; "identity", all weights 1: the plain contrastive baseline, nothing to learn.
        bound: "sigmoid" into ``[w_min, w_max]``; "softmax" of mean 1 and at least ``w_min``; "softplus" from ``w_min``
            up to ``w_max``; "none", as printed in the paper.
        w_min: Smallest weight, greater than 0.
        w_max: Largest weight, of "sigmoid" and "softplus".
        parents: ``[C]`` for "embedding": the coarse class of each class, whose embedding is added to its own.
        embedding_dim: Width of the class embeddings.
        hidden: Width of the perceptron.

    Source: Fine-Grained Classification via Class-Attentive Contrastive Representation Learning, section 3.
    """

    parents: Tensor | None

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        kind: str = "table",
        bound: str = "sigmoid",
        w_min: float = 0.05,
        w_max: float = 2.0,
        parents: Sequence[int] | Tensor | None = None,
        embedding_dim: int = 32,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("kind", kind, KINDS), ("bound", bound, BOUNDS)):
            if value not in allowed:
                raise ValueError(f"ClassAttention: {name} must be one of {allowed}, got {value!r}")
        for name, count in (("num_classes", num_classes), ("dim", dim)):
            if count < 1:
                raise ValueError(f"ClassAttention: {name} must be at least 1, got {count!r}")
        if not 0 < w_min < w_max < math.inf or (bound == "softmax" and w_min >= 1):
            raise ValueError(
                f"ClassAttention: w_min must be greater than 0 and below w_max (below 1 with bound='softmax'), "
                f"got {w_min!r} and {w_max!r}"
            )
        if parents is not None and (kind != "embedding" or len(parents) != num_classes):
            raise ValueError(
                f"ClassAttention: parents must be {num_classes} coarse classes, with kind='embedding', "
                f"got {len(parents)} with kind={kind!r}"
            )
        self.num_classes, self.dim, self.kind, self.bound = num_classes, dim, kind, bound
        self.w_min, self.w_max = w_min, w_max
        self.register_buffer("parents", None if parents is None else torch.as_tensor(parents, dtype=torch.int64))
        if kind == "table":
            start = 1.0 if bound == "none" else 0.0
            self.logits = nn.Parameter(start + 0.01 * torch.randn(num_classes, dim))
        elif kind == "embedding":
            self.classes = nn.Embedding(num_classes, embedding_dim)
            if self.parents is not None:
                self.coarse = nn.Embedding(int(self.parents.max()) + 1, embedding_dim)
            self.perceptron = nn.Sequential(nn.Linear(embedding_dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
            last = self.perceptron[-1]
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=0.01 / math.sqrt(hidden))
            nn.init.constant_(last.bias, 1.0 if bound == "none" else 0.0)

    def forward(self) -> Tensor | None:
        """Weights ``[C, d]``; None for "identity", which `c2f_ops.class_attentive_loss` takes for all 1."""
        if self.kind == "identity":
            return None
        return self._bounded(self.logits if self.kind == "table" else self.perceptron(self._embeddings()))

    def weights(self) -> Tensor:
        """Weights ``[C, d]``, detached, of 1 for "identity"."""
        w = self()
        return torch.ones(self.num_classes, self.dim) if w is None else w.detach()

    def concentration(self, floor: float = 0.25) -> Tensor:
        """Penalty: by how much the entropy of ``w^2 / sum w^2`` is below ``log(floor d)``, on average over classes."""
        w = self()
        if w is None:
            return torch.zeros(())
        share = w.square() / w.square().sum(1, keepdim=True)
        entropy = -torch.special.xlogy(share, share).sum(1)
        return (math.log(max(1.0, floor * self.dim)) - entropy).clamp(min=0).mean()

    def _embeddings(self) -> Tensor:
        own = self.classes.weight
        return own if self.parents is None else own + self.coarse(self.parents)

    def _bounded(self, a: Tensor) -> Tensor:
        if self.bound == "sigmoid":
            return self.w_min + (self.w_max - self.w_min) * a.sigmoid()
        if self.bound == "softmax":
            return self.w_min + (1 - self.w_min) * self.dim * a.softmax(1)
        if self.bound == "softplus":
            return self.w_min + F.softplus(a).clamp(max=self.w_max - self.w_min)
        return a

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"num_classes={self.num_classes}, dim={self.dim}, kind={self.kind!r}, bound={self.bound!r}, "
            f"w_min={self.w_min}, w_max={self.w_max}"
        )

"""An encoder whose classes attend to features of their own, and its inference without labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from ..metrics import class_attentive_prototypes
from ..nn import ClassAttention

PROTOTYPES = ("mean", "unit")


class ClassAttentiveEncoder(nn.Module):
    """A backbone, a weight vector for each class over its embedding, and a prototype for each class.

    Train ``forward`` with `c2f_ops.losses.ClassAttentiveLoss(..., attention=model.attention)`, then `fit_prototypes`.
    Inference scores each class with its own weights against its own prototype, and needs no label:
    ``score_c(x) = -|u_c(x) - mu_c|^2``, ``u_c(x) = z o w_c / |z o w_c|``.

    Args:
        backbone: Maps inputs to ``[B, in_features]``.
        num_classes: C.
        dim: Width d of the embedding.
        in_features: Width of the backbone's output, for a linear projection to ``dim``; None: the backbone has width d.
        attention: "table", "embedding" or "identity" (the plain contrastive baseline), or a `ClassAttention`.
        prototype: "mean" of u_c over the training samples of c, or that mean at "unit" length.

    Attributes:
        attention: `ClassAttention`.
        prototypes: ``[C, d]``, NaN until `fit_prototypes`.

    Source: Fine-Grained Classification via Class-Attentive Contrastive Representation Learning, section 3; the
    inference rule is ours (docs/models/contrastive_bound.md).
    """

    prototypes: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        dim: int,
        *,
        in_features: int | None = None,
        attention: str | ClassAttention = "table",
        prototype: Literal["mean", "unit"] = "mean",
    ) -> None:
        super().__init__()
        if prototype not in PROTOTYPES:
            raise ValueError(f"ClassAttentiveEncoder: prototype must be one of {PROTOTYPES}, got {prototype!r}")
        self.backbone, self.num_classes, self.dim = backbone, num_classes, dim
        self.prototype: Literal["mean", "unit"] = prototype
        self.projection = nn.Identity() if in_features is None else nn.Linear(in_features, dim)
        self.attention = (
            attention if isinstance(attention, ClassAttention) else ClassAttention(num_classes, dim, kind=attention)
        )
        self.register_buffer("prototypes", torch.full((num_classes, dim), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings ``[B, d]``."""
        return self.projection(self.backbone(x))

    @torch.no_grad()
    def fit_prototypes(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the prototypes from batches of inputs and labels, in eval mode."""
        was = self.training
        self.eval()
        device = self.prototypes.device
        parts = [(self(x.to(device)).float(), y.to(device)) for x, y in batches]
        self.train(was)
        z, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        found = class_attentive_prototypes(z, y, self.attention(), num_classes=self.num_classes, kind=self.prototype)
        self.prototypes.copy_(torch.as_tensor(found))

    def scores(self, x: Tensor) -> Tensor:
        """``[B, C]``: minus the squared distance of u_c(x) from the prototype of c, ``-inf`` without one."""
        z, w, missing = self(x).float(), self.attention(), self.prototypes.isnan().any(1)
        mu = self.prototypes.nan_to_num(nan=0.0)
        v = torch.ones_like(mu) if w is None else w.square()
        norm = (z.square() @ v.T).clamp(min=1e-12).sqrt()
        score = 2 * (z @ (v.sqrt() * mu).T) / norm - mu.square().sum(1) - 1
        return score.masked_fill(missing, -torch.inf)

    def predict(self, x: Tensor) -> Tensor:
        """``[B]`` class of the highest score; ties go to the lowest class."""
        return self.scores(x).argmax(1)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"num_classes={self.num_classes}, dim={self.dim}, prototype={self.prototype!r}"


class PolarRadii(nn.Module):
    """Radii of points given as ``[B, 2 n]`` interleaved coordinates, repeated to ``[B, 2 n]``: blind to rotation."""

    def forward(self, x: Tensor) -> Tensor:
        """``sqrt(x_k^2 + y_k^2)``, twice."""
        radii = x.unflatten(1, (-1, 2)).norm(dim=2)
        return torch.cat([radii, radii], 1)


def perceptron(in_features: int, hidden: Iterable[int], dim: int, *, batch_norm: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between, the last of width ``dim``."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), *([nn.BatchNorm1d(width)] if batch_norm else []), nn.ReLU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, dim))

"""Average, maximum and generalised mean of each channel: the base lines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .protocol import Pool, Positions


class AveragePool(Pool):
    """Mean of each channel over the positions, ``mean_i x_i``.

    Args:
        in_channels: Channels C of the map, also the width of the result.
        layout, num_prefix_tokens: as for `c2f_ops.multilinear_pool`.

    Source: Network In Network (ICLR 2014).
    """

    def __init__(self, in_channels: int, *, layout: str = "NCHW", num_prefix_tokens: int = 0) -> None:
        super().__init__(in_channels, in_channels, layout=layout, num_prefix_tokens=num_prefix_tokens)

    def _pool(self, at: Positions) -> Tensor:
        return at.mean(at.maps[0])


class MaxPool(Pool):
    """Maximum of each channel over the positions, ``max_i x_i``; ties share the gradient.

    A float mask selects the positions where it is greater than 0.

    Args:
        in_channels: Channels C of the map, also the width of the result.
        layout, num_prefix_tokens: as for `c2f_ops.multilinear_pool`.

    Source: Particular Object Retrieval with Integral Max-Pooling of CNN Activations (ICLR 2016), "MAC".
    """

    def __init__(self, in_channels: int, *, layout: str = "NCHW", num_prefix_tokens: int = 0) -> None:
        super().__init__(in_channels, in_channels, layout=layout, num_prefix_tokens=num_prefix_tokens)

    def _pool(self, at: Positions) -> Tensor:
        x = at.maps[0]
        if at.weights is None:
            return x.amax(1)
        kept = at.weights > 0
        return torch.where(kept.any(1), torch.where(kept, x, -torch.inf).amax(1), 0.0)


class GeMPool(Pool):
    """Generalised mean of each channel, ``(mean_i max(x_i, eps)^p)^(1/p)``.

    The average at p = 1, close to the maximum at large p. Each channel is divided by its maximum before the power and
    multiplied afterwards, which changes no value and keeps large p from overflow and channels of zeros from 0^p.

    Args:
        in_channels: Channels C of the map, also the width of the result.
        p: Power at the start, greater than 0.
        learn: Make p a parameter (one for all channels); otherwise it is a buffer.
        eps: Smallest value; what is below, negatives included, counts as this.
        layout, num_prefix_tokens: as for `c2f_ops.multilinear_pool`.

    Source: Fine-tuning CNN Image Retrieval with No Human Annotation (TPAMI 2019), section 3.2.
    """

    p: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        p: float = 3.0,
        learn: bool = True,
        eps: float = 1e-6,
        layout: str = "NCHW",
        num_prefix_tokens: int = 0,
    ) -> None:
        super().__init__(in_channels, in_channels, layout=layout, num_prefix_tokens=num_prefix_tokens)
        for name, value in (("p", p), ("eps", eps)):
            if not 0 < value < float("inf"):
                raise ValueError(f"GeMPool: {name} must be finite and greater than 0, got {value!r}")
        self.eps = eps
        if learn:
            self.p = nn.Parameter(torch.tensor(float(p)))
        else:
            self.register_buffer("p", torch.tensor(float(p)))

    def _pool(self, at: Positions) -> Tensor:
        x = at.maps[0].clamp(min=self.eps)
        if at.weights is not None:
            x = torch.where(at.weights > 0, x, self.eps)
        top = x.amax(1, keepdim=True).detach()
        p = self.p.to(x.dtype)
        mean = at.mean((x / top) ** p)
        some = at.count > 0
        return torch.where(some, torch.where(some, mean, 1.0) ** (1 / p) * top.squeeze(1), 0.0)

    def extra_repr(self) -> str:
        """Show the configuration."""
        return f"{super().extra_repr()}, p={self.p.item():g}, learn={self.p.requires_grad}, eps={self.eps:g}"

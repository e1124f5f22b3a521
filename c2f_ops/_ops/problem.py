"""What ops and rooms agree on: the printable summary of a `multilinear_pool` call, the outputs of `falcon_loss`.

Kernel choices and plans depend on the summary alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Sizes and kinds of one call, no tensors.

    ``layout`` is "positions" where positions are contiguous (NCHW maps), "channels" where channels are (NHWC, NLC),
    else "strided"; "strided" too where the features differ.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int
    positions: int
    width: int
    channels: tuple[int, ...]
    interactions: tuple[tuple[int, ...], ...]
    activation: str = "none"
    mask: str = "none"
    mask_grad: bool = False
    layout: str = "positions"
    op: str = "multilinear_pool"

    @classmethod
    def of(
        cls,
        features: Sequence[Tensor],
        weights: Sequence[Tensor],
        mask: Tensor | None,
        interactions: Sequence[Sequence[int]],
        activation: str,
        mask_grad: bool = False,
    ) -> Problem:
        """Summary of operands as a room receives them: features ``[B, L, C_m]``, weights ``[C_m, D]``."""
        first = features[0]
        layout = layout_of(first)
        return cls(
            device=first.device,
            dtype=first.dtype,
            batch=first.shape[0],
            positions=first.shape[1],
            width=weights[0].shape[1],
            channels=tuple(x.shape[2] for x in features),
            interactions=tuple(tuple(t) for t in interactions),
            activation=activation,
            mask="none" if mask is None else "bool" if mask.dtype == torch.bool else "float",
            mask_grad=mask_grad,
            layout=layout if all(layout_of(x) == layout for x in features) else "strided",
        )


def layout_of(x: Tensor) -> str:
    """Which dimension of a feature ``[B, L, C]`` is contiguous."""
    if x.stride(1) == 1:
        return "positions"
    return "channels" if x.stride(2) == 1 else "strided"


def falcon_loss_outputs(z: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Unwritten value ``[B]``, terms ``[B, 3]``, mass ``[K_F]``, lse ``[B]`` and grad, ``[B, K_F]`` or ``[0, K_F]``."""
    batch, fine = z.shape
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32

    def new(*shape: int) -> Tensor:
        return z.new_empty(shape, dtype=wide)

    return new(batch), new(batch, 3), new(fine), new(batch), new(batch if save else 0, fine)

"""The FALCON loss as a module that holds the fine-to-coarse relations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import falcon_loss


class FalconLoss(nn.Module):
    """`c2f_ops.falcon_loss` with its relations as a buffer and its weights as settings.

    Args:
        num_fine: K_F.
        num_coarse: K_C, or one number for each data set.
        lambdas: Weights of L_coarse, of L_nn + L_conf and of L_reg; or four, with L_nn and L_conf apart.
        temperature: T of the target.
        group: As for `c2f_ops.falcon_loss`.
        backend: As for `c2f_ops.falcon_loss`.

    Attributes:
        relations: int32 ``[D, K_F]``, the coarse class of each fine class for each data set. They start spread evenly;
            `set_relations` changes them.
    """

    relations: Tensor

    def __init__(
        self,
        num_fine: int,
        num_coarse: int | Sequence[int],
        *,
        lambdas: Sequence[float] = (0.5, 0.5, 2.0),
        temperature: float = 0.9,
        group: Any = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        counts = [num_coarse] if isinstance(num_coarse, int) else list(num_coarse)
        if not counts or min(counts) < 1 or num_fine < max(counts):
            raise ValueError(
                f"FalconLoss: num_fine must be at least num_coarse and that at least 1, got {num_fine} and {num_coarse}"
            )
        self.num_fine, self.num_coarse = num_fine, tuple(counts)
        self.lambdas, self.temperature, self.group, self.backend = lambdas, temperature, group, backend
        spread = torch.stack([torch.arange(num_fine) * count // num_fine for count in counts])
        self.register_buffer("relations", spread.to(torch.int32))

    def set_relations(self, g: Any) -> None:
        """Take new relations, int ``[K_F]`` or ``[D, K_F]``; every coarse class must have a fine class.

        Raises:
            TypeError: g holds something else than integers.
            ValueError: the shape is another, a class is out of range, or a coarse class is left without fine class.
        """
        try:
            new = torch.as_tensor(g)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"FalconLoss: g must hold integers, got {g!r}") from None
        if new.is_floating_point() or new.is_complex() or new.dtype == torch.bool:
            raise TypeError(f"FalconLoss: g must hold integers, got {new.dtype}")
        new = new.to(torch.int64).cpu()
        new = new[None] if new.ndim == 1 else new
        if new.shape != self.relations.shape:
            raise ValueError(
                f"FalconLoss: g must have shape {list(self.relations.shape)}, got {list(torch.as_tensor(g).shape)}"
            )
        for row, (parents, count) in enumerate(zip(new, self.num_coarse, strict=True)):
            if parents.min() < 0 or parents.max() >= count:
                raise ValueError(
                    f"FalconLoss: g[{row}] must hold classes 0 to {count - 1}, "
                    f"got {int(parents.min())} to {int(parents.max())}"
                )
            empty = (parents.bincount(minlength=count) == 0).nonzero().flatten().tolist()
            if empty:
                raise ValueError(f"FalconLoss: g[{row}] must give each coarse class a fine class, got none for {empty}")
        self.relations.copy_(new)

    def forward(
        self,
        z: Tensor,
        s: Tensor,
        t: Tensor | None,
        y: Tensor,
        d: Tensor | None = None,
        *,
        tau: float = 1.0,
        nbr_mask: Tensor | None = None,
        idx: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its detached terms ``[4]``; arguments as for `c2f_ops.falcon_loss`."""
        result = falcon_loss(
            z, s, t, y, self.relations, d, lambdas=self.lambdas, T=self.temperature, tau=tau, nbr_mask=nbr_mask,
            idx=idx, group=self.group, backend=self.backend, return_terms=True,
        )  # fmt: skip
        assert isinstance(result, tuple)
        return result

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"num_fine={self.num_fine}, num_coarse={self.num_coarse}, lambdas={self.lambdas}, "
            f"temperature={self.temperature}, backend={self.backend!r}"
        )

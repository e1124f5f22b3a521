"""The consistency loss: a coarse head and the fine head below it should say the same."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def consistency_loss(coarse: Tensor, fine: Tensor, membership: Tensor) -> Tensor:
    """Return KL(p || q) per image, of the coarse head's p and the fine head's probabilities summed over children, q.

    With p = softmax(coarse), q = softmax(fine) M and M[i, j] = 1 where class i is below node j:

        KL = sum_j p_j (log p_j - log q_j)

    The gradient reaches both heads; it is zero where they agree.

    Args:
        coarse: logits ``[B, m]``.
        fine: logits ``[B, n]``.
        membership: M ``[n, m]``, such as `c2f_ops.Hierarchy.mask`.

    Returns:
        Tensor ``[B]``.
    """
    log_p = F.log_softmax(coarse, dim=1)
    summed = F.softmax(fine, dim=1) @ membership.to(fine.dtype)
    log_q = summed.clamp_min(1e-30).log()  # a node whose children all vanish costs much, but not infinitely much
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)

"""The FALCON loss: classes finer than the labels, from coarse labels, neighbours and a teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from .._checks import check_choice, check_tensor
from .._ops import falcon_loss as _op  # noqa: F401  (registers the op)
from .._ops.choice import BACKENDS
from ._world import World

_NAME = "falcon_loss"


def falcon_loss(
    z: Tensor,
    s: Tensor,
    t: Tensor | None,
    y: Tensor,
    g: Tensor,
    d: Tensor | None = None,
    *,
    lambdas: Sequence[float] = (0.5, 0.5, 2.0),
    T: float = 0.9,
    tau: float = 1.0,
    reduction: str = "mean",
    nbr_mask: Tensor | None = None,
    idx: Tensor | None = None,
    group: Any = "auto",
    backend: str = "auto",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """FALCON loss of a batch: agree with the coarse label, with the neighbours, with the teacher, and use every class.

        L = l1 L_coarse + l2 (L_nn + L_conf) + l3 L_reg

        L_coarse = -mean log sum_{k in G(y)} p_k                 L_nn  = -mean 1/L sum_l log <p, softmax(t_l)>
        L_conf   = -mean sum_k q_k log p_k                       L_reg = log K_F - H(mean p)

    with p = softmax(z), G(y) the fine classes under the coarse label y, and
    q = tau softmax(s / T over G(y)) + (1 - tau) onehot(argmax). Each mean is over the samples that have the term: a
    label, a neighbour. Only z has a gradient.

    With `torch.distributed` initialised, means and the mean of p are over the samples of all processes, and both the
    results and the gradients are such that their averages over processes, as `DistributedDataParallel` takes them, are
    those of one process with the whole batch.

    Args:
        z: ``[B, K_F]`` student logits: float64, float32, bfloat16 or float16; computed in float32 (float64).
        s: ``[B, K_F]`` teacher logits of the same samples.
        t: Teacher logits of neighbours, ``[B, L, K_F]``; with ``idx`` a bank ``[N, K_F]``; None for no neighbours.
            Types that differ are promoted, so a bank is best kept in z's type.
        y: ``[B]`` coarse labels, int64, -1 for none; or ``[B, D]``, one per data set: the group is then the fine
            classes under all of a sample's labels, or under its first where those have none in common.
        g: ``[K_F]`` or ``[D, K_F]``: the coarse class of each fine class, int32 (int64 is converted).
        d: ``[B]`` the data set of each sample, where g has several rows and y one column.
        lambdas: Weights l1, l2, l3; or four, with L_nn and L_conf weighted apart.
        T: Temperature of the target, in [1e-30, 1e30].
        tau: Softness of the target: 1 is the softmax, 0 its argmax (ties to the lowest class).
        reduction: "mean", a scalar; "none", ``[B]``: each sample's terms as weighted above plus l3 L_reg of the batch.
        nbr_mask: ``[B, L]`` bool, False where there is no neighbour.
        idx: ``[B, L]`` rows of the bank t, -1 for none.
        group: Process group of the means; "auto": the default one where `torch.distributed` is initialised; None: this
            process alone.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        return_terms: Return also the terms.

    Returns:
        The loss, float32 (float64), and with ``return_terms`` the detached means ``[4]`` of L_coarse, L_nn, L_conf and
        L_reg.

    Raises:
        ValueError: an argument has a wrong shape, device or value. A labelled sample whose coarse class has no fine
            class is such an error on the CPU; on a GPU its loss is NaN.
        TypeError: an argument has a wrong type.
        RuntimeError: the backend asked for is not available; a second derivative was asked for.

    Source: Fine-grained Classes and How to Find Them (ICML 2024), eq. (3) to (10).
    """
    z, s, bank, neighbours = _operands(z, s, t, nbr_mask, idx)
    y, g = _labels(y, g, d, z)
    coarse, nn, conf, entropy = _weights(lambdas)
    _check_options(T, tau, reduction, backend, group)
    world = World(group)
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    batch, fine = z.shape

    labelled, accompanied = (y >= 0).any(1).sum(), (neighbours >= 0).any(1).sum()
    sizes = torch.stack([labelled, accompanied, labelled, torch.full_like(labelled, batch)]).to(wide)
    sizes = world.sum(sizes).clamp(min=1)
    weights = torch.tensor([coarse, nn, conf], dtype=wide, device=z.device)
    share = world.size / sizes[:3]
    scale = weights * share if reduction == "mean" else weights
    save = torch.is_grad_enabled() and z.requires_grad
    value, terms, mass, _, _ = torch.ops.c2f_ops.falcon_loss(
        z, s.detach(), bank.detach(), neighbours, y, g, scale, float(T), float(tau), backend, save
    )

    mean_p = world.sum(mass) / sizes[3]
    reg = math.log(fine) + (mean_p * mean_p.clamp(min=torch.finfo(wide).tiny).log()).sum()
    loss = (value.sum() if reduction == "mean" else value) + entropy * reg
    if not return_terms:
        return loss
    return loss, torch.cat([terms.detach().sum(0) * share, reg.detach()[None]])


def _operands(
    z: Tensor, s: Tensor, t: Tensor | None, nbr_mask: Tensor | None, idx: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, s and the bank in one type with contiguous rows; neighbours ``[B, L]`` into the bank."""
    check_tensor(_NAME, "z", z, 2)
    check_tensor(_NAME, "s", s, 2)
    batch, fine = z.shape
    if fine < 1:
        raise ValueError(f"{_NAME}: z must have at least one fine class, got shape {list(z.shape)}")
    if s.shape != z.shape:
        raise ValueError(f"{_NAME}: s must have the shape {list(z.shape)} of z, got {list(s.shape)}")
    if t is None:
        if idx is not None or nbr_mask is not None:
            raise ValueError(f"{_NAME}: t must be given where idx or nbr_mask is, got None")
        t, idx = z.new_empty((0, fine)), torch.empty((batch, 0), dtype=torch.int64, device=z.device)
    elif idx is None:
        check_tensor(_NAME, "t", t, 3, " without idx")
        if t.shape[0] != batch or t.shape[2] != fine:
            raise ValueError(f"{_NAME}: t must have shape [B, L, K_F] = [{batch}, L, {fine}], got {list(t.shape)}")
        idx = torch.arange(batch * t.shape[1], device=t.device).view(batch, t.shape[1])
        t = t.reshape(-1, fine)
    else:
        check_tensor(_NAME, "t", t, 2, " with idx")
        _check_integers("idx", idx, z, (batch, None))
        _check_range("idx", idx, -1, None, "-1 or a row of t")
        if t.shape[1] != fine:
            raise ValueError(f"{_NAME}: t must have shape [N, K_F] = [N, {fine}], got {list(t.shape)}")
    if nbr_mask is not None:
        if not isinstance(nbr_mask, Tensor) or nbr_mask.dtype != torch.bool:
            got = nbr_mask.dtype if isinstance(nbr_mask, Tensor) else type(nbr_mask).__name__
            raise TypeError(f"{_NAME}: nbr_mask must be a bool tensor, got {got}")
        if nbr_mask.shape != idx.shape:
            raise ValueError(f"{_NAME}: nbr_mask must have shape {list(idx.shape)}, got {list(nbr_mask.shape)}")
        idx = torch.where(nbr_mask.to(idx.device), idx, -1)
    dtype = torch.promote_types(torch.promote_types(z.dtype, s.dtype), t.dtype)
    for name, x in (("s", s), ("t", t), ("idx", idx)):
        if x.device != z.device:
            raise ValueError(f"{_NAME}: {name} must be on {z.device} like z, got {x.device}")
    z, s, t = (_row_contiguous(x.to(dtype)) for x in (z, s, t))
    return z, s, t, idx.to(torch.int64).contiguous()


def _row_contiguous(x: Tensor) -> Tensor:
    """Rows without gaps, none shared: kernels take a row stride, and no broadcast rows."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def _labels(y: Tensor, g: Tensor, d: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
    """y ``[B, D]`` int64 and g ``[D, K_F]`` int32, contiguous."""
    batch, fine = z.shape
    if isinstance(g, Tensor) and g.ndim == 1:
        g = g[None]
    _check_integers("g", g, z, (None, fine))
    _check_range("g", g, -1, 2**31, "-1 or a coarse class below 2^31")
    count = len(g)
    if isinstance(y, Tensor) and y.ndim == 2:
        _check_integers("y", y, z, (batch, count))
        if d is not None:
            raise ValueError(f"{_NAME}: d must be None where y has a column for each data set, got a tensor")
    else:
        _check_integers("y", y, z, (batch,))
        if count == 1 and d is None:
            y = y[:, None]
        elif d is None:
            raise ValueError(f"{_NAME}: d must name the data set of each sample where g has {count} rows, got None")
        else:
            _check_integers("d", d, z, (batch,))
            _check_range("d", d, 0, count, f"in 0..{count - 1}, the rows of g")
            own = d.to(torch.int64)[:, None] == torch.arange(count, device=z.device)
            y = torch.where(own, y[:, None], -1)
    _check_range("y", y, -1, None, "-1 or a coarse class")
    return y.to(torch.int64).contiguous(), g.to(torch.int32).contiguous()


def _check_integers(name: str, value: Tensor, like: Tensor, shape: tuple[int | None, ...]) -> None:
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32):
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{_NAME}: {name} must be an int64 or int32 tensor, got {got}")
    fits = value.ndim == len(shape) and all(e in (None, n) for e, n in zip(shape, value.shape, strict=True))
    if not fits:
        expected = ", ".join("any" if e is None else str(e) for e in shape)
        raise ValueError(f"{_NAME}: {name} must have shape [{expected}], got {list(value.shape)}")
    if value.device != like.device:
        raise ValueError(f"{_NAME}: {name} must be on {like.device} like z, got {value.device}")


def _check_range(name: str, value: Tensor, low: int, stop: int | None, expected: str) -> None:
    """Values from ``low``, below ``stop``, where looking costs no wait for a device and breaks no graph."""
    if value.device.type != "cpu" or torch.compiler.is_compiling() or not value.numel():
        return
    least, most = (int(x) for x in value.aminmax())
    if least < low or (stop is not None and most >= stop):
        raise ValueError(f"{_NAME}: {name} must be {expected}, got {least} to {most}")


def _weights(lambdas: Sequence[float]) -> tuple[float, float, float, float]:
    """Weights of L_coarse, L_nn, L_conf and L_reg."""
    if not isinstance(lambdas, Sequence) or not all(isinstance(x, Real) for x in lambdas):
        raise TypeError(f"{_NAME}: lambdas must be a sequence of numbers, got {lambdas!r}")
    if len(lambdas) not in (3, 4) or not all(0 <= x < math.inf for x in lambdas):
        raise ValueError(f"{_NAME}: lambdas must be three or four finite numbers, none negative, got {lambdas!r}")
    coarse, nn, *rest = map(float, lambdas)
    return coarse, nn, rest[-2] if len(rest) == 2 else nn, rest[-1]


def _check_options(temperature: float, tau: float, reduction: str, backend: str, group: Any) -> None:
    for name, value in (("T", temperature), ("tau", tau)):
        if not isinstance(value, Real):
            raise TypeError(f"{_NAME}: {name} must be a number, got {type(value).__name__}")
    if not 1e-30 <= temperature <= 1e30:  # beyond, a float32 has no reciprocal of it
        raise ValueError(f"{_NAME}: T must be in [1e-30, 1e30], got {temperature!r}")
    if not 0 <= tau <= 1:
        raise ValueError(f"{_NAME}: tau must be in [0, 1], got {tau!r}")
    check_choice(_NAME, "reduction", reduction, ("mean", "none"))
    check_choice(_NAME, "backend", backend, ("auto", *BACKENDS))
    if not (group is None or group == "auto" or (dist.is_available() and isinstance(group, dist.ProcessGroup))):
        raise TypeError(f"{_NAME}: group must be 'auto', None or a process group, got {group!r}")

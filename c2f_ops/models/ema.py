"""The teacher: an exponential moving average of a network."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn

BUFFER_POLICIES = ("ema", "copy", "own")


def make_teacher(student: nn.Module) -> nn.Module:
    """A copy of ``student`` that takes no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, *, buffers: str = "copy") -> None:
    """``teacher = decay * teacher + (1 - decay) * student``, in a few foreach launches over all parameters.

    Args:
        teacher: Module of the same structure as ``student``, changed in place.
        student: The module averaged.
        decay: In [0, 1].
        buffers: What happens to buffers (batch-norm statistics): "ema" averages floating ones and copies the rest,
            "copy" copies all, "own" leaves the teacher its own.

    Raises:
        ValueError: decay or buffers out of range, or modules of different structure.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"ema_update: decay must be in [0, 1], got {decay!r}")
    if buffers not in BUFFER_POLICIES:
        raise ValueError(f"ema_update: buffers must be one of {BUFFER_POLICIES}, got {buffers!r}")
    pairs = _pairs(dict(teacher.named_parameters()), dict(student.named_parameters()))
    if buffers != "own":
        own, new = dict(teacher.named_buffers()), dict(student.named_buffers())
        averaged = {k for k, b in own.items() if buffers == "ema" and b.is_floating_point()}
        pairs += _pairs({k: own[k] for k in own if k in averaged}, {k: new[k] for k in new if k in averaged})
        copied = _pairs({k: own[k] for k in own if k not in averaged}, {k: new[k] for k in new if k not in averaged})
        for target, source in copied:
            target.copy_(source)
    grouped: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for target, source in pairs:
        targets, sources = grouped[target.device, target.dtype]
        targets.append(target)
        sources.append(source)
    for targets, sources in grouped.values():
        torch._foreach_lerp_(targets, sources, 1 - decay)


def _pairs(own: dict[str, Tensor], new: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    if own.keys() != new.keys():
        different = sorted(own.keys() ^ new.keys())
        raise ValueError(f"ema_update: teacher and student must have the same tensors, they differ in {different[:5]}")
    return [(own[name], new[name]) for name in own]

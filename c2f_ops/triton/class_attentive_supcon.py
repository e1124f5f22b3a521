"""class_attentive_supcon in Triton: launchers of `class_attentive_kernels` and `class_attentive_grad_kernels`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import unavailable
from . import unvalidated as _unvalidated

__all__ = ["class_attentive_supcon_bwd", "class_attentive_supcon_fwd", "unavailable", "unvalidated"]

_PROGRAMS = 256  # about as many as keep a large GPU busy; sums over few tiles are cut into parts to reach it
_ROWS, _BLOCK = 16, 64  # tiles of kernels over single rows


def unvalidated(device: torch.device) -> str | None:
    """Say in one line why an automatic choice must not take these kernels on ``device`` yet; None: it may."""
    return _unvalidated("class_attentive_supcon", device)


@dataclass(frozen=True)
class Plan:
    """Tiles: ``outer`` rows of a program, ``inner`` rows of a step of its loop, of anchors and keys or the reverse.

    Products go through the width in steps of ``block_k``; ``block_d`` of a gradient's width belong to a program.
    """

    outer: int
    inner: int
    block_k: int
    block_d: int
    warps: int
    stages: int
    precision: str


def plan_of(dtype: torch.dtype, d: int, capability: tuple[int, int] = (9, 0)) -> Plan:
    """Tiles for a type and width that compile without spilled registers; test_triton_aot.py holds them to it."""
    power = max(16, 1 << (d - 1).bit_length())
    roomy = capability[0] in (9, 10)  # their matrix units read shared memory, which leaves registers
    if dtype == torch.float32:
        return Plan(64, 16, min(power, 32 if roomy else 16), min(power, 64), 8, 2, "tf32x3")
    return Plan(64, 32 if roomy else 16, min(power, 64), min(power, 128), 8, 2, "tf32")


def _plan(z: Tensor) -> Plan:
    capability = torch.cuda.get_device_capability(z.device) if z.is_cuda else (9, 0)
    return plan_of(z.dtype, z.shape[1], capability)


def class_attentive_supcon_fwd(
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    attract_weight: list[float],
    repel_weight: list[float],
    hinge: bool,
    parameter: float,
    eps: float,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Anchors z ``[A, d]``, keys x ``[N, d]`` -> attract and repel ``[A]``, float32."""
    from . import class_attentive_kernels as kernels

    attract, repel = (z.new_empty(len(z), dtype=torch.float32) for _ in range(2))
    if not len(z):
        return attract, repel
    plan, parameter = _plan(z), parameter if hinge else 1 / parameter
    with torch.cuda.device_of(z):
        operands = _prepare(plan, z, x, z_labels, x_labels, classes, order, v, eps)
        tiles = -(-len(z) // plan.outer)
        parts, keys_of_part = _parts(tiles, len(x), plan.inner, most=_PROGRAMS)
        sums = attract.new_empty(3, parts, len(z))
        kernels.class_attentive_fwd_kernel[(tiles, parts)](
            *operands.tensors, *sums, *operands.sizes, first, keys_of_part, parameter, eps * eps,
            tuple(attract_weight), tuple(repel_weight), HINGE=hinge, **operands.constants(),
        )  # fmt: skip
        kernels.class_attentive_finish_kernel[(-(-len(z) // 128),)](
            *sums, operands.classes, order, attract, repel, len(z), len(v), parts, parameter, HINGE=hinge, BLOCK=128
        )
    return attract, repel


def class_attentive_supcon_bwd(
    d_attract: Tensor,
    d_repel: Tensor,
    repel: Tensor,
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    attract_weight: list[float],
    repel_weight: list[float],
    hinge: bool,
    parameter: float,
    eps: float,
    first: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to z and x, in their type, and v; ``[0, d]`` where ``needs`` (of z, x, v) is False."""
    from . import class_attentive_grad_kernels as kernels

    d_z, d_x, d_v = (
        torch.empty((len(t) if need else 0, t.shape[1]), dtype=t.dtype, device=t.device)
        for t, need in zip((z, x, v), needs, strict=True)
    )
    (anchors, width), keys = z.shape, len(x)
    if not width or not anchors:
        return d_z, d_x.zero_(), d_v.zero_()
    plan, parameter = _plan(z), parameter if hinge else 1 / parameter
    columns = -(-width // plan.block_d)
    tables = tuple(attract_weight), tuple(repel_weight)
    with torch.cuda.device_of(z):
        operands = _prepare(plan, z, x, z_labels, x_labels, classes, order, v, eps)
        slopes = d_attract[order], d_repel[order], repel[order]
        if needs[0] or needs[2]:
            tiles = -(-anchors // plan.outer)
            parts, of_part = _parts(tiles * columns, keys, plan.inner, most=4 * (anchors + keys) // anchors)
            q = repel.new_empty(parts, anchors, width)
            f = torch.empty_like(q) if needs[2] else None
            rho = repel.new_empty(parts, anchors)
            kernels.class_attentive_queries_kernel[(tiles, parts, columns)](
                *slopes, *operands.tensors, q, f, rho, *operands.sizes, first, of_part, parameter,
                eps * eps, *tables, HINGE=hinge, BLOCK_D=plan.block_d, **operands.constants(),
            )  # fmt: skip
            kernels.class_attentive_d_z_kernel[(-(-anchors // _ROWS), -(-width // _BLOCK))](
                z, operands.classes, order, v, operands.squares, q, f, rho, d_z if needs[0] else None, z.stride(0),
                anchors, width, len(v), parts, eps * eps, ROWS=_ROWS, BLOCK=_BLOCK,
            )  # fmt: skip
            if f is not None and operands.classes is not None and len(v):
                bounds = torch.searchsorted(operands.classes, torch.arange(len(v) + 1, device=z.device))
                kernels.class_attentive_d_v_kernel[(len(v), -(-width // _BLOCK))](
                    f, bounds, d_v, width, ROWS=_ROWS, BLOCK=_BLOCK
                )
            del q, f
        if needs[1] and keys:
            tiles = -(-keys // plan.outer)
            parts, of_part = _parts(tiles * columns, anchors, plan.inner, most=8 * (anchors + keys) // keys)
            sums = repel.new_empty(parts, keys, width)
            kernels.class_attentive_keys_kernel[(tiles, parts, columns)](
                *slopes, *operands.tensors, sums, *operands.sizes, first, of_part, parameter,
                eps * eps, *tables, HINGE=hinge, BLOCK_D=plan.block_d, **operands.constants(keys_outside=True),
            )  # fmt: skip
            d_x = sums.sum(0).to(x.dtype)
    return d_z, d_x, d_v


@dataclass(frozen=True)
class _Operands:
    """What the kernels over pairs share; what belongs to anchors is in their order."""

    plan: Plan
    tensors: tuple[Tensor | None, ...]  # u, scale, x, its squares, labels of both, classes, order, v
    sizes: tuple[int, ...]
    squares: Tensor
    levels: int

    @property
    def classes(self) -> Tensor | None:
        """By position."""
        return self.tensors[6]

    def constants(self, keys_outside: bool = False) -> dict[str, object]:
        plan = self.plan
        return {
            "K": self.levels,
            "ONE_BLOCK": self.sizes[4] <= plan.block_k,
            "PRECISION": plan.precision,
            "BLOCK_A": plan.inner if keys_outside else plan.outer,
            "BLOCK_N": plan.outer if keys_outside else plan.inner,
            "BLOCK_K": plan.block_k,
            "num_warps": plan.warps,
            "num_stages": plan.stages,
        }


def _prepare(
    plan: Plan,
    z: Tensor,
    x: Tensor,
    z_labels: Tensor,
    x_labels: Tensor,
    classes: Tensor,
    order: Tensor,
    v: Tensor,
    eps: float,
) -> _Operands:
    """Weighted anchors by class, their norms and, with one class, the norms of the keys."""
    from .class_attentive_kernels import class_attentive_anchors_kernel as kernel

    z_labels, classes = z_labels[order], classes[order]
    (anchors, width), keys = z.shape, len(x)
    u_stride = -(-width // 16) * 16  # rows that wide loads can take
    u = torch.empty((anchors, u_stride), dtype=z.dtype, device=z.device)
    scale, squares = (torch.empty(anchors, dtype=torch.float32, device=z.device) for _ in range(2))
    shared = {"HAS_SCALE": z.dtype == torch.float16, "ROWS": _ROWS, "BLOCK": _BLOCK}
    kernel[(-(-anchors // _ROWS),)](
        z, classes, order, v, u, scale, squares, z.stride(0), u_stride, anchors, width, len(v), eps * eps, **shared
    )
    x_squares = None
    if len(v) == 1 and keys:
        x_squares = torch.empty(keys, dtype=torch.float32, device=z.device)
        kernel[(-(-keys // _ROWS),)](
            x, None, None, v, None, None, x_squares, x.stride(0), u_stride, keys, width, 1, eps * eps, **shared
        )
    return _Operands(
        plan,
        (u, scale, x, x_squares, z_labels, x_labels, classes, order, v),
        (u_stride, x.stride(0), anchors, keys, width, len(v)),
        squares,
        z_labels.shape[1],
    )


def _parts(programs: int, count: int, block: int, most: int) -> tuple[int, int]:
    """Into how many parts a sum over ``count`` is cut, and the length of each: a function of sizes alone."""
    parts = max(1, min(_PROGRAMS // max(programs, 1), most, -(-count // (4 * block))))
    length = max(1, -(-count // (parts * block))) * block
    return max(1, -(-count // length)), length

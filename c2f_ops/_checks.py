"""Checks of arguments: each error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_FACTORS = 4
MAX_DEGREE = 4

LAYOUTS = {"NCHW": 4, "NHWC": 4, "NLC": 3}
ACTIVATIONS = ("none", "relu", "tanh")
POOLINGS = ("sum", "mean")
_SQRT_MODES = ("shifted", "caffe", "plus_eps", "smooth", "none")
_NORM_SCOPES = ("interaction", "joint", "none")
_L2_MODES = ("add", "clamp")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_operands(
    features: Sequence[Tensor], weights: Sequence[Tensor], layout: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Features and weights as lists: counts, ranks, types, channels, widths and devices agree."""
    op = "multilinear_pool"
    for name, value in (("features", features), ("weights", weights)):
        if isinstance(value, Tensor) or not isinstance(value, Sequence):
            raise TypeError(f"{op}: {name} must be a sequence of tensors, got {type(value).__name__}")
    if not 1 <= len(features) <= MAX_FACTORS:
        raise ValueError(f"{op}: features must hold 1 to {MAX_FACTORS} tensors, got {len(features)}")
    if len(weights) != len(features):
        raise ValueError(
            f"{op}: weights must hold one tensor for each of the {len(features)} features, got {len(weights)}"
        )
    for m, (x, w) in enumerate(zip(features, weights, strict=True)):
        check_tensor(op, f"features[{m}]", x, LAYOUTS[layout], f" for layout {layout!r}")
        check_tensor(op, f"weights[{m}]", w, 2)
        channels = x.shape[1 if layout == "NCHW" else -1]
        if w.shape[0] != channels or w.shape[1] != weights[0].shape[1]:
            expected = (channels, weights[0].shape[1])
            raise ValueError(f"{op}: weights[{m}] must have shape [C_m, D] = {_shape(expected)}, got {_shape(w.shape)}")
        for name, t in ((f"features[{m}]", x), (f"weights[{m}]", w)):
            if t.device != features[0].device:
                raise ValueError(f"{op}: {name} must be on {features[0].device} like features[0], got {t.device}")
    return list(features), list(weights)


def check_interactions(interactions: Sequence[Sequence[int]], count: int) -> tuple[tuple[int, ...], ...]:
    """Interactions as tuples of tuples: lengths and indices in range, every feature used."""
    op = "multilinear_pool"
    try:
        tuples = tuple(tuple(int(i) for i in t) for t in interactions)
    except TypeError as error:
        raise TypeError(
            f"{op}: interactions must be a sequence of tuples of factor indices, got {interactions!r}"
        ) from error
    if not tuples:
        raise ValueError(f"{op}: interactions must hold at least one tuple, got none")
    for q, t in enumerate(tuples):
        if not 1 <= len(t) <= MAX_DEGREE:
            raise ValueError(f"{op}: interactions[{q}] must have 1 to {MAX_DEGREE} indices, got {t}")
        if any(not 0 <= i < count for i in t):
            raise ValueError(f"{op}: interactions[{q}] must index the {count} features (0 to {count - 1}), got {t}")
    unused = sorted(set(range(count)) - {i for t in tuples for i in t})
    if unused:
        raise ValueError(f"{op}: interactions must use every feature, got none that uses features{unused}")
    return tuples


def check_positions(maps: list[Tensor]) -> None:
    """Maps ``[B, L, C_m]`` agree in B and L."""
    batch, length, _ = maps[0].shape
    for m, x in enumerate(maps):
        if x.shape[0] != batch or x.shape[1] != length:
            raise ValueError(
                f"multilinear_pool: features[{m}] must have B={batch} samples of L={length} positions like "
                f"features[0], got B={x.shape[0]}, L={x.shape[1]}"
            )


def check_prefix(features: Sequence[Tensor], layout: str, count: int) -> None:
    """Leading tokens to drop: none, or at most those that there are."""
    op = "multilinear_pool"
    if count == 0:
        return
    if layout != "NLC":
        raise ValueError(f"{op}: num_prefix_tokens must be 0 for layout {layout!r}, got {count}")
    shortest = min(x.shape[1] for x in features)
    if not 0 < count <= shortest:
        raise ValueError(
            f"{op}: num_prefix_tokens must be between 0 and the {shortest} tokens of features, got {count}"
        )


def check_biases(biases: Sequence[Tensor | None] | None, weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """M biases in ``dtype``, or none at all; a missing one among present ones becomes zeros."""
    op = "multilinear_pool"
    if biases is None:
        return []
    if isinstance(biases, Tensor) or not isinstance(biases, Sequence):
        raise TypeError(f"{op}: biases must be None or a sequence of tensors or None, got {type(biases).__name__}")
    if len(biases) != len(weights):
        raise ValueError(f"{op}: biases must hold one entry for each of the {len(weights)} features, got {len(biases)}")
    if all(b is None for b in biases):
        return []
    out = []
    for m, (b, w) in enumerate(zip(biases, weights, strict=True)):
        if b is None:
            out.append(w.new_zeros(w.shape[1], dtype=dtype))
            continue
        check_tensor(op, f"biases[{m}]", b, 1)
        if b.shape[0] != w.shape[1]:
            raise ValueError(f"{op}: biases[{m}] must have shape [D] = {_shape(w.shape[1:])}, got {_shape(b.shape)}")
        if b.device != w.device:
            raise ValueError(f"{op}: biases[{m}] must be on {w.device} like features[0], got {b.device}")
        out.append(b.to(dtype).contiguous())
    return out


def check_mask(mask: Tensor | None, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The mask contiguous, bool or in ``dtype``."""
    op = "multilinear_pool"
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{op}: mask must be a bool or floating-point tensor, got {got}")
    if mask.ndim != 2 or mask.shape[0] != x.shape[0] or mask.shape[1] != x.shape[1]:
        raise ValueError(f"{op}: mask must have shape [B, L] = {_shape(x.shape[:2])}, got {_shape(mask.shape)}")
    if mask.device != x.device:
        raise ValueError(f"{op}: mask must be on {x.device} like features[0], got {mask.device}")
    return mask.contiguous() if mask.dtype == torch.bool else mask.to(dtype).contiguous()


def check_norm(op: str, sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float) -> None:
    """Options of square root and norm."""
    check_choice(op, "sqrt_mode", sqrt_mode, _SQRT_MODES)
    check_choice(op, "norm_scope", norm_scope, _NORM_SCOPES)
    check_choice(op, "l2_mode", l2_mode, _L2_MODES)
    for name, value in (("sqrt_eps", sqrt_eps), ("l2_eps", l2_eps)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{op}: {name} must be finite and not negative, got {value!r}")


def check_choice(op: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {allowed}, got {value!r}")


def check_tensor(op: str, name: str, value: Tensor, ndim: int, why: str = "") -> None:
    """A floating-point tensor with ``ndim`` dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in DTYPES:
        raise TypeError(f"{op}: {name} must be one of {names_of(DTYPES)}, got {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be strided, got {value.layout}")
    if value.ndim != ndim:
        raise ValueError(f"{op}: {name} must have {ndim} dimensions{why}, got shape {_shape(value.shape)}")


def names_of(dtypes: Sequence[torch.dtype]) -> str:
    """Types as words."""
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)


def _shape(sizes: Sequence[int]) -> str:
    return "[" + ", ".join(str(s) for s in sizes) + "]"

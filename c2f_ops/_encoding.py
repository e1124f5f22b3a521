"""How a call reaches the native module: sizes, enum values, addresses (``csrc/bindings/multilinear_pool_args.h``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._ops.problem import Problem

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # DType of c2f/dtype.h
MAX_FACTORS, MAX_DEGREE, MAX_INTERACTIONS = 4, 4, 16

PRECISIONS = {"highest": 0, "high": 1, "medium": 2}  # MatmulPrecision of c2f/dtype.h
_ACTIVATIONS = {"none": 0, "relu": 1, "tanh": 2}
_MASKS = {"none": 0, "bool": 1, "float": 2}
_SQRT_MODES = {"none": 0, "shifted": 1, "caffe": 2, "plus_eps": 3, "smooth": 4}
_NORM_SCOPES = {"none": 0, "interaction": 1, "joint": 2}
_L2_MODES = {"add": 0, "clamp": 1}


def encode(problem: Problem, precision: str = "highest") -> tuple[Any, ...]:
    """Sizes and kinds of a `multilinear_pool` problem, and the precision of products of float32 operands."""
    return (
        problem.batch,
        problem.positions,
        problem.width,
        problem.channels,
        DTYPES[problem.dtype],
        PRECISIONS[precision],
        _ACTIVATIONS[problem.activation],
        _MASKS[problem.mask],
        problem.interactions,
    )


def encode_norm(sqrt_mode: str, sqrt_eps: float, norm_scope: str, l2_mode: str, l2_eps: float) -> tuple[Any, ...]:
    """Options of `signed_sqrt_normalize`."""
    return _SQRT_MODES[sqrt_mode], sqrt_eps, _NORM_SCOPES[norm_scope], _L2_MODES[l2_mode], l2_eps


def address(x: Tensor | None) -> int:
    """Where the data of ``x`` is; 0 for None."""
    return 0 if x is None else x.data_ptr()


def strided(x: Tensor) -> tuple[int, ...]:
    """Address and strides in elements."""
    return (x.data_ptr(), *x.stride())


def size_obstacle(problem: Problem) -> str | None:
    """Why no native kernel can take the kinds and counts of ``problem``; None: they are in range."""
    if problem.dtype not in DTYPES:
        return f"operands must be float32, bfloat16 or float16, got {problem.dtype}"
    if problem.mask_grad:
        return "the gradient of position weights is the reference's"
    if not 1 <= len(problem.channels) <= MAX_FACTORS:
        return f"1 to {MAX_FACTORS} factors, got {len(problem.channels)}"
    if not 1 <= len(problem.interactions) <= MAX_INTERACTIONS:
        return f"1 to {MAX_INTERACTIONS} interactions, got {len(problem.interactions)}"
    if any(not 1 <= len(t) <= MAX_DEGREE for t in problem.interactions):
        return f"interactions of length 1 to {MAX_DEGREE}, got {problem.interactions}"
    return None

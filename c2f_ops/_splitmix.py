"""SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014) as a hash."""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def splitmix64(x: Tensor) -> Tensor:
    """64 bits for each int64: a bijection, so distinct inputs keep distinct outputs."""
    x = x + _signed(_GAMMA)
    x = (x ^ _shifted(x, 30)) * _signed(_FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(_SECOND)
    return x ^ _shifted(x, 31)


def splitmix64_of(number: int) -> int:
    """The same for a Python integer, taken modulo 2^64; the result is signed."""
    return int(splitmix64(torch.tensor(_signed(number % 2**64))))


def _shifted(x: Tensor, by: int) -> Tensor:
    """Logical shift to the right: int64 knows only the arithmetic one."""
    return (x >> by) & (2 ** (64 - by) - 1)


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits

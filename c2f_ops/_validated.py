"""Which GPU kernels a recorded run on real hardware has validated; ``auto`` takes no other.

``validated.json`` beside this file is a list of ``{"arch", "op", "kernel", "record"}``: the compute capability
(``"9.0"``), the op, the kernel and the record under ``bench/results/`` that shows it correct and how fast. Kernels of
multilinear_pool: ``"chunked"``, ``"fused_sm80"`` and ``"fused_sm90"`` (CUDA), ``"triton"``; of signed_sqrt_normalize,
falcon_loss and class_attentive_supcon: ``"cuda"`` and ``"triton"``. Entries are added by hand, from such a record.
"""

from __future__ import annotations

import functools
import json
from importlib import resources


@functools.cache
def records() -> tuple[dict[str, str], ...]:
    """The entries of ``validated.json``."""
    return tuple(json.loads(resources.files(__package__).joinpath("validated.json").read_text()))


def validated(op: str, kernel: str, capability: tuple[int, int]) -> bool:
    """Whether a record validates ``kernel`` of ``op`` on GPUs of this compute capability."""
    arch = f"{capability[0]}.{capability[1]}"
    return any((r["arch"], r["op"], r["kernel"]) == (arch, op, kernel) for r in records())


def unvalidated(op: str, kernel: str, capability: tuple[int, int]) -> str | None:
    """Say in one line that no record validates ``kernel``; None: one does."""
    if validated(op, kernel, capability):
        return None
    return f"no record in bench/results/ validates the {kernel} kernel of {op} on sm_{capability[0]}{capability[1]}"

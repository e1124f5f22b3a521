"""Which algorithm, which room, save or recompute: pure functions of a problem, the machine and the environment.

Algorithm and saving are decided above the dispatcher, because they fix the number of outputs; they depend on shapes,
type and device alone. The room is decided below it, when the kernel runs. Never on free memory, never on timing.
"""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from .problem import Problem

BACKENDS = ("reference", "cpu", "triton", "cuda")
AUTO_ORDER = {"cuda": ("cuda", "triton"), "cpu": ("cpu",)}
ALGOS = ("auto", "fused", "chunked", "gram")
SAVE_BUDGET_BYTES = 2**31

# Flops per byte at which rebuilding a projection costs as much as writing and reading it (spec: c > s TC / BW), by
# operand size. H200: 790 TFLOP/s at 16 bits and 50 TFLOP/s in float32 against 4.3 TB/s. On a CPU by planes on AMX, 0
# for vectors: measured on cases of bench/cases.py; in float32 both take as long at c = 256, and at 512 saving wins by
# an eighth; bfloat16 on AVX512_BF16 takes as long at c = 230. On vectors another bound holds where a projection has up
# to _RECYCLED_BYTES, which malloc hands out again without mapping them anew: over 286 random problems on one thread of
# a Zen 4 it loses 0.4 % against the better choice of each, the general one 3 % (bench/pool_choices.py).
_RIDGE = {2: 184.0, 4: 12.0, 8: 12.0}
_RIDGE_CPU = {0: 96.0, 1: 800.0, 2: 200.0}
_RECYCLED_BYTES, _RECYCLED_CHANNELS = 2**24, 64
# Largest cost of the Gram path, in parts of the direct one, at which it is taken; on a CPU by planes on AMX, and by
# those on vectors, 0 for float32: the direct kernels there reach more of the machine than Gram's products in torch do.
# An element of the products of weights and Gram matrices, written and read again by torch, costs as much as so many
# multiply-adds, and so does a pair of a sample in calls; of calls a batch has as many, but its size shall not decide
# how a sample is computed. Over 631 random problems on one thread of a Zen 4 this loses 2 % against the better path of
# each; by multiply-adds alone it was 4 (bfloat16) to 14 % (bench/pool_choices.py).
_GRAM_MARGIN = 0.9
_GRAM_MARGIN_AMX = {0: 0.65, 1: 0.2, 2: 0.4}
_GRAM_MARGIN_VECTORS = {0: 0.65, 1: 0.3}
_GRAM_ELEMENT, _GRAM_PAIR = 30, 2e6


@dataclass(frozen=True)
class Choice:
    """The room and algorithm that run, and why. ``skipped`` says, for each room passed over, the reason."""

    backend: str
    algo: str
    reason: str
    skipped: tuple[tuple[str, str], ...] = ()


@functools.cache
def room(backend: str, op: str) -> ModuleType:
    """The module that implements ``op`` for ``backend``."""
    return importlib.import_module(f"c2f_ops.{backend}.{op}")


def missing(backend: str, op: str) -> str | None:
    """Why ``backend`` has no kernel for ``op`` on this machine; None: it has."""
    if backend == "reference":
        return None
    try:
        return room(backend, op).unavailable()
    except ImportError as error:
        return f"{backend} cannot be imported: {error}"


def gram_obstacle(problem: Problem) -> str | None:
    """Why the Gram path cannot compute ``problem``; None: it can."""
    longest = {len(t) for t in problem.interactions}
    if longest != {2}:
        return "it computes interactions of length two only"
    if problem.activation != "none":
        return f"it has no activation, got {problem.activation}"
    if problem.mask_grad:
        return "it has no gradient for position weights"
    if problem.dtype == torch.float16:
        return "Gram matrices of float16 features leave its range"
    return None


def gram_cost_ratio(problem: Problem) -> float:
    """Multiply-adds of the Gram path over those of the direct path (docs/ops/multilinear_pool.md).

    On a CPU with what its other work costs as much as.
    """
    length, width = problem.positions, problem.width
    direct = length * width * sum(problem.channels)
    pairs = [(problem.channels[x], problem.channels[y]) for x, y in problem.interactions]
    gram: float = sum(length * cx * cy + cx * cy * width for cx, cy in pairs)
    if problem.device.type == "cpu":
        gram += sum(_GRAM_ELEMENT * (cx + cy) * width + _GRAM_PAIR for cx, cy in pairs)
    return gram / direct if direct else float("inf")


def choose_algo(problem: Problem, algo: str) -> tuple[str, str]:
    """Resolve ``auto`` to "gram" or "direct" (fused or chunked, as the room has it); returns it with the reason."""
    obstacle = gram_obstacle(problem)
    if algo == "gram":
        if obstacle:
            raise ValueError(f"multilinear_pool: algo='gram' cannot run here: {obstacle}")
        return "gram", "algo='gram' was asked for"
    if algo != "auto":
        return algo, f"algo={algo!r} was asked for"
    if obstacle or problem.dtype == torch.float64:
        return "direct", "interactions need the projections" if obstacle else "float64 takes the direct reference"
    ratio = gram_cost_ratio(problem)
    if ratio < _gram_margin(problem):
        return "gram", f"pairs only, Gram costs {round(ratio, 2)} of the direct path"
    return "direct", f"pairs only, but Gram would cost {round(ratio, 2)} of the direct path"


def _gram_margin(problem: Problem) -> float:
    if problem.device.type != "cpu":
        return _GRAM_MARGIN
    planes, amx = _planes(problem)
    return (_GRAM_MARGIN_AMX if amx else _GRAM_MARGIN_VECTORS)[planes]


def choose_recompute(problem: Problem, recompute: bool | str) -> bool:
    """Resolve ``recompute="auto"``: save where rebuilding costs more than the round trip, within the budget."""
    if recompute != "auto":
        return bool(recompute)
    size = problem.dtype.itemsize
    cpu = problem.device.type == "cpu" and size < 8
    planes, amx = _planes(problem)
    planes = planes if amx else 0
    channels = size * (_RIDGE_CPU[planes] if cpu else _RIDGE.get(size, 0.0))
    factors, saved_bytes = len(problem.channels), problem.batch * problem.positions * problem.width * size
    if cpu and not planes and saved_bytes <= _RECYCLED_BYTES:
        channels = _RECYCLED_CHANNELS
    return not (sum(problem.channels) > factors * channels and factors * saved_bytes <= SAVE_BUDGET_BYTES)


def _planes(problem: Problem) -> tuple[int, bool]:
    return _cpu_planes(problem.dtype) if problem.device.type == "cpu" else (0, False)


def _cpu_planes(dtype: torch.dtype) -> tuple[int, bool]:
    """How many bfloat16 an operand is where the CPU kernels multiply it here, 0: none; and whether on AMX."""
    if missing("cpu", "multilinear_pool"):
        return 0, False
    return room("cpu", "multilinear_pool").bfloat16_planes(dtype)


# What torch.compiler.assume_constant_result sets, without the import of the compiler that it costs.
_cpu_planes._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose_backend(problem: Problem, backend: str, algo: str) -> Choice:
    """The room that runs ``problem``. ``backend`` "auto" honours C2F_BACKEND; a room that lacks an option hands over.

    Raises:
        RuntimeError: the backend asked for is not available on this machine, and why.
    """
    if algo == "gram":
        return Choice("reference", "gram", "plain torch on any device")
    wish = wanted_backend(backend)
    if wish == "reference":
        return Choice("reference", "chunked", "backend='reference' was asked for")
    if wish != "auto" and (why := missing(wish, problem.op)):
        raise RuntimeError(f"{problem.op}: backend={wish!r} is not available: {why}")

    skipped: list[tuple[str, str]] = []
    for name in (wish,) if wish != "auto" else AUTO_ORDER.get(problem.device.type, ()):
        why = _obstacle(name, problem, algo, automatic=wish == "auto")
        if why is None:
            reason = f"backend={name!r} was asked for" if wish == name else "first that can"
            return Choice(name, room(name, problem.op).algorithm(problem, algo), reason, tuple(skipped))
        skipped.append((name, why))
    if algo == "fused":
        raise ValueError(
            f"{problem.op}: algo='fused' cannot run here: " + "; ".join(f"{n}: {why}" for n, why in skipped)
        )
    return Choice("reference", "chunked", "plain torch takes what no kernel does", tuple(skipped))


def choose_room(op: str, operand: Tensor, backend: str) -> str:
    """The room of an op with one algorithm: the one asked for, or the first that is available and validated.

    float64 is the reference's.

    Raises:
        RuntimeError: the backend asked for is not available on this machine, and why.
    """
    return _choose_room(op, operand.dtype, operand.device, wanted_backend(backend))


@functools.cache
def _choose_room(op: str, dtype: torch.dtype, device: torch.device, wish: str) -> str:
    if dtype == torch.float64 or wish == "reference":
        return "reference"
    if wish != "auto":
        if why := missing(wish, op):
            raise RuntimeError(f"{op}: backend={wish!r} is not available: {why}")
        return wish
    for name in AUTO_ORDER.get(device.type, ()):
        if not missing(name, op) and not room(name, op).unvalidated(device):
            return name
    return "reference"


def wanted_backend(backend: str) -> str:
    """``backend``, or for "auto" what C2F_BACKEND names."""
    if backend != "auto":
        return backend
    named = os.environ.get("C2F_BACKEND") or "auto"
    if named not in ("auto", *BACKENDS):
        raise ValueError(f"C2F_BACKEND: must be one of {('auto', *BACKENDS)}, got {named!r}")
    return named


def _obstacle(name: str, problem: Problem, algo: str, *, automatic: bool) -> str | None:
    if why := missing(name, problem.op):
        return why
    if problem.dtype == torch.float64:
        return "float64 is the reference's"
    if problem.mask_grad:
        return "the gradient of position weights is the reference's"
    module = room(name, problem.op)
    unsupported = module.unsupported(problem, algo)
    return module.unvalidated(problem) if automatic and not unsupported else unsupported

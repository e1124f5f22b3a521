"""Fixtures for every test: seeds, NaN-filled `torch.empty`, the backends of this machine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import c2f_ops

if importlib.util.find_spec("c2f_ops.bench") is None:  # beside the sources, the benchmarks stand in the folder bench
    _folder = Path(__file__).parents[1] / "bench"
    _spec = importlib.util.spec_from_file_location(
        "c2f_ops.bench", _folder / "__init__.py", submodule_search_locations=[str(_folder)]
    )
    sys.modules["c2f_ops.bench"] = c2f_ops.bench = importlib.util.module_from_spec(_spec)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned_empty():
    """Fill what `torch.empty` returns with NaN, so that reading memory nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _absent(name: str, op: str) -> str | None:
    """Why ``op`` cannot be tested on this backend here; None: it can."""
    if name in ("triton", "cuda") and not torch.cuda.is_available():
        return f"{name} needs a GPU here (Triton's interpreter run has tests of its own)"
    state = c2f_ops.backends()[op][name]
    return None if state == "ok" else f"{name}: {state}"


@pytest.fixture(params=["reference", "cpu", *(pytest.param(n, marks=pytest.mark.cuda) for n in ("triton", "cuda"))])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; those absent for the module's ``OP`` skip with their reason."""
    if why := _absent(request.param, getattr(request.module, "OP", "multilinear_pool")):
        pytest.skip(why)
    return request.param


@pytest.fixture
def device(backend: str) -> str:
    """Where tensors for `backend` live."""
    return "cuda" if backend in ("triton", "cuda") else "cpu"

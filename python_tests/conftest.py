"""Fixtures for every test: seeds, NaN-filled `torch.empty`, the backends of this machine."""

from __future__ import annotations

import pytest
import torch

import c2f_ops


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

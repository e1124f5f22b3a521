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


def _backend(name: str):
    state = c2f_ops.backends()["multilinear_pool"][name]
    marks = [pytest.mark.cuda] if name in ("triton", "cuda") else []
    if name in ("triton", "cuda") and not torch.cuda.is_available():
        marks.append(pytest.mark.skip(reason=f"{name} needs a GPU here (its interpreter run is in test_triton.py)"))
    elif state != "ok":
        marks.append(pytest.mark.skip(reason=f"{name}: {state}"))
    return pytest.param(name, marks=marks)


@pytest.fixture(params=[_backend(name) for name in ("reference", "cpu", "triton", "cuda")])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; absent ones skip with their reason."""
    return request.param


@pytest.fixture
def device(backend: str) -> str:
    """Where tensors for `backend` live."""
    return "cuda" if backend in ("triton", "cuda") else "cpu"

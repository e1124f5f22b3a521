"""The emulated CUDA kernels, built once for all tests of this folder; Triton's interpreter; matmul precision."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def build_emulation(folder: Path):
    """Compile csrc/cuda with g++ against the emulation's headers; returns the module."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the emulation needs g++ on Linux")
    pybind11 = pytest.importorskip("pybind11")
    emulation, csrc = ROOT / "python_tests" / "cuda_emulation", ROOT / "csrc"
    flags = ["-std=c++17", "-O1", "-fPIC", "-DC2F_HAS_CUDA", "-DC2F_HAS_SM90"]
    flags += ["-Wno-unknown-pragmas", "-Wno-psabi", "-x", "c++"]
    flags += [
        f"-I{p}" for p in (emulation, csrc / "include", csrc, pybind11.get_include(), sysconfig.get_path("include"))
    ]
    sources = [*sorted((csrc / "cuda").glob("*.cu")), *sorted((csrc / "bindings").glob("bind_*_cuda.cpp"))]
    sources += [*sorted((csrc / "plan").glob("*_cuda_plan.cpp")), *sorted(emulation.glob("*.cpp"))]

    def run(*command: object) -> None:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(lambda job: run(compiler, *flags, "-c", job[0], "-o", job[1]), zip(sources, objects, strict=True))
        )
    library = folder / "c2f_cuda_emulation.so"
    run(compiler, "-shared", "-o", library, *objects)
    spec = importlib.util.spec_from_file_location("c2f_cuda_emulation", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulation(tmp_path_factory):
    """The CUDA kernels on emulated threads (python_tests/cuda_emulation), in a module like `c2f_ops._C`."""
    return build_emulation(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="session")
def run_in_triton_interpreter():
    """Give a function that runs a test file in a process where Triton was imported with TRITON_INTERPRET=1."""

    def version(package: str) -> tuple[int, ...]:
        return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])

    def run(path: str) -> None:
        if version("triton") < (3, 7) and version("numpy") >= (2, 4):
            pytest.skip("the interpreter of Triton 3.6 and older needs NumPy older than 2.4")
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", os.path.abspath(path)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    return run


@pytest.fixture
def set_precision():
    """`torch.set_float32_matmul_precision`, undone at the end."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)
